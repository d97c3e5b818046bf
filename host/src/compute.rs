//! Low-priority threads for long computations: the guests of one export.
//!
//! The kernel schedules them, because much of what a guest does cannot be preempted otherwise. Each
//! export has its own threads, so that only its own requests wait for its guests. They are started
//! with the first task.
//!
//! The module does not know what is computed.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};

use rustix::process::setpriority_process;
use rustix::thread::gettid;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::machine;

/// The nice value of the threads (sched(7)). Against a thread that never sleeps they get 1/68 of a
/// processor, which makes them slow but does not starve them. At 10, where they get a tenth, a
/// thread that does I/O and sleeps in between often waits for them: next to 16 clients of a
/// component that loops, the slowest 1% of a neighbour's reads took 0.1 to 3.5 ms on two
/// processors, and take 0.1 ms at 19.
const NICE: i32 = 19;

/// The maximum number of threads of one export, however many processors there are.
const MAX_THREADS: usize = 16;

/// The threads of one export. Unfinished tasks are abandoned when the last clone is dropped.
#[derive(Clone, Debug, Default)]
pub struct Compute(Arc<Threads>);

#[derive(Debug, Default)]
struct Threads(OnceLock<Runtime>);

impl Compute {
    /// Starts a task on the threads.
    ///
    /// # Errors
    ///
    /// Returns an error if there are no threads yet and none can be started.
    pub fn spawn<F>(&self, task: F) -> io::Result<JoinHandle<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        Ok(self.runtime()?.spawn(task))
    }

    /// Runs a task on the threads. It runs to completion even if this future is dropped.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::spawn`], or if the task panicked.
    pub async fn run<F>(&self, task: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.spawn(task)?.await.map_err(io::Error::other)
    }

    fn runtime(&self) -> io::Result<&Runtime> {
        if let Some(runtime) = self.0.0.get() {
            return Ok(runtime);
        }
        let threads = machine::processors().get().min(MAX_THREADS);
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("guest")
            .enable_time()
            .on_thread_start(lower_priority)
            .build()?;
        if let Err(late) = self.0.0.set(runtime) {
            late.shutdown_background();
        }
        Ok(self.0.0.wait())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // A blocking shutdown would panic if one of the runtime's own threads drops it.
            runtime.shutdown_background();
        }
    }
}

fn lower_priority() {
    if let Err(error) = setpriority_process(Some(gettid()), NICE) {
        tracing::debug!("a thread for guests keeps its priority: {error}");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[tokio::test]
    async fn tasks_run_on_threads_of_low_priority() {
        let compute = Compute::default();
        let priority = || getpriority_process(Some(gettid())).unwrap();
        let here = priority();
        let there = compute.run(async move { priority() }).await.unwrap();
        assert_eq!(there, here.max(NICE));
        assert_eq!(priority(), here, "this thread keeps its own");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let compute = Compute::default();
        assert!(compute.run(async { panic!("for a test") }).await.is_err());
        assert_eq!(compute.run(async { 1 }).await.unwrap(), 1, "and the threads go on");
    }

    #[tokio::test]
    async fn threads_may_be_dropped_by_one_of_themselves() {
        let compute = Compute::default();
        let (send, received) = tokio::sync::oneshot::channel();
        let own = compute.clone();
        let task = compute.spawn(async move {
            let _ = received.await;
            drop(own);
        });
        drop(compute);
        send.send(()).unwrap();
        // It is given up or done, either will do.
        let _ = task.unwrap().await;
    }
}
