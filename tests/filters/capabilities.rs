//! The filters that change what a disk offers, and how it does it.

use std::fs;

use tempfile::TempDir;

use super::saying;
use crate::backends::{same, served};
use crate::mistakes::complains;
use crate::support::{Server, guest, memnbd, nbdsh, require, run};

/// Prints what a disk offers, and what some requests end with.
const OFFERS: &str = r#"
print(h.get_size(), h.is_read_only(), h.is_rotational(), h.can_cache(), h.can_multi_conn())
print(h.can_fast_zero(), h.can_trim(), h.can_flush())
def status(offset):
    def print_extents(context, offset, extents, error):
        # The last one may reach beyond what was asked for.
        left = 65536
        for length, status in zip(extents[::2], extents[1::2]):
            print(context, min(length, left), status)
            left -= min(length, left)
    h.block_status(65536, offset, print_extents)
say("write", lambda: h.pwrite(b"x" * 65536, 0))
say("cache", lambda: h.cache(4096, 0))
say("zero", lambda: h.zero(4096, 4096))
if h.can_fast_zero():
    say("fast zero", lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO))
say("trim", lambda: h.trim(4096, 8192))
say("flush", h.flush)
say("status", lambda: status(0))
print(h.pread(512, 0)[:8], h.pread(512, 4096)[:8], h.pread(512, 8192 + 4096)[:8])
"#;

#[test]
fn offers_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    for arguments in [
        &["--filter=noextents"][..],
        &["--filter=nocache"],
        &["--filter=nocache", "cachemode=none"],
        &["--filter=nocache", "cachemode=emulate"],
        &["--filter=nocache", "cachemode=nop"],
        &["--filter=multi-conn"],
        &["--filter=multi-conn", "multi-conn-mode=auto"],
        &["--filter=multi-conn", "multi-conn-mode=plugin"],
        &["--filter=multi-conn", "multi-conn-mode=disable"],
        &["--filter=multi-conn", "multi-conn-mode=emulate"],
        &["--filter=multi-conn", "multi-conn-mode=unsafe"],
        &["--filter=nozero", "zeromode=emulate"],
        &["--filter=nozero", "zeromode=emulate", "fastzeromode=slow"],
        &["--filter=nozero", "zeromode=emulate", "fastzeromode=ignore"],
        &["--filter=nozero", "zeromode=emulate", "fastzeromode=none"],
        &["--filter=nozero", "zeromode=plugin"],
        &["--filter=nozero", "zeromode=plugin", "fastzeromode=none"],
        &["--filter=nozero", "zeromode=plugin", "fastzeromode=slow"],
        &["--filter=nozero", "zeromode=plugin", "fastzeromode=ignore"],
        &["--filter=nozero", "zeromode=notrim", "fastzeromode=slow"],
        &["--filter=fua", "fuamode=emulate"],
        &["--filter=fua", "fuamode=native"],
        &["--filter=fua", "fuamode=force"],
        &["--filter=fua", "fuamode=pass"],
        &["--filter=fua", "fuamode=discard"],
        &["--filter=noparallel"],
        &["--filter=noparallel", "serialize=all-requests"],
    ] {
        same(&[&["memory", "1M"], arguments].concat(), &saying(OFFERS));
    }
}

#[test]
fn zeroed_ranges_of_files_stay_allocated_as_with_nbdkit() {
    require!("nbdkit", "nbdsh");
    let directory = TempDir::new().unwrap();
    let arguments = ["--filter=nozero", "file", "disk", "zeromode=notrim"];
    let [ours, theirs] = ["memnbd", "nbdkit"].map(|program| {
        fs::write(directory.path().join("disk"), vec![0; 1 << 20]).unwrap();
        served(program, directory.path(), &arguments, &saying(OFFERS))
    });
    let status = |text: &str| {
        let lines = text.lines().filter(|line| line.starts_with("base:allocation"));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert!(!status(&ours).is_empty());
    assert_eq!(status(&ours), status(&theirs));
}

#[test]
fn rotation_is_claimed_or_denied() {
    require!("nbdsh");
    for (parameters, expected) in
        [(&[][..], "True"), (&["rotational=true"], "True"), (&["rotational=false"], "False")]
    {
        let server =
            Server::start(&[&["--filter=rotational", "memory", "1M"], parameters].concat());
        let code = "
print(h.is_rotational())
h.pwrite(b'x', 5)
assert h.pread(1, 5) == b'x'
";
        assert_eq!(nbdsh(&server, code).trim(), expected);
    }
    let both = ["--filter=rotational", "--filter=rotational", "memory", "1M", "rotational=false"];
    assert_eq!(nbdsh(&Server::start(&both), "print(h.is_rotational())").trim(), "False");
}

#[test]
fn disk_is_read_only_for_good_or_until_it_is_switched() {
    require!("nbdsh");
    let server = Server::start(&["--filter=readonly", "memory", "1M"]);
    nbdsh(&server, "assert h.is_read_only() and h.pread(5, 0) == bytes(5)");
    let code = "
assert not h.is_read_only()
def errno(call):
    try:
        call()
    except nbd.Error as error:
        return error.errno
outcomes = [
    errno(lambda: h.pwrite(b'x', 0)),
    errno(lambda: h.zero(512, 0)),
    errno(lambda: h.trim(512, 0)),
    errno(lambda: h.pread(512, 0)),
    errno(h.flush),
]
print(outcomes)
";
    for (parameter, expected) in [
        ("readonly=true", "['EPERM', 'EPERM', 'EPERM', None, None]"),
        ("readonly=false", "[None, None, None, None, None]"),
    ] {
        let server = Server::start(&["--filter=readonly", "memory", "1M", parameter]);
        assert_eq!(nbdsh(&server, code).trim(), expected);
    }
}

/// Beneath is a disk that fails for good when it is flushed.
#[test]
fn flushes_reach_the_disk_beneath_or_do_not() {
    require!("nbdsh");
    for (mode, plain, with_fua, flush) in [
        ("none", true, false, false),
        ("emulate", true, false, false),
        ("pass", true, false, false),
        ("native", true, false, false),
        // The component beneath has no FUA, which becomes a flush.
        ("force", false, false, true),
        ("discard", true, true, true),
    ] {
        for (call, expected) in [
            ("h.pwrite(bytes(512), 0)", plain),
            ("h.zero(512, 0)", plain),
            ("h.pwrite(bytes(512), 0, nbd.CMD_FLAG_FUA)", with_fua),
            ("h.zero(512, 0, nbd.CMD_FLAG_FUA)", with_fua),
            ("h.flush()", flush),
        ] {
            let directory = TempDir::new().unwrap();
            guest(&directory.path().join("bad.wasm"), &[("flush", "(unreachable)")]);
            let mode = format!("fua.fuamode={mode}");
            let arguments = ["-U", "-", "--filter=fua", "bad.wasm", &mode, "--run"];
            let mut command = memnbd(directory.path(), arguments);
            command.arg(format!("nbdsh -u \"$uri\" -c '{call}' -c 'print(\"works\")'"));
            // The last flush fails as well, and with it the program.
            let finished = run(command.env("PATH", "/usr/bin:/bin"));
            assert_eq!(finished.stdout == "works\n", expected, "{mode} {call}: {finished}");
        }
    }
}

#[test]
fn requests_are_executed_one_by_one() {
    require!("nbdsh");
    let arguments = ["--filter=noparallel", "--filter=delay", "memory", "4G", "rdelay=50ms"];
    let many = "
import time
begin = time.monotonic()
buffers = [nbd.Buffer(512) for n in range(16)]
cookies = [h.aio_pread(buffer, n << 28) for n, buffer in enumerate(buffers)]
while cookies:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
print(time.monotonic() - begin)
";
    let took: f64 = nbdsh(&Server::start(&arguments), many).trim().parse().unwrap();
    assert!(took >= 0.8, "{took}");
    let large = "
data = bytes(range(256)) * (20 << 12)
h.pwrite(data, (1 << 30) - (10 << 20) + 1)
assert h.pread(len(data), (1 << 30) - (10 << 20) + 1) == data
";
    nbdsh(&Server::start(&arguments), large);
}

/// A component that does not allow several connections.
#[test]
fn several_connections_are_allowed_or_not() {
    require!("nbdsh");
    for (mode, expected) in [
        ("auto", "True"),
        ("emulate", "True"),
        ("unsafe", "True"),
        ("plugin", "False"),
        ("disable", "False"),
    ] {
        let directory = TempDir::new().unwrap();
        guest(&directory.path().join("single.wasm"), &[]);
        let mode = format!("multi-conn.multi-conn-mode={mode}");
        let arguments = ["-U", "socket", "--filter=multi-conn", "single.wasm", &mode];
        let mut command = memnbd(directory.path(), arguments);
        let server = Server::spawn(directory, &mut command);
        let code = "
print(h.can_multi_conn())
h.pwrite(b'x' * 512, 0)
h.flush()
";
        assert_eq!(nbdsh(&server, code).trim(), expected, "{mode}");
    }
    let private = ["--private", "--filter=multi-conn", "memory", "1M", "multi-conn-mode=unsafe"];
    assert_eq!(nbdsh(&Server::start(&private), "print(h.can_multi_conn())").trim(), "False");
}

#[test]
fn wrong_modes_are_told_with_the_right_ones() {
    for (filter, parameter, words) in [
        ("nocache", "cachemode=off", "none, emulate, nop"),
        ("nozero", "zeromode=off", "none, emulate, notrim, plugin"),
        ("nozero", "fastzeromode=fast", "default, none, slow, ignore"),
        ("fua", "fuamode=on", "none, emulate, native, force, pass, discard"),
        ("multi-conn", "multi-conn-mode=on", "auto, emulate, plugin, disable, unsafe"),
        ("noparallel", "serialize=connections", "requests, all-requests"),
        ("rotational", "rotational=maybe", "rotational"),
        ("readonly", "readonly=maybe", "readonly"),
    ] {
        let filter = format!("--filter={filter}");
        complains(2, &[&filter, "memory", "1M", parameter], &[words]);
    }
}
