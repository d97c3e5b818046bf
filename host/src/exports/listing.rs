//! The names of exports that are made on demand, for clients that ask for a list.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// How long a list is used again. It bounds what clients make the server do that ask for lists all the
/// time, and how many lists it holds for clients that read slowly.
const FRESH: Duration = Duration::from_secs(1);

/// The most names in a list.
const MAX_NAMES: usize = 100_000;

/// Finds names, which may block.
pub type FindNames = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// The names that can be asked for.
pub(super) struct Listing {
    find: FindNames,
    /// Locked while names are searched for, even if nobody waits for them any more: a search that hangs
    /// occupies one thread, however many clients ask.
    last: Arc<Mutex<Option<(Instant, Arc<[String]>)>>>,
}

impl Listing {
    pub(super) fn new(find: FindNames) -> Self {
        Self { find, last: Arc::default() }
    }

    /// Returns the names as they were a second ago at most, in their order.
    pub(super) async fn names(&self) -> Arc<[String]> {
        let mut last = self.last.clone().lock_owned().await;
        if let Some((found, names)) = &*last
            && found.elapsed() < FRESH
        {
            return names.clone();
        }
        let find = self.find.clone();
        let found = tokio::task::spawn_blocking(move || {
            // In case that the function panics.
            *last = Some((Instant::now(), Arc::default()));
            let mut names = find();
            names.sort_unstable();
            names.truncate(MAX_NAMES);
            let names: Arc<[String]> = names.into();
            *last = Some((Instant::now(), names.clone()));
            names
        });
        // It fails if the function panicked, which was logged.
        found.await.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    /// A listing whose function waits for `go`, and the number of its calls.
    fn hanging() -> (Arc<Listing>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (go, wait) = mpsc::channel::<()>();
        let (wait, calls) = (std::sync::Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
        let counted = calls.clone();
        let find = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            // Not under the lock, so that several calls could be under way.
            while wait.lock().unwrap().try_recv() == Err(mpsc::TryRecvError::Empty) {
                std::thread::sleep(Duration::from_millis(1));
            }
            vec!["b".to_owned(), "a".to_owned()]
        };
        (Arc::new(Listing::new(Arc::new(find))), go, calls)
    }

    #[tokio::test]
    async fn search_that_hangs_occupies_one_thread() {
        let (listing, go, calls) = hanging();
        for _ in 0..20 {
            assert!(tokio::time::timeout(SHORT, listing.names()).await.is_err());
        }
        let waiting = [(); 3].map(|()| {
            let listing = listing.clone();
            tokio::spawn(async move { listing.names().await })
        });
        tokio::time::sleep(SHORT).await;
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        go.send(()).unwrap();
        for waiting in waiting {
            assert_eq!(*waiting.await.unwrap(), ["a", "b"], "they share its answer");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn search_that_panics_is_not_repeated_at_once() {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let listing = Listing::new(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            panic!("on purpose")
        }));
        for _ in 0..3 {
            assert!(listing.names().await.is_empty());
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
