//! The backend `data`: the language of nbdkit's plugin.

use std::time::Instant;

use tempfile::TempDir;

use super::{CONTENT, same, served};
use crate::support::{LIMIT, memnbd, require, run};

/// The examples of nbdkit-data-plugin(1), and what its text describes.
#[test]
fn expressions_mean_what_they_mean_to_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for arguments in [
        &["( 0x55 0xAA )*2048"][..],
        &["data= ( \"Hello\" )*2000 ", "size=8192"],
        &[
            "@0x1be 0 0 2 0 0x83 0x20 0x20 0 le32:1 le32:0x7ff # a partition\n @0x1fe 0x55 0xaa",
            "size=1M",
        ],
        &["1 2 @+2 3 @-1 4 @^16 5"],
        &["be16:0x0102 be32:0x01020304 be64:1 le16:0x0102 le64:0x1122334455667788"],
        &["( \"\\x01\\n\\t\\\"\" @4 )*3 (1 2 3 4)[1:3]"],
        &["0x20 -> \\a \\a*5 ( \\a 1 -> \\b \\b )*2 \\a"],
        &["0x31 -> \\x ( \\x \\x ) -> \\y \\y \\y"],
        &["$first $second", "first=1 2 3", "second=\"abc\"*2"],
        &["raw=0x55 is text"],
        &["base64=aGVsbG8gbmJka2l0IHVzZXI="],
        &["@0x10000 1", "size=128K"],
        &["1 2 3 4", "size=2"],
    ] {
        let arguments = [&["data"], arguments].concat();
        // What nbdkit's own release makes of it may be an error, and then it is one here.
        same(&arguments, CONTENT);
    }
}

#[test]
fn huge_offsets_and_repeats_cost_nothing() {
    require!("nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    for (expression, size) in [
        ("@0x7ffffffffffffffe 1", "9223372036854775807"),
        ("(1 2 3 4)*1152921504606846976", "4611686018427387904"),
        ("((((((0x55*1000)*1000)*1000)*1000)*1000)*1000)", "1000000000000000000"),
    ] {
        let start = Instant::now();
        let printed =
            served("memnbd", directory.path(), &["data", expression], "nbdinfo --size $uri");
        assert_eq!(printed.trim(), size, "{expression}");
        assert!(start.elapsed() < LIMIT);
    }
}

/// A writer of such an expression gets an error, and does so soon.
#[test]
fn hostile_expressions_end_in_an_error() {
    let directory = TempDir::new().unwrap();
    let mut doubled = String::from("(1 2) -> \\a0 ");
    for n in 1..=200 {
        doubled += &format!("(\\a{} \\a{}) -> \\a{n} ", n - 1, n - 1);
    }
    doubled += "\\a200";
    let deep = "(".repeat(10_000);
    let names: String =
        (0..50_000_u32).map(|n| format!("@{} 1 ", u64::from(n) * 100_000)).collect();
    let many = format!("({})*1000000", &names[..names.len().min(100_000)]);
    for expression in [doubled.as_str(), &deep, "1*99999999999999999999", "(1)*-1", "\\nothing"] {
        let start = Instant::now();
        let error = run(&mut memnbd(directory.path(), ["-U", "s", "data", expression])).failure(1);
        assert!(error.contains("data: "), "{error}");
        assert!(error.len() < 2000, "{} bytes", error.len());
        assert!(start.elapsed() < LIMIT / 4, "{:?}", start.elapsed());
    }
    // Some of them are no mistake, and are served or refused, but end.
    let start = Instant::now();
    let arguments = ["-U", "-", "data", &many, "--run", "true"];
    drop(run(&mut memnbd(directory.path(), arguments)));
    assert!(start.elapsed() < LIMIT / 4, "{:?}", start.elapsed());
}

#[test]
fn mistakes_are_told_with_their_place() {
    let directory = TempDir::new().unwrap();
    for (arguments, words) in [
        (&["0x1 0x2\n 300"][..], &["data: ", "300", "line 2"][..]),
        (&["<file"], &["<", "file"]),
        (&["<(date)"], &["script"]),
        (&["1", "raw=2"], &["data and raw are given"]),
        (&["size=1M"], &["give one of data, raw and base64"]),
        (&["base64=?"], &["base64: "]),
    ] {
        let mut command = memnbd(directory.path(), ["-U", "socket", "data"]);
        let error = run(command.args(arguments)).failure(1);
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error}");
        }
    }
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn the_disk_can_be_written() {
    require!("nbdsh");
    let server = crate::support::Server::start(&["data", "(1 2 3 4)*1000", "size=1T"]);
    crate::support::nbdsh(
        &server,
        "
assert h.get_size() == 1 << 40
assert h.pread(8, 0) == bytes([1, 2, 3, 4] * 2)
h.pwrite(b'x' * 100000, (1 << 39) + 5)
assert h.pread(100002, (1 << 39) + 4) == b'\\0' + b'x' * 100000 + b'\\0'
h.zero(4096, 0)
assert h.pread(4000, 0) == bytes(4000)
h.trim(1 << 31, 1 << 39)
assert h.pread(1 << 20, 1 << 39) == bytes(1 << 20)
h.zero(1 << 16, 0, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 30, 0, nbd.CMD_FLAG_FAST_ZERO)
",
    );
}
