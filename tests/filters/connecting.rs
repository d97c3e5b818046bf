//! Delays of clients by the filter `delay`, beside nbdkit's.

use tempfile::TempDir;

use crate::backends::served;
use crate::control::{control, controlled};
use crate::mistakes::complaint;
use crate::support::{nbdsh, require};

/// Prints whether connecting and disconnecting took half a second each.
const CONNECT: &str = r#"export uri; nbdsh -c '
import os, time
began = time.monotonic()
h.connect_uri(os.environ["uri"])
connected = time.monotonic()
h.pread(512, 0)
read = time.monotonic()
h.shutdown()
print(connected - began >= 0.5, time.monotonic() - read >= 0.5)
'"#;

#[test]
fn clients_wait_as_with_nbdkit() {
    require!("nbdkit", "nbdsh");
    let directory = TempDir::new().unwrap();
    for (parameters, expected) in [
        (&["delay-open=500ms"][..], "True False\n"),
        (&["delay-close=500ms"], "False True\n"),
        (&["delay-open=500ms", "delay-close=500ms", "rdelay=1ms"], "True True\n"),
    ] {
        let arguments = [&["--filter=delay", "memory", "1M"], parameters].concat();
        let ours = served("memnbd", directory.path(), &arguments, CONNECT);
        // A slow machine delays clients, too.
        let waits = |answer: &str| answer.replace("False", "True");
        assert!(ours == expected || ours == waits(expected), "{parameters:?}: {ours}");
        let theirs = served("nbdkit", directory.path(), &arguments, CONNECT);
        assert!(theirs == expected || theirs == waits(expected), "{parameters:?}: {theirs}");
    }
}

#[test]
fn server_that_stops_waits_for_no_client() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let disconnect = r#"export uri; nbdsh -c 'import os
h.connect_uri(os.environ["uri"]); h.aio_disconnect(0)'"#;
    let arguments = ["--filter=delay", "memory", "1M", "delay-close=600"];
    served("memnbd", directory.path(), &arguments, disconnect);
    let connect = r#"export uri; nbdsh -c 'import os
h.aio_connect_uri(os.environ["uri"]); h.poll(500); h.poll(500)'"#;
    let arguments = ["--filter=delay", "memory", "1M", "delay-open=600"];
    served("memnbd", directory.path(), &arguments, connect);
}

#[test]
fn delays_of_clients_can_be_changed_for_those_that_connect_later() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let create = ["create", "slow", "1M", "--filter", "delay", "delay-open=600", "rdelay=1ms"];
    control(&server, &create).success();
    control(&server, &["update", "slow", "1M", "--filter", "delay", "delay-open=1ms"]).success();
    nbdsh(
        &server,
        "
c = nbd.NBD()
c.set_export_name('slow')
c.connect_unix('socket')
assert c.pread(512, 0) == bytes(512)
",
    );
    let error = control(&server, &["fault", "slow", "set", "delay-open=1"]).failure(1);
    assert!(error.contains("delay-open is for the server"), "{error}");
}

#[test]
fn mistakes_are_told() {
    let directory = TempDir::new().unwrap();
    for (parameter, words) in [
        ("delay-open=601", "delay: delay-open must be at most 10 minutes"),
        ("delay-close=soon", "delay: delay-close: "),
    ] {
        let error = complaint(directory.path(), 2, &["--filter=delay", "memory", "1M", parameter]);
        assert!(error.contains(words), "{error}");
    }
}
