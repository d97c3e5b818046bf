//! Files of xz, beside nbdkit's filter.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use super::{compare, content, read_at_random, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, require};

const CONTENT: &str = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;

#[test]
fn content_is_that_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "xz");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(2_000_001, &mut Rng::with_seed(1))).unwrap();
    for options in [
        "",
        "--block-size=1MiB",
        "-1 --block-size=100000 --check=crc32",
        "-0 --check=none --block-size=1MiB",
        "-0 --check=sha256",
        "-0 --block-size=2MiB --x86 --lzma2=preset=0",
        "-0 --delta=dist=4 --lzma2=preset=1,lc=0,lp=2,pb=1",
        "-9",
        "-0 -T2",
    ] {
        shell_in(path, &format!("xz -c {options} disk > disk.xz"));
        let arguments = ["-r", "--filter=xz", "file", "disk.xz"];
        let ours = served("memnbd", path, &arguments, CONTENT);
        assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT), "{options}");
        served("memnbd", path, &arguments, r#"nbdcopy "$uri" - | cmp - disk"#);
    }
}

#[test]
fn parameters_limit_blocks_as_with_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "xz");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(3_000_000, &mut Rng::with_seed(2))).unwrap();
    shell_in(path, "xz -k --block-size=1000000 disk");
    let arguments =
        ["-r", "--filter=xz", "file", "disk.xz", "xz-max-block=1000000", "xz-max-depth=1"];
    let ours = served("memnbd", path, &arguments, CONTENT);
    assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT));
    let error = complaint(path, 1, &["--filter=xz", "file", "disk.xz", "xz-max-block=999999"]);
    assert!(error.contains("a block of 1000000 bytes, more than xz-max-block=999999"), "{error}");
    let error = complaint(path, 1, &["--filter=xz", "file", "disk"]);
    assert!(error.contains("the device has no xz file"), "{error}");
}

#[test]
fn reads_at_random_places_are_right() {
    require!("qemu-img", "nbdsh", "xz");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(12 << 20, &mut Rng::with_seed(3))).unwrap();
    shell_in(path, "xz -1 -k --block-size=1MiB disk && cat disk.xz disk.xz > twice.xz");
    let image = path.join("disk.xz");
    let server = Server::start(&["--filter=xz", "file", image.to_str().unwrap()]);
    compare(&server, &path.join("disk"));
    let image = path.join("twice.xz");
    let server = Server::start(&["--filter=xz", "file", image.to_str().unwrap()]);
    read_at_random(&server, (&path.join("disk"), 2), 400, 1_000_000);
}

#[test]
fn file_in_a_compressed_archive_is_served_as_with_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "tar", "xz");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(1_000_000, &mut Rng::with_seed(4))).unwrap();
    shell_in(path, "tar -cJf disk.tar.xz disk");
    let arguments = ["-r", "--filter=tar", "--filter=xz", "file", "disk.tar.xz", "tar-entry=disk"];
    let ours = served("memnbd", path, &arguments, CONTENT);
    assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT));
}
