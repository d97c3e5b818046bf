//! Requests that are routed, and wait until the component releases them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::component::Hold;

/// The requests of a device that are held.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<Vec<Held>>);

/// A request that is held. The list is as long as there are requests in flight.
#[derive(Debug)]
struct Held {
    number: u64,
    release: oneshot::Sender<()>,
}

impl Holds {
    /// Holds a request under a number. It is no longer held when the returned value is dropped.
    pub(super) fn hold(&self, number: u64) -> Hold {
        let (release, hold) = oneshot::channel();
        let mut held = self.held();
        held.retain(|one| !one.release.is_closed());
        held.push(Held { number, release });
        hold
    }

    /// Releases all requests that are held under a number.
    pub(super) fn release(&self, number: u64) {
        for one in self.held().extract_if(.., |one| one.number == number) {
            // It has ended otherwise.
            let _ = one.release.send(());
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn release_reaches_those_under_its_number_that_are_held_already() {
        let holds = Holds::default();
        let [mut first, mut second, mut other] = [1, 1, 2].map(|number| holds.hold(number));
        assert!((&mut first).now_or_never().is_none());
        holds.release(1);
        assert!((&mut first).now_or_never().is_some());
        assert!((&mut second).now_or_never().is_some());
        assert!((&mut other).now_or_never().is_none());
        assert!(holds.hold(1).now_or_never().is_none());
    }

    #[test]
    fn requests_that_have_ended_take_no_memory() {
        let holds = Holds::default();
        for number in 0..1000 {
            drop(holds.hold(number));
        }
        assert_eq!(holds.held().len(), 1);
    }
}
