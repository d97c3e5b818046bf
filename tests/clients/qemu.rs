//! qemu-img and qemu-io.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Finished, Server, assert_served_with, client, require, run};

fn qemu_img(server: &Server, arguments: &[&str]) -> Finished {
    run(client(server, "qemu-img").args(arguments))
}

fn qemu_io(server: &Server, commands: &[&str]) -> String {
    let mut io = client(server, "qemu-io");
    io.args(["-f", "raw", server.uri()]);
    for command in commands {
        io.args(["-c", command]);
    }
    let printed = run(&mut io).success();
    assert!(!printed.contains("failed"), "{printed}");
    printed
}

fn map(server: &Server) -> Vec<Value> {
    let map = qemu_img(server, &["map", "-f", "raw", "--output=json", server.uri()]).success();
    serde_json::from_str(&map).unwrap_or_else(|error| panic!("{error}: {map}"))
}

#[test]
fn extended_headers_are_in_use() {
    require!("qemu-img");
    let server = Server::start(&["-v", "8G"]);
    let version = qemu_img(&server, &["--version"]).success();
    let major = version.split([' ', '.']).find_map(|word| word.parse::<u32>().ok());
    if major.is_none_or(|major| major < 9) {
        eprintln!("skipped: qemu speaks them since 8.2, this is {version}");
        return;
    }
    qemu_io(&server, &["write -P 7 5G 64K", "read -P 7 5G 64K", "read -P 0 6G 1M"]);
    let extents = map(&server);
    assert_eq!(extents.len(), 3, "{extents:?}");
    assert_eq!(extents[0]["length"], 5_u64 << 30, "more than 32 bits in one extent");
    assert_served_with(&server, "extended");
}

#[test]
fn info_tells_the_size() {
    require!("qemu-img");
    let server = Server::start(&["2G"]);
    let info = qemu_img(&server, &["info", "--output=json", server.uri()]).success();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["virtual-size"], 2_u64 << 30);
    assert_eq!(info["format"], "raw");
}

#[test]
fn image_is_converted_compared_and_converted_back() {
    require!("qemu-img");
    let server = Server::start_tcp(&["16M"]);
    let mut image = vec![0; 16 << 20];
    for (number, block) in image.chunks_mut(60_000).enumerate() {
        block.fill((number % 5) as u8);
    }
    fs::write(server.path("image"), &image).unwrap();
    let uri = server.uri();
    qemu_img(&server, &["convert", "-n", "-f", "raw", "-O", "raw", "image", uri]).success();
    let raw = ["compare", "-f", "raw", "-F", "raw"];
    qemu_img(&server, &[&raw[..], &["image", uri]].concat()).success();

    qemu_img(&server, &["convert", "-m", "16", "-W", "-f", "raw", "-O", "raw", uri, "copy"])
        .success();
    assert!(fs::read(server.path("copy")).unwrap() == image);
    qemu_img(&server, &["convert", "-f", "raw", "-O", "qcow2", "-c", uri, "copy.qcow2"]).success();
    let args = ["compare", "-f", "raw", "-F", "qcow2", uri, "copy.qcow2"];
    qemu_img(&server, &args).success();

    image[10_000_000] ^= 1;
    fs::write(server.path("image"), &image).unwrap();
    let different = qemu_img(&server, &[&raw[..], &["image", uri]].concat());
    assert!(different.stdout.contains("mismatch at offset"), "{different}");
    different.failure(1);
}

#[test]
fn conversion_over_old_content_leaves_none_of_it() {
    require!("qemu-img");
    let server = Server::start(&["16M"]);
    fs::write(server.path("full"), vec![0xff; 16 << 20]).unwrap();
    fs::write(server.path("image"), vec![0; 16 << 20]).unwrap();
    for image in ["full", "image"] {
        let args = ["convert", "-n", "-f", "raw", "-O", "raw", image, server.uri()];
        qemu_img(&server, &args).success();
        let args = ["compare", "-f", "raw", "-F", "raw", server.uri(), image];
        qemu_img(&server, &args).success();
    }
    let map = map(&server);
    assert_eq!(map.len(), 1);
    assert_eq!(map[0]["data"], false);
}

#[test]
fn map_tells_data_from_holes() {
    require!("qemu-img", "qemu-io");
    let server = Server::start(&["8M"]);
    qemu_io(&server, &["write -P 1 1M 64k", "write -P 1 7M 1M"]);
    let parts: Vec<Value> = map(&server)
        .iter()
        .map(|part| json!([part["start"], part["length"], part["data"], part["zero"]]))
        .collect();
    let mib = 1 << 20;
    assert_eq!(
        parts,
        [
            json!([0, mib, false, true]),
            json!([mib, 64 << 10, true, false]),
            json!([mib + (64 << 10), 6 * mib - (64 << 10), false, true]),
            json!([7 * mib, mib, true, false]),
        ]
    );
}

#[test]
fn bench_reads_and_writes() {
    require!("qemu-img");
    let server = Server::start(&["64M"]);
    let uri = server.uri();
    qemu_img(&server, &["bench", "-f", "raw", "-c", "5000", "-d", "64", uri]).success();
    qemu_img(&server, &["bench", "-f", "raw", "-w", "-c", "5000", "-d", "64", uri]).success();
    let args =
        ["bench", "-f", "raw", "-w", "-c", "50", "-d", "4", "-s", "1M", "--flush-interval=8"];
    qemu_img(&server, &[&args[..], &[uri]].concat()).success();
}

#[test]
fn qcow2_image_lives_on_the_disk() {
    require!("qemu-img", "qemu-io");
    let server = Server::start(&["16M"]);
    let uri = server.uri();
    qemu_img(&server, &["create", "-f", "qcow2", uri, "1G"]).success();
    let io = &mut client(&server, "qemu-io");
    io.args(["-f", "qcow2", uri, "-c", "write -P 7 512M 1M", "-c", "read -P 7 512M 1M"]);
    run(io).success();
    let check = qemu_img(&server, &["check", "-f", "qcow2", uri]).success();
    assert!(check.contains("No errors"), "{check}");
}

#[test]
fn patterns_are_read_back_at_any_offset() {
    require!("qemu-io");
    let server = Server::start(&["1G"]);
    qemu_io(
        &server,
        &[
            "write -P 1 0 1M",
            "write -P 2 511 1025",
            "read -P 1 0 511",
            "read -P 2 511 1025",
            "read -P 1 1536 1047040",
            "write -f -P 3 1073741823 1",
            "read -P 3 1073741823 1",
            "read -P 0 1M 1071644672",
            "aio_write -P 4 2M 1M",
            "aio_write -P 5 3M 1M",
            "aio_flush",
            "read -P 4 2M 1M",
            "read -P 5 3M 1M",
            "flush",
        ],
    );
}

#[test]
fn zeroes_and_discards_are_zeroes() {
    require!("qemu-io");
    let server = Server::start(&["64M"]);
    qemu_io(
        &server,
        &[
            "write -P 1 0 8M",
            "write -z 1000 1000",
            "write -zu 1M 1M",
            "write -zf 2M 1M",
            "discard 4M 1M",
            "read -P 1 0 1000",
            "read -P 0 1000 1000",
            "read -P 1 2000 1046576",
            "read -P 0 1M 2M",
            "read -P 1 3M 1M",
            "read -P 0 4M 1M",
            "read -P 1 5M 3M",
            "read -P 0 8M 56M",
        ],
    );
}
