//! Several clients at once: all see one disk.

use std::thread;

use crate::support::{Server, nbdsh, require};

#[test]
fn connections_that_write_disjoint_ranges_are_seen_by_all() {
    require!("nbdsh");
    const CONNECTIONS: usize = 4;
    const BLOCKS: usize = 256;
    let server = Server::start(&["size=64M"]);
    // Neighbouring blocks belong to different connections.
    let offset = format!("(i * {CONNECTIONS} + n) * 5000");
    thread::scope(|scope| {
        for n in 0..CONNECTIONS {
            let (server, offset) = (&server, &offset);
            scope.spawn(move || {
                let code = format!(
                    "n = {n}\n\
                     for i in range({BLOCKS}):\n    \
                         h.pwrite(bytes([n * 50 + i % 50]) * 5000, {offset})\n\
                     for i in range({BLOCKS}):\n    \
                         assert h.pread(5000, {offset}) == bytes([n * 50 + i % 50]) * 5000\n"
                );
                nbdsh(server, &code);
            });
        }
    });
    let code = format!(
        "for n in range({CONNECTIONS}):\n    \
             for i in range({BLOCKS}):\n        \
                 assert h.pread(5000, {offset}) == bytes([n * 50 + i % 50]) * 5000\n"
    );
    nbdsh(&server, &code);
}

#[test]
fn write_on_one_connection_is_seen_on_all() {
    require!("nbdsh");
    let server = Server::start(&["64M"]);
    nbdsh(
        &server,
        "connections = [nbd.NBD() for _ in range(8)]
for c in connections:
    c.connect_uri(h.get_uri())
assert h.can_multi_conn()
for i in range(200):
    writer = connections[i % 8]
    writer.pwrite(bytes([i]) * 3000, i * 2999)
    for c in connections:
        assert c.pread(3000, i * 2999) == bytes([i]) * 3000
    writer.trim(1000, i * 2999)
    seen = {bytes(c.pread(3000, i * 2999)) for c in connections}
    assert len(seen) == 1
",
    );
}

#[test]
fn requests_of_one_connection_are_answered_while_others_are_under_way() {
    require!("nbdsh");
    let server = Server::start(&["256M"]);
    nbdsh(
        &server,
        "n = 64
block = 1 << 20
def all_done(cookies):
    while cookies:
        cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
        if cookies:
            h.poll(-1)
data = [nbd.Buffer.from_bytearray(bytearray([i + 1]) * block) for i in range(n)]
all_done([h.aio_pwrite(data[i], i * block) for i in range(n)])
read = [nbd.Buffer(block) for _ in range(n)]
all_done([h.aio_pread(read[i], i * block) for i in range(n)])
for i in range(n):
    assert read[i].to_bytearray() == bytes([i + 1]) * block
",
    );
}
