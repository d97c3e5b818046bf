//! A log that grows fast, is not read, or is not wanted: nobody is held up by it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    LIMIT, Probe, STOP_LIMIT, Server, finish_within, memnbd, probe, shell, wait_until,
};
use crate::wire::haggle::{FIXED_NEWSTYLE_NO_ZEROES, Haggle};
use crate::wire::stream::Stream;

/// Many clients that only come and go, of each of which -v logs two lines.
fn come_and_go(socket: &Path, clients: usize) {
    for _ in 0..clients {
        drop(UnixStream::connect(socket).unwrap());
    }
}

#[test]
fn stderr_that_nobody_reads_holds_nobody_up() {
    let directory = TempDir::new().unwrap();
    let (mut unread, stderr) = std::io::pipe().unwrap();
    let mut command = memnbd(directory.path(), ["-v", "-U", "socket", "1M"]);
    let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    drop(command);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let socket = directory.path().join("socket");
    let mut haggle = Haggle::greeted(Stream::connect_unix(&socket));
    haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    let mut session = haggle.go("");
    for round in 0..10 {
        come_and_go(&socket, 1000);
        session.write(u64::from(round) * 4096, &[round; 4096]);
        session.expect_in_sync();
        assert_eq!(Probe::new(UnixStream::connect(&socket).unwrap(), "").size, 1 << 20);
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let status = finish_within(&mut child, STOP_LIMIT).expect("it ends");
    assert_eq!(status.code(), Some(0));
    // What the pipe held was written whole.
    let mut log = String::new();
    unread.read_to_string(&mut log).unwrap();
    assert!(log.len() > 16 << 10, "it was no flood: {log}");
    let mut lines: Vec<_> = log.split_inclusive('\n').collect();
    lines.pop();
    assert!(lines.iter().all(|line| line.ends_with('\n') && line.contains(" DEBUG ")), "{log}");
}

#[test]
fn log_that_is_read_late_tells_how_much_is_missing() {
    let directory = TempDir::new().unwrap();
    let (unread, stderr) = std::io::pipe().unwrap();
    let mut command = memnbd(directory.path(), ["-v", "-U", "socket", "1M"]);
    let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
    drop(command);
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let socket = directory.path().join("socket");
    come_and_go(&socket, 5000);
    drop(Probe::new(UnixStream::connect(&socket).unwrap(), ""));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut log = BufReader::new(unread).lines().map_while(Result::ok);
    assert!(
        log.any(|line| line.contains(" lines were not logged, as the log was not read in time"))
    );
    // The rest as well, or it could not end.
    log.for_each(drop);
    assert_eq!(finish_within(&mut child, STOP_LIMIT).expect("it ends").code(), Some(0));
}

#[test]
fn log_file_that_must_not_grow_is_an_error_and_not_the_end() {
    let directory = TempDir::new().unwrap();
    let script = r#"ulimit -f 16; exec "$MEMNBD" -v --log log -U socket 1M"#;
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let server = Server::spawn(directory, &mut command);
    let log = server.path("log");
    let end = wait_until(LIMIT, || {
        come_and_go(&server.socket(), 100);
        // The units of the shell are of 512 bytes, or of 1024.
        [16 << 9, 16 << 10].contains(&fs::metadata(&log).unwrap().len())
    });
    assert!(end, "the log has {} bytes", fs::metadata(&log).unwrap().len());
    come_and_go(&server.socket(), 100);
    assert_eq!(probe(&server).size, 1 << 20);
    fs::rename(&log, server.path("log.1")).unwrap();
    server.signal(Signal::HUP);
    assert!(wait_until(LIMIT, || log.exists()));
    let told = wait_until(LIMIT, || {
        come_and_go(&server.socket(), 1);
        fs::read_to_string(&log).unwrap().contains("lines before this one could not be logged")
    });
    assert!(told);
}

#[test]
fn thousands_of_broken_clients_log_little() {
    let mut server = Server::start(&["1M"]);
    server.allow_log("client (Unix socket");
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let mut client = UnixStream::connect(server.socket()).unwrap();
                    client.read_exact(&mut [0; 18]).unwrap();
                    // Neither flags nor an option.
                    client.write_all(&[0xff; 64]).unwrap();
                    let _ = client.shutdown(Shutdown::Write);
                    // It ends with an error where the server has closed before it read all.
                    let _ = client.read_to_end(&mut Vec::new());
                }
            });
        }
    });
    server.expect_log("more warnings about clients were not logged)");
    let log = server.log();
    assert!(log.iter().any(|line| line.contains("client (Unix socket")), "{log:?}");
    let bytes: usize = log.iter().map(String::len).sum();
    assert!(bytes < 32 << 10, "{bytes} bytes");
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn limit_on_descriptors_is_raised() {
    let directory = TempDir::new().unwrap();
    let script = r#"ulimit -Sn 64; exec "$MEMNBD" -U socket 1M"#;
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let server = Server::spawn(directory, &mut command);
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid().as_raw_nonzero()));
    let limits = limits.unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{line}");
    assert_ne!(words[3], "64");
}
