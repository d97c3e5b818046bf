//! The filter `blocksize`.

use super::content::{CONTENT, requests};
use super::saying;
use crate::backends::same;
use crate::mistakes::complains;
use crate::support::{Server, nbdsh, require};

/// Requests that are not whole blocks, and some that are.
const REQUESTS: &str = r#"
print(h.get_size())
h.set_strict_mode(0)
for offset, length in [
    (0, 4096), (1, 1), (511, 2), (512, 512), (1000, 3000), (4095, 8194), (100, 300000), (0, 1 << 20),
    (1048000, 576),
]:
    say(("write", offset, length), lambda: h.pwrite(bytes([length % 251]) * length, offset))
    say(("zero", offset, length), lambda: h.zero(length - length // 2, offset + length // 3))
    say(("trim", offset, length), lambda: h.trim(length, offset))
    say(("cache", offset, length), lambda: h.cache(length, offset))
    say(("status", offset, length), lambda: h.block_status(length, offset, lambda *a: 0))
    print(hash(bytes(h.pread(length, offset))))
say("flush", h.flush)
"#;

/// Beneath is a filter that refuses requests of other sizes.
const STRICT: [&str; 7] = [
    "--filter=blocksize",
    "--filter=blocksize-policy",
    "memory",
    "1M",
    "blocksize-error-policy=error",
    "blocksize-minimum=512",
    "blocksize-maximum=64k",
];

#[test]
fn disks_that_take_only_whole_blocks_serve_all_requests_as_with_nbdkit() {
    require!("nbdkit", "nbdsh");
    let script = format!("export PYTHONHASHSEED=0{}", saying(REQUESTS));
    for parameters in [
        &["maxdata=64k"][..],
        &["maxdata=512"],
        &["minblock=4k", "maxdata=64k"],
        &["minblock=512", "maxdata=1536", "maxlen=4k"],
        &["minblock=64k", "maxlen=64k"],
    ] {
        let told = same(&[&STRICT, parameters].concat(), &script);
        assert!(!told.contains("EINVAL"), "{parameters:?}: {told}");
    }
    // Without the filter they are refused.
    let told = nbdsh(
        &Server::start(&STRICT[1..]),
        "
c = nbd.NBD()
c.set_request_block_size(False)
c.connect_unix('socket')
for offset, length in [(0, 511), (0, 128 << 10)]:
    try:
        c.pread(length, offset)
    except nbd.Error as error:
        print(error.errno)
",
    );
    assert_eq!(told, "EINVAL\nEINVAL\n");
}

#[test]
fn size_consists_of_whole_blocks_as_with_nbdkit() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    let script = requests("h.pwrite(b\"x\" * 1000, 98000)\nh.pread(100, 98300)");
    for parameters in [&["minblock=4k"][..], &["minblock=1"], &["minblock=64k"]] {
        let arguments = [&["--filter=blocksize", "memory", "100000"], parameters].concat();
        same(&arguments, &script);
        same(&arguments, CONTENT);
    }
    let mut server = Server::start(&["--filter=blocksize", "memory", "100000", "minblock=4k"]);
    server.expect_log("the last 1696 are not served");
}

#[test]
fn block_sizes_are_those_of_nbdkit() {
    require!("nbdkit", "nbdsh");
    let script = saying(
        "print(h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED))
print(h.can_zero(), h.can_fast_zero(), h.can_trim(), h.can_multi_conn())
say(\"fast zero\", lambda: h.zero(8192, 0, nbd.CMD_FLAG_FAST_ZERO))
say(\"fast zero\", lambda: h.zero(100, 0, nbd.CMD_FLAG_FAST_ZERO))
say(\"fast zero\", lambda: h.zero(100000, 0, nbd.CMD_FLAG_FAST_ZERO))
",
    );
    for parameters in [&[][..], &["minblock=512", "maxlen=8k"], &["minblock=64k"]] {
        same(&[&["--filter=blocksize", "memory", "1M"], parameters].concat(), &script);
    }
}

/// Writes to parts of one block, from two connections at once. Reads beneath are slow, so that without
/// locks several would change the same old content.
#[test]
fn changes_of_the_same_block_do_not_undo_each_other() {
    require!("nbdsh");
    let filters = ["--filter=blocksize", "--filter=delay"];
    let parameters = ["memory", "1M", "minblock=64k", "rdelay=1ms"];
    let server = Server::start(&[&filters[..], &parameters].concat());
    nbdsh(
        &server,
        "
clients = [h, nbd.NBD()]
clients[1].connect_unix('socket')
for step in range(1, 5):
    cookies = []
    for n in range(128):
        data = nbd.Buffer.from_bytearray(bytearray([step + n % 2]) * 512)
        cookies.append((clients[n % 2], clients[n % 2].aio_pwrite(data, n * 512 + 1)))
    for client, cookie in cookies:
        while not client.aio_command_completed(cookie):
            client.poll(-1)
    content = h.pread(65536, 1)
    assert all(content[n * 512] == step + n % 2 for n in range(128)), step
    assert all(len(set(content[n * 512:n * 512 + 512])) == 1 for n in range(128)), step
",
    );
}

#[test]
fn mistakes_are_told() {
    for (parameters, code, words) in [
        (&["minblock=3"][..], 1, "minblock=3 must be a power of two"),
        (&["minblock=128k"], 2, "minblock"),
        (&["maxdata=0"], 2, "maxdata"),
        (
            &["minblock=512", "maxdata=513"],
            1,
            "maxdata=513 must be a multiple of the minimum block",
        ),
        (&["minblock=512", "maxlen=100"], 1, "maxlen=100 must be a multiple of the minimum block"),
    ] {
        complains(code, &[&["--filter=blocksize", "memory", "1M"], parameters].concat(), &[words]);
    }
}
