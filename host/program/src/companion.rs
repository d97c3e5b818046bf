//! A thread beside the main thread: it loads the default component and looks up the limits of the machine
//! while the command line is parsed, and handles signals afterwards.
//!
//! One thread does both, because starting and ending threads is a good part of the time that the
//! process takes to start.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

/// What the thread does next.
type Task = Box<dyn FnOnce() + Send>;

/// A handle to the thread. It ends with its first task if this is dropped.
pub(super) struct Companion(io::Result<Sender<Task>>);

impl Companion {
    /// Starts the thread with a first task, which is skipped if the thread cannot be started.
    pub(super) fn start(first: impl FnOnce() + Send + 'static) -> Self {
        let (next, tasks) = mpsc::channel::<Task>();
        let run = move || {
            first();
            if let Ok(task) = tasks.recv() {
                task();
            }
        };
        Self(thread::Builder::new().name("companion".into()).spawn(run).map(|_| next))
    }

    /// Has the thread run a second task, until the process exits.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread could not be started.
    pub(super) fn run(self, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let gone = |_| io::Error::other("the thread has panicked");
        self.0?.send(Box::new(task)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_thread_runs_both_tasks_in_order() {
        let (send, received) = mpsc::channel();
        let first = send.clone();
        let companion = Companion::start(move || first.send(thread::current().id()).unwrap());
        companion.run(move || send.send(thread::current().id()).unwrap()).unwrap();
        let next = || received.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(next(), next());
    }
}
