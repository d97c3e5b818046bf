//! What happens in the server, for those who follow it: the last events, numbered.
//!
//! Whoever has something to tell calls [`Hub::tell`], which never waits. Readers have nothing but a
//! position ([`Reader`]), so that slow ones cost no memory: they miss what is not kept any more,
//! and are told how much that was.
//!
//! What clients of disks cause, and what is logged, is kept apart from what those do who control
//! the server: however many connections a client opens, it does not push out that a disk was
//! removed.
//!
//! - `event`: what is told.
//! - `feed`: the lines of the log.
//! - `hubs`: those of each tenant apart.
//! - `ring`: a bounded number of events.

mod event;
mod feed;
mod hubs;
mod ring;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

pub(super) use event::{Event, Happening, Reason};
pub(super) use feed::{Feed, disk_of};
pub(super) use hubs::Hubs;
pub(super) use ring::Kept;
use ring::Ring;

/// The target of log lines that tell the same as an event, so that they are no events as well.
pub(super) const TOLD: &str = "memnbd_host::told";

/// The target of log lines that tell who changed what through the control API, which are no events: their
/// readers may not know of each other.
pub(super) const AUDIT: &str = "memnbd_host::audit";

/// The most events of each kind that are kept.
const MAX_EVENTS: usize = 1024;

/// The most memory that the events of each kind take, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// The last events of a server. Clones are the same.
#[derive(Clone)]
pub(super) struct Hub(Arc<Inner>);

struct Inner {
    /// When the server was started, in milliseconds since 1970. Events of another run have another
    /// one.
    run: u64,
    rings: Mutex<Rings>,
    news: watch::Sender<News>,
}

struct Rings {
    /// The number of the next event; the first is 1.
    next: u64,
    of_control: Ring,
    of_clients: Ring,
}

/// What readers wait for.
#[derive(Clone, Copy)]
struct News {
    next: u64,
    /// There will be no more events.
    ended: bool,
}

impl Default for Hub {
    fn default() -> Self {
        Self::new(MAX_EVENTS, MAX_BYTES)
    }
}

impl Hub {
    fn new(events: usize, bytes: usize) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ring = || Ring::new(events, bytes);
        Self(Arc::new(Inner {
            run: since_1970.as_millis() as u64,
            rings: Mutex::new(Rings { next: 1, of_control: ring(), of_clients: ring() }),
            news: watch::Sender::new(News { next: 1, ended: false }),
        }))
    }

    /// Tells what happened.
    pub(super) fn tell(&self, disk: Option<String>, happening: Happening) {
        let by_clients = happening.is_by_clients();
        self.keep(disk, happening, by_clients);
    }

    /// Tells what happened because of a client of a disk.
    pub(super) fn tell_of_client(&self, disk: Option<String>, happening: Happening) {
        self.keep(disk, happening, true);
    }

    fn keep(&self, disk: Option<String>, happening: Happening, by_clients: bool) {
        let kept = Kept::new(Event::now(disk, happening));
        let next = {
            let mut rings = self.rings();
            let Rings { next, of_control, of_clients } = &mut *rings;
            let ring = if by_clients { of_clients } else { of_control };
            ring.push(*next, kept);
            *next += 1;
            *next
        };
        self.0.news.send_modify(|news| news.next = news.next.max(next));
    }

    /// Ends all readers, once they have read everything.
    pub(super) fn end(&self) {
        self.0.news.send_modify(|news| news.ended = true);
    }

    /// Completes when [`Self::end`] was called.
    pub(super) async fn ended(&self) {
        // It is not an error: the sender is held here.
        let _ = self.0.news.subscribe().wait_for(|news| news.ended).await;
    }

    /// Returns a reader of the events after a position.
    pub(super) fn read(&self, after: After) -> Reader {
        let rings = self.rings();
        let oldest = [&rings.of_control, &rings.of_clients];
        let oldest = oldest.iter().filter_map(|ring| ring.first_since(0)).map(|(number, _)| number);
        let oldest = oldest.min().unwrap_or(rings.next);
        let (next, restarted) = match after {
            After::Nothing => (oldest, false),
            After::Now => (rings.next, false),
            After::Id(Id { run, number }) if run == self.0.run && number < rings.next => {
                (number + 1, false)
            }
            After::Id(_) => (oldest, true),
        };
        Reader { hub: self.clone(), news: self.0.news.subscribe(), next, restarted }
    }

    /// Returns the name of an event.
    fn id(&self, number: u64) -> Id {
        Id { run: self.0.run, number }
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id {
    run: u64,
    number: u64,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

impl std::str::FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (run, number) = text.split_once('-').ok_or(())?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(run) || !digits(number) {
            return Err(());
        }
        Ok(Self { run: run.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum After {
    /// With the oldest event that is kept.
    Nothing,
    /// With the next event that happens.
    Now,
    /// With the one after this.
    Id(Id),
}

/// A reader of events.
pub(super) struct Reader {
    hub: Hub,
    news: watch::Receiver<News>,
    /// The number of the next event to read.
    next: u64,
    /// The position was in another run of the server, which is still to be told.
    restarted: bool,
}

/// What a reader gets.
pub(super) enum Read {
    /// An event.
    Event(Id, Kept),
    /// Events that are not kept any more, or were those of another run of the server.
    Lost(Id, Kept),
}

impl Reader {
    /// Returns the next event, or `None` if there is none yet.
    pub(super) fn try_next(&mut self) -> Option<Read> {
        let rings = self.hub.rings();
        let rest = [&rings.of_control, &rings.of_clients];
        let found = rest.iter().filter_map(|ring| ring.first_since(self.next));
        let found = found.min_by_key(|(number, _)| *number);
        let number = found.map_or(rings.next, |(number, _)| number);
        if number > self.next || self.restarted {
            let lost = Happening::Lost { events: number - self.next, restarted: self.restarted };
            (self.next, self.restarted) = (number, false);
            // A client that has seen this goes on after it.
            return Some(Read::Lost(self.hub.id(number - 1), Kept::new(Event::now(None, lost))));
        }
        let (number, kept) = found?;
        self.next = number + 1;
        Some(Read::Event(self.hub.id(number), kept.clone()))
    }

    /// Waits until there is another event. Returns false if there will be none.
    pub(super) async fn more(&mut self) -> bool {
        let next = self.next;
        // It is not an error: the reader holds the sender.
        let news = self.news.wait_for(|news| news.next > next || news.ended).await;
        news.is_ok_and(|news| news.next > next)
    }
}

#[cfg(test)]
mod tests;
