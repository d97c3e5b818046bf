//! `--run`: a server for as long as a command runs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::background::Background;
use crate::support::{Finished, LIMIT, finish_within, memnbd, require, run, wait_until};
use crate::tls::client::write_keys;

/// Runs the program with a command of its own, and private files in a directory of the test's.
fn captive(directory: &Path, arguments: &[&str], script: &str) -> Finished {
    let mut command = memnbd(directory, arguments);
    run(command.env("TMPDIR", directory).args(["--run", script]))
}

/// Nothing is left of the private socket.
fn assert_nothing_left(directory: &Path) {
    let left: Vec<_> = fs::read_dir(directory).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn command_finds_the_server_by_variables() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    let script = r#"test "$uri" = "$nbd" && test -S "$unixsocket" && test -z "$port" &&
        nbdinfo --size "$uri" && env | grep -c '^\(uri\|nbd\|port\|unixsocket\|exportname\|tls\)='"#;
    let finished = captive(directory.path(), &["memory", "1M"], script);
    // grep finds nothing: the variables are the shell's own.
    assert_eq!(finished.stderr, "");
    assert_eq!(finished.stdout, "1048576\n0\n");
    finished.failure(1);
    assert_nothing_left(directory.path());
}

#[test]
fn exit_status_is_the_commands() {
    let directory = TempDir::new().unwrap();
    captive(directory.path(), &["1M"], "exit 0").success();
    captive(directory.path(), &["1M"], "exit 3").failure(3);
    captive(directory.path(), &["1M"], "kill -9 $$").failure(128 + 9);
    captive(directory.path(), &["1M"], "no-such-command 2> /dev/null").failure(127);
    assert_nothing_left(directory.path());
}

#[test]
fn variables_are_quoted_whatever_they_hold() {
    let directory = TempDir::new().unwrap();
    let awkward = "it's $HOME `id` \"x\" \\ *\n;";
    let inner = directory.path().join(std::ffi::OsStr::from_bytes(b"\xff '$(id)"));
    fs::create_dir(&inner).unwrap();
    let mut command = memnbd(directory.path(), ["-e", awkward, "1M", "--run"]);
    let script = r#"printf '%s|%s' "$exportname" "$unixsocket" && test -S "$unixsocket""#;
    let output = command.arg(script).env("TMPDIR", &inner).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut expected = format!("{awkward}|").into_bytes();
    expected.extend_from_slice(inner.as_os_str().as_bytes());
    assert!(output.stdout.starts_with(&expected), "{output:?}");
    assert_nothing_left(&inner);
}

#[test]
fn uri_works_for_every_name_and_place() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    for arguments in [
        &["-e", "a b/c?d=e&f%", "1M"][..],
        &["-e", "a b/c?d=e&f%", "-p", "0", "1M"],
        &["-i", "127.0.0.1", "-p", "0", "1M"],
        &["-4", "-p", "0", "1M"],
        &["-U", "a socket?", "1M"],
    ] {
        let finished = captive(directory.path(), arguments, r#"nbdinfo --size "$uri""#);
        assert_eq!(finished.success(), "1048576\n", "{arguments:?}");
    }
    assert_nothing_left(directory.path());
}

#[test]
fn port_that_was_free_is_told() {
    let directory = TempDir::new().unwrap();
    let script = r#"test "$uri" = "nbd://localhost:$port" && echo "$port:$unixsocket""#;
    let printed = captive(directory.path(), &["-p", "0", "1M"], script).success();
    let port = printed.trim_end().strip_suffix(':').unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
}

#[test]
fn uri_is_printed_only_when_asked_for() {
    let directory = TempDir::new().unwrap();
    assert_eq!(captive(directory.path(), &["1M"], "echo x").success(), "x\n");
    let printed = captive(directory.path(), &["--print-uri", "1M"], r#"echo "$uri""#).success();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], lines[1]);
}

#[test]
fn command_has_the_stdin_of_the_program() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("in"), "from stdin").unwrap();
    let mut command = memnbd(directory.path(), ["1M", "--run", "cat"]);
    let stdin = fs::File::open(directory.path().join("in")).unwrap();
    let output = command.stdin(stdin).output().unwrap();
    assert_eq!(output.stdout, b"from stdin");
}

#[test]
fn mistakes_are_told_and_the_command_does_not_run() {
    let directory = TempDir::new().unwrap();
    for (code, arguments) in
        [(2, &["size=1M", "colour=red"][..]), (2, &["2X"]), (1, &["-i", "192.0.2.1", "1M"])]
    {
        let finished = captive(directory.path(), arguments, "touch ran");
        assert_eq!(finished.failure(code).matches("memnbd-host: ").count(), 1);
        assert_nothing_left(directory.path());
    }
}

#[test]
fn server_that_dies_is_reported() {
    let directory = TempDir::new().unwrap();
    // Its pidfile tells which process it is.
    let script = "kill -9 $(cat pid); sleep 0.2; exit 0";
    let finished = captive(directory.path(), &["-P", "pid", "1M"], script);
    assert!(finished.failure(128 + 9).contains("the server died"));
    let finished = captive(directory.path(), &["-P", "pid", "1M"], "kill -9 $(cat pid); exit 5");
    finished.failure(5);
    fs::remove_file(directory.path().join("pid")).unwrap();
    assert_nothing_left(directory.path());
}

#[test]
fn interrupt_of_the_terminal_is_for_the_command() {
    let directory = TempDir::new().unwrap();
    let script = "trap 'echo trapped; exit 4' INT; echo ready; while :; do sleep 0.05; done";
    let mut command = memnbd(directory.path(), ["-U", "-", "1M", "--run", script]);
    // A group of its own, as a shell makes for what runs in the foreground of a terminal.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    rustix::process::kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "trapped");
    assert_eq!(finish_within(&mut child, LIMIT).unwrap().code(), Some(4));
}

#[test]
fn termination_is_passed_on_to_the_command() {
    let directory = TempDir::new().unwrap();
    let script = "trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = memnbd(directory.path(), ["1M", "--run", script]);
    let mut child = command.stdout(Stdio::piped()).env("TMPDIR", directory.path()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(finish_within(&mut child, LIMIT).unwrap().code(), Some(6));
    assert_nothing_left(directory.path());
}

#[test]
fn server_ends_although_the_program_is_killed() {
    let directory = TempDir::new().unwrap();
    let script = "cat pid; exec sleep 100";
    let mut command = memnbd(directory.path(), ["-P", "pid", "1M", "--run", script]);
    let mut child = command.stdout(Stdio::piped()).env("TMPDIR", directory.path()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = Background::of(&directory.path().join("pid"));
    assert!(server.runs());
    // What it runs is stopped first: nobody does it afterwards.
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let children = fs::read_to_string(children).unwrap();
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(wait_until(LIMIT, || !server.runs()), "the server is still there");
    for pid in children.split_whitespace() {
        // The server is one of them.
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[test]
fn captive_server_ends_with_its_last_client() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    let script = r#"nbdinfo --size "$uri" && while test -e "$unixsocket"; do sleep 0.02; done"#;
    let finished = captive(directory.path(), &["--exit-last", "1M"], script);
    assert_eq!(finished.stderr, "");
    assert_eq!(finished.success(), "1048576\n");
    assert_nothing_left(directory.path());
}

#[test]
fn real_clients_run_captive() {
    require!("qemu-img", "nbdcopy", "nbdsh");
    let directory = TempDir::new().unwrap();
    let mut image = vec![0x37; 2 << 20];
    image[1 << 20..].fill(0);
    fs::write(directory.path().join("image"), &image).unwrap();
    let script = r#"set -e
        qemu-img convert -n -f raw -O raw image "$uri"
        nbdcopy "$uri" copy
        cmp image copy
        PATH=/usr/bin:$PATH nbdsh -u "$uri" -c 'print(h.get_size(), h.pread(1, 5)[0])'"#;
    let finished = captive(directory.path(), &["-U", "-", "memory", "2M"], script);
    assert_eq!(finished.success(), "2097152 55\n");
}

#[test]
fn command_is_told_of_tls() {
    require!("nbdinfo");
    let directory = TempDir::new().unwrap();
    write_keys(directory.path());
    let keys = directory.path().join("keys.psk");
    let script =
        r#"echo "$tls:$tls_certificates:$tls_psk"; nbdinfo --is tls "$uri" && echo inside"#;
    for (mode, number, inside) in [("require", "2", "inside\n"), ("on", "1", ""), ("off", "", "")] {
        let mode = format!("--tls={mode}");
        let arguments = ["-p", "0", "--tls-psk", "keys.psk", &mode, "1M"];
        let mut command = memnbd(directory.path(), arguments);
        let printed = run(command.args(["--run", script])).stdout;
        let file = if number.is_empty() { String::new() } else { keys.display().to_string() };
        assert_eq!(printed, format!("{number}::{file}\n{inside}"), "{mode}");
    }
}
