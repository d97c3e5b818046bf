//! Commands that end in time, and tell what they said when they do not end well.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// How long a command may take: far more than it does on a slow machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// How often something is looked at that tells nothing by itself.
const POLL: Duration = Duration::from_millis(5);

/// A command that ended.
pub(crate) struct Finished {
    command: String,
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, and until nobody holds its output any more.
pub(crate) fn run(command: &mut Command) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = format!("{command:?}");
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
    let stdout = collect(child.stdout.take().expect("it is piped"));
    let stderr = collect(child.stderr.take().expect("it is piped"));
    let status = finish_within(&mut child, LIMIT);
    let text = |output: Receiver<Vec<u8>>| {
        let bytes = output.recv_timeout(LIMIT);
        let bytes = bytes.unwrap_or_else(|_| panic!("{name} ended, but its output is still open"));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => Finished { command: name, status, stdout, stderr },
        None => panic!("{name} did not end in {LIMIT:?}\n{stdout}\n{stderr}"),
    }
}

fn collect(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is what there is to show.
        let _ = output.read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// Waits for a child; kills it when it takes longer.
pub(crate) fn finish_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let mut status = None;
    let ended = wait_until(limit, || {
        status = child.try_wait().expect("it is our child");
        status.is_some()
    });
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

/// Whether something comes true in time.
pub(crate) fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
}

impl Finished {
    /// What it printed; it must have succeeded.
    pub(crate) fn success(self) -> String {
        assert!(self.status.success(), "{self}");
        self.stdout
    }

    /// How it ended, in words.
    pub(crate) fn exit_status(&self) -> String {
        self.status.to_string()
    }

    /// What it complained of; it must have failed with this exit code.
    pub(crate) fn failure(self, code: i32) -> String {
        assert_eq!(self.status.code(), Some(code), "{self}");
        self.stderr
    }
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "{command}: {status}\nstdout:\n{stdout}\nstderr:\n{stderr}")
    }
}
