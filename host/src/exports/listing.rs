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
    last: Mutex<Option<(Instant, Arc<[String]>)>>,
}

impl Listing {
    pub(super) fn new(find: FindNames) -> Self {
        Self { find, last: Mutex::default() }
    }

    /// Returns the names as they were a second ago at most, in their order.
    pub(super) async fn names(&self) -> Arc<[String]> {
        let mut last = self.last.lock().await;
        if let Some((found, names)) = &*last
            && found.elapsed() < FRESH
        {
            return names.clone();
        }
        let find = self.find.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut names = find();
            names.sort_unstable();
            names.truncate(MAX_NAMES);
            names
        });
        // It fails if the function panicked, which was logged.
        let names: Arc<[String]> = found.await.unwrap_or_default().into();
        *last = Some((Instant::now(), names.clone()));
        names
    }
}
