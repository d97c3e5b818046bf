//! A disk that is larger than its memory: what it does when that is full, and that it comes back.

use std::time::Duration;

use crate::support::{Server, nbdsh, require, wait_until};

const MIB: u64 = 1 << 20;

/// Fills the disk with a mebibyte after the other, each of its own bytes, until there is no space.
const FILL: &str = "
block = 1 << 20
def content(i):
    return (b'%08d' % i) * (block // 8)
def fill():
    for i in range(h.get_size() // block):
        try:
            h.pwrite(content(i), i * block)
        except nbd.Error as error:
            assert error.errno in ('ENOSPC', 'ENOMEM'), error
            return i
    assert False, 'it has all the space it wants'
";

#[test]
fn full_disk_refuses_writes_and_keeps_its_data() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "64M", "1G"]);
    let code = "
n = fill()
assert 32 <= n <= 64, n
for i in range(n):
    assert h.pread(block, i * block) == content(i)
# What is there can be overwritten, what is not reads as zeroes.
h.pwrite(content(7), 0)
assert h.pread(block, 0) == content(7)
assert h.pread(block, 500 * block) == bytes(block)
# What is left in the instances is less than a few writes.
written = 0
for i in range(600, 700):
    try:
        h.pwrite(content(i), i * block)
        written += 1
    except nbd.Error as error:
        assert error.errno in ('ENOSPC', 'ENOMEM'), error
assert written <= 8, written
";
    nbdsh(&server, &format!("{FILL}{code}"));
}

#[test]
fn trim_makes_room_for_writes() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "64M", "1G"]);
    let code = "
n = fill()
for _ in range(3):
    h.trim(16 * block, 0)
    for i in range(16):
        assert h.pread(block, i * block) in (bytes(block), content(i))
        h.pwrite(content(i), i * block)
    for i in range(n):
        assert h.pread(block, i * block) == content(i)
# Elsewhere, too; but what one instance has is not for the stripes of another.
h.zero(16 * block, 0)
written = 0
for i in range(100, 116):
    try:
        h.pwrite(content(i), i * block)
        assert h.pread(block, i * block) == content(i)
        written += 1
    except nbd.Error as error:
        assert error.errno in ('ENOSPC', 'ENOMEM'), error
assert written >= 8, written
h.trim(h.get_size(), 0)
again = fill()
assert again >= n - 2, (again, n)
";
    nbdsh(&server, &format!("{FILL}{code}"));
}

#[test]
fn zeroes_take_no_memory() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "64M", "size=9223372036854775807"]);
    nbdsh(
        &server,
        "
for i in range(62):
    h.zero(1 << 31, i << 53)
    assert h.pread(1 << 20, i << 53) == bytes(1 << 20)
h.pwrite(b'x', 2**63 - 2)
",
    );
}

#[test]
fn full_disk_is_full_for_one_client_and_well_for_others() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "64M", "1G"]);
    nbdsh(&server, &format!("{FILL}\nfill()"));
    assert_eq!(nbdsh(&server, "print(h.pread(8, 1 << 20).decode())"), "00000001\n");
}

#[test]
fn trimmed_memory_goes_back_to_the_machine() {
    require!("nbdsh");
    let server = Server::start(&["1G"]);
    nbdsh(&server, "h.pwrite(b'x', 0)");
    let before = server.resident();
    nbdsh(&server, "for i in range(256):\n    h.pwrite(b'x' * (1 << 20), i << 20)");
    assert!(server.resident() > before + 240 * MIB, "{} {before}", server.resident());
    nbdsh(&server, "h.trim(h.get_size(), 0)");
    let fell = wait_until(Duration::from_secs(10), || server.resident() < before + 64 * MIB);
    assert!(fell, "{} MiB, {} before", server.resident() / MIB, before / MIB);
    assert_eq!(
        nbdsh(&server, "print(h.pread(4, 5 << 20))"),
        "bytearray(b'\\x00\\x00\\x00\\x00')\n"
    );
}
