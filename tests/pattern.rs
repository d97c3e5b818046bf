//! The component `pattern`: every 8 bytes hold their offset, so that a wrong offset shows.

use crate::support::{Server, nbdsh, require};

/// `held(offset, length)` is what the disk must hold.
const HELD: &str = "
def held(offset, length):
    start = offset // 8 * 8
    words = b''.join(o.to_bytes(8, 'big') for o in range(start, offset + length, 8))
    return words[offset - start:offset - start + length]
end = h.get_size()
offsets = [o for o in (0, 1, 7, 4095, 65536 - 3, 2**32 - 9, 2**48 + 5, 2**63 - 5000) if o < end - 4096]
";

#[test]
fn bytes_tell_their_offset_up_to_the_end_of_the_largest_disk() {
    require!("nbdsh");
    let server = Server::start(&["--component", "pattern.wasm", "size=9223372036854775807"]);
    let code = "
assert end == 2**63 - 1
for offset in offsets:
    for length in 1, 7, 8, 512, 4096:
        assert h.pread(length, offset) == held(offset, length), (offset, length)
assert h.pread(511, 2**63 - 512) == held(2**63 - 512, 511)
assert h.pread(3 << 20, 12345) == held(12345, 3 << 20)
";
    nbdsh(&server, &format!("{HELD}{code}"));
}

#[test]
fn only_what_it_holds_can_be_written() {
    require!("nbdsh");
    let server = Server::start(&["pattern", "9223372036854775807"]);
    let code = "
for offset in offsets:
    for length in 1, 9, 4096, 3 << 20:
        if offset + length > end:
            continue
        data = bytearray(held(offset, length))
        h.pwrite(data, offset)
        data[length // 2] ^= 1
        try:
            h.pwrite(data, offset)
            assert False, (offset, length)
        except nbd.Error as error:
            assert error.errno == 'EIO', error
        assert h.pread(1, offset) == held(offset, 1)
h.pwrite(held(2**63 - 512, 511), 2**63 - 512, nbd.CMD_FLAG_FUA)
";
    nbdsh(&server, &format!("{HELD}{code}"));
}

#[test]
fn zeroes_are_written_only_where_zeroes_are() {
    require!("nbdsh");
    let server = Server::start(&["pattern", "1M"]);
    let code = "
h.zero(8, 0)
try:
    h.zero(4096, 4096)
    assert False, 'it wrote zeroes'
except nbd.Error as error:
    assert error.errno == 'EIO', error
assert not h.can_trim() and not h.can_fast_zero()
h.flush()
h.cache(4096, 0)
";
    nbdsh(&server, &format!("{HELD}{code}"));
}

#[test]
fn everything_is_data() {
    require!("nbdsh");
    let server = Server::start(&["pattern", "1M"]);
    let code = "
def tell(context, at, entries, error):
    assert entries == [end, 0], entries
    return 0
h.block_status(end, 0, tell)
";
    nbdsh(&server, &format!("{HELD}{code}"));
}
