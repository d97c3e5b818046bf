//! Several disks in one server.

use crate::support::{Probe, Server, client, memnbd, nbdsh, require, run};

/// What `--export` is given for two disks in memory and one that tells offsets.
const THREE: [&str; 6] =
    ["--export", "a=memory,1M", "--export", "b disk=memory,size=2M", "--export", "p=pattern,4M"];

fn size(server: &Server, name: &str) -> u64 {
    let stream = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    Probe::new(stream, name).size
}

#[test]
fn each_name_finds_its_disk() {
    let server = Server::start(&THREE);
    for (name, mib) in [("a", 1), ("b disk", 2), ("p", 4)] {
        assert_eq!(size(&server, name), mib << 20, "{name}");
    }
    assert_eq!(size(&server, ""), 1 << 20, "the first is the default one");
}

#[test]
fn disk_without_a_name_stays_the_default() {
    let server = Server::start(&[&["8M"], &THREE[..]].concat());
    assert_eq!(size(&server, ""), 8 << 20);
    assert_eq!(size(&server, "a"), 1 << 20);
    let server = Server::start(&[&["-e", "main", "8M"], &THREE[..]].concat());
    assert_eq!(size(&server, "main"), 8 << 20);
    assert_eq!(size(&server, ""), 8 << 20);
}

#[test]
fn exports_are_listed_in_order() {
    require!("nbdinfo");
    let server = Server::start(&THREE);
    let list = run(client(&server, "nbdinfo").args(["--list", "--json", server.uri()])).success();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let exports = list["exports"].as_array().unwrap().iter();
    let names: Vec<_> = exports.map(|export| export["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b disk", "p"]);
}

#[test]
fn disks_do_not_see_each_other() {
    require!("nbdsh");
    let server = Server::start(&THREE);
    nbdsh(
        &server,
        "
def connect(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
a, b, again = connect('a'), connect('b disk'), connect('a')
a.pwrite(b'a' * 512, 0)
b.pwrite(b'b' * 512, 256)
assert a.pread(768, 0) == b'a' * 512 + bytes(256)
assert b.pread(768, 0) == bytes(256) + b'b' * 512
assert again.pread(512, 0) == b'a' * 512
assert connect('p').pread(8, 512) == (512).to_bytes(8, 'big')
",
    );
}

#[test]
fn mistakes_in_any_export_are_told_at_the_start() {
    for (code, export, words) in [
        (2, "a=", "NAME=COMPONENT"),
        (2, "a=no-such.wasm", "no such file"),
        (2, "a=memroy,1M", "unknown component \"memroy\"; did you mean \"memory\"?"),
        (2, "a=memory", "needs the parameter \"size\""),
        (2, "a=memory,1M,colour=red", "no parameter \"colour\""),
        (2, &format!("{}=memory,1M", "n".repeat(4097)), "at most 4096"),
    ] {
        let directory = tempfile::TempDir::new().unwrap();
        let command = &mut memnbd(directory.path(), ["-U", "socket", "1M", "--export", export]);
        let error = run(command).failure(code);
        assert!(error.contains(words), "{export}: {error}");
        assert!(!directory.path().join("socket").exists());
    }
}

#[test]
fn two_exports_of_one_name_are_refused() {
    let directory = tempfile::TempDir::new().unwrap();
    let arguments = ["-U", "socket", "--export", "a=memory,1M", "--export", "a=memory,2M"];
    let error = run(&mut memnbd(directory.path(), arguments)).failure(2);
    assert!(error.contains("two exports have the name \"a\""), "{error}");
}

/// As nbdkit's ondemand plugin has it.
#[test]
fn every_name_that_clients_ask_for_is_a_disk() {
    require!("nbdsh");
    let server = Server::start(&["--export=fixed=memory,2M", "--export=*=memory,1M"]);
    nbdsh(
        &server,
        "
def disk(name):
    other = nbd.NBD()
    other.set_export_name(name)
    other.connect_unix('socket')
    return other
assert disk('fixed').get_size() == 2 << 20
one, two = disk('one'), disk('two')
assert one.get_size() == two.get_size() == 1 << 20
one.pwrite(b'1' * 512, 0)
two.pwrite(b'2' * 512, 0)
assert disk('one').pread(512, 0) == b'1' * 512
assert disk('two').pread(512, 0) == b'2' * 512
# Far more than there can be at a time.
for number in range(400):
    name = 'disk %d' % number
    assert disk(name).pread(512, 0) == bytes(512)
try:
    for number in range(300):
        globals()['kept%d' % number] = disk('kept %d' % number)
    assert False
except nbd.Error:
    pass
assert disk('fixed').get_size() == 2 << 20
",
    );
}

/// As nbdkit's tmpdisk plugin has it.
#[test]
fn connections_have_disks_of_their_own() {
    require!("nbdsh");
    let server = Server::start(&["--private", "memory", "1M"]);
    nbdsh(
        &server,
        "
assert not h.can_multi_conn()
other = nbd.NBD()
other.connect_unix('socket')
h.pwrite(b'1' * 512, 0)
assert other.pread(512, 0) == bytes(512)
other.pwrite(b'2' * 512, 0)
other.flush()
assert h.pread(512, 0) == b'1' * 512
other.shutdown()
again = nbd.NBD()
again.connect_unix('socket')
assert again.pread(512, 0) == bytes(512)
",
    );
}

#[test]
fn mistakes_about_all_names_are_told() {
    let directory = tempfile::TempDir::new().unwrap();
    for (exports, words) in [
        (&["--export=*=memory,2X"][..], "unknown suffix"),
        (&["--export=*=memory,1M", "--export=*=memory,2M"], "is given twice"),
    ] {
        let mut command = memnbd(directory.path(), ["-U", "socket"]);
        let error = run(command.args(exports)).failure(2);
        assert!(error.contains(words), "{error}");
    }
}
