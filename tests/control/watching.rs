//! The commands that watch a server: `logs` and `top`.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{control, controlled, put};
use crate::support::{LIMIT, Server, finish_within, memnbd, nbdsh, require, wait_until};

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

#[test]
fn top_without_a_terminal_prints_rates() {
    require!("nbdsh");
    let server = controlled(&["--filter=error", "1M", "error-zero-rate=1"]);
    put(&server, "unused", &json!({"parameters": ["1M"]}));
    let code = format!(
        "
import json, os, subprocess
env = dict(os.environ, MEMNBD_HOST='unix:control')
def top(*words):
    # Some load while it measures.
    child = subprocess.Popen([{:?}, 'top', '--interval', '0.3', *words], env=env, stdout=subprocess.PIPE)
    while child.poll() is None:
        h.pread(4096, 0)
        h.pwrite(b'x' * 8192, 0)
        try:
            h.zero(512, 0)
        except nbd.Error:
            pass
    assert child.returncode == 0
    return child.stdout.read()
rounds = [json.loads(line) for line in top('--json', '--count', '2').splitlines()]
assert len(rounds) == 2
for one in rounds:
    assert one['seconds'] >= 0.3 and one['total'] == 2
    disk, = one['disks']
    assert disk['disk'] == 'disk' and disk['connections'] >= 1, disk
    assert disk['written_bytes_per_second'] > disk['read_bytes_per_second'] > 0
    assert disk['requests_per_second'] > disk['errors_per_second'] > 0
    assert disk['latency_mean_us'] > 0
text = top().decode().splitlines()
assert text[0] == '2 disks, 1 of them used', text
assert text[1].split()[0] == 'DISK' and text[2].split()[0] == 'disk', text
assert len(text) == 3, text
",
        env!("CARGO_BIN_EXE_memnbd")
    );
    nbdsh(&server, &code);
    let error = control(&server, &["top", "--interval", "0"]).failure(2);
    assert!(error.contains("from 0.1 to 3600"), "{error}");
}

/// A terminal, with what it shows.
struct Terminal {
    master: File,
    slave: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn new(rows: u16) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
        let master = master.unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = std::ffi::OsString::from_vec(name.into_bytes());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed());
        let terminal = Self {
            master: master.into(),
            slave: options.open(name).unwrap(),
            shown: Arc::default(),
        };
        terminal.resize(rows);
        let (mut output, shown) = (terminal.master.try_clone().unwrap(), terminal.shown.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        terminal
    }

    fn resize(&self, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn expect(&self, words: &str) {
        assert!(wait_until(LIMIT, || self.text().contains(words)), "{words}: {:?}", self.text());
    }

    fn modes(&self) -> LocalModes {
        tcgetattr(&self.slave).unwrap().local_modes
    }
}

#[test]
fn top_uses_the_terminal_and_gives_it_back() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    for index in 0..20 {
        put(&server, &format!("d{index:02}"), &json!({"parameters": ["1M"]}));
    }
    nbdsh(
        &server,
        "
for index in range(20):
    c = nbd.NBD()
    c.set_export_name('d%02d' % index)
    c.connect_unix('socket')
    c.pread(512, 0)
",
    );
    for end in [&b"q"[..], b"\x03", b"\x1b", b""] {
        let mut terminal = Terminal::new(10);
        let before = terminal.modes();
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO));
        let mut command = program(&server.path("control"), &["top", "--interval", "0.1"]);
        command.stdin(terminal.slave.try_clone().unwrap());
        command.stdout(terminal.slave.try_clone().unwrap()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        terminal.expect("q ends");
        terminal.expect("d05");
        assert!(!terminal.text().contains("d06"), "it does not fit");
        assert!(!terminal.modes().intersects(LocalModes::ICANON | LocalModes::ECHO));
        terminal.resize(40);
        kill_process(Pid::from_child(&child), Signal::WINCH).unwrap();
        terminal.expect("d19");
        match end {
            [] => kill_process(Pid::from_child(&child), Signal::TERM).unwrap(),
            key => terminal.master.write_all(key).unwrap(),
        }
        let status = finish_within(&mut child, LIMIT).unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(terminal.modes(), before);
        terminal.expect("\x1b[?1049l");
        for (on, off) in [("\x1b[?1049h", "\x1b[?1049l"), ("\x1b[?25l", "\x1b[?25h")] {
            let text = terminal.text();
            assert!(text.rfind(on) < text.rfind(off), "{text:?}");
        }
    }
}

#[test]
fn top_shows_that_the_server_is_gone() {
    let mut server = controlled(&["1M"]);
    let mut terminal = Terminal::new(24);
    let mut command = program(&server.path("control"), &["top", "--interval", "0.1"]);
    command.stdin(terminal.slave.try_clone().unwrap());
    command.stdout(terminal.slave.try_clone().unwrap()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    terminal.expect("1 disks, ");
    server.signal(Signal::TERM);
    server.wait();
    terminal.expect("connect to ");
    terminal.master.write_all(b"q").unwrap();
    assert!(finish_within(&mut child, LIMIT).unwrap().success());
}
