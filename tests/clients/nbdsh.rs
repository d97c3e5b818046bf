//! nbdsh sends what other clients do not: every command with every flag, at every edge, and what
//! must be refused.

use crate::support::{Server, nbdsh, require};

const LARGEST: &str = "size=9223372036854775807";

/// What the scripts share: a call that must fail, and that leaves the connection in order.
const FAILS: &str = "
import errno
h.set_strict_mode(0)
def fails(error, call, *arguments, **flags):
    try:
        call(*arguments, **flags)
    except nbd.Error as e:
        assert e.errno == error, (e, error)
    else:
        assert False, 'it succeeded'
    assert len(h.pread(1, 0)) == 1
";

#[test]
fn bytes_are_read_back_at_both_ends_of_the_largest_disk() {
    require!("nbdsh");
    let server = Server::start(&[LARGEST]);
    nbdsh(
        &server,
        "
end = 2**63 - 1
assert h.get_size() == end
data = bytes(range(256)) * 2
for offset in 0, 1, 511, 4095, 2**31, 2**32 - 256, 2**40 + 7, 2**62 - 1, end - 1023:
    assert h.pread(512, offset) == bytes(512)
    h.pwrite(data, offset)
    assert h.pread(512, offset) == data, offset
    h.zero(512, offset)
    assert h.pread(512, offset) == bytes(512)
last = data[:511]
h.pwrite(last, 2**63 - 512, nbd.CMD_FLAG_FUA)
assert h.pread(511, 2**63 - 512) == last
h.pwrite(b'z', end - 1)
assert h.pread(2, end - 2) == last[-2:-1] + b'z'
h.trim(511, 2**63 - 512)
assert h.pread(1, end - 1) in (b'z', bytes(1))
",
    );
}

#[test]
fn unaligned_requests_change_their_bytes_and_no_others() {
    require!("nbdsh");
    let server = Server::start(&["4M"]);
    nbdsh(
        &server,
        "
import random
random.seed(4)
model = bytearray(4 << 20)
for step in range(600):
    length = random.choice((1, 2, 511, 513, 4097, 32768, 65537, 300001))
    offset = random.randrange(len(model) - length)
    kind = random.randrange(4)
    flags = random.choice((0, nbd.CMD_FLAG_FUA))
    if kind == 0:
        data = random.randbytes(length)
        h.pwrite(data, offset, flags)
        model[offset:offset + length] = data
    elif kind == 1:
        h.zero(length, offset, flags | random.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        model[offset:offset + length] = bytes(length)
    elif kind == 2:
        h.trim(length, offset, flags)
        # What it left is its choice, for each byte.
        now = h.pread(length, offset)
        for i in range(0, length, 4096):
            was = model[offset + i:offset + min(i + 4096, length)]
            assert all(n in (0, w) for n, w in zip(now[i:i + 4096], was))
        model[offset:offset + length] = now
    assert h.pread(length, offset) == model[offset:offset + length], (step, kind)
assert h.pread(len(model), 0) == model
",
    );
}

#[test]
fn every_command_takes_the_flags_it_has() {
    require!("nbdsh");
    let server = Server::start(&["64M"]);
    nbdsh(
        &server,
        "
FUA, NO_HOLE, FAST = nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO
h.pwrite(b'abcd', 3)
h.pwrite(b'efgh', 7, FUA)
assert h.pread(8, 3) == b'abcdefgh'
pieces = []
tell = lambda data, at, status, error: pieces.append((bytes(data), at)) or 0
h.pread_structured(8, 3, tell, nbd.CMD_FLAG_DF)
assert pieces == [(b'abcdefgh', 3)]
h.flush()
h.cache(1 << 20, 0)
h.trim(2, 3)
h.trim(2, 3, FUA)
for flags in 0, FUA, NO_HOLE, FAST, FUA | NO_HOLE, FUA | FAST, FUA | NO_HOLE | FAST:
    h.pwrite(b'x' * 100000, 5)
    try:
        h.zero(99998, 6, flags)
    except nbd.Error as error:
        # A fast one may be refused, and then changes nothing.
        assert flags & FAST and error.errno == 'ENOTSUP', error
        assert h.pread(100000, 5) == b'x' * 100000
    else:
        assert h.pread(100000, 5) == b'x' + bytes(99998) + b'x'
h.zero(64 << 20, 0, NO_HOLE)
assert h.pread(1 << 20, 0) == bytes(1 << 20)
",
    );
}

#[test]
fn largest_payload_is_written_and_read() {
    require!("nbdsh");
    let server = Server::start(&["128M"]);
    nbdsh(
        &server,
        "
most = h.get_block_size(nbd.SIZE_MAXIMUM)
assert most >= 32 << 20
data = bytes(range(251)) * (most // 251 + 1)
data = data[:most]
h.pwrite(data, 12345)
assert h.pread(most, 12345) == data
",
    );
}

#[test]
fn what_lies_beyond_the_end_is_refused() {
    require!("nbdsh");
    for size in ["1M", LARGEST] {
        let server = Server::start(&[size]);
        let code = "
end = h.get_size()
for offset, length in (end, 1), (end - 1, 2), (end + 1, 1), (2**64 - 1, 1), (2**64 - 512, 1024):
    fails('EINVAL', h.pread, length, offset)
    fails('ENOSPC', h.pwrite, bytes(length), offset)
    fails('ENOSPC', h.zero, length, offset)
    fails('EINVAL', h.trim, length, offset)
    fails('EINVAL', h.cache, length, offset)
    fails('EINVAL', h.block_status, length, offset, lambda *a: 0)
";
        nbdsh(&server, &format!("{FAILS}{code}"));
    }
}

/// More than the sockets hold: libnbd is still sending when the server knows that it will refuse.
#[test]
fn large_writes_that_are_refused_are_answered_when_they_were_sent() {
    require!("nbdsh");
    let server = Server::start(&["64M"]);
    let script = "
size = h.get_size()
for length in 1 << 20, 32 << 20:
    fails('ENOSPC', h.pwrite, bytes(length), size - length + 1)
    fails('EINVAL', h.pwrite, bytes(length), 0, nbd.CMD_FLAG_DF)
";
    nbdsh(&server, &format!("{FAILS}{script}"));
}

#[test]
fn flags_that_a_command_does_not_have_are_refused() {
    require!("nbdsh");
    let server = Server::start(&["1M"]);
    let code = "
h.pwrite(b'x' * 512, 0)
for flag in (1 << n for n in range(6, 16)):
    fails('EINVAL', h.pread, 1, 0, flag)
    fails('EINVAL', h.pwrite, b'y', 0, flag)
    fails('EINVAL', h.zero, 1, 0, flag)
    fails('EINVAL', h.trim, 1, 0, flag)
    fails('EINVAL', h.flush, flag)
for flag in nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO, nbd.CMD_FLAG_REQ_ONE:
    fails('EINVAL', h.pwrite, b'y', 0, flag)
    fails('EINVAL', h.trim, 1, 0, flag)
assert h.pread(512, 0) == b'x' * 512
";
    nbdsh(&server, &format!("{FAILS}{code}"));
}

#[test]
fn read_only_disk_is_not_changed() {
    require!("nbdsh");
    let server = Server::start(&["-r", "1M"]);
    let code = "
assert h.is_read_only()
fails('EPERM', h.pwrite, b'x' * 70000, 0)
fails('EPERM', h.zero, 512, 0)
fails('EPERM', h.trim, 512, 0)
assert h.pread(70000, 0) == bytes(70000)
";
    nbdsh(&server, &format!("{FAILS}{code}"));
}

#[test]
fn extents_tell_holes_zeroes_and_data() {
    require!("nbdsh");
    let server = Server::start(&["16M"]);
    nbdsh(
        &server,
        "
page = 32768
def extents(length, offset, flags=0):
    found = []
    def tell(context, at, entries, error):
        assert context == 'base:allocation' and at == offset
        found.extend(zip(entries[::2], entries[1::2]))
        return 0
    h.block_status(length, offset, tell, flags)
    return found
end = h.get_size()
DATA, ZERO, HOLE_ZERO = 0, 2, 3
assert extents(end, 0) == [(end, HOLE_ZERO)]
h.pwrite(b'x' * page, page)
h.pwrite(bytes(page), 4 * page)
h.zero(page, 6 * page, nbd.CMD_FLAG_NO_HOLE)
expected = [(page, HOLE_ZERO), (page, DATA), (2 * page, HOLE_ZERO), (page, ZERO),
            (page, HOLE_ZERO), (page, ZERO), (end - 7 * page, HOLE_ZERO)]
assert extents(end, 0) == expected, extents(end, 0)
# From the middle of an extent; one only; a range that is smaller than the extent.
assert extents(end - 100, 100)[0] == (page - 100, HOLE_ZERO)
assert extents(end, 0, nbd.CMD_FLAG_REQ_ONE) == [(page, HOLE_ZERO)]
assert extents(1, page + 5, nbd.CMD_FLAG_REQ_ONE)[0][1] == DATA
# A zero frees, as a trim does; what stays in the page stays allocated.
h.zero(page, page)
h.trim(page, 4 * page)
assert extents(6 * page, 0) == [(6 * page, HOLE_ZERO)], extents(6 * page, 0)
h.pwrite(b'x' * page, page)
h.trim(page - 1, page)
assert extents(page, page)[0][1] == DATA
assert h.pread(1, 2 * page - 1) == b'x'
",
    );
}

#[test]
fn many_extents_are_told_in_several_answers() {
    require!("nbdsh");
    let server = Server::start(&["1G"]);
    nbdsh(
        &server,
        "
page, n = 32768, 6000
for i in range(n):
    h.pwrite(b'x', 2 * i * page)
offset, pieces, end = 0, [], h.get_size()
def tell(context, at, entries, error):
    global offset
    for length, status in zip(entries[::2], entries[1::2]):
        if pieces and pieces[-1][1] == status:
            length += pieces.pop()[0]
        pieces.append((length, status))
    offset = at + sum(entries[::2])
    return 0
while offset < end:
    before = offset
    h.block_status(end - offset, offset, tell)
    assert offset > before
assert offset == end
assert pieces[:-1] == ([(page, 0), (page, 3)] * n)[:-1], pieces[:10]
",
    );
}
