//! The command that watches a server: `logs`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{control, controlled};
use crate::support::{LIMIT, Server, finish_within, memnbd};

/// The program `memnbd`, for a control socket.
fn program(control: &std::path::Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    command.env("MEMNBD_HOST", format!("unix:{}", control.display())).args(arguments);
    command
}

/// Sends the lines of a child as they come.
fn lines(child: &mut Child) -> Receiver<String> {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok()
    });
    receiver
}

#[test]
fn logs_tell_what_happened() {
    let mut server = controlled(&["1M"]);
    control(&server, &["create", "a", "64k", "--filter=error", "error-rate=0"]).success();
    control(&server, &["fault", "a", "set", "error-rate=5%"]).success();
    control(&server, &["create", "b\u{1b}[2J", "offset", "base=missing"]).success();
    control(&server, &["fault", "b\u{1b}[2J"]).failure(1);
    control(&server, &["rm", "a"]).success();
    let all = control(&server, &["logs"]).success();
    for words in [
        "Z a created\n",
        "Z a opened\n",
        "Z a error carried out: set error-rate=5%\n",
        "Z b?[2J created\n",
        "Z b?[2J failed: ",
        "Z b?[2J ERROR: export ",
        "Z a removed\n",
    ] {
        assert!(all.contains(words), "{words}: {all}");
    }
    let of_a = control(&server, &["logs", "a"]).success();
    assert_eq!(of_a.lines().count(), 4, "{of_a}");
    let json = control(&server, &["logs", "a", "--json"]).success();
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["event"], "disk-created");
    assert!(events[0]["id"].as_str().is_some_and(|id| id.ends_with("-1")), "{json}");
    assert_eq!(control(&server, &["logs", "nothing"]).success(), "");
    server.expect_log("there is no export \"missing\"");
}

#[test]
fn logs_follow_a_server_that_is_started_anew() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("control");
    let address = format!("unix:{}", socket.display());
    let start = || {
        let own = TempDir::new().unwrap();
        let mut command = memnbd(own.path(), ["-U", "socket", "--control", &address, "1M"]);
        Server::spawn(own, &mut command)
    };
    let create = |name: &str| {
        let mut command = program(&socket, &["create", name, "1M"]);
        crate::support::run(&mut command).success();
    };
    let mut server = start();
    create("first");
    let mut following = program(&socket, &["logs", "-f", "--json"]);
    let mut following = following.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines(&mut following);
    let next = || -> Value {
        serde_json::from_str(&lines.recv_timeout(LIMIT).expect("there is another event")).unwrap()
    };
    assert_eq!(next()["disk"], "first");
    create("second");
    assert_eq!(next()["disk"], "second");
    server.signal(Signal::TERM);
    server.wait();
    drop(server);
    let mut server = start();
    create("third");
    let lost = next();
    assert_eq!((&lost["event"], &lost["restarted"]), (&json!("lost"), &json!(true)));
    assert_eq!(next()["disk"], "third");
    kill_process(Pid::from_child(&following), Signal::TERM).unwrap();
    finish_within(&mut following, LIMIT).unwrap();
    let mut said = String::new();
    following.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "memnbd: the server is gone; waiting for it\n");
    server.signal(Signal::TERM);
    server.wait();
}

#[test]
fn logs_end_with_those_who_read_them() {
    let server = controlled(&["1M"]);
    let mut command = program(&server.path("control"), &["logs", "-f"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    control(&server, &["create", "a", "1M"]).success();
    assert!(finish_within(&mut child, LIMIT).unwrap().success());
    let error = crate::support::run(&mut program(&server.path("nothing"), &["logs", "-f"]));
    assert!(error.failure(1).contains("connect to "));
}
