//! A thread beside the main thread: it loads the default component and looks up the limits of the machine
//! while the command line is parsed, confines itself when the main thread does, and handles signals
//! afterwards.
//!
//! One thread does all that, because starting and ending threads is a good part of the time that the
//! process takes to start.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

/// What the thread does next.
type Task = Box<dyn FnOnce() + Send>;

/// A handle to the thread. It ends after its last task if this is dropped.
pub(super) struct Companion(io::Result<Sender<Task>>);

impl Companion {
    /// Starts the thread with a first task, which is skipped if the thread cannot be started.
    pub(super) fn start(first: impl FnOnce() + Send + 'static) -> Self {
        let (next, tasks) = mpsc::channel::<Task>();
        let run = move || {
            first();
            while let Ok(task) = tasks.recv() {
                task();
            }
        };
        Self(thread::Builder::new().name("companion".into()).spawn(run).map(|_| next))
    }

    /// Has the thread run another task after those before it.
    ///
    /// # Errors
    ///
    /// Returns an error if the thread could not be started.
    pub(super) fn run(&self, task: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let sender = self.0.as_ref();
        let sender = sender.map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        let gone = |_| io::Error::other("the thread has panicked");
        sender.send(Box::new(task)).map_err(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_thread_runs_all_tasks_in_order() {
        let (send, received) = mpsc::channel();
        let first = send.clone();
        let companion = Companion::start(move || first.send(thread::current().id()).unwrap());
        for send in [send.clone(), send] {
            companion.run(move || send.send(thread::current().id()).unwrap()).unwrap();
        }
        let next = || received.recv_timeout(Duration::from_secs(10)).unwrap();
        let threads = [next(), next(), next()];
        assert!(threads.iter().all(|thread| *thread == threads[0]));
    }
}
