//! Many servers at once: each is there when it says so, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::background::Background;
use crate::support::{LIMIT, Probe, finish_within, memnbd, run, wait_until};

/// How many servers run at the same time.
const CROWD: usize = 100;

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn a_hundred_servers_start_and_stop_and_leave_nothing() {
    let directory = TempDir::new().unwrap();
    let start = |_| -> Child {
        let mut command = memnbd(directory.path(), ["-U", "-", "1M"]);
        command.env("TMPDIR", directory.path()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut servers: Vec<Child> = (0..CROWD).map(start).collect();
    for server in &mut servers {
        let mut line = String::new();
        BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        // The moment the URI is printed.
        let path = line.trim_end().strip_prefix("nbd+unix:///?socket=").unwrap();
        assert_eq!(Probe::new(UnixStream::connect(path).unwrap(), "").size, 1 << 20);
    }
    for server in &servers {
        kill_process(Pid::from_child(server), Signal::TERM).unwrap();
    }
    for server in &mut servers {
        assert_eq!(finish_within(server, LIMIT).unwrap().code(), Some(0));
    }
    assert!(is_empty(directory.path()));
}

#[test]
fn a_hundred_commands_have_servers_of_their_own() {
    let directory = TempDir::new().unwrap();
    let command = |index: usize| {
        let script = format!(r#"test -S "$unixsocket" && echo {index}"#);
        let mut command = memnbd(directory.path(), ["1M", "--run", &script]);
        let finished = run(command.env("TMPDIR", directory.path()));
        assert_eq!(finished.success(), format!("{index}\n"));
    };
    thread::scope(|scope| {
        for worker in 0..10 {
            scope.spawn(move || (0..CROWD / 10).for_each(|index| command(worker * 10 + index)));
        }
    });
    assert!(is_empty(directory.path()));
}

#[test]
fn clients_that_connect_the_moment_a_pidfile_appears_are_served() {
    let directory = TempDir::new().unwrap();
    let names: Vec<String> = (0..20).map(|index| index.to_string()).collect();
    let start = |name: &String| {
        let (pidfile, socket) = (format!("{name}.pid"), format!("{name}.sock"));
        let mut command = memnbd(directory.path(), ["-P", &pidfile, "-U", &socket, "1M"]);
        command.stdout(Stdio::null()).spawn().unwrap()
    };
    let children: Vec<Child> = names.iter().map(start).collect();
    let mut servers = Vec::new();
    for name in &names {
        let pidfile = directory.path().join(format!("{name}.pid"));
        assert!(wait_until(LIMIT, || pidfile.exists()));
        let socket = directory.path().join(format!("{name}.sock"));
        assert_eq!(Probe::new(UnixStream::connect(socket).unwrap(), "").size, 1 << 20);
        servers.push(Background::of(&pidfile));
    }
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    for server in servers {
        server.stop();
    }
    let left = fs::read_dir(directory.path()).unwrap().flatten();
    let sockets = left.filter(|entry| entry.path().extension().is_some_and(|e| e == "sock"));
    assert_eq!(sockets.count(), 0);
}

#[test]
fn servers_that_are_killed_while_they_start_leave_no_process() {
    let directory = TempDir::new().unwrap();
    for attempt in 0..20_u64 {
        let mut command = memnbd(directory.path(), ["-P", "pid", "1M", "--run", "exec sleep 60"]);
        let mut child = command.env("TMPDIR", directory.path()).spawn().unwrap();
        // Somewhere between its first instruction and the command's start.
        thread::sleep(std::time::Duration::from_millis(attempt));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        finish_within(&mut child, LIMIT).unwrap();
        let processes = || {
            let entries = fs::read_dir("/proc").unwrap().flatten();
            let cwd = |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).ok();
            entries.filter_map(cwd).filter(|cwd| cwd == directory.path()).count()
        };
        assert!(wait_until(LIMIT, || processes() == 0), "attempt {attempt}");
    }
}
