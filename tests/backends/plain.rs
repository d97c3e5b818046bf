//! The backends whose content is a function of the offset.

use tempfile::TempDir;

use super::{CONTENT, same, served};
use crate::support::{Server, nbdsh, require};

#[test]
fn they_serve_what_nbdkits_plugins_do() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for arguments in [
        &["null", "size=1M"][..],
        &["null"],
        &["zero"],
        &["full", "size=1M"],
        &["pattern", "size=1000003"],
    ] {
        same(arguments, CONTENT);
    }
}

/// nbdkit has had it since 1.34.
#[test]
fn ones_are_one_byte_all_over() {
    require!("nbdcopy");
    let directory = TempDir::new().unwrap();
    for (arguments, byte) in [(&["ones", "3000"][..], "377"), (&["ones", "3000", "byte=7"], "7")] {
        let count = format!(r#"nbdcopy "$uri" - | tr -d '\{byte}' | wc -c; nbdinfo --size "$uri""#);
        assert_eq!(
            served("memnbd", directory.path(), arguments, &count),
            "0
3000
"
        );
    }
}

/// nbdkit's packages do not have it.
#[test]
fn example_is_served() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    let size = served("memnbd", directory.path(), &["example1"], r#"nbdinfo --size "$uri""#);
    assert_eq!(size, "104857600\n");
}

#[test]
fn full_disk_cannot_be_written() {
    require!("nbdsh");
    let server = Server::start(&["full", "1M"]);
    nbdsh(
        &server,
        "
for change in lambda: h.pwrite(bytes([1]) * 512, 0), lambda: h.zero(512, 512):
    try:
        change()
        assert False
    except nbd.Error as error:
        assert error.errno == 'ENOSPC', error
assert h.pread(1 << 20, 0) == bytes(1 << 20)
",
    );
}

/// The same seed gives the same bytes, whatever the requests, and what is copied back is accepted.
#[test]
fn random_disks_are_repeatable_and_check_what_is_written() {
    require!("nbdinfo", "nbdcopy", "nbdsh");
    let directory = TempDir::new().unwrap();
    let content = |arguments: &[&str]| served("memnbd", directory.path(), arguments, CONTENT);
    for (backend, size) in [("random", "size=4M"), ("sparse-random", "size=64M")] {
        let one = content(&[backend, size, "seed=1"]);
        assert_eq!(one, content(&[backend, size, "seed=1"]), "{backend}");
        assert_ne!(one, content(&[backend, size, "seed=2"]), "{backend}");
        let back = r#"nbdcopy "$uri" copy && nbdcopy copy "$uri" && echo same"#;
        let arguments = [backend, size, "seed=1"];
        assert_eq!(served("memnbd", directory.path(), &arguments, back), "same\n", "{backend}");
        let mut server = Server::start(&[backend, "size=9223372036854775807", "seed=3"]);
        nbdsh(
            &server,
            "
end = h.get_size()
assert end == 2 ** 63 - 1
for offset in 0, 2 ** 40 + 3, end - 100000:
    whole = h.pread(100000, offset)
    assert h.pread(999, offset + 501) == whole[501:1500]
    h.pwrite(whole, offset)
    wrong = bytearray(whole)
    wrong[77777] ^= 1
    try:
        h.pwrite(wrong, offset)
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO', error
",
        );
        server.expect_log("the data differ from the content of the disk");
    }
}

#[test]
fn sparse_disks_have_as_much_data_as_is_asked_for() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    for (percent, least, most) in [("0", 0.0, 0.0), ("10", 2.0, 30.0), ("100", 100.0, 100.0)] {
        let percent = format!("percent={percent}");
        let arguments = ["sparse-random", "size=1G", "seed=7", &percent];
        let map = r#"nbdinfo --map --totals "$uri""#;
        let totals = served("memnbd", directory.path(), &arguments, map);
        let data = totals.lines().find(|line| line.trim_end().ends_with("data"));
        let share = data.map_or(0.0, |line| {
            line.split_whitespace()
                .find_map(|word| word.strip_suffix('%'))
                .unwrap()
                .parse()
                .unwrap()
        });
        assert!((least..=most).contains(&share), "{percent}: {totals}");
    }
}
