//! How a server ends when something does not want to.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::background::Background;
use crate::support::{
    LIMIT, LOOP, Probe, STOP_LIMIT, Server, finish_within, guest, memnbd, probe, run,
    uninterruptible, wait_until,
};

/// A server of these components and exports, on the socket of its directory.
fn start(components: &[(&str, &str)], arguments: &[&str]) -> Server {
    let directory = TempDir::new().unwrap();
    for (name, flush) in components {
        guest(&directory.path().join(format!("{name}.wasm")), &[("flush", flush)]);
    }
    let mut command = memnbd(directory.path(), ["-U", "socket", "--deadline", "600"]);
    Server::spawn(directory, command.args(arguments))
}

/// Opens an export, which is done when it is first used.
fn open(server: &Server, export: &str) -> Probe {
    Probe::new(UnixStream::connect(server.socket()).unwrap(), export)
}

/// Tells a server to stop, and waits until it has begun to.
fn begin_to_stop(server: &Server) {
    server.signal(Signal::TERM);
    assert!(wait_until(LIMIT, || !server.socket().exists()), "it still listens");
}

#[test]
fn second_signal_ends_a_server_whose_threads_all_hang_in_the_last_flush() {
    let hang = uninterruptible();
    let mut server = start(&[("hang", &hang)], &["-t", "1", "hang.wasm"]);
    drop(probe(&server));
    begin_to_stop(&server);
    // Time to get stuck. Where it has not by then, the test shows less.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    server.signal(Signal::TERM);
    server.allow_log("SIGTERM, again");
    server.wait_for(128 + 15);
}

#[test]
fn flushes_run_at_the_same_time_and_within_a_limit() {
    let exports = ["--export=a=hang.wasm", "--export=b=hang.wasm", "--export=c=good.wasm"];
    let arguments = [&["--shutdown-timeout", "1"], &exports[..]].concat();
    let mut server = start(&[("hang", LOOP), ("good", "")], &arguments);
    for name in ["a", "b", "c"] {
        drop(open(&server, name));
    }
    server.signal(Signal::TERM);
    server.allow_log("not flushed");
    server.wait_for(1);
    let log = server.log().join("\n");
    for name in ["a", "b"] {
        assert!(log.contains(&format!("export \"{name}\": not flushed within 1s")), "{log}");
    }
    assert!(!log.contains("export \"c\""), "{log}");
    assert!(
        log.ends_with("memnbd-host: stop: not flushed, data may be lost: [\"a\", \"b\"]"),
        "{log}"
    );
}

#[test]
fn limit_holds_although_all_threads_hang() {
    let hang = uninterruptible();
    let arguments = ["-t", "1", "--shutdown-timeout", "500ms", "hang.wasm"];
    let mut server = start(&[("hang", &hang)], &arguments);
    drop(probe(&server));
    server.signal(Signal::TERM);
    server.allow_log("not flushed");
    server.wait_for(1);
}

#[test]
fn failed_last_flush_is_a_failure() {
    let mut server = start(&[("trap", "(unreachable)")], &["trap.wasm"]);
    drop(probe(&server));
    server.signal(Signal::TERM);
    server.allow_log("the last flush failed");
    server.allow_log("flush() trapped");
    server.wait_for(1);
}

#[test]
fn signal_ends_a_server_that_hangs_while_it_starts() {
    let directory = TempDir::new().unwrap();
    guest(&directory.path().join("hang.wasm"), &[("open", &uninterruptible())]);
    let arguments = ["-f", "-P", "pid", "-U", "socket", "--deadline", "600", "hang.wasm"];
    let mut command = memnbd(directory.path(), arguments);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let handles_terminate = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << (15 - 1)) != 0
    };
    assert!(wait_until(LIMIT, handles_terminate));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = finish_within(&mut child, STOP_LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(128 + 15));
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn second_signal_to_a_program_with_a_command_ends_its_server() {
    let directory = TempDir::new().unwrap();
    guest(&directory.path().join("hang.wasm"), &[("flush", &uninterruptible())]);
    let script = r#"cp pid pid.copy; exec sleep 100"#;
    let arguments = ["-P", "pid", "-U", "socket", "--deadline", "600", "hang.wasm"];
    let mut command = memnbd(directory.path(), arguments);
    let mut child = command.args(["--run", script]).spawn().unwrap();
    let copy = directory.path().join("pid.copy");
    assert!(wait_until(LIMIT, || copy.exists()));
    assert!(wait_until(LIMIT, || !fs::read(&copy).unwrap().is_empty()));
    let server = Background::of(&copy);
    let socket = directory.path().join("socket");
    drop(Probe::new(UnixStream::connect(&socket).unwrap(), ""));
    // The first ends the command.
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(wait_until(LIMIT, || !socket.exists()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(finish_within(&mut child, STOP_LIMIT).expect("it ends").code(), Some(128 + 15));
    assert!(!server.runs());
}

#[test]
fn socket_of_a_successor_survives() {
    let mut first = Server::start(&["1M"]);
    let socket = first.socket();
    fs::remove_file(&socket).unwrap();
    let directory = TempDir::new().unwrap();
    let path = socket.to_str().unwrap().to_owned();
    let mut command = memnbd(directory.path(), ["-U", &path, "2M"]);
    let second = Server::spawn(directory, &mut command);
    first.signal(Signal::TERM);
    first.wait();
    assert_eq!(Probe::new(UnixStream::connect(&socket).unwrap(), "").size, 2 << 20);
    drop(second);
    assert!(!socket.exists());
}

#[test]
fn servers_that_replace_the_same_stale_socket_leave_one_that_can_be_reached() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let socket = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let start = |size: u64| {
            let mut command = memnbd(directory.path(), ["-U", "socket"]);
            command.arg(size.to_string()).stdout(Stdio::piped()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut children: Vec<_> = (1..=8).map(|size| start(size << 20)).collect();
        // All but one fail, and that one has the socket.
        let mut running = children.len();
        let ended = wait_until(LIMIT, || {
            let running_now = children
                .iter_mut()
                .filter_map(|child| child.try_wait().unwrap().is_none().then_some(()));
            running = running_now.count();
            running == 1
        });
        assert!(ended, "{running} servers run");
        let size = Probe::new(UnixStream::connect(&socket).unwrap(), "").size;
        let winner = usize::try_from(size >> 20).unwrap() - 1;
        assert!(children[winner].try_wait().unwrap().is_none(), "a server lost its socket");
        kill_process(Pid::from_child(&children[winner]), Signal::TERM).unwrap();
        assert_eq!(finish_within(&mut children[winner], LIMIT).unwrap().code(), Some(0));
    }
}

#[test]
fn wait_for_a_flush_may_be_none() {
    let mut server = start(&[("hang", LOOP)], &["--shutdown-timeout", "0", "hang.wasm"]);
    drop(probe(&server));
    server.signal(Signal::TERM);
    server.allow_log("not flushed");
    server.wait_for(1);
    // Disks in memory have nothing to wait for.
    let mut server = Server::start(&["--shutdown-timeout=0", "1M"]);
    drop(probe(&server));
    server.signal(Signal::TERM);
    server.wait();
    let directory = TempDir::new().unwrap();
    run(&mut memnbd(directory.path(), ["--shutdown-timeout=-1", "1M"])).failure(2);
}
