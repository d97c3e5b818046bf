//! Rules that limit faults: states that requests switch.

use crate::mistakes::complains;
use crate::support::{Server, nbdsh, require};

#[test]
fn reads_fail_once_something_was_written() {
    require!("nbdsh");
    let arguments = [
        "--filter=error",
        "memory",
        "1M",
        "error-pread-rate=100%",
        "error-state=2",
        "error-set-state=pwrite:1:2:512k:512k",
        "error-set-state=trim:2:1",
    ];
    let outcomes = nbdsh(
        &Server::start(&arguments),
        "
outcomes = []
def read():
    try:
        h.pread(512, 0)
        outcomes.append('ok')
    except nbd.Error as error:
        outcomes.append(error.errno)
read()
h.pwrite(bytes(512), 0)
read()
h.pwrite(bytes(512), 1 << 19)
read()
read()
h.trim(512, 0)
read()
print(outcomes)
",
    );
    assert_eq!(outcomes, "['ok', 'ok', 'EIO', 'EIO', 'ok']\n");
}

#[test]
fn mistakes_are_told() {
    for (parameter, words) in [
        ("error-set-state=write:1:2", "such as pwrite:1:2; write:1:2 is not"),
        ("error-set-state=pwrite:1:2:4k", "error-set-state must be OFFSET:LENGTH"),
        ("error-set-state=pwrite:1:2:1M:1", "ends beyond the device beneath"),
    ] {
        complains(1, &["--filter=error", "memory", "1M", parameter], &[words]);
    }
    complains(2, &["--filter=error", "memory", "1M", "error-state=-1"], &["error-state"]);
}
