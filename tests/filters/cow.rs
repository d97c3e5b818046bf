//! The filter `cow`: layers, snapshots and clones.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::content::{CONTENT, requests};
use super::saying;
use crate::backends::{same, served};
use crate::mistakes::complains;
use crate::support::{Server, client, nbdsh, require, run};

const CHANGES: &str = "h.pwrite(b\"x\" * 10, 5)
h.pwrite(bytes(range(256)) * 1000, 70000)
h.pwrite(bytes(100000), 200000)
h.pwrite(b\"y\" * 65536, 458752)
h.cache(100000, 100000)
h.pread(100000, 300000)
h.pwrite(b\"z\" * 7, 999993)
h.pwrite(b\"z\" * 8, 999993)
h.flush()";

#[test]
fn content_is_that_of_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for parameters in [
        &[][..],
        &["cow-block-size=4k"],
        &["cow-block-size=1M"],
        &["cow-on-read=true"],
        &["cow-on-cache=true"],
        &["cow-on-read=true", "cow-on-cache=true", "cow-block-size=4096"],
    ] {
        let words = [&["--filter=cow", "pattern", "1000000"], parameters].concat();
        same(&words, &requests(CHANGES));
        same(&words, r#"nbdinfo --size "$uri" && nbdcopy "$uri" - | sha256sum"#);
    }
    same(
        &["--filter=cow", "memory", "8M"],
        &requests(&format!("{CHANGES}\nh.trim(100000, 60000)")),
    );
    same(&["--filter=cow", "memory", "8M"], CONTENT);
}

#[test]
fn offers_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    let code = r#"
print(h.get_size(), h.is_read_only(), h.is_rotational(), h.can_cache(), h.can_multi_conn())
print(h.can_trim(), h.can_flush(), h.can_fua())
say("write", lambda: h.pwrite(b"x" * 65536, 0))
say("fua", lambda: h.pwrite(b"x" * 65536, 100, nbd.CMD_FLAG_FUA))
say("trim", lambda: h.trim(4096, 8192))
say("cache", lambda: h.cache(4096, 8192))
say("flush", h.flush)
"#;
    for words in [&["memory", "1M"][..], &["pattern", "1M"], &["--filter=nozero", "memory", "1M"]] {
        same(&[&["--filter=cow"], words].concat(), &saying(code));
    }
}

#[test]
fn file_below_stays_as_it_is() {
    require!("nbdcopy", "qemu-img", "qemu-io");
    let directory = TempDir::new().unwrap();
    let image: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 1000) as u8).collect();
    fs::write(directory.path().join("disk"), &image).unwrap();
    let arguments = ["--filter=cow", "file", "disk"];
    let script = r#"
        qemu-img compare -f raw -F raw disk "$uri" &&
        cp disk copy &&
        qemu-io -f raw "$uri" -c 'write -P 7 100k 500k' -c 'write -z 1M 64k' -c flush &&
        qemu-io -f raw copy -c 'write -P 7 100k 500k' -c 'write -z 1M 64k' &&
        qemu-img compare -f raw -F raw copy "$uri""#;
    let printed = served("memnbd", directory.path(), &arguments, script);
    assert_eq!(printed.matches("Images are identical").count(), 2, "{printed}");
    assert!(fs::read(directory.path().join("disk")).unwrap() == image);
}

#[test]
fn layers_pass_verification_with_four_connections() {
    require!("fio");
    for words in [
        &["memory", "64M"][..],
        &["memory", "64M", "cow-block-size=4k"],
        &["memory", "64M", "cow-on-read=true", "cow-block-size=32k"],
        &["--filter=error", "--filter=delay", "memory", "64M", "rdelay=100us"],
    ] {
        let server = Server::start(&[&["--filter=cow"], words].concat());
        for (workload, size) in [("randwrite", "bsrange=512-64k"), ("randrw", "bs=4k")] {
            let mut command = client(&server, "fio");
            command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1"]);
            command.arg(format!("--uri={}", server.uri()));
            command.arg(format!("--rw={workload}")).arg(format!("--{size}"));
            command.args(["--verify=crc32c", "--numjobs=4", "--iodepth=16", "--size=8M"]);
            command.args(["--offset_increment=12M", "--thread", "--verify_state_save=0"]);
            run(&mut command).success();
        }
    }
}

/// Connects to exports by their names, and compares disks with arrays of bytes.
const MODEL: &str = "
import random
def connect(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
class Disk:
    def __init__(self, name, model):
        self.connection, self.model = connect(name), bytearray(model)
    def change(self, steps):
        for step in range(steps):
            offset = random.randrange(len(self.model))
            length = random.randint(1, min(len(self.model) - offset, random.choice([9, 5000, 300000])))
            if random.random() < 0.7:
                data = random.randbytes(length)
                self.connection.pwrite(data, offset)
            else:
                data = bytes(length)
                self.connection.zero(length, offset)
            self.model[offset:offset + length] = data
    def check(self):
        for offset in range(0, len(self.model), 1 << 20):
            length = min(1 << 20, len(self.model) - offset)
            assert self.connection.pread(length, offset) == self.model[offset:offset + length]
";

fn model(server: &Server, code: &str) {
    nbdsh(server, &format!("{MODEL}{code}"));
}

fn start(exports: &[String]) -> Server {
    let arguments = exports.iter().flat_map(|export| ["--export", export.as_str()]);
    Server::start(&arguments.collect::<Vec<_>>())
}

/// Snapshots on files, of which a crash of the server leaves what was flushed.
#[test]
fn snapshots_and_clones_are_made_by_opening_them() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let script = "import random; open('base', 'wb').write(random.Random(1).randbytes(8 << 20))";
    let mut python = Command::new("/usr/bin/python3");
    run(python.args(["-c", script]).current_dir(directory.path())).success();
    let file = |name: &str| {
        let path = directory.path().join(name);
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        format!("{name}=file,{}", path.display())
    };
    let devices = ["base", "o1", "m1"].map(file);
    let base = "base = random.Random(1).randbytes(8 << 20)";
    let disk = "disk=cow,base=base,overlay=o1,metadata=m1,cow-block-size=16k";
    let server = start(&[&[disk.to_owned()], &devices[..]].concat());
    model(
        &server,
        &format!(
            "
{base}
random.seed(2)
disk = Disk('disk', base)
disk.check()
disk.change(300)
disk.connection.flush()
disk.check()
"
        ),
    );
    server.kill();
    // The disk becomes a snapshot, which three others begin with. One is below another.
    let begun = "base=base,layer=o1,inherit=m1";
    let exports = [
        format!("next=cow,{begun},overlay=o2,metadata=m2"),
        format!("first=cow,{begun},overlay=c1,metadata=cm1"),
        format!("second=cow,{begun}"),
        format!("snapshot=cow,{begun},read-only"),
        "above=cow,base=frozen".to_owned(),
        format!("frozen=cow,{begun}"),
        file("o2"),
        file("m2"),
    ];
    let memory = ["c1", "cm1"].map(|name| format!("{name}=memory,8M"));
    let server = start(&[&exports[..], &devices, &memory].concat());
    model(
        &server,
        &format!(
            "
{base}
random.seed(2)
expected = Disk('base', base)
# The same numbers again, without the writes.
class Nobody:
    def pwrite(self, data, offset): pass
    def zero(self, length, offset): pass
expected.connection = Nobody()
expected.change(300)
disks = [Disk(name, expected.model) for name in ['next', 'first', 'second', 'snapshot', 'above']]
assert disks[3].connection.is_read_only()
for disk in disks:
    disk.check()
for round in range(3):
    for disk in disks[:3] + disks[4:]:
        disk.change(60)
    for disk in disks:
        disk.check()
disks[0].connection.flush()
for name in ['base', 'o1', 'm1']:
    assert connect(name).is_read_only()
"
        ),
    );
}

#[test]
fn mistakes_are_told() {
    for (parameter, code, told) in [
        ("cow-block-size=2k", 2, "cow-block-size"),
        ("cow-on-read=/path", 2, "cow-on-read"),
        ("cow-block-size=5000", 1, "it must be a power of two"),
    ] {
        complains(code, &["--filter=cow", "memory", "1M", parameter], &[told]);
    }
    for (parameters, told) in [
        (
            "overlay=small",
            "overlay has 1024000 bytes; it must have at least the 1048576 bytes of base",
        ),
        ("inherit=small", "inherit has no map"),
        ("metadata=small", "must name a device that is kept as well"),
        ("overlay=o,metadata=o", "needs its content to stay as it is"),
    ] {
        let bad = format!("bad=cow,base=base,{parameters}");
        let exports = ["base=memory,1M", "small=memory,1000k", "o=memory,1M", &bad];
        let mut server = Server::start(&exports.map(|export| ["--export", export]).concat());
        server.expect_log(told);
    }
}
