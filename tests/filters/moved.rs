//! The filters `swab`, `map`, `extentlist` and `blocksize-policy`.

use std::fs;

use tempfile::TempDir;

use super::content::{CONTENT, requests};
use super::saying;
use crate::backends::{same, served};
use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require, run};

#[test]
fn swapped_disks_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for parameters in
        [&[][..], &["swab-bits=8"], &["swab-bits=16"], &["swab-bits=32"], &["swab-bits=64"]]
    {
        same(&[&["--filter=swab", "pattern", "1000007"], parameters].concat(), CONTENT);
        let script = requests(
            "h.pwrite(bytes(range(200)), 4096)
h.pwrite(bytes(range(256)) * 20000, 65536)
h.zero(16, 4104)
h.trim(4096, 65536)
h.zero(1000, 100000)
h.flush()",
        );
        // nbdkit writes random bytes with this one.
        if parameters != ["swab-bits=8"] {
            same(&[&["--filter=swab", "memory", "8M"], parameters].concat(), &script);
        }
    }
}

#[test]
fn words_are_completed() {
    require!("nbdsh");
    for bits in ["16", "32", "64"] {
        let bits = format!("swab-bits={bits}");
        let server = Server::start(&["--filter=swab", "memory", "1M", &bits]);
        nbdsh(
            &server,
            "
import random
model = bytearray(1 << 20)
# A client that does not ask for the block sizes need not keep to them.
h = nbd.NBD()
h.set_request_block_size(False)
h.connect_unix('socket')
for step in range(500):
    offset = random.randrange(len(model))
    length = random.randint(1, min(len(model) - offset, random.choice([3, 100, 100000])))
    kind = random.randrange(3)
    if kind == 0:
        data = random.randbytes(length)
        h.pwrite(data, offset)
        model[offset:offset + length] = data
    elif kind == 1:
        h.zero(length, offset)
        model[offset:offset + length] = bytes(length)
    else:
        assert h.pread(length, offset) == model[offset:offset + length]
assert h.pread(len(model), 0) == model
",
        );
    }
}

#[test]
fn sectors_are_exchanged() {
    require!("nbdsh");
    let arguments = ["map=0-511:512", "map=512-1023:0", "map=1M-1049599:2k", "map-size=2M"];
    let server = Server::start(&[&["--filter=map", "memory", "1M"], &arguments[..]].concat());
    nbdsh(
        &server,
        "
assert h.get_size() == 2 << 20
h.pwrite(b'1' * 512 + b'2' * 512 + b'3' * 512, 0)
assert h.pread(1536, 0) == b'1' * 512 + b'2' * 512 + b'3' * 512
# The same place, under another offset.
h.pwrite(b'4' * 512, 2048)
assert h.pread(512, 1 << 20) == b'4' * 512
h.zero(512, 1 << 20)
assert h.pread(512, 2048) == bytes(512)
# Two offsets of one place at once.
data = bytes(range(256)) * 4096
h.pwrite(data, 1024)
assert h.pread(512, 1 << 20) == h.pread(512, 2048)
for call in [lambda: h.pread(512, 2000000), lambda: h.pwrite(data, 1 << 20)]:
    try:
        call()
        assert False
    except nbd.Error as error:
        assert error.errno == 'EIO', error
",
    );
    let directory = TempDir::new().unwrap();
    let disk: Vec<u8> = (0..4096_u32).map(|n| (n / 512) as u8).collect();
    fs::write(directory.path().join("disk"), disk).unwrap();
    let arguments = ["--filter=map", "file", "disk", "map=0-511:512", "map=512-1023:0"];
    let sectors = r#"nbdsh -u "$uri" -c 'print(list(h.pread(4096, 0)[::512]))'"#;
    let printed = served("memnbd", directory.path(), &arguments, sectors);
    assert_eq!(printed, "[1, 0, 2, 3, 4, 5, 6, 7]\n");
}

#[test]
fn extents_are_those_of_the_list_as_with_nbdkit() {
    require!("nbdkit", "nbdinfo");
    for list in [
        "",
        "0 1M\n",
        "0 10M\n",
        "0  1M\n1M 9M  hole,zero\n",
        "9M 1M 1\n1M 64k zero\n2M 64k\n0 512 3\n",
        "5M 100M hole\n",
    ] {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("list"), list).unwrap();
        let arguments = ["-r", "--filter=extentlist", "memory", "10M", "extentlist=list"];
        let map = r#"nbdinfo --map "$uri" && nbdinfo --map --totals "$uri""#;
        let [ours, theirs] =
            ["memnbd", "nbdkit"].map(|program| served(program, directory.path(), &arguments, map));
        assert_eq!(ours, theirs, "{list}");
    }
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("list"), "0 10\n5 10\n").unwrap();
    let arguments = ["-U", "socket", "--filter=extentlist", "memory", "1M", "extentlist=list"];
    let error = run(&mut memnbd(directory.path(), arguments)).failure(1);
    assert!(error.contains("two extents of the list overlap at 5"), "{error}");
}

/// Prints the block sizes, and what requests of other sizes end with.
const BLOCKS: &str = r#"
print(h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED))
h.set_strict_mode(0)
for offset, length in [(0, 4096), (0, 1024), (1024, 4096), (4096, 8192), (0, 65536), (0, 1 << 20)]:
    say(("read", offset, length), lambda: h.pread(length, offset))
    say(("write", offset, length), lambda: h.pwrite(bytes(length), offset))
    say(("zero", offset, length), lambda: h.zero(length, offset))
    say(("trim", offset, length), lambda: h.trim(length, offset))
    say(("cache", offset, length), lambda: h.cache(length, offset))
"#;

#[test]
fn block_sizes_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for parameters in [
        &["blocksize-preferred=32k"][..],
        &["blocksize-minimum=4k", "blocksize-error-policy=error"],
        &["blocksize-minimum=1k", "blocksize-maximum=64k", "blocksize-error-policy=error"],
        &["blocksize-minimum=1", "blocksize-preferred=1M", "blocksize-error-policy=allow"],
    ] {
        same(
            &[&["--filter=blocksize-policy", "memory", "1M"], parameters].concat(),
            &saying(BLOCKS),
        );
    }
}

/// Clients that asked for the block sizes have to keep to them, or else get errors of the host.
#[test]
fn policy_is_for_clients_that_do_not_know_the_sizes() {
    require!("nbdsh");
    for (policy, expected) in [("allow", "[None, None]"), ("error", "['EINVAL', 'EINVAL']")] {
        let policy = format!("blocksize-error-policy={policy}");
        let arguments =
            ["--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4k", &policy];
        let code = "
c = nbd.NBD()
c.set_request_block_size(False)
c.connect_unix('socket')
def errno(call):
    try:
        call()
    except nbd.Error as error:
        return error.errno
print([errno(lambda: c.pwrite(b'x' * 512, 512)), errno(lambda: c.pread(100, 5))])
";
        assert_eq!(nbdsh(&Server::start(&arguments), code).trim(), expected);
    }
}

#[test]
fn mistakes_are_told() {
    for (filter, parameter, code, words) in [
        ("swab", "swab-bits=24", 2, "8, 16, 32, 64"),
        ("map", "map=0-511", 1, "START-END:DEST"),
        ("map", "map=511-0:0", 1, "not before START"),
        ("extentlist", "memory.size=1M", 2, "needs the parameter \"extentlist\""),
        ("blocksize-policy", "blocksize-minimum=3", 1, "blocksize-minimum=3 must be a power of"),
        ("blocksize-policy", "blocksize-minimum=128k", 2, "blocksize-minimum"),
        ("blocksize-policy", "blocksize-minimum=8k", 1, "give blocksize-preferred"),
    ] {
        let filter_option = format!("--filter={filter}");
        let size = if parameter.starts_with("memory") { &[][..] } else { &["1M"] };
        let words_of = [&[&*filter_option, "memory"], size, &[parameter]].concat();
        complains(code, &words_of, &[words]);
    }
}
