//! Exports that stand on other exports.

use crate::support::{Server, nbdsh, require};

const CONNECT: &str = "
def connect(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return c
";

fn python(server: &Server, code: &str) {
    nbdsh(server, &format!("{CONNECT}{code}"));
}

#[test]
fn export_shows_a_part_of_another_one() {
    require!("nbdsh");
    let server = Server::start(&[
        "--export",
        "view=offset,base=golden,offset=4k,range=8k",
        "--export",
        "golden=memory,1M",
        "--export",
        "again=error,base=view,error-pwrite-rate=1",
    ]);
    python(
        &server,
        "
golden, view, again = connect('golden'), connect('view'), connect('again')
golden.pwrite(b'through', 5000)
assert view.pread(7, 5000 - 4096) == b'through'
assert again.pread(7, 5000 - 4096) == b'through'
view.pwrite(b'back', 0)
assert golden.pread(4, 4096) == b'back'
try:
    again.pwrite(b'no', 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'EIO'
",
    );
}

#[test]
fn exports_in_a_circle_are_refused_and_the_others_served() {
    require!("nbdsh");
    let mut server = Server::start(&[
        "--export",
        "golden=memory,1M",
        "--export",
        "a=offset,base=b",
        "--export",
        "b=offset,base=c",
        "--export",
        "c=offset,base=a",
        "--export",
        "self=offset,base=self",
        "--export",
        "missing=offset,base=goden",
    ]);
    python(
        &server,
        "
for name in ['a', 'b', 'c', 'self', 'missing']:
    try:
        connect(name)
        assert False
    except nbd.Error as error:
        pass
assert connect('golden').get_size() == 1 << 20
",
    );
    server.expect_log("exports must not stand on each other in a circle");
    server.expect_log("there is no export \"goden\"; did you mean \"golden\"?");
    for name in ["a", "b", "c", "self", "missing"] {
        server.allow_log(&format!("export {name:?}: "));
    }
}

/// `cow` relies on its base, and `offset` writes to it.
#[test]
fn base_that_is_relied_on_is_not_written_to() {
    require!("nbdsh");
    let layer = |name: &str| format!("{name}=cow,base=golden,overlay=scratch");
    let mut server = Server::start(&[
        "--export",
        "idle=memory,1M",
        "--export",
        "scratch=memory,1M",
        "--export",
        "golden=memory,1M",
        "--export",
        &layer("first"),
        "--export",
        "writer=offset,base=golden",
    ]);
    python(
        &server,
        "
import time
# All exports are tried at the start, and these two may be in each other's way then.
time.sleep(1.5)
golden = connect('golden')
golden.pwrite(b'image', 0)
try:
    connect('first')
    assert False
except nbd.Error:
    pass
golden.shutdown()
time.sleep(2.5)
first = connect('first')
first.pwrite(b'new', 0)
assert first.pread(5, 0) == b'newge'
golden = connect('golden')
assert golden.is_read_only()
assert golden.pread(5, 0) == b'image'
try:
    golden.pwrite(b'x', 0)
    assert False
except nbd.Error:
    pass
try:
    connect('writer')
    assert False
except nbd.Error:
    pass
",
    );
    server.expect_log("export \"golden\": 1 clients are connected to it and may write");
    server.expect_log("another component needs its content to stay as it is");
    server.allow_log("export \"first\"");
    server.allow_log("export \"writer\"");
}

#[test]
fn unnamed_export_can_be_stood_on() {
    require!("nbdsh");
    let server = Server::start(&["1M", "--export", "view=offset,base=,offset=512"]);
    python(
        &server,
        "
h.pwrite(b'x', 512)
assert connect('view').pread(1, 0) == b'x'
",
    );
}

#[test]
fn disk_beneath_that_fails_to_open_is_told() {
    require!("nbdsh");
    let mut server = Server::start(&[
        "--export",
        "good=memory,1M",
        "--export",
        "view=offset,base=bad",
        "--export",
        "bad=file,/nonexistent/file",
    ]);
    python(
        &server,
        "
try:
    connect('view')
    assert False
except nbd.Error:
    pass
",
    );
    server.expect_log("base: export \"bad\" failed: file /nonexistent/file");
    server.allow_log("export \"bad\"");
    server.allow_log("export \"view\"");
}
