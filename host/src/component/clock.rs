//! The clock that interrupts guests: a thread that ticks while there are calls, and sleeps when
//! there are none.
//!
//! At each tick, a running guest yields to others on its thread, and its deadline is checked. So
//! there must be ticks for as long as a guest runs. A running guest was called or resumed after
//! [`Clock::wake`], and yields by the second tick from then on, unless it has made the host work
//! for it; the clock keeps ticking for far longer than that takes.
//!
//! The thread is started by the first call, so that there is none while components are only loaded: a process
//! confines itself after that, and a thread that is there already would stay unconfined.
//!
//! Ticks are counted as a measure of time: while the process or its machine is stopped, there are
//! none.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use wasmtime::EngineWeak;

/// The interval at which a running guest yields to others on its thread.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// How long the clock keeps ticking after the last call.
const OVERTIME: Duration = Duration::from_secs(10);

/// A clock. Its thread ends when it is dropped.
pub(super) struct Clock {
    state: Arc<State>,
    thread: OnceLock<Thread>,
    engine: EngineWeak,
    /// How many ticks it keeps ticking after the last call.
    last_ticks: u32,
}

#[derive(Default)]
struct State {
    /// Whether there was a call since the last tick.
    called: AtomicBool,
    ended: AtomicBool,
    asleep: AtomicBool,
    ticks: AtomicU64,
}

impl Clock {
    pub(super) fn new(engine: EngineWeak) -> Self {
        Self::with_overtime(engine, OVERTIME)
    }

    fn with_overtime(engine: EngineWeak, overtime: Duration) -> Self {
        let last_ticks = overtime.div_duration_f64(TICK).ceil() as u32;
        Self { state: Arc::default(), thread: OnceLock::new(), engine, last_ticks }
    }

    /// Wakes the clock, because a guest is about to run.
    ///
    /// # Panics
    ///
    /// Panics if this is the first call and the thread cannot be started: nothing would interrupt the guest.
    #[inline]
    pub(super) fn wake(&self) {
        // A value that is about to be cleared is good enough: the call then counts for the current
        // tick.
        if !self.state.called.load(Ordering::Relaxed) {
            self.called();
        }
    }

    /// The number of ticks so far.
    #[inline]
    pub(super) fn ticks(&self) -> u64 {
        self.state.ticks.load(Ordering::Relaxed)
    }

    #[cold]
    fn called(&self) {
        let thread = self.thread.get_or_init(|| self.start());
        self.state.called.store(true, Ordering::SeqCst);
        if self.state.asleep.load(Ordering::SeqCst) {
            thread.unpark();
        }
    }

    fn start(&self) -> Thread {
        let (state, engine, last_ticks) =
            (self.state.clone(), self.engine.clone(), self.last_ticks);
        let run = move || state.run(&engine, last_ticks);
        let started = thread::Builder::new().name("epoch".into()).spawn(run);
        started.expect("a thread for the clock, without which no guest may run").thread().clone()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        if self.thread.get().is_some() {
            self.called();
        }
    }
}

impl State {
    fn run(&self, engine: &EngineWeak, last_ticks: u32) {
        let mut quiet = 0;
        while !self.ended.load(Ordering::Relaxed)
            && let Some(engine) = engine.upgrade()
        {
            self.ticks.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
            quiet = if self.called.swap(false, Ordering::SeqCst) { 0 } else { quiet + 1 };
            if quiet >= last_ticks {
                self.sleep();
                quiet = 0;
            }
        }
    }

    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // A call that comes after this check sees that the clock is asleep.
        while !self.called.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn wait_until(condition: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        while !condition() {
            if start.elapsed() > Duration::from_secs(30) {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn clock_sleeps_wakes_and_ends() {
        let engine = wasmtime::Engine::default();
        let clock = Clock::with_overtime(engine.weak(), 2 * TICK);
        let asleep = || clock.state.asleep.load(Ordering::SeqCst);
        assert!(clock.thread.get().is_none(), "nobody has called yet");
        clock.wake();
        for _ in 0..3 {
            assert!(wait_until(asleep), "nobody calls");
            clock.wake();
            assert!(wait_until(|| !clock.state.called.load(Ordering::SeqCst)), "it ticks again");
        }
        assert!(wait_until(asleep));
        let state = Arc::downgrade(&clock.state);
        drop(clock);
        assert!(wait_until(|| state.strong_count() == 0), "the thread ends");
    }
}
