//! Dedicated threads for busy connections.
//!
//! The runtime waits for all sockets together, which suits many connections that do little. For a
//! busy connection that takes three system calls where one would do, and every request wakes
//! another thread. A busy connection is therefore lent to a thread that does nothing else: the
//! thread polls the socket before it sleeps, as long as polling pays off, lets requests gather that
//! a client sends without waiting for replies, and returns the connection when it has become idle.
//!
//! The module does not know what is sent on a connection. It relies on a connection's future being
//! cancel safe.
//!
//! This is an executor for one future. Those of tokio, futures and pollster sleep as soon as the future is
//! pending; looking at the socket again before that is where the speed of a single connection comes from.

use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::machine;
use crate::transport::{Transport, Watched};

/// How long a thread polls for the next request before it sleeps. To be woken takes longer: some
/// 20 us on an idle core, and as long again for the client.
const LOOKING: Duration = Duration::from_micros(50);

/// How long small requests may gather of a client that sends them without waiting for replies, once
/// those before are answered: it costs as much to receive one and to send its reply as to receive
/// and send several, on both sides, and more over TCP. Without that, a server that is about as
/// fast as its client receives each by itself: with 16 requests on one connection, 12 % less over
/// a Unix socket and 30 % over TCP. What waits longer than this is missed by a client whose
/// requests have all been answered.
const GATHERING_UNIX: Duration = Duration::from_micros(3);
const GATHERING_TCP: Duration = Duration::from_micros(12);

/// Requests or replies that are longer than this, in bytes, do not gather.
const LITTLE: usize = 32 << 10;

/// How long a connection may be idle before it is returned to the runtime.
const IDLE: Duration = Duration::from_millis(100);

/// The most dedicated threads per processor. The runtime serves the other connections well enough.
const THREADS_PER_PROCESSOR: usize = 32;

/// The dedicated threads of a server.
#[derive(Clone, Debug, Default)]
pub struct Threads(Arc<AtomicUsize>);

/// A permit for one of the threads.
pub(super) struct ThreadPermit(Threads);

impl Threads {
    /// Returns a permit for another thread, if the limit allows it.
    pub(super) fn enter(&self) -> Option<ThreadPermit> {
        let most = THREADS_PER_PROCESSOR * machine::processors().get();
        let more = |count: usize| (count < most).then_some(count + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        entered.is_ok().then(|| ThreadPermit(self.clone()))
    }
}

#[cfg(test)]
impl Threads {
    /// The number of threads.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for ThreadPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a dedicated thread drives.
pub(super) trait Busy: Send + 'static {
    /// The result.
    type Output: Send;

    /// Continues. The future may be dropped between any two polls.
    fn run(&mut self) -> impl Future<Output = Self::Output>;
}

/// Lends a connection to a thread. Returns the connection, with its result unless it has become
/// idle.
///
/// # Errors
///
/// Returns the connection if no thread could be started, and nothing if the thread panicked, for
/// then the connection is lost.
pub(super) async fn lend<B: Busy>(
    busy: B,
    socket: Arc<Watched>,
    permit: ThreadPermit,
) -> Result<(B, Option<B::Output>), Option<B>> {
    let Ok(sleep) = Sleep::new() else { return Err(Some(busy)) };
    let runtime = Handle::current();
    // It is handed over once the thread runs, so that it is not lost if none can be started.
    let (hand_over, handed_over) = oneshot::channel::<B>();
    let (give_back, given_back) = oneshot::channel();
    let thread = thread::Builder::new().name("connection".into()).spawn(move || {
        let _runtime = runtime.enter();
        let Ok(mut busy) = handed_over.blocking_recv() else { return };
        let output = drive(pin!(busy.run()), &socket, &sleep);
        drop((socket, sleep, permit));
        let _ = give_back.send((busy, output));
    });
    if thread.is_err() {
        return Err(Some(busy));
    }
    if let Err(busy) = hand_over.send(busy) {
        return Err(Some(busy));
    }
    given_back.await.map_err(|_| None)
}

/// Polls a future until it is ready or the connection is idle.
fn drive<F: Future>(
    mut future: Pin<&mut F>,
    socket: &Watched,
    sleep: &Arc<Sleep>,
) -> Option<F::Output> {
    let waker = Waker::from(sleep.clone());
    let mut cx = Context::from_waker(&waker);
    let gathering = match socket.transport() {
        Transport::Unix => GATHERING_UNIX,
        Transport::Tcp => GATHERING_TCP,
    };
    // When data last arrived, and whether polling the socket pays off.
    let mut received = Instant::now();
    let mut looking = true;
    // Whether requests were just answered, and whether the next one had arrived by then.
    let mut answered = false;
    let mut queued = false;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        let look = socket.take_look();
        let now = Instant::now();
        if look.received > 0 {
            received = now;
            queued |= answered;
        }
        answered = look.requests > 0;
        if answered {
            let without_waiting = mem::take(&mut queued) || look.requests > 1;
            if without_waiting && look.received.max(look.sent) < LITTLE {
                while now.elapsed() < gathering && !sleep.is_over() {
                    thread::yield_now();
                }
                // What is here now may be an answer.
                answered = false;
            }
            continue;
        }
        if sleep.is_over() {
            continue;
        }
        let waited = now - received;
        if looking && waited < LOOKING {
            // Perhaps to the client.
            thread::yield_now();
            continue;
        }
        let left = IDLE.checked_sub(waited)?;
        sleep.until(socket, look.wanted, left);
        // Had it been worth while to look on? Then it is so the next time.
        looking = received.elapsed() < 2 * LOOKING;
    }
}

/// Sleep that is ended by a waker.
struct Sleep {
    state: AtomicU8,
    /// An eventfd that is readable when the sleeper was woken.
    bell: OwnedFd,
}

/// The thread is polling.
const AWAKE: u8 = 0;
/// The thread has to poll again.
const WOKEN: u8 = 1;
/// The thread sleeps or is about to.
const ASLEEP: u8 = 2;

impl Sleep {
    fn new() -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Self { state: AtomicU8::new(AWAKE), bell }))
    }

    /// Whether the waker was used, so that the thread must not sleep.
    fn is_over(&self) -> bool {
        // Only looked at first: a write would take the cache line from those who wake.
        self.state.load(Ordering::Relaxed) == WOKEN
            && self.state.swap(AWAKE, Ordering::Acquire) == WOKEN
    }

    /// Sleeps until the socket is ready, the waker is used or the time has elapsed.
    fn until(&self, socket: &Watched, wanted: PollFlags, time: Duration) {
        let asleep =
            self.state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire);
        if asleep.is_ok() {
            let mut fds = [PollFd::new(&self.bell, PollFlags::IN), PollFd::new(socket, wanted)];
            // A socket that nothing is wanted of may have been hung up, which is no news.
            let count = if wanted.is_empty() { 1 } else { 2 };
            let time = Timespec::try_from(time).ok();
            // An error, which is an interruption, is as good as anything that is ready.
            let _ = poll(&mut fds[..count], time.as_ref());
            if !fds[0].revents().is_empty() {
                let _ = rustix::io::read(&self.bell, &mut [0; 8]);
            }
        }
        self.state.swap(AWAKE, Ordering::AcqRel);
    }
}

impl Wake for Sleep {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == ASLEEP {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);
    const SHORT: Duration = Duration::from_millis(20);

    fn pair() -> (UnixStream, Watched) {
        let (other, socket) = UnixStream::pair().unwrap();
        (other, Watched::new(socket.into(), Transport::Unix))
    }

    /// Returns how long it slept.
    fn sleep(sleep: &Sleep, socket: &Watched, wanted: PollFlags, time: Duration) -> Duration {
        let start = Instant::now();
        sleep.until(socket, wanted, time);
        start.elapsed()
    }

    #[test]
    fn sleep_ends_by_the_waker_before_and_during_it() {
        let (_other, socket) = pair();
        let never = PollFlags::IN;
        let one = Sleep::new().unwrap();
        assert!(!one.is_over());
        one.wake_by_ref();
        assert!(one.is_over() && !one.is_over(), "once");
        one.wake_by_ref();
        assert!(sleep(&one, &socket, never, LONG) < LONG);
        let waker = one.clone();
        let waking = thread::spawn(move || {
            thread::sleep(SHORT);
            waker.wake();
        });
        assert!(sleep(&one, &socket, never, LONG) < LONG);
        waking.join().unwrap();
        assert!(sleep(&one, &socket, never, SHORT) >= SHORT, "no bell rings on");
    }

    #[test]
    fn sleep_ends_by_the_socket() {
        let (mut other, socket) = pair();
        let one = Sleep::new().unwrap();
        assert!(sleep(&one, &socket, PollFlags::OUT, LONG) < LONG, "there is room");
        std::io::Write::write_all(&mut other, b"x").unwrap();
        assert!(sleep(&one, &socket, PollFlags::IN, LONG) < LONG);
        assert!(sleep(&one, &socket, PollFlags::empty(), SHORT) >= SHORT, "of no interest");
    }

    #[test]
    fn a_socket_that_was_hung_up_does_not_keep_the_thread_awake() {
        let (other, socket) = pair();
        drop(other);
        let one = Sleep::new().unwrap();
        assert!(sleep(&one, &socket, PollFlags::empty(), SHORT) >= SHORT);
        assert!(sleep(&one, &socket, PollFlags::IN, LONG) < LONG);
    }

    /// They are to be read on from at once, for nothing else tells when.
    #[test]
    fn a_connection_goes_on_after_a_batch() {
        let (_other, socket) = pair();
        let one = Sleep::new().unwrap();
        for requests in [1, 2, 100] {
            let mut batches = 10;
            let start = Instant::now();
            let future = std::future::poll_fn(|_| {
                socket.end_batch(requests);
                batches -= 1;
                if batches == 0 { Poll::Ready(()) } else { Poll::Pending }
            });
            assert_eq!(drive(pin!(future), &socket, &one), Some(()));
            assert!(start.elapsed() < IDLE, "it has slept");
        }
    }

    #[test]
    fn threads_are_bounded() {
        let threads = Threads::default();
        let permits: Vec<ThreadPermit> =
            std::iter::from_fn(|| threads.enter()).take(1 << 20).collect();
        assert!(permits.len() < 1 << 20 && threads.enter().is_none());
        drop(permits);
        assert_eq!(threads.count(), 0);
    }
}
