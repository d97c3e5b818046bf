//! Disks that are filled from an image before the server is ready.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Finished, memnbd, require, run};

const SIZE: u64 = 8 << 20;

/// A directory with an image, `raw`, of holes and numbered data, and the same in other formats.
fn images() -> TempDir {
    let directory = TempDir::new().unwrap();
    let raw = fs::File::create(directory.path().join("raw")).unwrap();
    raw.set_len(SIZE).unwrap();
    let data: Vec<u8> = (0..768_u32 << 10).flat_map(|n| (n / 100 + 1).to_be_bytes()).collect();
    raw.write_all_at(&data, 1 << 20).unwrap();
    raw.write_all_at(b"the end", SIZE - 7).unwrap();
    let script = "qemu-img convert -f raw -O qcow2 raw plain.qcow2
        qemu-img convert -c -f raw -O qcow2 raw compressed.qcow2
        qemu-img convert -f raw -O vpc -o force_size=on raw raw.vhd
        qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw raw.vmdk
        gzip -k raw; xz -k --block-size=1MiB raw; zstd -q raw";
    run(Command::new("sh").arg("-ec").arg(script).current_dir(&directory)).success();
    directory
}

/// Runs a shell command with a disk that is filled from an image.
fn preloaded(directory: &Path, image: &str, arguments: &[&str], script: &str) -> Finished {
    let mut command = memnbd(directory, ["--preload", image]);
    run(command.args(arguments).args(["--run", script]))
}

#[test]
fn disk_has_the_content_and_the_size_of_an_image_of_any_format() {
    require!("qemu-img", "zstd", "nbdinfo");
    let directory = images();
    let compare = r#"qemu-img compare -f raw -F raw raw "$uri" &&
        test "$(nbdinfo --size "$uri")" = "$(stat -c %s raw)""#;
    for image in [
        "raw",
        "plain.qcow2",
        "compressed.qcow2",
        "raw.vhd",
        "raw.vmdk",
        "raw.gz",
        "raw.xz",
        "raw.zst",
    ] {
        preloaded(directory.path(), image, &[], compare).success();
    }
    preloaded(directory.path(), "plain.qcow2", &["memory", "allocator=zstd"], compare).success();
}

#[test]
fn holes_and_what_is_behind_the_image_stay_holes() {
    require!("qemu-img", "zstd", "nbdinfo");
    let directory = images();
    let script = r#"qemu-img compare -f raw -F raw raw "$uri" >&2; nbdinfo --map --totals "$uri""#;
    for image in ["raw", "compressed.qcow2", "raw.gz"] {
        let finished = preloaded(directory.path(), image, &["1G"], script);
        let allocated = finished.stdout.lines().find(|line| line.ends_with("data"));
        let bytes = allocated.and_then(|line| line.split_whitespace().next()).unwrap();
        let bytes: u64 = bytes.parse().unwrap();
        assert_eq!(bytes, (3 << 20) + (32 << 10), "{}", finished.stdout);
    }
}

#[test]
fn what_a_file_contained_is_replaced() {
    require!("qemu-img", "zstd");
    let directory = images();
    fs::write(directory.path().join("disk"), vec![1; SIZE as usize + 4096]).unwrap();
    preloaded(directory.path(), "raw.xz", &["file", "disk"], "true").success();
    let mut expected = fs::read(directory.path().join("raw")).unwrap();
    expected.resize(SIZE as usize + 4096, 0);
    assert!(fs::read(directory.path().join("disk")).unwrap() == expected);
}

#[test]
fn format_is_as_told() {
    require!("qemu-img", "zstd");
    let directory = images();
    let compare = r#"qemu-img compare -f raw -F raw plain.qcow2 "$uri""#;
    let raw = ["--preload-format", "raw"];
    preloaded(directory.path(), "plain.qcow2", &raw, compare).success();
    let other = ["--preload-format", "qcow2"];
    let finished = preloaded(directory.path(), "raw", &other, "true");
    assert!(finished.stderr.contains("--preload"), "{}", finished.stderr);
    finished.failure(1);
}

#[test]
fn backing_files_are_not_opened() {
    require!("qemu-img", "zstd");
    let directory = images();
    let script = "qemu-img create -q -f qcow2 -b raw -F raw above.qcow2";
    run(Command::new("sh").arg("-ec").arg(script).current_dir(&directory)).success();
    let finished = preloaded(directory.path(), "above.qcow2", &[], "true");
    assert!(finished.stderr.contains("backing"), "{}", finished.stderr);
    finished.failure(1);
}

#[test]
fn mistakes_are_told() {
    require!("qemu-img", "zstd");
    let directory = images();
    for (image, arguments, code, words) in [
        ("raw", &["1M"][..], 1, "has 8388608 bytes and the disk 1048576"),
        ("none", &[], 1, "No such file"),
        ("none", &["1M"], 1, "No such file"),
        (".", &["1M"], 1, "--preload"),
        (".", &["1M"], 1, ": it is neither a regular file"),
        ("/dev/zero", &[], 1, "--preload /dev/zero: it is neither a regular file"),
        ("raw", &["-r"], 2, "-r"),
        ("raw", &["--private"], 2, "--private"),
        ("raw", &["--export", "a=memory,1M"], 2, "without --export"),
        ("raw", &["--filter=qcow2", "file", "plain.qcow2"], 1, "read-only"),
    ] {
        let finished = preloaded(directory.path(), image, arguments, "true");
        assert!(finished.stderr.contains(words), "{image} {arguments:?}: {}", finished.stderr);
        finished.failure(code);
    }
}
