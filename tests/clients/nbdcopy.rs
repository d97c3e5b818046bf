//! nbdcopy moves images in and out, with many requests under way on several connections.

use std::fs;

use crate::support::{Server, assert_served_with, client, require, run};

const SIZE: usize = 24 << 20;

/// An image with data, zeroes and holes at boundaries of no unit.
fn image() -> Vec<u8> {
    let mut image = vec![0; SIZE];
    let mut state = 1_u64;
    for (number, part) in image.chunks_mut(777_777).enumerate() {
        if number % 3 != 2 {
            for byte in part {
                // Numerical Recipes' generator: it only has to differ from place to place.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
        }
    }
    image
}

fn nbdcopy(server: &Server, arguments: &[&str]) {
    run(client(server, "nbdcopy").args(arguments)).success();
}

fn there_and_back(server: &Server, options: &[&str]) {
    let image = image();
    fs::write(server.path("image"), &image).unwrap();
    nbdcopy(server, &[options, &["image", server.uri()]].concat());
    nbdcopy(server, &[options, &[server.uri(), "copy"]].concat());
    assert!(fs::read(server.path("copy")).unwrap() == image, "{options:?}");
}

#[test]
fn image_comes_back_as_it_was() {
    require!("nbdcopy");
    there_and_back(&Server::start(&["24M"]), &[]);
    there_and_back(&Server::start_tcp(&["24M"]), &["--flush"]);
}

#[test]
fn image_comes_back_over_several_connections() {
    require!("nbdcopy");
    there_and_back(&Server::start(&["24M"]), &["--connections=4", "--requests=64", "--threads=4"]);
    there_and_back(&Server::start(&["24M"]), &["--synchronous"]);
}

#[test]
fn image_comes_back_sparse_or_allocated() {
    require!("nbdcopy");
    there_and_back(&Server::start(&["24M"]), &["--sparse=512"]);
    there_and_back(&Server::start(&["24M"]), &["--allocated"]);
    there_and_back(&Server::start(&["24M"]), &["--no-extents", "--request-size=1048576"]);
}

#[test]
fn image_comes_back_without_structured_replies() {
    require!("nbdcopy");
    let server = Server::start(&["-v", "--no-sr", "24M"]);
    there_and_back(&server, &[]);
    assert_served_with(&server, "simple");
    let server = Server::start(&["-v", "--no-mc", "24M"]);
    there_and_back(&server, &[]);
    assert_served_with(&server, "structured");
}

#[test]
fn second_copy_replaces_the_first() {
    require!("nbdcopy");
    let server = Server::start(&["24M"]);
    fs::write(server.path("full"), vec![0xff; SIZE]).unwrap();
    nbdcopy(&server, &["full", server.uri()]);
    there_and_back(&server, &[]);
}

#[test]
fn disk_is_copied_to_another_server() {
    require!("nbdcopy");
    let pattern = Server::start(&["--component", "pattern", "24M"]);
    let memory = Server::start(&["24M"]);
    nbdcopy(&memory, &[pattern.uri(), memory.uri()]);
    nbdcopy(&memory, &[memory.uri(), "copy"]);
    let copy = fs::read(memory.path("copy")).unwrap();
    assert_eq!(copy.len(), SIZE);
    let (words, _) = copy.as_chunks::<8>();
    assert!(words.iter().zip(0..).all(|(word, n)| u64::from_be_bytes(*word) == n * 8));
    // It accepts only what it holds.
    nbdcopy(&memory, &["copy", pattern.uri()]);
}

#[test]
fn image_larger_than_the_disk_is_refused() {
    require!("nbdcopy");
    let server = Server::start(&["1M"]);
    fs::write(server.path("image"), vec![1; 2 << 20]).unwrap();
    run(client(&server, "nbdcopy").args(["image", server.uri()])).failure(1);
}
