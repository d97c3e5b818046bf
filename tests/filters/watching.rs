//! The filters `nofilter`, `count`, `checkwrite`, `xor` and `cacheextents`.

use std::fs;

use tempfile::TempDir;

use super::content::{CONTENT, requests};
use super::saying;
use crate::backends::{same, served};
use crate::mistakes::complains;
use crate::support::{Server, client, memnbd, nbdsh, require, run};

#[test]
fn nofilter_serves_what_nbdkits_does() {
    require!("nbdkit", "nbdsh", "nbdcopy");
    let script = requests("h.pwrite(b\"x\" * 1000, 98000)\nh.zero(100, 98300)\nh.trim(99, 98400)");
    same(&["--filter=nofilter", "memory", "100000"], &script);
    same(&["--filter=nofilter", "pattern", "1M"], CONTENT);
}

#[test]
fn bytes_that_were_moved_are_logged_in_the_end() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let script = r#"nbdsh -u "$uri" -c '
h.pwrite(b"x" * 1000, 0)
h.pread(512, 0)
h.pread(512, 0)
h.zero(4096, 0)
h.trim(8192, 8192)
h.cache(512, 0)
h.flush()
try:
    h.pwrite(b"x" * 512, 1 << 19)
    assert False
except nbd.Error:
    pass
'"#;
    let filters = ["-U", "-", "--filter=count", "--filter=error", "memory", "1M"];
    let mut command = memnbd(directory.path(), filters);
    command.args(["error-range=512k:1", "--run", script]).env("PATH", "/usr/bin:/bin");
    let finished = run(&mut command);
    let line = "count bytes: read 1024, written 1000, zeroed 4096, trimmed 8192";
    assert!(finished.stderr.contains(line), "{finished}");
    finished.success();
}

#[test]
fn writes_must_match_what_is_there_as_with_nbdkit() {
    require!("nbdkit", "nbdsh", "nbdcopy");
    let lines = r#"
print(h.get_size(), h.is_read_only(), h.can_fast_zero(), h.can_trim(), h.can_multi_conn())
say("same", lambda: h.pwrite(h.pread(5000, 4090), 4090))
say("other", lambda: h.pwrite(b"y", 4096))
say("zero", lambda: h.zero(4096, 8192))
say("fast zero", lambda: h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO))
say("no zero", lambda: h.zero(4097, 0))
say("trim", lambda: h.trim(4096, 0))
say("no trim", lambda: h.trim(4097, 0))
say("fua", lambda: h.pwrite(b"\x01", 4096, nbd.CMD_FLAG_FUA))
say("flush", h.flush)
"#;
    same(&["--filter=checkwrite", "data", "@4096 1 @1048576 2"], &saying(lines));
    // What it is for.
    let itself = r#"nbdcopy "$uri" "$uri" && echo copied"#;
    let arguments = ["--filter=checkwrite", "data", "@32768 1 @1048576 2*70000"];
    assert_eq!(same(&arguments, itself), "copied\n");
}

#[test]
fn checked_file_stays_as_it_is() {
    require!("qemu-img");
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let image: Vec<u8> = (0..3_u32 << 20).map(|n| (n / 70_000 * 70_000 % 251) as u8).collect();
    fs::write(&path, &image).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    let script = r#"qemu-img convert -f raw -O raw -n "$uri" "$uri" && echo converted"#;
    let printed =
        served("memnbd", directory.path(), &["--filter=checkwrite", "file", "disk"], script);
    assert_eq!(printed, "converted\n");
    assert!(fs::read(&path).unwrap() == image);
}

#[test]
fn masked_disk_is_unmasked_by_the_same_mask() {
    require!("nbdsh");
    for mask in ["xor=0x55", "xor=0x010203", "xor=rand:7"] {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        let write = r#"nbdsh -u "$uri" -c 'h.pwrite(b"secret", 1234)' -c 'h.flush()'"#;
        served("memnbd", directory.path(), &["--filter=xor", "file", "disk", mask], write);
        let content = fs::read(&path).unwrap();
        assert!(!content.windows(6).any(|window| window == b"secret"), "{mask}");
        let read = r#"nbdsh -u "$uri" -c 'print(bytes(h.pread(6, 1234)))'"#;
        let printed =
            served("memnbd", directory.path(), &["--filter=xor", "file", "disk", mask], read);
        assert_eq!(printed, "b'secret'\n", "{mask}");
    }
    // Of a disk of zeroes, the mask is seen.
    let server = Server::start(&["--filter=xor", "memory", "1M", "xor=1", "xorlen=4"]);
    assert_eq!(nbdsh(&server, "print(h.pread(8, 2).hex())").trim(), "0001000000010000");
}

/// Beneath, the extents are logged.
#[test]
fn extents_are_asked_for_once() {
    require!("nbdsh");
    let filters = ["--filter=cacheextents", "--filter=log", "memory", "1M", "logfile=log"];
    let server = Server::start(&filters);
    let asked = nbdsh(
        &server,
        "
import time
for page in [1, 2, 5, 100]:
    h.pwrite(b'x' * 32768, page * 131072 % (1 << 20))
c = nbd.NBD()
c.add_meta_context('base:allocation')
c.connect_unix('socket')
def status(offset, length=1 << 20):
    found = []
    length = min(length, (1 << 20) - offset)
    c.block_status(length, offset, lambda context, at, extents, error: found.extend(extents),
                   nbd.CMD_FLAG_REQ_ONE)
    return found[0]
def count(flushes):
    c.flush()
    # The log is written a little later.
    for attempt in range(1000):
        text = open('log').read()
        if text.count('...Flush') == flushes:
            break
        time.sleep(0.01)
    return text.count(' Extents id=')
offset, steps = 0, 0
while offset < 1 << 20:
    offset += status(offset)
    steps += 1
assert steps > 5, steps
print(count(1))
assert status(5) > 0
h.pwrite(b'x', 900000)
assert status(0) == 131072
print(count(2))
",
    );
    assert_eq!(asked, "1\n2\n");
}

#[test]
fn extents_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo");
    let map = r#"nbdinfo --map "$uri""#;
    same(&["--filter=cacheextents", "data", "@65536 1*40000 @1048576 2*65536", "size=2M"], map);
}

#[test]
fn qemu_converts_what_is_remembered() {
    require!("qemu-img", "qemu-io");
    for filters in [
        &["--filter=cacheextents", "memory", "16M"][..],
        &["--filter=xor", "memory", "16M", "xor=0x0102030405"],
        &["--filter=nofilter", "--filter=count", "--filter=stats", "memory", "16M"],
    ] {
        let server = Server::start(filters);
        let script = format!(
            "qemu-img create -q -f raw image 16M && qemu-io -f raw image -c 'write -P 1 0 3M' \
             -c 'write -P 3 8M 100k' && qemu-img convert -n -f raw -O raw image '{uri}' && \
             qemu-io -f raw '{uri}' -c 'write -z 1M 1M' -c 'write -P 9 3k 9k' -c flush && \
             qemu-io -f raw image -c 'write -z 1M 1M' -c 'write -P 9 3k 9k' && \
             qemu-img compare -f raw -F raw image '{uri}'",
            uri = server.uri()
        );
        let printed = run(client(&server, "sh").args(["-c", &script])).success();
        assert!(printed.contains("Images are identical"), "{filters:?}: {printed}");
    }
}

#[test]
fn mistakes_are_told() {
    for (filter, parameter, code, words) in [
        ("xor", "memory.size=1M", 2, "needs the parameter \"xor\""),
        ("xor", "xor=x", 1, "xor must be a number such as 0x55"),
        ("xor", "xorlen=4", 2, "needs the parameter \"xor\""),
        ("nofilter", "x=y", 2, "no layer has a parameter \"x\""),
    ] {
        let filter = format!("--filter={filter}");
        let size = if parameter.starts_with("memory") { &[][..] } else { &["1M"] };
        complains(code, &[&[&*filter, "memory"], size, &[parameter]].concat(), &[words]);
    }
}
