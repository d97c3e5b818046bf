//! Filters that decode what formats of images, archives and compressed files hold.

mod gzip;
mod qcow2;
mod tar;
mod vhd;
mod vmdk;
mod xz;
mod zstd;

use std::path::Path;
use std::process::Command;

use fastrand::Rng;

use crate::support::{Server, client, run};

/// Runs shell commands in a directory, which must succeed. Returns what they print.
fn shell_in(directory: &Path, commands: &str) -> String {
    let mut shell = Command::new("/bin/sh");
    shell.current_dir(directory).args(["-ec", commands]);
    run(&mut shell).success()
}

/// Returns the content of a disk: runs of zeroes, of text, of random bytes, and of a mixture.
fn content(size: usize, rng: &mut Rng) -> Vec<u8> {
    let mut content = Vec::with_capacity(size);
    while content.len() < size {
        let length = rng.usize(1..300_000).min(size - content.len());
        let end = content.len() + length;
        match rng.u8(..4) {
            0 => content.resize(end, 0),
            1 => content.extend((0..length).map(|_| rng.u8(..))),
            2 => content.extend((0..length).map(|_| b"abcdef  "[rng.usize(..8)])),
            _ => {
                content.extend((0..length / 2).map(|at| (at / 100) as u8));
                content.resize(end, 0);
            }
        }
    }
    content
}

/// Checks with qemu that a server has what a file has.
fn compare(server: &Server, raw: &Path) {
    let mut compare = client(server, "qemu-img");
    run(compare.args(["compare", "-f", "raw", "-F", "raw", server.uri()]).arg(raw)).success();
}
