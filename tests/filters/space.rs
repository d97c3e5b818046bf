//! The filter `enospc`, which lets a disk run out of space.

use crate::mistakes::complains;
use crate::support::{Server, client, nbdsh, require, run};

fn with_space(parameters: &[&str], code: &str) {
    let arguments = [&["--filter=enospc", "memory", "4M"], parameters].concat();
    let prepare = "
def full(call):
    try:
        call()
        return False
    except nbd.Error as error:
        assert error.errno == 'ENOSPC', error
        return True
";
    nbdsh(&Server::start(&arguments), &[prepare, code].concat());
}

#[test]
fn disk_is_full_after_so_much_is_written() {
    require!("nbdsh");
    with_space(
        &["enospc-after=1M"],
        "
h.pwrite(b'x' * (1 << 20), 1 << 20)
assert full(lambda: h.pwrite(b'x', 0))
h.pwrite(b'y' * (1 << 20), 1 << 20)
assert full(lambda: h.pwrite(b'z' * 8192, (2 << 20) - 4096))
assert h.pread(4096, (2 << 20) - 4096) == b'y' * 4096
h.trim(65536, 1 << 20)
h.pwrite(b'x' * 65536, 0)
assert full(lambda: h.pwrite(b'x', 65536))
h.zero(4 << 20, 0)
h.pwrite(b'x' * (1 << 20), 0)
assert full(lambda: h.zero(4096, 1 << 20, nbd.CMD_FLAG_NO_HOLE))
h.flush()
",
    );
    with_space(
        &["enospc-after=64k", "enospc-block=64k", "enospc-reclaim=false"],
        "
h.pwrite(b'x', 100000)
assert full(lambda: h.pwrite(b'x', 0))
h.trim(4 << 20, 0)
assert full(lambda: h.pwrite(b'x', 0))
h.pwrite(b'x' * 65536, 65536)
",
    );
}

#[test]
fn writes_from_an_offset_on_fail() {
    require!("nbdsh");
    with_space(
        &["enospc-offset=1M"],
        "
h.pwrite(b'x' * (1 << 20), 0)
assert full(lambda: h.pwrite(b'x' * 2, (1 << 20) - 1))
assert full(lambda: h.zero(4096, 2 << 20))
assert h.pread(2, (1 << 20) - 1) == b'x' + bytes(1)
",
    );
    with_space(
        &["enospc-offset=1M", "enospc-partial=true"],
        "
assert full(lambda: h.pwrite(b'x' * 100000, (1 << 20) - 50000))
assert h.pread(100000, (1 << 20) - 50000) == b'x' * 50000 + bytes(50000)
",
    );
}

/// What fio writes fits exactly.
#[test]
fn disk_with_enough_space_passes_verification() {
    require!("fio");
    let server = Server::start(&["--filter=enospc", "memory", "64M", "enospc-after=16M"]);
    let mut command = client(&server, "fio");
    command.args(["--name=job", "--ioengine=nbd", "--verify_fatal=1", "--verify_state_save=0"]);
    command.arg(format!("--uri={}", server.uri()));
    command.args(["--rw=randwrite", "--bsrange=512-64k", "--verify=crc32c", "--numjobs=4"]);
    command.args(["--iodepth=16", "--size=4M", "--offset_increment=12M", "--thread"]);
    run(&mut command).success();
}

#[test]
fn mistakes_are_told() {
    for (parameter, code, words) in [
        ("enospc-block=3000", 1, "enospc-block=3000 must be a power of two"),
        ("enospc-after=much", 2, "enospc-after"),
        ("enospc-block=2G", 2, "enospc-block"),
    ] {
        complains(code, &["--filter=enospc", "memory", "1M", parameter], &[words]);
    }
}
