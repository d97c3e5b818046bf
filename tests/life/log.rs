//! Where the log goes, and how its lines look.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{LIMIT, Server, memnbd, probe, require, run, wait_until};

/// A server with `-v` on a socket of its own.
fn start(arguments: &[&str]) -> Server {
    Server::start(&[&["-v", "1M"], arguments].concat())
}

/// Waits for a line of a file with this text.
fn wait_for_line(path: &Path, text: &str) -> String {
    let mut found = None;
    wait_until(LIMIT, || {
        let log = fs::read_to_string(path).unwrap_or_default();
        found = log.lines().find(|line| line.contains(text)).map(str::to_owned);
        found.is_some()
    });
    found.unwrap_or_else(|| panic!("{text:?} is not in {}", path.display()))
}

#[test]
fn log_goes_to_a_file_that_is_opened_again_on_hangup() {
    let server = start(&["--log", "log"]);
    drop(probe(&server));
    let (log, old) = (server.path("log"), server.path("log.1"));
    wait_for_line(&log, "connected");
    fs::rename(&log, &old).unwrap();
    server.signal(Signal::HUP);
    assert!(wait_until(LIMIT, || log.exists()));
    drop(probe(&server));
    wait_for_line(&log, "connected");
    assert!(server.log().is_empty(), "{:?}", server.log());
}

#[test]
fn log_file_is_appended_to() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("log"), "before\n").unwrap();
    let mut command = memnbd(directory.path(), ["-v", "--log", "log", "-U", "socket", "1M"]);
    let server = Server::spawn(directory, &mut command);
    drop(probe(&server));
    wait_for_line(&server.path("log"), "connected");
    assert!(fs::read_to_string(server.path("log")).unwrap().starts_with("before\n"));
}

#[test]
fn hangup_without_a_file_is_harmless() {
    let server = start(&[]);
    server.signal(Signal::HUP);
    server.signal(Signal::PIPE);
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn file_that_cannot_be_opened_is_told() {
    let directory = TempDir::new().unwrap();
    let command = &mut memnbd(directory.path(), ["--log", "no/such", "-U", "socket", "1M"]);
    let error = run(command).failure(1);
    assert!(error.contains("--log no/such: No such file"), "{error}");
    assert!(!directory.path().join("socket").exists());
}

#[test]
fn file_that_cannot_be_opened_again_changes_nothing() {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("logs")).unwrap();
    let mut command = memnbd(directory.path(), ["-v", "--log", "logs/log", "-U", "socket", "1M"]);
    let server = Server::spawn(directory, &mut command);
    let moved = server.path("moved");
    fs::rename(server.path("logs"), &moved).unwrap();
    server.signal(Signal::HUP);
    wait_for_line(&moved.join("log"), "cannot reopen the log");
    drop(probe(&server));
    wait_for_line(&moved.join("log"), "connected");
}

#[test]
fn lines_are_objects_of_json_when_asked_for() {
    let server = start(&["--log-format", "json", "--name", "disk \"1\""]);
    drop(probe(&server));
    assert!(wait_until(LIMIT, || server.log().len() >= 2));
    for line in server.log() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["level"], "DEBUG");
        assert_eq!(line["name"], "disk \"1\"");
        assert!(!line["message"].as_str().unwrap().is_empty(), "{line}");
        let time = line["time"].as_str().unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z'), "{time}");
    }
}

#[test]
fn lines_of_json_say_which_disk_and_connection_they_are_about() {
    let server = start(&["--log-format", "json"]);
    drop(probe(&server));
    drop(probe(&server));
    let ends = |line: &String| line.contains("disconnected") || line.contains("lost: ");
    assert!(wait_until(LIMIT, || server.log().iter().filter(|line| ends(line)).count() == 2));
    let (mut connections, mut disks) = (Vec::new(), 0);
    for line in server.log() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        let message = line["message"].as_str().unwrap();
        assert!(!message.contains("connection="), "{message}");
        if message.starts_with("client ") {
            connections.push(line["connection"].as_u64().unwrap());
        }
        if message.starts_with("export ") {
            assert_eq!((&line["tenant"], &line["disk"]), (&"default".into(), &"".into()), "{line}");
            disks += 1;
        }
    }
    connections.sort_unstable();
    assert_eq!(connections, [0, 0, 1, 1], "each comes and goes");
    assert!(disks >= 2);
}

#[test]
fn what_clients_asked_for_is_told_in_the_end() {
    require!("qemu-io");
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let command = "qemu-io -f raw -c 'write 0 64k' -c 'read 0 4k' $uri";
    let arguments = ["-v", "--log", "log", "1M", "--run", command];
    run(&mut memnbd(directory.path(), arguments)).success();
    let line = wait_for_line(&log, "export \"\": read: ");
    assert!(line.contains("read: 1 request, 4096 bytes, median "), "{line}");
    assert!(line.contains("write: 1 request, 65536 bytes, median "), "{line}");
}

#[test]
fn nothing_is_logged_to_null() {
    let server = start(&["--log=null"]);
    drop(probe(&server));
    drop(UnixStream::connect(server.socket()).unwrap());
    assert!(server.log().is_empty());
}

#[test]
fn name_is_in_the_log_and_in_the_list_of_processes() {
    let server = start(&["--name", "disk-1"]);
    drop(probe(&server));
    assert!(wait_until(LIMIT, || !server.log().is_empty()));
    assert!(server.log().iter().all(|line| line.starts_with("disk-1: ")), "{:?}", server.log());
    let pid = server.pid().as_raw_nonzero();
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "disk-1\n");
    let directory = TempDir::new().unwrap();
    let error = run(&mut memnbd(directory.path(), ["--name", "disk-1", "2X"])).failure(2);
    assert!(error.starts_with("disk-1: "), "{error}");
}

#[test]
fn log_goes_to_syslog() {
    // Whether the machine has one or not, it is said before anything listens.
    let directory = TempDir::new().unwrap();
    if Path::new("/dev/log").exists() {
        drop(start(&["--log=syslog"]));
        return;
    }
    let command = &mut memnbd(directory.path(), ["--log=syslog", "-U", "socket", "1M"]);
    let error = run(command).failure(1);
    assert!(error.contains("--log syslog"), "{error}");
}
