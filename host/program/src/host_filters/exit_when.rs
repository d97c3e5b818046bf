//! The filter exitwhen: events outside of the server that end it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use memnbd::parameters::{Argument, Value};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, FileType};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// How often files are looked at, at least.
const FILES: Duration = Duration::from_secs(1);

/// How often scripts are run, unless exit-when-poll= says otherwise, and how long one may take.
const SCRIPTS: Duration = Duration::from_secs(60);

/// The exit status of a script that tells that its event has occurred.
const OCCURRED: i32 = 88;

/// The events that end the server.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct ExitWhen {
    events: Vec<Event>,
    poll: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Event {
    FileCreated(PathBuf),
    FileDeleted(PathBuf),
    /// A pipe is closed, or a process has exited.
    Descriptor(Arc<OwnedFd>, &'static str),
    Script(String),
}

impl ExitWhen {
    /// Takes the events from the arguments of the filter. Relative paths begin at `directory`.
    ///
    /// # Errors
    ///
    /// Returns a message if there is no such process or file descriptor.
    pub(super) fn new(arguments: &[Argument], directory: &Path) -> Result<Self, String> {
        let mut found = Self::default();
        for Argument { name, value } in arguments {
            let event = match (name.as_str(), value) {
                ("exit-when-file-created", Value::Text(path)) => {
                    Event::FileCreated(directory.join(path))
                }
                ("exit-when-file-deleted", Value::Text(path)) => {
                    Event::FileDeleted(directory.join(path))
                }
                ("exit-when-pipe-closed", &Value::Number(number)) => {
                    let pipe = i32::try_from(number).map_err(|_| Errno::BADF).and_then(inherited);
                    let about =
                        |error| format!("{name}={number}: {error}; it is an open file descriptor");
                    Event::Descriptor(Arc::new(pipe.map_err(about)?), "a pipe was closed")
                }
                ("exit-when-process-exits", &Value::Number(number)) => {
                    let pid = i32::try_from(number).ok().and_then(Pid::from_raw);
                    let process = pid.ok_or(Errno::SRCH);
                    let process = process.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK));
                    let about = |error| format!("{name}={number}: {error}");
                    Event::Descriptor(Arc::new(process.map_err(about)?), "a process has exited")
                }
                ("exit-when-script", Value::Text(script)) => Event::Script(script.clone()),
                (_, &Value::Duration(nanos)) => {
                    found.poll = Some(Duration::from_nanos(nanos));
                    continue;
                }
                _ => continue,
            };
            found.events.push(event);
        }
        Ok(found)
    }

    /// Returns true if there are scripts to run.
    pub(in super::super) fn has_scripts(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Script(_)))
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns true if an event has occurred already.
    pub(in super::super) async fn has_occurred(&self) -> bool {
        for event in &self.events {
            if event.has_occurred().await.is_some() {
                return true;
            }
        }
        false
    }

    /// Waits for the first event. Returns what occurred.
    pub(in super::super) async fn occurs(self) -> &'static str {
        let mut waiting = JoinSet::new();
        for event in self.events {
            let pause = match &event {
                Event::Script(_) => self.poll.unwrap_or(SCRIPTS),
                _ => self.poll.unwrap_or(FILES).min(FILES),
            };
            // A pause of nothing would keep a processor busy.
            waiting.spawn(event.occurs(pause.max(Duration::from_millis(10))));
        }
        match waiting.join_next().await {
            Some(Ok(what)) => what,
            _ => std::future::pending().await,
        }
    }
}

impl Event {
    async fn occurs(self, pause: Duration) -> &'static str {
        if let Self::Descriptor(fd, what) = &self {
            match closed(fd.clone()).await {
                Ok(()) => return what,
                Err(error) => tracing::warn!("exitwhen: wait for a file descriptor: {error}"),
            }
        }
        loop {
            if let Some(what) = self.has_occurred().await {
                return what;
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn has_occurred(&self) -> Option<&'static str> {
        match self {
            Self::FileCreated(path) => {
                matches!(look(path).await, Ok(())).then_some("a file was created")
            }
            Self::FileDeleted(path) => match look(path).await {
                Err(Errno::NOENT | Errno::NOTDIR) => Some("a file was deleted"),
                _ => None,
            },
            Self::Descriptor(fd, what) => is_closed(fd).then_some(what),
            Self::Script(script) => run(script).await.then_some("a script has told so"),
        }
    }
}

/// Duplicates a file descriptor that the process was started with.
fn inherited(number: i32) -> Result<OwnedFd, Errno> {
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(&this, number, PidfdGetfdFlags::empty())
}

/// Looks for a file that can be read, on another thread, for that may take long.
async fn look(path: &Path) -> Result<(), Errno> {
    let path = path.to_owned();
    let looking = tokio::task::spawn_blocking(move || rustix::fs::access(&path, Access::READ_OK));
    looking.await.unwrap_or(Err(Errno::IO))
}

/// Returns true if a pipe is closed at its other end, or if the process of a pidfd has exited.
fn is_closed(fd: &OwnedFd) -> bool {
    wait(fd, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
}

/// Waits until a pipe is closed at its other end, or until the process of a pidfd has exited.
fn wait(fd: &OwnedFd, limit: Option<&Timespec>) -> bool {
    // A pidfd is readable then, and a pipe may be so before.
    let kind = rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let is_pidfd = kind.is_ok_and(|kind| !matches!(kind, FileType::Fifo | FileType::Socket));
    let wanted = if is_pidfd { PollFlags::IN } else { PollFlags::empty() };
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), wanted)];
    let states = wanted | PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
    poll(&mut fds, limit).is_ok() && fds[0].revents().intersects(states)
}

/// Waits like [`wait`], on a thread of its own, which costs nothing until then.
async fn closed(fd: Arc<OwnedFd>) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name("exitwhen".into()).spawn(move || {
        while !wait(&fd, None) {}
        let _ = sender.send(());
    })?;
    receiver.await.map_err(io::Error::other)
}

/// Runs a script. Returns true if it tells that its event has occurred.
async fn run(script: &str) -> bool {
    let mut command = tokio::process::Command::new("/bin/sh");
    command.args(["-c", script]).stdin(Stdio::null()).kill_on_drop(true);
    let ended = match tokio::time::timeout(SCRIPTS, command.status()).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("exitwhen: the script takes longer than {SCRIPTS:?}; it was killed");
            return false;
        }
    };
    match ended.map(|status| status.code()) {
        Ok(Some(OCCURRED)) => return true,
        Ok(Some(0)) => {}
        Ok(Some(code)) => {
            tracing::warn!(
                "exitwhen: the script exited with status {code}, neither 0 nor {OCCURRED}"
            );
        }
        Ok(None) => tracing::warn!("exitwhen: the script was ended by a signal"),
        Err(error) => tracing::warn!("exitwhen: run the script: {error}"),
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn events(name: &str, value: Value) -> ExitWhen {
        let arguments = [Argument { name: name.into(), value }];
        ExitWhen::new(&arguments, Path::new("/")).unwrap()
    }

    fn text(path: &Path) -> Value {
        Value::Text(path.to_str().unwrap().into())
    }

    /// It occurs when `cause` has run, and not before.
    async fn occurs_after(events: ExitWhen, cause: impl FnOnce()) -> &'static str {
        assert!(!events.is_empty() && !events.has_occurred().await);
        let waiting = tokio::spawn(events.clone().occurs());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!waiting.is_finished());
        cause();
        let what = tokio::time::timeout(LIMIT, waiting).await.expect("it occurs").unwrap();
        assert!(events.has_occurred().await);
        what
    }

    #[tokio::test]
    async fn files_are_created_and_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stop");
        let created = events("exit-when-file-created", text(&path));
        let what = occurs_after(created, || fs::write(&path, "").unwrap()).await;
        assert_eq!(what, "a file was created");
        let deleted = events("exit-when-file-deleted", text(&path));
        let what = occurs_after(deleted, || fs::remove_file(&path).unwrap()).await;
        assert_eq!(what, "a file was deleted");
    }

    #[tokio::test]
    async fn pipe_is_closed_however_much_was_written() {
        let (reader, writer) = std::io::pipe().unwrap();
        let number = Value::Number(reader.as_raw_fd().into());
        let closed = events("exit-when-pipe-closed", number);
        rustix::io::write(&writer, b"not yet").unwrap();
        assert_eq!(occurs_after(closed, || drop(writer)).await, "a pipe was closed");
    }

    #[tokio::test]
    async fn process_exits() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let exits = events("exit-when-process-exits", Value::Number(child.id().into()));
        let what = occurs_after(exits, || child.kill().unwrap()).await;
        assert_eq!(what, "a process has exited");
        child.wait().unwrap();
        let arguments =
            [Argument { name: "exit-when-process-exits".into(), value: Value::Number(1 << 30) }];
        assert!(ExitWhen::new(&arguments, Path::new("/")).is_err());
        let arguments =
            [Argument { name: "exit-when-pipe-closed".into(), value: Value::Number(1 << 20) }];
        let error = ExitWhen::new(&arguments, Path::new("/")).unwrap_err();
        assert!(error.contains("exit-when-pipe-closed=1048576"), "{error}");
    }

    #[tokio::test]
    async fn script_tells_by_its_exit_status() {
        for (script, occurred) in [("exit 88", true), ("exit 0", false), ("exit 1", false)] {
            let told = events("exit-when-script", Value::Text(script.into()));
            assert!(told.has_scripts());
            assert_eq!(told.has_occurred().await, occurred, "{script}");
        }
    }
}
