//! Commands to filters that inject faults, by the program `memnbd` and while clients use the disk.

use std::thread;
use std::time::Duration;

use crate::control::{control, controlled};
use crate::support::{LIMIT, Server, nbdsh, require, wait_until};

/// Serves a disk of 4 MiB with a filter.
fn with_filter(filter: &str, parameters: &[&str]) -> Server {
    let filter = format!("--filter={filter}");
    controlled(&[&[&*filter, "memory", "4M"], parameters].concat())
}

/// Gives a command to the filter. Returns its answer.
fn fault(server: &Server, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    control(server, &[&["fault", "disk"], &words[..]].concat()).success().trim_end().to_owned()
}

/// Runs code with a function that returns what a call fails with.
fn client(server: &Server, code: &str) {
    let errno = "
def errno(call):
    try:
        call()
    except nbd.Error as error:
        return error.errno
";
    nbdsh(server, &[errno, code].concat());
}

#[test]
fn power_loss_shows_what_a_lying_disk_did_not_keep() {
    require!("nbdsh");
    let server = with_filter("flush", &["flush-mode=lie"]);
    client(&server, "h.pwrite(b'x' * 8192, 0, nbd.CMD_FLAG_FUA); h.flush()");
    assert_eq!(fault(&server, "status"), "8192 bytes are not flushed");
    assert_eq!(fault(&server, "crash"), "8192 bytes are lost");
    client(&server, "assert h.pread(8192, 0) == bytes(8192)");
    fault(&server, "set flush-rate=0");
    client(&server, "h.pwrite(b'x' * 8192, 0); h.flush()");
    assert_eq!(fault(&server, "crash"), "0 bytes are lost");
    client(&server, "assert h.pread(8192, 0) == b'x' * 8192");
}

#[test]
fn sectors_become_bad_while_they_are_in_use() {
    require!("nbdsh");
    let server = with_filter("badblocks", &[]);
    fault(&server, "add range=64k:1k range=1M:1");
    assert_eq!(fault(&server, "list"), "65536:1024\n1048576:512");
    client(&server, "assert errno(lambda: h.pread(4096, 65536)) == 'EIO'");
    client(&server, "h.pwrite(bytes(512), 65536)");
    fault(&server, "remove range=1M:1");
    assert_eq!(fault(&server, "list"), "66048:512");
    let wrong = control(&server, &["fault", "disk", "add", "range=4M:1"]).failure(1);
    assert!(wrong.contains("ends beyond the device beneath"), "{wrong}");
}

#[test]
fn faults_begin_and_end_under_way() {
    require!("nbdsh");
    let server = with_filter("silent", &[]);
    fault(&server, "set silent-fault=phantom-write silent-rate=1");
    client(&server, "h.pwrite(b'x' * 512, 0); assert h.pread(512, 0) == bytes(512)");
    assert_eq!(fault(&server, "state"), "state 1, 1 requests matched, 1 affected");
    fault(&server, "set silent-rate=0");
    client(&server, "h.pwrite(b'x' * 512, 0); assert h.pread(512, 0) == b'x' * 512");
    let server = with_filter("evil", &[]);
    fault(&server, "set evil=cosmic-rays evil-probability=1");
    client(&server, "assert h.pread(512, 0) == b'\\xff' * 512");
    fault(&server, "set evil-probability=0");
    client(&server, "assert h.pread(512, 0) == bytes(512)");
}

#[test]
fn full_disk_becomes_larger() {
    require!("nbdsh");
    let server = with_filter("enospc", &["enospc-after=1M"]);
    client(
        &server,
        "
h.pwrite(bytes(1 << 20), 0)
assert errno(lambda: h.pwrite(bytes(512), 1 << 20)) == 'ENOSPC'
",
    );
    assert_eq!(fault(&server, "status"), "1048576 of 1048576 bytes are used");
    fault(&server, "set enospc-after=2M");
    client(&server, "h.pwrite(bytes(1 << 20), 1 << 20)");
}

#[test]
fn paused_disk_goes_on_with_the_requests_that_wait() {
    require!("nbdsh");
    let server = with_filter("pause", &[]);
    assert_eq!(fault(&server, "pause"), "paused");
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            client(
                &server,
                "
buffers = [nbd.Buffer.from_bytearray(bytearray([n] * 512)) for n in range(30)]
cookies = [h.aio_pwrite(buffer, n * 512) for n, buffer in enumerate(buffers)]
while cookies:
    h.poll(-1)
    cookies = [cookie for cookie in cookies if not h.aio_command_completed(cookie)]
assert h.pread(512 * 30, 0)[::512] == bytes(range(30))
",
            );
        });
        let all = || fault(&server, "status") == "paused, 30 requests wait";
        assert!(wait_until(LIMIT, all), "{}", fault(&server, "status"));
        thread::sleep(Duration::from_millis(100));
        assert!(all() && !waiting.is_finished());
        assert_eq!(fault(&server, "resume"), "resumed");
    });
    assert_eq!(fault(&server, "status"), "not paused, 0 requests wait");
}
