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

use crate::support::{Server, client, nbdsh, run};

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

/// Checks that random reads of a read-only disk, of at most `longest` bytes, return the content of a file, repeated
/// so many times.
fn read_at_random(server: &Server, (file, times): (&Path, usize), rounds: usize, longest: usize) {
    let code = format!(
        "
import random
random.seed(1)
disk = open('{}', 'rb').read() * {times}
assert h.get_size() == len(disk) and h.is_read_only()
for step in range({rounds}):
    offset = random.randrange(len(disk))
    length = random.randint(1, min(len(disk) - offset, random.choice([100, 10000, {longest}])))
    assert h.pread(length, offset) == disk[offset:offset + length]
",
        file.display()
    );
    nbdsh(server, &code);
}

/// Reads so many bytes of each of the disks 0, 1, 2 and so on, and checks now and then that the disk `good` can be
/// used. Returns how many reads succeeded, and how many reads and disks failed.
fn read_hostile(server: &Server, disks: usize, bytes: u64) -> String {
    let code = format!(
        "
served = 0
failed = 0
for name in range({disks}):
    c = nbd.NBD()
    c.set_export_name(str(name))
    try:
        c.connect_unix('socket')
        for offset in range(0, min(c.get_size(), {bytes}), 64 << 10):
            try:
                c.pread(min(64 << 10, c.get_size() - offset), offset)
                served += 1
            except nbd.Error:
                failed += 1
    except nbd.Error:
        failed += 1
    if name % 20 == 0:
        g = nbd.NBD()
        g.set_export_name('good')
        g.connect_unix('socket')
        g.pwrite(b'x' * 4096, 4096)
        assert g.pread(4096, 4096) == b'x' * 4096
print(served, failed)
"
    );
    nbdsh(server, &code)
}
