//! Work that may hang, given a limited time.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs a function on a thread of its own and waits for it, for no longer than `limit`. What is not
/// done by then goes on, or ends with the process.
pub(super) fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (sender, done) = mpsc::sync_channel::<()>(0);
    let run = move || {
        let _sender = sender;
        work();
    };
    if thread::Builder::new().name("bounded".into()).spawn(run).is_ok() {
        // It ends with an error either way: nothing is ever sent.
        let _ = done.recv_timeout(limit);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_is_waited_for_but_not_for_ever() {
        let (sender, receiver) = mpsc::channel();
        within(Duration::from_secs(60), move || sender.send(()).unwrap());
        receiver.try_recv().unwrap();
        let start = Instant::now();
        within(Duration::from_millis(10), || thread::sleep(Duration::from_secs(60)));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
