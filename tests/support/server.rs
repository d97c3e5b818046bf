//! The program under test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{LIMIT, finish_within, wait_until};
use crate::tls::client::{is_inside_tls, write_keys};

/// How long a server may take to stop.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Where servers keep compiled components: for the next run of the tests, and not among the person's
/// own files, nor below a directory that a group can write, as those of a build may be.
fn cache() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("memnbd-tests-{user}"))
}

/// A shell script that finds the program in `$MEMNBD`.
pub(crate) fn shell(directory: &Path, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new("/bin/sh");
    command.current_dir(directory).args(arguments);
    command.env("MEMNBD", env!("CARGO_BIN_EXE_memnbd-host")).env("XDG_CACHE_HOME", cache());
    command
}

/// The program, to be run in a directory of the test's own.
pub(crate) fn memnbd<A: AsRef<OsStr>>(
    directory: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd-host"));
    command.current_dir(directory).args(arguments);
    command.env("XDG_CACHE_HOME", cache());
    command
}

/// A port of localhost that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("localhost has free ports");
    listener.local_addr().expect("it is bound").port()
}

/// A server that is ready. When it is dropped it is told to stop, which it must do cleanly and without
/// having logged a warning or an error that the test did not expect.
pub(crate) struct Server {
    child: Child,
    uri: String,
    directory: TempDir,
    log: Arc<Mutex<Vec<String>>>,
    expected: Vec<String>,
    exit_code: i32,
    stopped: bool,
}

impl Server {
    /// Serves on a Unix socket.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = TempDir::new().expect("the directory for temporary files is writable");
        Self::start_with(directory, &["-U", "socket"], arguments)
    }

    /// Serves on a free port of localhost.
    pub(crate) fn start_tcp(arguments: &[&str]) -> Self {
        let directory = TempDir::new().expect("the directory for temporary files is writable");
        Self::start_with(directory, &["-p", "0"], arguments)
    }

    fn start_with(directory: TempDir, place: &[&str], arguments: &[&str]) -> Self {
        let mut command = memnbd(directory.path(), place);
        command.args(arguments);
        if is_inside_tls() {
            write_keys(directory.path());
            command.args(["--tls=require", "--tls-psk=keys.psk"]);
        }
        Self::spawn(directory, &mut command)
    }

    /// Runs this command, and waits until it tells its URI. The directory lives as long as the server.
    pub(crate) fn spawn(directory: TempDir, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = child.stdout.take().expect("it is piped");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let (sender, first_line) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(line);
        });
        let uri = first_line.recv_timeout(LIMIT).unwrap_or_default();
        let mut server =
            Self { child, uri, directory, log, expected: Vec::new(), exit_code: 0, stopped: false };
        match server.uri.strip_suffix('\n') {
            Some(uri) => server.uri = uri.to_owned(),
            None => panic!("{command:?} did not tell where it serves"),
        }
        server
    }

    /// Where clients find it.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The port in its URI.
    pub(crate) fn port(&self) -> u16 {
        let port = self
            .uri
            .rsplit(':')
            .next()
            .and_then(|rest| rest.split(['/', '?']).next()?.parse().ok());
        port.unwrap_or_else(|| panic!("{} has no port", self.uri))
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A file in the test's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The memory that the process has, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let resident = self.status("VmRSS");
        let kib = resident.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.expect("the kernel tells it in KiB") << 10
    }

    /// What the kernel tells of the process under this key (proc_pid_status(5)).
    pub(crate) fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(":\t"));
        line.unwrap_or_else(|| panic!("{key} is not in {status}")).to_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// The file descriptors that the process has open.
    pub(crate) fn fds(&self) -> Vec<i32> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        entries.flatten().filter_map(number).collect()
    }

    /// How many threads the process has.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs").count()
    }

    /// Waits for a line of the log with this text, which may then be a warning or an error.
    pub(crate) fn expect_log(&mut self, text: &str) {
        let found = wait_until(LIMIT, || self.log().iter().any(|line| line.contains(text)));
        assert!(found, "{text:?} is not in the log");
        self.expected.push(text.to_owned());
    }

    /// Lines of the log with this text may be warnings or errors, if they come at all.
    pub(crate) fn allow_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it is our child");
    }

    /// Waits until it ends by itself, and checks that it was a clean end.
    pub(crate) fn wait(&mut self) {
        self.wait_for(0);
    }

    /// As [`Self::wait`], where the exit code is to be another.
    pub(crate) fn wait_for(&mut self, code: i32) {
        self.stopped = true;
        let status = finish_within(&mut self.child, STOP_LIMIT);
        assert_eq!(status.and_then(|status| status.code()), Some(code), "{status:?}");
        let unexpected: Vec<String> = self
            .log()
            .into_iter()
            .filter(|line| [" WARN ", "ERROR ", "panicked"].iter().any(|word| line.contains(word)))
            .filter(|line| !self.expected.iter().any(|text| line.contains(text)))
            .collect();
        assert!(unexpected.is_empty(), "unexpected in the log: {unexpected:#?}");
    }

    /// It is to end with this code when it is stopped.
    pub(crate) fn expect_exit(&mut self, code: i32) {
        self.exit_code = code;
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        self.stopped = true;
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.wait_for(self.exit_code);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            eprintln!("the server's log:\n{}", self.log().join("\n"));
        } else if !self.stopped {
            self.stop();
        }
    }
}
