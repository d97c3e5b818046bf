//! The filters `cache` and `readahead`.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Server, client, memnbd, nbdsh, require, run};

/// A disk with a cache, of a file, with a log of what reaches that.
fn cached(directory: &TempDir, content: &[u8], space: &str, parameters: &str) -> [String; 4] {
    fs::write(directory.path().join("disk"), content).unwrap();
    let parameters = format!(
        "disk=file,filter=cache,filter=log,disk,cache-device=space,logfile=log{parameters}"
    );
    ["--export".into(), parameters, "--export".into(), format!("space=memory,{space}")]
}

fn serve(content: &[u8], space: &str, parameters: &str) -> Server {
    let directory = TempDir::new().unwrap();
    let exports = cached(&directory, content, space, parameters);
    let mut command = memnbd(directory.path(), ["-U", "socket"]);
    Server::spawn(directory, command.args(exports))
}

/// Opens the disk, and counts what is in the log when it has so many flushes.
const OPEN: &str = "
import time
h = nbd.NBD()
h.set_export_name('disk')
h.add_meta_context('base:allocation')
h.set_request_block_size(False)
h.connect_unix('socket')
def logged(word, flushes):
    for attempt in range(1000):
        text = open('log').read()
        if text.count('...Flush') == flushes:
            break
        time.sleep(0.01)
    return text.count(' ' + word + ' id=')
";

fn script(code: &str) -> String {
    format!("{OPEN}{code}")
}

#[test]
fn writes_reach_the_file_when_a_client_flushes() {
    require!("nbdsh");
    let server = serve(&[7; 1 << 20], "1M", "");
    nbdsh(
        &server,
        &script(
            "
h.pwrite(b'x' * 1000, 65000)
assert h.pread(1002, 64999) == b'\\x07' + b'x' * 1000 + b'\\x07'
assert open('disk', 'rb').read() == b'\\x07' * (1 << 20)
h.flush()
assert open('disk', 'rb').read()[64999:66001] == b'\\x07' + b'x' * 1000 + b'\\x07'
# Parts of two blocks, which were copied before.
assert (logged('Read', 1), logged('Write', 1)) == (2, 2)
h.pwrite(b'y', 65000)
h.pwrite(b'z', 65001, nbd.CMD_FLAG_FUA)
assert open('disk', 'rb').read()[65000:65003] == b'yzx'
",
        ),
    );
}

#[test]
fn server_that_stops_writes_back_unless_that_is_unsafe() {
    require!("nbdsh");
    for (mode, kept) in [("writeback", true), ("writethrough", true), ("unsafe", false)] {
        let directory = TempDir::new().unwrap();
        let exports = cached(&directory, &[7; 1 << 20], "1M", &format!(",cache={mode}"));
        let script =
            r#"nbdsh -u "nbd+unix:///disk?socket=$unixsocket" -c 'h.pwrite(b"x" * 70000, 5)'"#;
        let mut command = memnbd(directory.path(), ["-U", "-"]);
        command.args(exports).args(["--run", script]).env("PATH", "/usr/bin:/bin");
        run(&mut command).success();
        let disk = fs::read(directory.path().join("disk")).unwrap();
        assert_eq!(disk[5..70005] == [b'x'; 70000], kept, "{mode}");
        assert_eq!((disk[4], disk[70005]), (7, 7), "{mode}");
    }
}

#[test]
fn what_was_read_or_prefetched_is_not_read_again() {
    require!("nbdsh");
    for (parameters, first, reads) in [
        // The first one and the four after it.
        ("", "h.pread(200000, 1000)", "5"),
        // The four blocks.
        (",cache-on-read=true", "h.pread(200000, 1000)", "4"),
        ("", "h.cache(200000, 1000)", "4"),
    ] {
        let server = serve(&[7; 1 << 20], "1M", parameters);
        let code = format!(
            "
{first}
for n in range(4):
    assert h.pread(1000, n * 65536 + 1000) == b'\\x07' * 1000
h.flush()
print(logged('Read', 1))
"
        );
        assert_eq!(nbdsh(&server, &script(&code)).trim(), reads, "{parameters} {first}");
    }
}

/// The real program against a byte array, through a cache that is much smaller than the disk.
#[test]
fn disk_with_a_small_cache_behaves_like_an_array() {
    require!("nbdsh");
    for parameters in [
        ",cache-min-block-size=4k",
        ",cache-min-block-size=4k,cache-on-read=true",
        ",cache-min-block-size=4k,cache=writethrough,cache-on-read=true",
        ",cache-min-block-size=8k,cache=unsafe",
    ] {
        let server = serve(&vec![0; (1 << 20) + 100], "100k", parameters);
        let code = "
import random
random.seed(5)
size = h.get_size()
model = bytearray(size)
for step in range(800):
    offset = random.randrange(size)
    length = random.randint(1, min(size - offset, random.choice([7, 600, 20000, 200000])))
    flags = random.choice([0, 0, 0, nbd.CMD_FLAG_FUA])
    kind = random.randrange(6)
    if kind < 2:
        data = random.randbytes(length)
        h.pwrite(data, offset, flags)
        model[offset:offset + length] = data
    elif kind == 2:
        h.zero(length, offset, flags | random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
        model[offset:offset + length] = bytes(length)
    elif kind == 3:
        h.cache(length, offset)
        h.block_status(length, offset, lambda *a: 0)
    elif kind == 4:
        h.flush()
    else:
        assert h.pread(length, offset) == model[offset:offset + length], (step, offset, length)
h.flush()
assert h.pread(size, 0) == model
h.trim(1 << 19, 0)
model[:1 << 19] = h.pread(1 << 19, 0)
h.flush()
assert h.pread(size, 0) == model
";
        nbdsh(&server, &script(code));
    }
}

#[test]
fn cache_passes_verification_with_four_connections() {
    require!("fio");
    for parameters in ["", ",cache-on-read=true,cache-min-block-size=4k", ",cache=writethrough"] {
        let server = serve(&vec![0; 48 << 20], "2M", parameters);
        let mut command = client(&server, "fio");
        command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
        command.arg(format!("--uri={}", server.uri()));
        command.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--numjobs=4"]);
        command.args(["--iodepth=16", "--size=4M", "--offset_increment=12M", "--thread"]);
        run(&mut command).success();
    }
}

#[test]
fn space_of_the_cache_is_bounded() {
    require!("nbdsh");
    let server = serve(&vec![7; 16 << 20], "16M", ",cache-max-size=1M,cache-on-read=true");
    let code = "
h.pread(16 << 20, 0)
for n in range(256):
    assert h.pread(512, n * 65536) == b'\\x07' * 512
for n in range(256):
    h.pwrite(b'x' * 65536, n * 65536)
c = nbd.NBD()
c.add_meta_context('base:allocation')
c.set_export_name('space')
c.connect_unix('socket')
assert c.is_read_only()
used = 0
def add(context, offset, extents, error):
    global used
    used += sum(length for length, status in zip(extents[::2], extents[1::2]) if status == 0)
c.block_status(16 << 20, 0, add)
assert 0 < used <= 1 << 20, used
h.flush()
assert h.pread(16 << 20, 0) == b'x' * (16 << 20)
";
    nbdsh(&server, &script(code));
}

#[test]
fn sequential_reads_make_the_disk_beneath_prefetch() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let content: Vec<u8> = (0..2_u32 << 20).map(|n| (n / 1000) as u8).collect();
    fs::write(directory.path().join("disk"), &content).unwrap();
    let filters = ["-U", "socket", "--filter=readahead", "--filter=log", "file", "disk"];
    let mut command = memnbd(directory.path(), filters);
    let server = Server::spawn(directory, command.arg("logfile=log"));
    let code = "
import re, time
content = open('disk', 'rb').read()
for offset in range(0, 2 << 20, 16384):
    assert h.pread(16384, offset) == content[offset:offset + 16384]
h.flush()
for attempt in range(1000):
    text = open('log').read()
    if text.count('...Flush') == 1:
        break
    time.sleep(0.01)
asked = re.findall(r' Cache id=.* offset=(0x[0-9a-f]*) count=(0x[0-9a-f]*) ', text)
asked = [(int(offset, 16), int(count, 16)) for offset, count in asked]
assert asked[:3] == [(16384, 32768), (49152, 65536), (114688, 131072)], asked
assert sum(asked[-1]) == 2 << 20 and len(asked) < 10, asked
";
    nbdsh(&server, code);
}

#[test]
fn disk_that_does_not_prefetch_is_told() {
    require!("nbdsh");
    let filters = ["--filter=readahead", "--filter=nocache", "memory", "1M", "cachemode=none"];
    let mut server = Server::start(&filters);
    server.expect_log("the disk beneath does not prefetch");
    nbdsh(&server, "h.pwrite(b'x', 5); assert h.pread(3, 4) == b'\\0x\\0'");
}

#[test]
fn mistakes_are_told() {
    for (parameters, words) in [
        (",cache-max-size=4k", "at least one block of 65536"),
        (",cache-min-block-size=5000", "cache-min-block-size=5000 must be a power of two"),
        (",cache-high-threshold=50", "must be less than cache-high-threshold, 50"),
    ] {
        let mut server = serve(&[0; 4096], "1M", parameters);
        server.expect_log(words);
    }
}

#[test]
fn space_need_not_be_named() {
    require!("nbdcopy", "qemu-img");
    let directory = TempDir::new().unwrap();
    let content: Vec<u8> = (0..8 << 20).map(|at| (at / 999) as u8).collect();
    fs::write(directory.path().join("image"), &content).unwrap();
    let server = Server::start(&["--filter=cache", "memory", "8M", "cache-on-read=true"]);
    let copy = |from: &str, to: &str| {
        run(Command::new("nbdcopy").current_dir(&directory).args([from, to])).success();
    };
    let uri = format!("nbd+unix:///?socket={}", server.socket().display());
    copy("image", &uri);
    for name in ["first", "second"] {
        copy(&uri, name);
        assert!(fs::read(directory.path().join(name)).unwrap() == content, "{name}");
    }
}
