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
        (&["<none[:512]"], &["data: <none: ", "No such file"]),
        (&["<."], &["it is a directory"]),
        (&["<(date)"], &["script", "--allow-scripts"]),
        (&["</dev/zero"], &["67108864", "slice it"]),
        (&["<socket/x"], &["<socket/x"]),
        (&["1", "input-file=/dev/zero"], &["character device"]),
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

/// What is done with files, in the examples of nbdkit-data-plugin(1) and beyond.
#[test]
fn files_are_part_of_an_expression() {
    require!("nbdkit", "nbdinfo", "nbdcopy", "mkfifo");
    let directory = TempDir::new().unwrap();
    let here = |name: &str| directory.path().join(name);
    std::fs::write(here("file1"), "one").unwrap();
    std::fs::write(here("file2"), vec![2; 3 << 20]).unwrap();
    std::fs::write(here("file3"), "").unwrap();
    let sparse = std::fs::File::create(here("sparse")).unwrap();
    sparse.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", (1 << 30) - 3).unwrap();
    for arguments in [
        &[" <file1 @^512 <file2 @^512 <file3 @^512 "][..],
        &["<sparse[1073741820:]*3 </dev/zero[:512]*16 <file1[:1]"],
        &["$v \"<none\" # <none\n (<file1)[1:2]", "v=<file1*2 -> \\n \\n"],
    ] {
        let arguments = [&["data"], arguments].concat();
        let print = |server| served(server, directory.path(), &arguments, CONTENT);
        assert_eq!(print("memnbd"), print("nbdkit"), "{arguments:?}");
    }
    let random = ["data", "</dev/urandom[:512]*16"];
    let halves =
        "nbdcopy \"$uri\" all && head -c 4096 all | cmp - all -n 4096 && tail -c 4096 all |
        cmp - all -n 4096 && stat -c %s all";
    assert_eq!(served("memnbd", directory.path(), &random, halves), "8192\n");
    // A file that is named by the parameter is the only one that is read.
    let given = ["data", "<none", "input-file=file1"];
    assert_eq!(served("memnbd", directory.path(), &given, "nbdcopy \"$uri\" - | cat"), "one");
    // A pipe is read once, though the disk of each connection is opened anew.
    run(std::process::Command::new("mkfifo").arg(here("pipe"))).success();
    let writer = std::thread::spawn({
        let pipe = here("pipe");
        move || std::fs::write(pipe, "from a pipe")
    });
    let twice = "nbdcopy \"$uri\" - | cat; nbdinfo --size \"$uri\"";
    let pipe = ["--private", "data", "<pipe"];
    assert_eq!(served("memnbd", directory.path(), &pipe, twice), "from a pipe11\n");
    writer.join().unwrap().unwrap();
}

#[test]
fn scripts_are_part_of_an_expression_where_that_is_allowed() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    for expression in [
        "<( i=0
            while :; do
                printf \"%04d\" $i; i=$((i+1))
            done )[:32768] ",
        "<(echo one)*2 @^512 <(printf 2)",
    ] {
        let theirs = served("nbdkit", directory.path(), &["data", expression], CONTENT);
        let allowed = ["--allow-scripts", "data", expression];
        assert_eq!(served("memnbd", directory.path(), &allowed, CONTENT), theirs, "{expression}");
    }
    let fails = ["--allow-scripts", "-U", "s", "data", "<(echo text; exit 3)"];
    let error = run(&mut memnbd(directory.path(), fails)).failure(1);
    assert!(error.contains("the script failed: exit status: 3"), "{error}");
}

/// A component that calls itself data gets no files.
#[test]
fn files_are_read_for_the_built_in_component_alone() {
    let directory = TempDir::new().unwrap();
    let built_in = concat!(env!("CARGO_MANIFEST_DIR"), "/../components/data.wasm");
    std::fs::copy(built_in, directory.path().join("data.wasm")).unwrap();
    std::fs::write(directory.path().join("file"), "secret").unwrap();
    let arguments = ["-U", "s", "./data.wasm", "<file"];
    let error = run(&mut memnbd(directory.path(), arguments)).failure(1);
    assert!(error.contains("the disk was given none for it"), "{error}");
}
