//! The filters exitlast and exitwhen: when the server exits.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require, run, shell, wait_until};

/// How long something takes that is not to take long.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn exitlast_exits_after_the_last_client() {
    require!("nbdsh");
    let mut server = Server::start(&["--filter=exitlast", "memory", "1M"]);
    nbdsh(&server, "h.pread(1, 0)");
    server.wait();
}

/// A server that a client uses, with a file `stop` in its directory that does not exist.
fn exiting(event: &str) -> Server {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", event]);
    Server::spawn(directory, &mut command)
}

/// The server refuses further clients after `cause`, goes on with the one that it has, and exits after it.
fn exits_after(mut server: Server, cause: impl FnOnce(&Server)) {
    let mut client = UnixStream::connect(server.socket()).unwrap();
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).unwrap();
    let export_name = [&[0, 0, 0, 3], &b"IHAVEOPT"[..], &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
    client.write_all(&export_name).unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    cause(&server);
    let refused = || UnixStream::connect(server.socket()).is_err();
    assert!(wait_until(LIMIT, refused), "it accepts clients");
    let read = [&0x2560_9513_u32.to_be_bytes()[..], &[0; 20], &512_u32.to_be_bytes()].concat();
    client.write_all(&read).unwrap();
    client.read_exact(&mut [0; 16 + 512]).unwrap();
    drop(client);
    server.wait();
}

#[test]
fn exitwhen_exits_after_events() {
    let stop = |server: &Server| fs::write(server.path("stop"), "").unwrap();
    exits_after(exiting("exit-when-file-created=stop"), stop);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("go");
    fs::write(&file, "").unwrap();
    let event = format!("exit-when-file-deleted={}", file.display());
    exits_after(exiting(&event), |_| fs::remove_file(&file).unwrap());
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    exits_after(exiting(&format!("exit-when-process-exits={}", child.id())), |_| {
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn exitwhen_exits_when_a_pipe_is_closed() {
    let directory = TempDir::new().unwrap();
    let script =
        "exec \"$MEMNBD\" -U socket --filter=exitwhen memory 1M exit-when-pipe-closed=5 5<fifo";
    run(Command::new("mkfifo").arg(directory.path().join("fifo"))).success();
    let fifo = directory.path().join("fifo");
    let writer = std::thread::spawn(move || fs::OpenOptions::new().write(true).open(fifo).unwrap());
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let server = Server::spawn(directory, &mut command);
    let writer = writer.join().unwrap();
    exits_after(server, |_| drop(writer));
}

#[test]
fn exitwhen_runs_scripts_only_if_it_may() {
    let script = "exit-when-script=test ! -e stop || exit 88";
    complains(2, &["--filter=exitwhen", "memory", "1M", script], &["--allow-scripts"]);
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", "--allow-scripts", "exit-when-poll=100ms", script]);
    let server = Server::spawn(directory, &mut command);
    exits_after(server, |server| fs::write(server.path("stop"), "").unwrap());
}

#[test]
fn server_exits_at_once_when_the_event_has_occurred_before() {
    let directory = TempDir::new().unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--filter=exitwhen", "memory"]);
    command.args(["1M", "exit-when-file-created=/"]).stdin(Stdio::null());
    let finished = run(&mut command);
    assert_eq!(finished.success(), "");
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn signal_stops_a_server_that_waits_for_its_last_client() {
    let mut server = exiting("exit-when-file-created=stop");
    let _client = UnixStream::connect(server.socket()).unwrap();
    fs::write(server.path("stop"), "").unwrap();
    let refused = || UnixStream::connect(server.socket()).is_err();
    assert!(wait_until(LIMIT, refused));
    server.signal(Signal::TERM);
    server.wait();
}
