//! The exports that are made on demand, for clients that ask for a list.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::component::Listed;

/// How long a list is used again. It bounds what clients make the server do that ask for lists all the
/// time, and how many lists it holds for clients that read slowly.
const FRESH: Duration = Duration::from_secs(1);

/// How long a client waits for a search. After that it gets what was found before, for the list also has
/// exports that have nothing to do with the search.
const PATIENCE: Duration = Duration::from_secs(3);

/// The most exports in a list.
const MAX_LISTED: usize = 100_000;

/// Finds the exports that can be asked for.
pub type FindExports = Box<dyn Fn() -> Finding + Send + Sync>;

/// A future that finds exports. It must not block.
pub type Finding = Pin<Box<dyn Future<Output = Listed> + Send>>;

/// What was found last, and when.
type Last = Option<(Instant, Arc<Listed>)>;

/// The exports that can be asked for.
pub(super) struct Listing {
    find: FindExports,
    /// Locked while exports are searched for, even if nobody waits for them any more: one search is under
    /// way at a time, however many clients ask.
    last: Arc<Mutex<Last>>,
    /// What was found last, for those who do not wait any longer.
    known: Arc<std::sync::Mutex<Arc<Listed>>>,
    /// The names may soon stand for something else.
    pub(super) is_volatile: bool,
}

impl Listing {
    pub(super) fn new(find: FindExports, is_volatile: bool) -> Self {
        Self { find, last: Arc::default(), known: Arc::default(), is_volatile }
    }

    /// Returns the exports in the order of their names: as they were a second ago at most, or as they were
    /// found before if the search takes long.
    pub(super) async fn listed(&self) -> Arc<Listed> {
        let searched = tokio::time::timeout(PATIENCE, self.search()).await;
        searched.unwrap_or_else(|_| known(&self.known).clone())
    }

    async fn search(&self) -> Arc<Listed> {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((found, listed)) = &*last
            && found.elapsed() < FRESH
        {
            return listed.clone();
        }
        let (finding, latest) = ((self.find)(), self.known.clone());
        let found = tokio::spawn(async move {
            // In case that it panics.
            *last = Some((Instant::now(), Arc::default()));
            let mut listed = finding.await;
            listed.exports.sort_unstable_by(|one, other| one.name.cmp(&other.name));
            listed.exports.truncate(MAX_LISTED);
            let listed = Arc::new(listed);
            *last = Some((Instant::now(), listed.clone()));
            *known(&latest) = listed.clone();
            listed
        });
        // It fails if it panicked, which was logged.
        found.await.unwrap_or_default()
    }
}

fn known(known: &std::sync::Mutex<Arc<Listed>>) -> MutexGuard<'_, Arc<Listed>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::component::ListedExport;

    const SHORT: Duration = Duration::from_millis(20);

    /// A listing whose function waits for `go`, and the number of its calls.
    fn hanging() -> (Arc<Listing>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (go, wait) = mpsc::channel::<()>();
        let (wait, calls) = (std::sync::Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let wait = Arc::new(wait);
        let find = move || -> Finding {
            counted.fetch_add(1, Ordering::Relaxed);
            let wait = wait.clone();
            Box::pin(async move {
                // Not under the lock, so that several calls could be under way.
                while wait.lock().unwrap().try_recv() == Err(mpsc::TryRecvError::Empty) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let named = |name: &str| ListedExport { name: name.into(), ..Default::default() };
                Listed { exports: vec![named("b"), named("a")], default: None }
            })
        };
        (Arc::new(Listing::new(Box::new(find), false)), go, calls)
    }

    #[tokio::test]
    async fn search_that_hangs_occupies_one_thread() {
        let (listing, go, calls) = hanging();
        for _ in 0..20 {
            assert!(tokio::time::timeout(SHORT, listing.listed()).await.is_err());
        }
        let waiting = [(); 3].map(|()| {
            let listing = listing.clone();
            tokio::spawn(async move { listing.listed().await })
        });
        tokio::time::sleep(SHORT).await;
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        go.send(()).unwrap();
        for waiting in waiting {
            let listed = waiting.await.unwrap();
            let names: Vec<&str> = listed.exports.iter().map(|export| &*export.name).collect();
            assert_eq!(names, ["a", "b"], "they share its answer");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn client_gets_what_was_found_before_when_a_search_takes_long() {
        let (listing, go, calls) = hanging();
        assert!(listing.listed().await.exports.is_empty(), "nothing was found before");
        go.send(()).unwrap();
        assert_eq!(listing.listed().await.exports.len(), 2);
        tokio::time::sleep(FRESH).await;
        assert_eq!(listing.listed().await.exports.len(), 2, "as before");
        assert_eq!(calls.load(Ordering::Relaxed), 2, "the second search hangs");
    }

    #[tokio::test]
    async fn search_that_panics_is_not_repeated_at_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let find = move || -> Finding {
            counted.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { panic!("on purpose") })
        };
        let listing = Listing::new(Box::new(find), false);
        for _ in 0..3 {
            assert!(listing.listed().await.exports.is_empty());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
