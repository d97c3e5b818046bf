//! Files of gzip, beside nbdkit's filter.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use super::{compare, content, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, client, require, run};

const CONTENT: &str = r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#;

#[test]
fn content_is_that_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "gzip");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(5_000_001, &mut Rng::with_seed(1))).unwrap();
    for options in ["-1", "-9 -n", "-6"] {
        shell_in(path, &format!("gzip -c {options} disk > disk.gz"));
        let arguments = ["-r", "--filter=gzip", "file", "disk.gz"];
        let ours = served("memnbd", path, &arguments, CONTENT);
        assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT), "{options}");
        served("memnbd", path, &arguments, r#"nbdcopy "$uri" - | cmp - disk"#);
    }
}

#[test]
fn files_of_several_members_are_one_disk() {
    require!("nbdcopy", "gzip");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(3_000_000, &mut Rng::with_seed(2))).unwrap();
    shell_in(
        path,
        "split -b 700000 disk part.
         for part in part.*; do gzip -c $part; done > disk.gz",
    );
    let arguments = ["--filter=gzip", "file", "disk.gz"];
    served("memnbd", path, &arguments, r#"nbdcopy "$uri" - | cmp - disk"#);
}

#[test]
fn reads_at_random_places_are_right() {
    require!("qemu-img", "fio", "nbdcopy", "gzip");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let job = "[disk]\nioengine=nbd\nuri=${uri}\nrw=randwrite\nbs=4k-64k\nbs_unaligned=1\nsize=24M\n\
               verify=crc32c\nrandseed=1\niodepth=8\n";
    fs::write(path.join("job"), job).unwrap();
    let write = r#"export uri; fio --do_verify=0 job >/dev/null && nbdcopy "$uri" disk"#;
    served("memnbd", path, &["memory", "24M"], write);
    shell_in(path, "gzip -k disk");
    let arguments = ["--filter=gzip", "file", "disk.gz"];
    served("memnbd", path, &arguments, "export uri; fio --verify_only job >/dev/null");
    let image = path.join("disk.gz");
    let server = Server::start(&["--filter=gzip", "file", image.to_str().unwrap()]);
    compare(&server, &path.join("disk"));
}

#[test]
fn file_in_a_compressed_archive_is_served_as_with_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "tar", "gzip");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(1_000_000, &mut Rng::with_seed(3))).unwrap();
    shell_in(path, "tar -czf disk.tar.gz disk");
    let arguments =
        ["-r", "--filter=tar", "--filter=gzip", "file", "disk.tar.gz", "tar-entry=disk"];
    let ours = served("memnbd", path, &arguments, CONTENT);
    assert_eq!(ours, served("nbdkit", path, &arguments, CONTENT));
}

#[test]
fn damaged_files_are_refused() {
    require!("gzip");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    fs::write(path.join("disk"), content(1_000_000, &mut Rng::with_seed(4))).unwrap();
    shell_in(path, "gzip -k disk && head -c 100000 disk.gz > short.gz");
    for (file, words) in
        [("short.gz", "it ends in the middle of a member"), ("disk", "the device has no gzip file")]
    {
        let error = complaint(path, 1, &["--filter=gzip", "file", file]);
        assert!(error.contains(words), "{error}");
    }
    let short = ["--filter=gzip", "file", "short.gz", "gzip-size=1000000"];
    let command = r#"nbdinfo --size "$uri"; ! nbdcopy "$uri" - >/dev/null 2>&1"#;
    assert_eq!(served("memnbd", path, &short, command), "1000000\n");
}

#[test]
fn disk_that_takes_too_long_to_open_fails_alone() {
    require!("gzip", "nbdinfo");
    let directory = TempDir::new().unwrap();
    shell_in(
        directory.path(),
        "head -c 128M /dev/zero | gzip -1 > member
         for n in $(seq 48); do cat member; done > disk.gz",
    );
    let file = format!("slow=file,filter=gzip,{}", directory.path().join("disk.gz").display());
    let arguments = ["--deadline", "1", "--export", &file, "--export", "good=memory,1M"];
    let mut server = Server::start(&arguments);
    server.allow_log("slow");
    let good = format!("nbd+unix:///good?socket={}", server.socket().display());
    run(client(&server, "nbdinfo").args(["--size", &good])).success();
    server.expect_log("deadline");
}
