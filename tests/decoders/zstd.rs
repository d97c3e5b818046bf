//! Files of zstd, as its programs write them.

use std::fs;
use std::path::Path;

use fastrand::Rng;
use tempfile::TempDir;

use super::{compare, content, read_at_random, read_hostile, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, require};

/// Compares what is served with the file `disk`.
const COMPARE: &str =
    r#"test "$(nbdinfo --size "$uri")" = "$(stat -c %s disk)" && nbdcopy "$uri" - | cmp - disk"#;

/// Compresses `disk` to `disk.zst` in the seekable format, in frames of so many bytes.
fn compress_seekable(path: &Path, frame: usize, checksums: bool) {
    let disk = fs::read(path.join("disk")).unwrap();
    shell_in(
        path,
        &format!("rm -f part.*; split -a 5 -b {frame} disk part. && zstd -q --rm part.*"),
    );
    let mut parts: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.retain(|part| {
        part.file_stem().is_some_and(|name| name.as_encoded_bytes().starts_with(b"part."))
    });
    parts.sort();
    let (mut file, mut table) = (Vec::new(), Vec::new());
    for (part, content) in parts.iter().zip(disk.chunks(frame)) {
        let compressed = fs::read(part).unwrap();
        table.extend((compressed.len() as u32).to_le_bytes());
        table.extend((content.len() as u32).to_le_bytes());
        if checksums {
            // The frame ends with the same checksum as it has in the table.
            table.extend(&compressed[compressed.len() - 4..]);
        }
        file.extend(compressed);
    }
    table.extend((parts.len() as u32).to_le_bytes());
    table.push(if checksums { 0x80 } else { 0 });
    table.extend(0x8f92_eab1_u32.to_le_bytes());
    file.extend(0x184d_2a5e_u32.to_le_bytes());
    file.extend((table.len() as u32).to_le_bytes());
    file.extend(table);
    fs::write(path.join("disk.zst"), file).unwrap();
}

#[test]
fn content_is_what_was_compressed() {
    require!("nbdinfo", "nbdcopy", "zstd", "pzstd");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(5_000_001, &mut Rng::with_seed(1))).unwrap();
    let arguments = ["--filter=zstd", "file", "disk.zst"];
    for command in [
        "zstd -q -1 disk",
        "zstd -q -19 --no-check disk",
        "zstd -q --ultra -22 --long=27 disk",
        "zstd -q --fast=5 disk",
        "zstd -q -T2 -B512K disk",
        "zstd -q -c <disk >disk.zst",
        "pzstd -q -p 3 disk",
        "head -c 3000000 disk | zstd -q >disk.zst; tail -c +3000001 disk | zstd -q >>disk.zst",
    ] {
        shell_in(path, &format!("rm -f disk.zst; {command}"));
        served("memnbd", path, &arguments, COMPARE);
    }
    for checksums in [false, true] {
        compress_seekable(path, 300_000, checksums);
        shell_in(path, "zstd -q -d -c disk.zst | cmp - disk");
        served("memnbd", path, &arguments, COMPARE);
    }
}

#[test]
fn reads_at_random_places_are_right() {
    require!("qemu-img", "nbdsh", "zstd");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(12 << 20, &mut Rng::with_seed(3))).unwrap();
    compress_seekable(path, 1 << 20, true);
    shell_in(path, "zstd -q disk -o one.zst");
    for image in ["disk.zst", "one.zst"] {
        let image = path.join(image);
        let server = Server::start(&["--filter=zstd", "file", image.to_str().unwrap()]);
        compare(&server, &path.join("disk"));
        read_at_random(&server, (&path.join("disk"), 1), 400, 1_000_000);
    }
}

#[test]
fn file_in_a_compressed_archive_is_served() {
    require!("nbdinfo", "nbdcopy", "tar", "zstd");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(1_000_000, &mut Rng::with_seed(4))).unwrap();
    shell_in(path, "tar -c disk | zstd -q >disk.tar.zst");
    let arguments =
        ["-r", "--filter=tar", "--filter=zstd", "file", "disk.tar.zst", "tar-entry=disk"];
    served("memnbd", path, &arguments, COMPARE);
}

#[test]
fn damaged_and_demanding_files_are_refused() {
    require!("zstd", "nbdinfo");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(1_000_000, &mut Rng::with_seed(5))).unwrap();
    shell_in(
        path,
        "zstd -q disk && head -c 100000 disk.zst >short.zst
         zstd -q -c --long=31 <disk >long.zst
         zstd -q --train -r /usr/share/common-licenses -o words >/dev/null 2>&1
         zstd -q -D words -c <disk >words.zst",
    );
    for (file, words) in [
        ("short.zst", "it ends in the middle of a frame"),
        ("disk", "the device has no zstd file"),
        ("long.zst", "needs a window of 2147483648 bytes, and at most 134217728 are supported"),
        ("words.zst", "needs the dictionary "),
    ] {
        let error = complaint(path, 1, &["--filter=zstd", "file", file]);
        assert!(error.contains(words), "{error}");
    }
    // A file whose size is told need not be decompressed first.
    let long = ["--filter=zstd", "file", "long.zst", "zstd-size=1000000"];
    let command = r#"nbdinfo --size "$uri"; ! nbdcopy "$uri" - >/dev/null 2>&1"#;
    assert_eq!(served("memnbd", path, &long, command), "1000000\n");
}

/// A hostile file costs its own disk at most.
#[test]
fn damaged_files_neither_end_the_server_nor_stop_other_disks() {
    require!("zstd", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(6);
    fs::write(path.join("disk"), content(600 << 10, &mut rng)).unwrap();
    fs::create_dir(path.join("images")).unwrap();
    compress_seekable(path, 50_000, true);
    shell_in(path, "zstd -q disk -o one.zst; zstd -q -c --no-check <disk >two.zst");
    let files = ["disk.zst", "one.zst", "two.zst"].map(|file| fs::read(path.join(file)).unwrap());
    const COUNT: usize = 150;
    for number in 0..COUNT {
        let mut damaged = files[number % 3].clone();
        for _ in 0..rng.usize(1..20) {
            let at = if rng.bool() { rng.usize(..60) } else { rng.usize(..damaged.len()) };
            damaged[at] ^= 1 << rng.u8(..8);
        }
        // The magic number, so that it is read at all.
        damaged[..4].copy_from_slice(&files[0][..4]);
        fs::write(path.join("images").join(number.to_string()), damaged).unwrap();
    }
    let images = format!("*=file,filter=zstd,dir={}", path.join("images").display());
    let mut server = Server::start(&["--export", &images, "--export", "good=memory,1M"]);
    server.allow_log("");
    let counts = read_hostile(&server, COUNT, 1 << 20);
    let counts: Vec<u32> = counts.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(counts[0] > 100 && counts[1] > 20, "{counts:?}");
    // No file made its component break the contract, or trap.
    let log = server.log();
    let died = log.iter().any(|line| line.contains("trapped") || line.contains("contract"));
    assert!(!died, "{log:#?}");
}
