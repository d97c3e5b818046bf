//! Disks and snapshots that are removed by themselves: when their time is over, or, if they are ephemeral,
//! when their last client has gone.
//!
//! One task sleeps until the first of them is due. Those that have no end are not known here, and cost
//! nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use memnbd::exports::Export;
use tokio::sync::Notify;

use super::api::Api;
use super::model::DiskSpec;
use super::ttl::Ttl;
use crate::events::{Reason, TOLD};

/// How long an ephemeral disk stays without clients, so that one may connect again.
const GRACE: Duration = Duration::from_secs(5);

/// The shortest and the longest time until another attempt to remove what cannot be removed for now.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The disk whose export has this number.
    Disk(u64),
    /// The snapshot of this name.
    Snapshot(String),
}

/// When disks and snapshots end.
#[derive(Clone, Default)]
pub(super) struct Lives(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ends: Mutex<Ends>,
    /// Notified when the first end comes earlier.
    earlier: Notify,
}

#[derive(Default)]
struct Ends {
    lives: HashMap<Key, Life>,
    /// When to look at which, the first one first.
    queue: BTreeSet<(Instant, Key)>,
}

/// The life of a disk or a snapshot.
#[derive(Default)]
struct Life {
    /// The disk, if it is one.
    disk: Weak<Export>,
    ttl: Option<Ttl>,
    expires: Option<Instant>,
    ephemeral: bool,
    /// When the last client has been gone for long enough.
    unused: Option<Instant>,
    /// When to try again, and how long to wait after that.
    retry: Option<(Instant, Duration)>,
    /// Why it is being removed.
    reason: Option<Reason>,
}

impl Life {
    /// Returns when it ends, and why.
    fn end(&self) -> Option<(Instant, Reason)> {
        let expires = self.expires.map(|at| (at, Reason::Expired));
        let unused = self.unused.map(|at| (at, Reason::Unused));
        expires.into_iter().chain(unused).min_by_key(|&(at, _)| at)
    }

    /// Returns when to look at it.
    fn next(&self) -> Option<Instant> {
        let (end, _) = self.end()?;
        Some(self.retry.map_or(end, |(at, _)| at.max(end)))
    }
}

impl Ends {
    /// Changes a life, which begins and ends with that if need be. Returns true if it is the first one to
    /// look at.
    fn change(&mut self, key: Key, change: impl FnOnce(&mut Life)) -> bool {
        let life = self.lives.entry(key.clone()).or_default();
        let before = life.next();
        change(life);
        let (after, is_endless) = (life.next(), life.ttl.is_none() && !life.ephemeral);
        if is_endless {
            self.lives.remove(&key);
        }
        if before == after {
            return false;
        }
        if let Some(before) = before {
            self.queue.remove(&(before, key.clone()));
        }
        let Some(after) = after else { return false };
        self.queue.insert((after, key.clone()));
        self.queue.first().is_some_and(|(_, first)| *first == key)
    }

    fn forget(&mut self, key: &Key) -> Option<Life> {
        let life = self.lives.remove(key)?;
        if let Some(at) = life.next() {
            self.queue.remove(&(at, key.clone()));
        }
        Some(life)
    }
}

impl Lives {
    /// Gives a disk the life that its description says. If it has that already, nothing changes: see
    /// [`Self::renew`].
    pub(super) fn set_disk(&self, export: &Arc<Export>, spec: &DiskSpec) {
        let key = Key::Disk(export.id());
        if spec.ttl.is_none() && !spec.ephemeral && !self.ends().lives.contains_key(&key) {
            return;
        }
        let is_used = export.connections() > 0;
        let now = Instant::now();
        self.change(key, |life| {
            life.disk = Arc::downgrade(export);
            if life.ttl != spec.ttl {
                life.ttl = spec.ttl;
                life.expires = spec.ttl.map(|ttl| now + ttl.duration());
            }
            if life.ephemeral != spec.ephemeral {
                life.ephemeral = spec.ephemeral;
                // Whether they are still there is seen then.
                life.unused = (spec.ephemeral && is_used).then(|| now + GRACE);
            }
        });
    }

    /// Gives a snapshot a new life.
    pub(super) fn set_snapshot(&self, name: &str, ttl: Option<Ttl>) {
        let expires = ttl.map(|ttl| Instant::now() + ttl.duration());
        self.change(Key::Snapshot(name.to_owned()), |life| {
            (life.ttl, life.expires, life.retry) = (ttl, expires, None);
        });
    }

    /// Has the time of a disk, if it has one, begin anew.
    pub(super) fn renew(&self, export: &Export) {
        let key = Key::Disk(export.id());
        let mut ends = self.ends();
        if !ends.lives.contains_key(&key) {
            return;
        }
        // It is not earlier than before.
        ends.change(key, |life| {
            life.expires = life.ttl.map(|ttl| Instant::now() + ttl.duration());
        });
    }

    /// A client begins to use a disk, or has ended.
    pub(super) fn client(&self, disk: u64, is_connected: bool) {
        let key = Key::Disk(disk);
        let is_ephemeral = self.ends().lives.get(&key).is_some_and(|life| life.ephemeral);
        if is_ephemeral {
            let unused = (!is_connected).then(|| Instant::now() + GRACE);
            self.change(key, |life| life.unused = unused.filter(|_| life.ephemeral));
        }
    }

    /// Returns for how long what has a ttl stays.
    pub(super) fn left(&self, key: &Key) -> Option<Duration> {
        let expires = self.ends().lives.get(key)?.expires?;
        Some(expires.saturating_duration_since(Instant::now()))
    }

    /// Forgets what is gone. Returns why it was removed, if nobody asked for that.
    pub(super) fn forget(&self, key: &Key) -> Option<Reason> {
        self.ends().forget(key)?.reason
    }

    /// Waits until something is due.
    async fn due(&self) -> Key {
        loop {
            let earlier = self.0.earlier.notified();
            let first = self.ends().queue.first().cloned();
            match first {
                Some((at, key)) if at <= Instant::now() => return key,
                Some((at, _)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at.into()) => {}
                        () = earlier => {}
                    }
                }
                None => earlier.await,
            }
        }
    }

    /// Returns why something is to be removed now, and the disk that it is, if it is still due.
    fn ending(&self, key: &Key) -> Option<(Reason, Weak<Export>)> {
        let mut ends = self.ends();
        let life = ends.lives.get_mut(key)?;
        let (at, reason) = life.end().filter(|_| life.next() <= Some(Instant::now()))?;
        debug_assert!(at <= Instant::now(), "it is looked at after its end");
        life.reason = Some(reason);
        Some((reason, life.disk.clone()))
    }

    /// Has an ephemeral disk that has clients after all be looked at again.
    fn still_used(&self, key: &Key) {
        let again = Instant::now() + GRACE;
        self.change(key.clone(), |life| {
            (life.unused, life.reason) = (life.unused.map(|_| again), None);
        });
    }

    /// Tries to remove something again later. Returns true if that is the first time.
    fn postpone(&self, key: &Key) -> bool {
        let mut is_first = false;
        self.change(key.clone(), |life| {
            is_first = life.retry.is_none();
            let pause = life.retry.map_or(SHORTEST_PAUSE, |(_, pause)| pause);
            life.retry = Some((Instant::now() + pause, (2 * pause).min(LONGEST_PAUSE)));
            life.reason = None;
        });
        is_first
    }

    fn change(&self, key: Key, change: impl FnOnce(&mut Life)) {
        if self.ends().change(key, change) {
            self.0.earlier.notify_one();
        }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes disks and deletes snapshots when they are due.
pub(super) async fn end_lives(api: Arc<Api>) {
    loop {
        let key = api.lives.due().await;
        api.end_life(key).await;
    }
}

impl Api {
    async fn end_life(&self, key: Key) {
        let _alone = self.changing.lock().await;
        // It may have been renewed, or removed.
        let Some((reason, disk)) = self.lives.ending(&key) else { return };
        let disk = match &key {
            Key::Snapshot(name) => {
                if self.forget_alone(name, Some(reason)).is_err() {
                    self.lives.forget(&key);
                }
                return;
            }
            Key::Disk(_) => disk.upgrade(),
        };
        let Some(disk) = disk else {
            self.lives.forget(&key);
            return;
        };
        if reason == Reason::Unused && disk.connections() > 0 {
            return self.lives.still_used(&key);
        }
        let name = self.server.local_name(&disk);
        if !disk.is_stood_on() {
            // They would keep it for ever.
            for export in self.offers.of_disk(name) {
                let _ = self.withdraw(&export).await;
            }
        }
        match self.remove_alone(name).await {
            Ok(()) => tracing::info!(target: TOLD, "disk {name:?}: removed, {reason}"),
            Err(problem) if problem.is(StatusCode::CONFLICT) => {
                if self.lives.postpone(&key) {
                    let detail = problem.detail();
                    tracing::info!("disk {name:?}: to be removed, {reason}, but not yet: {detail}");
                }
            }
            Err(problem) => {
                self.lives.forget(&key);
                tracing::error!("disk {name:?}: removed, {reason}: {}", problem.detail());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use memnbd::device::Text;

    use super::*;

    fn disk() -> Arc<Export> {
        Export::of_device("a", Text::sector(""))
    }

    fn spec(ttl: &str, ephemeral: bool) -> DiskSpec {
        DiskSpec { ttl: ttl.parse().ok(), ephemeral, ..DiskSpec::default() }
    }

    fn is_tidy(lives: &Lives) -> bool {
        let ends = lives.ends();
        let queued = ends.lives.iter().filter_map(|(key, life)| Some((life.next()?, key.clone())));
        queued.collect::<BTreeSet<_>>() == ends.queue
    }

    #[test]
    fn what_has_no_end_is_not_known() {
        let (lives, disk) = (Lives::default(), disk());
        let key = Key::Disk(disk.id());
        lives.set_disk(&disk, &spec("", false));
        lives.renew(&disk);
        lives.client(disk.id(), true);
        lives.client(disk.id(), false);
        assert!(lives.ends().lives.is_empty() && is_tidy(&lives));
        lives.set_disk(&disk, &spec("1h", true));
        assert!(lives.left(&key).is_some());
        lives.set_disk(&disk, &spec("", false));
        assert!(lives.ends().lives.is_empty() && is_tidy(&lives));
        lives.set_snapshot("s", "1h".parse().ok());
        assert!(lives.left(&Key::Snapshot("s".into())).is_some());
        lives.set_snapshot("s", None);
        assert!(lives.ends().lives.is_empty() && is_tidy(&lives));
    }

    #[test]
    fn only_another_ttl_or_a_renewal_begins_the_time_anew() {
        let (lives, disk) = (Lives::default(), disk());
        let key = Key::Disk(disk.id());
        let expires = || lives.ends().lives[&key].expires.unwrap();
        lives.set_disk(&disk, &spec("1h", false));
        let first = expires();
        lives.set_disk(&disk, &spec("60m", true));
        assert_eq!(expires(), first);
        lives.renew(&disk);
        let renewed = expires();
        assert!(renewed > first && is_tidy(&lives));
        lives.set_disk(&disk, &spec("2h", true));
        assert!(expires() > renewed && is_tidy(&lives));
        assert_eq!(lives.forget(&key), None);
        assert!(lives.ends().queue.is_empty());
    }

    #[test]
    fn ephemeral_disks_end_only_after_a_client() {
        let (lives, disk) = (Lives::default(), disk());
        let key = Key::Disk(disk.id());
        let unused = || lives.ends().lives[&key].unused;
        lives.set_disk(&disk, &spec("", true));
        assert_eq!(unused(), None);
        lives.client(disk.id(), true);
        assert_eq!(unused(), None);
        lives.client(disk.id(), false);
        let end = unused().unwrap();
        lives.still_used(&key);
        assert!(unused().unwrap() > end);
        lives.client(disk.id(), true);
        assert_eq!(unused(), None, "it came back");
        assert!(is_tidy(&lives));
    }

    #[tokio::test]
    async fn what_is_due_is_tried_again_ever_more_rarely() {
        let (lives, disk) = (Lives::default(), disk());
        let key = Key::Disk(disk.id());
        lives.set_disk(&disk, &spec("1h", false));
        let now = Instant::now();
        lives.change(key.clone(), |life| life.expires = Some(now));
        assert_eq!(lives.due().await, key);
        assert_eq!(lives.ending(&key).map(|(reason, _)| reason), Some(Reason::Expired));
        assert!(lives.postpone(&key) && is_tidy(&lives));
        assert!(lives.ending(&key).is_none(), "not yet");
        let tried_again = |_| {
            assert!(!lives.postpone(&key));
            lives.ends().lives[&key].retry.unwrap().1
        };
        let pauses: Vec<Duration> = (0..10).map(tried_again).collect();
        assert_eq!((pauses[0], pauses[9]), (4 * SHORTEST_PAUSE, LONGEST_PAUSE));
        assert_eq!(lives.forget(&key), None);
    }

    #[tokio::test]
    async fn an_end_that_comes_earlier_is_not_slept_through() {
        let (lives, disk) = (Lives::default(), disk());
        lives.set_disk(&disk, &spec("1h", false));
        let waiting = tokio::spawn({
            let lives = lives.clone();
            async move { lives.due().await }
        });
        tokio::task::yield_now().await;
        let key = Key::Snapshot("s".into());
        lives.set_snapshot("s", "1s".parse().ok());
        let limit = Duration::from_secs(30);
        assert_eq!(tokio::time::timeout(limit, waiting).await.unwrap().unwrap(), key);
    }
}
