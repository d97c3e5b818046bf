//! The filters that change what is where on a disk, or what can be written there.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use crate::backends::{same, served};
use crate::mistakes::complains;
use crate::support::{Server, client, nbdsh, require, run};

/// Prints the size, a checksum of the content, and the allocated ranges.
pub(super) const CONTENT: &str =
    r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum && nbdinfo --map "$uri""#;

/// Prints what requests end with, one a line, and then the size and checksums of the content.
pub(super) fn requests(lines: &str) -> String {
    format!(
        r#"
/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print(h.get_size())
for line in """{lines}""".split("\n"):
    try:
        eval(line)
        print(line, "ok")
    except nbd.Error as error:
        print(line, error.errno)
for offset in range(0, h.get_size(), 1 << 20):
    import hashlib
    length = min(1 << 20, h.get_size() - offset)
    print(hashlib.sha256(h.pread(length, offset)).hexdigest())
' "$uri""#
    )
}

#[test]
fn truncated_disks_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for parameters in [
        &[][..],
        &["truncate=500000"],
        &["truncate=2M"],
        &["truncate=1000001", "round-up=512"],
        &["truncate=1000001", "round-down=512"],
        &["round-down=4k", "round-up=64k", "truncate=100000"],
    ] {
        let arguments = [&["--filter=truncate", "pattern", "1000000"], parameters].concat();
        same(&arguments, &requests("h.pread(1, 0)"));
    }
    // nbdkit does not answer what is allocated after the end unless it is given the size.
    same(&["--filter=truncate", "memory", "1000000", "truncate=2M"], CONTENT);
    let script = requests(
        "h.pwrite(bytes(1000), 999900)
h.pwrite(b\"x\" * 100, 999900)
h.pwrite(b\"x\" * 100, 1000000)
h.pwrite(b\"x\" * 1000, 999990)
h.zero(5000, 999000)
h.zero(1000, 1500000)
h.trim(5000, 999000)
h.trim(5000, 1500000)
h.flush()",
    );
    same(&["--filter=truncate", "memory", "1000000", "truncate=2000000"], &script);
}

#[test]
fn protected_disks_refuse_what_those_of_nbdkit_refuse() {
    require!("nbdkit", "nbdsh");
    // Requests that lie within a protected range, or outside: nbdkit does nothing of those that are
    // partly refused.
    let script = requests(
        "h.pwrite(b\"x\" * 512, 0)
h.pwrite(bytes(446), 0)
h.pwrite(bytes(445) + b\"x\", 0)
h.pwrite(b\"x\" * 66, 446)
h.zero(446, 0)
h.zero(4096, 0)
h.trim(446, 0)
h.pwrite(b\"x\" * 1000, 5000)
h.zero(1000, 5000)
h.pwrite(b\"x\" * 512, 999424)
h.pwrite(b\"x\" * 512, 1000000)
h.pwrite(b\"x\" * 512, 1000512)
h.pread(4096, 0)
h.flush()",
    );
    for parameters in [
        &["protect=0-0x1bd"][..],
        &["protect=-445"],
        &["protect=0-0x1bd", "protect=1000000-1000511"],
        &["protect=~4096-999999"],
        &["protect=~0-0x1fffff"],
        &["protect=-"],
    ] {
        let all = [&["--filter=protect", "memory", "1M"], parameters].concat();
        let [ours, theirs] = ["memnbd", "nbdkit"].map(|program| {
            let directory = TempDir::new().unwrap();
            served(program, directory.path(), &all, &script)
        });
        let outcomes = |text: &str| {
            let lines = text.lines().filter(|line| line.contains(' '));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(&ours), outcomes(&theirs), "{parameters:?}");
    }
}

/// The real program against a byte array, by random requests through the filters one after the other.
#[test]
fn stacked_filters_behave_like_an_array() {
    require!("nbdsh");
    let mut random = Rng::with_seed(7);
    for filters in STACKS {
        let server = Server::start(filters);
        let seed = random.u32(..);
        nbdsh(
            &server,
            &format!(
                "
import random
random.seed({seed})
# So that requests need not consist of whole blocks.
h = nbd.NBD()
h.set_request_block_size(False)
h.connect_unix('socket')
size = h.get_size()
h.pwrite(bytes(size), 0)
model = bytearray(size)
for step in range(600):
    offset = random.randrange(size)
    if random.random() < 0.3:
        offset = min(size - 1, random.choice([0, 1, 511, 512, 65535, 65536]))
    length = random.randint(1, min(size - offset, random.choice([7, 600, 70000, 200000])))
    flags = random.choice([0, 0, nbd.CMD_FLAG_FUA])
    kind = random.randrange(5)
    if kind < 2:
        data = random.randbytes(length)
        h.pwrite(data, offset, flags)
        model[offset:offset + length] = data
    elif kind == 2:
        h.zero(length, offset, flags | random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        model[offset:offset + length] = bytes(length)
    elif kind == 3:
        if h.can_cache():
            h.cache(length, offset)
        h.flush()
    else:
        assert h.pread(length, offset) == model[offset:offset + length], (step, offset, length)
for offset in range(0, size, 1 << 18):
    length = min(1 << 18, size - offset)
    assert h.pread(length, offset) == model[offset:offset + length]
"
            ),
        );
    }
}

/// Filters that change nothing that a client sees in the content.
const STACKS: &[&[&str]] = &[
    &["--filter=noparallel", "memory", "1M"],
    &["--filter=fua", "memory", "1M", "fuamode=force"],
    &["--filter=fua", "memory", "1M", "fuamode=emulate"],
    &["--filter=fua", "memory", "1M", "fuamode=discard"],
    &["--filter=nozero", "memory", "1M", "zeromode=emulate"],
    &[
        "--filter=nozero",
        "--filter=nocache",
        "memory",
        "1M",
        "zeromode=notrim",
        "cachemode=emulate",
    ],
    &["--filter=truncate", "memory", "2M", "truncate=1000001"],
    &["--filter=protect", "--filter=noextents", "memory", "1M", "protect=1M-2M"],
    &["--filter=fua", "--filter=truncate", "--filter=noparallel", "memory", "1M", "round-down=64k"],
    &["--filter=swab", "--filter=nozero", "memory", "1000001", "swab-bits=64"],
    &[
        "--filter=swab",
        "--filter=swab",
        "--filter=map",
        "memory",
        "1M",
        "map=0-99999:100000",
        "map=100000-199999:0",
    ],
    &["--filter=multi-conn", "--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=4k"],
    &["--filter=rotational", "--filter=readonly", "memory", "1M", "readonly=false"],
    &["--filter=flush", "memory", "1000001", "flush-mode=lie", "flush-cache=300k"],
    &["--filter=flush", "--filter=swab", "memory", "1M", "flush-mode=drop", "flush-rate=0"],
    &[
        "--filter=evil",
        "--filter=badblocks",
        "--filter=silent",
        "memory",
        "1M",
        "evil-probability=0",
    ],
    &["--filter=pause", "--filter=enospc", "memory", "1M", "enospc-after=1M"],
    &[
        "--filter=spinning",
        "memory",
        "1M",
        "half-seek-time=0",
        "max-seek-time=0",
        "min-seek-time=0",
    ],
    &["--filter=silent", "memory", "1M", "silent-fault=stale-read", "silent-nth=1000000"],
    &["--filter=nofilter", "--filter=cacheextents", "--filter=count", "memory", "1000001"],
    &["--filter=log", "--filter=stats", "memory", "1M", "logfile=log", "statsfile=stats"],
    &["--filter=xor", "memory", "1000001", "xor=0x010203"],
    &["--filter=xor", "--filter=blocksize", "memory", "1M", "xor=rand", "minblock=512"],
    &["--filter=blocksize", "memory", "1000001", "maxdata=4k", "maxlen=64k"],
    &["--filter=blocksize", "--filter=swab", "memory", "1M", "minblock=4k", "maxdata=8k"],
];

#[test]
fn mistakes_are_told() {
    for (filter, parameter, code, words) in [
        ("truncate", "round-up=3", 1, "round-up=3 must be a power of two"),
        ("truncate", "round-down=0", 2, "round-down"),
        ("truncate", "truncate=x", 2, "truncate: truncate: \"x\""),
        ("protect", "protect=5", 1, "START-END"),
        ("protect", "protect=9-5", 1, "not before START"),
    ] {
        let filter = format!("--filter={filter}");
        complains(code, &[&filter, "memory", "1M", parameter], &[words]);
    }
}

#[test]
fn file_whose_size_is_rounded_up_keeps_its_size() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("disk");
    fs::write(&file, b"content").unwrap();
    let arguments = ["--filter=truncate", "file", "disk", "round-up=512"];
    let script = r#"nbdsh -u "$uri" -c 'assert h.get_size() == 512' \
        -c 'h.pwrite(b"C" + h.pread(511, 1), 0)' -c 'h.flush()'"#;
    served("memnbd", directory.path(), &arguments, script);
    assert_eq!(fs::read(&file).unwrap(), b"Content");
}

/// Filters by themselves and stacked, with an image that qemu converts there and back.
#[test]
fn qemu_finds_what_it_wrote() {
    require!("qemu-img", "qemu-io");
    for filters in [
        &["--filter=truncate", "memory", "15M", "round-up=16M"][..],
        &["--filter=swab", "memory", "16M", "swab-bits=64"],
        &["--filter=map", "memory", "16M", "map=0-1048575:8M", "map=8M-9437183:0"],
        &["--filter=protect", "memory", "16M", "protect=15M-"],
        &["--filter=fua", "--filter=nozero", "memory", "16M", "fuamode=force", "zeromode=emulate"],
        &["--filter=noparallel", "--filter=noextents", "--filter=nocache", "memory", "16M"],
        &["--filter=multi-conn", "--filter=rotational", "memory", "16M", "rotational=false"],
        &["--filter=blocksize-policy", "memory", "16M", "blocksize-minimum=4k"],
        &["--filter=blocksize", "memory", "16M", "minblock=64k", "maxdata=128k"],
        &["--filter=readonly", "memory", "16M", "readonly=false"],
    ] {
        let server = Server::start(filters);
        let image = "qemu-img create -q -f raw image 16M && qemu-io -f raw image \
            -c 'write -P 1 0 3M' -c 'write -P 2 5000k 1' -c 'write -P 3 8M 100k' \
            -c 'write -P 4 12M 2M'";
        run(client(&server, "sh").args(["-c", image])).success();
        let convert = format!(
            "qemu-img convert -n -f raw -O raw image '{uri}' && \
             qemu-img compare -f raw -F raw image '{uri}' && \
             qemu-io -f raw '{uri}' -c 'write -z 1M 1M' -c 'write -f -P 9 3k 9k' -c flush && \
             qemu-io -f raw image -c 'write -z 1M 1M' -c 'write -P 9 3k 9k' && \
             qemu-img compare -f raw -F raw image '{uri}'",
            uri = server.uri()
        );
        let printed = run(client(&server, "sh").args(["-c", &convert])).success();
        assert_eq!(printed.matches("Images are identical").count(), 2, "{filters:?}: {printed}");
    }
}

/// Those through which data pass, with several instances of a component at a time.
#[test]
fn filters_pass_verification_with_four_connections() {
    require!("fio");
    for filters in [
        &["--filter=fua", "memory", "64M", "fuamode=force"][..],
        &["--filter=swab", "memory", "64M", "swab-bits=64"],
        &["--filter=noparallel", "memory", "64M"],
        &["--filter=blocksize", "memory", "64M", "minblock=4k", "maxdata=16k"],
        &["--filter=nozero", "--filter=swab", "memory", "64M", "zeromode=emulate"],
        &["--filter=map", "memory", "64M", "map=0-0xffffff:32M", "map=32M-0x2ffffff:0"],
    ] {
        let server = Server::start(filters);
        let mut command = client(&server, "fio");
        command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
        command.arg(format!("--uri={}", server.uri()));
        command.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--numjobs=4"]);
        command.args(["--iodepth=16", "--size=4M", "--offset_increment=12M", "--thread"]);
        run(&mut command).success();
    }
}
