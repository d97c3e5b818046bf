//! Running work that may hang, with a time limit.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Runs a function on a thread of its own and waits for it for at most `limit`. Unfinished work
/// continues in the background until it completes or the process exits.
pub(super) fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (sender, done) = mpsc::sync_channel::<()>(0);
    let run = move || {
        let _sender = sender;
        work();
    };
    if thread::Builder::new().name("bounded".into()).spawn(run).is_ok() {
        // Nothing is ever sent, so this returns an error on completion as well as on timeout.
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
