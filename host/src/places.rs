//! Connection limits: a limit for the process, of which each listener and each export is guaranteed
//! a share. So the clients of one cannot lock out those of another.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::budget::{Budget, Held};

/// Which part of all places is guaranteed to a party that comes after they were divided, and to all of
/// those together.
const PART_OF_NEWCOMER: u64 = 128;
const PART_OF_NEWCOMERS: u64 = 4;

/// How many times as large as its content the table of exports may be before it gives back memory.
const SPARSE: usize = 8;

/// The places for connections of one party, such as a listener.
#[derive(Clone, Debug)]
pub struct Places {
    budget: Budget,
    freed: Arc<Notify>,
    /// What is guaranteed to a newcomer, of what is for all newcomers.
    _guaranteed: Option<Arc<Held>>,
}

/// A place held by a connection, freed when this is dropped.
#[derive(Debug)]
pub struct Place {
    /// Given back before waiters are notified.
    held: Option<Held>,
    freed: Arc<Notify>,
}

/// What parties get that come after the places were divided.
#[derive(Clone, Debug)]
pub struct Rest {
    all: Budget,
    /// Counts what is guaranteed to newcomers.
    guaranteed: Budget,
    freed: Arc<Notify>,
}

impl Rest {
    fn new(all: Budget, freed: Arc<Notify>) -> Self {
        let guaranteed = Budget::new(all.limit() / PART_OF_NEWCOMERS);
        Self { all, guaranteed, freed }
    }

    /// Returns the places of one more party. A small part of all is guaranteed to it if so many are free
    /// now, and others that came late have not got too many. For the rest it competes with everybody.
    pub fn places(&self) -> Places {
        let part = self.all.limit() / PART_OF_NEWCOMER;
        let guaranteed = Held::take(&self.guaranteed, part).map(Arc::new);
        let part = guaranteed.as_ref().map_or(0, |_| part);
        let (budget, freed) = (self.all.child(u64::MAX, part), self.freed.clone());
        Places { budget, freed, _guaranteed: guaranteed }
    }
}

impl Places {
    /// Divides `most` places among parties. Half of the places are guaranteed to the parties in equal
    /// shares, and the rest is first come, first served.
    pub fn divide(most: u64, parties: usize) -> (Vec<Self>, Rest) {
        let all = Budget::new(most);
        let freed = Arc::new(Notify::new());
        let guaranteed = most / 2 / parties.max(1) as u64;
        let places = |_| Self::of(all.child(u64::MAX, guaranteed), &freed);
        ((0..parties).map(places).collect(), Rest::new(all, freed))
    }

    /// Creates places that are divided among nobody, and whose number can change.
    pub fn new(most: u64) -> Self {
        Self::of(Budget::new(most), &Arc::default())
    }

    fn of(budget: Budget, freed: &Arc<Notify>) -> Self {
        Self { budget, freed: freed.clone(), _guaranteed: None }
    }

    /// Returns the number of places, free or not.
    pub fn most(&self) -> u64 {
        self.budget.limit()
    }

    /// Changes the number of places that were made by [`Self::new`]. Those who have one keep it.
    pub fn set_most(&self, most: u64) {
        self.budget.set_limit(most);
        self.freed.notify_waiters();
    }

    /// Takes a place if one is free.
    pub fn try_enter(&self) -> Option<Place> {
        let held = Held::take(&self.budget, 1)?;
        Some(Place { held: Some(held), freed: self.freed.clone() })
    }

    /// Waits for a place. All waiters, one for each listener, retry whenever a place is freed.
    pub async fn enter(&self) -> Place {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(place) = self.try_enter() {
                return place;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.held.take());
        self.freed.notify_waiters();
    }
}

/// There is no place for another connection.
#[derive(Debug)]
pub struct Full;

/// The places of the exports, by export name.
#[derive(Clone, Debug)]
pub struct ExportPlaces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    all: Budget,
    /// The most that an export may take.
    each: u64,
    freed: Arc<Notify>,
    exports: Mutex<HashMap<String, Places>>,
}

/// Without limits.
impl Default for ExportPlaces {
    fn default() -> Self {
        Self::divide(u64::MAX, u64::MAX, [])
    }
}

impl ExportPlaces {
    /// Divides `most` places among exports, each of which may take at most `each`. Half of the places are
    /// guaranteed to these in equal shares. All exports, and those that are added later, compete for the
    /// rest.
    pub fn divide(most: u64, each: u64, names: impl IntoIterator<Item = String>) -> Self {
        let names: Vec<String> = names.into_iter().collect();
        let (all, freed) = (Budget::new(most), Arc::new(Notify::new()));
        let guaranteed = most / 2 / names.len().max(1) as u64;
        let places = |name| {
            let budget = all.child(each, guaranteed);
            (name, Places::of(budget, &freed))
        };
        let exports = Mutex::new(names.into_iter().map(places).collect());
        Self(Arc::new(Shared { all, each, freed, exports }))
    }

    /// Returns the places of further exports, which compete for the rest with the others, and take at most
    /// `most` together.
    #[must_use]
    pub fn share(&self, most: u64) -> Self {
        let Shared { all, each, freed, .. } = &*self.0;
        let (all, freed) = (all.child(most, 0), freed.clone());
        Self(Arc::new(Shared { all, each: *each, freed, exports: Mutex::default() }))
    }

    /// Returns how many places are taken or guaranteed.
    pub fn used(&self) -> u64 {
        self.0.all.used()
    }

    /// Changes how many connections all of these exports have at most. Connections beyond that stay.
    pub fn set_most(&self, most: u64) {
        self.0.all.set_limit(most);
    }

    /// Takes a place for a client of an export.
    ///
    /// # Errors
    ///
    /// Returns [`Full`] if no place is free.
    pub fn try_enter(&self, name: &str) -> Result<Place, Full> {
        let mut exports = self.exports();
        if !exports.contains_key(name) {
            let budget = self.0.all.child(self.0.each, 0);
            exports.insert(name.to_owned(), Places::of(budget, &self.0.freed));
        }
        exports.get(name).and_then(Places::try_enter).ok_or(Full)
    }

    /// Forgets an export that was removed, with what was guaranteed to it.
    pub fn forget(&self, name: &str) {
        let mut exports = self.exports();
        exports.remove(name);
        if exports.len() < exports.capacity() / SPARSE {
            let room = 2 * exports.len();
            exports.shrink_to(room);
        }
    }

    fn exports(&self) -> MutexGuard<'_, HashMap<String, Places>> {
        self.0.exports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(places: &Places) -> Vec<Place> {
        std::iter::from_fn(|| places.try_enter()).take(10_000).collect()
    }

    #[tokio::test]
    async fn one_party_leaves_places_to_the_others() {
        let (parties, _) = Places::divide(100, 4);
        let first = fill(&parties[0]);
        assert_eq!(first.len(), 100 - 3 * 12, "all but what the others have for sure");
        assert_eq!(fill(&parties[1]).len(), 12);
        let second = fill(&parties[1]);
        let waiting = parties[1].clone();
        let waiting = tokio::spawn(async move { waiting.enter().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        drop(waiting.await.unwrap());
        drop(second);
        assert_eq!(fill(&parties[2]).len(), 100 - 3 * 12);
    }

    #[test]
    fn one_alone_has_all() {
        assert_eq!(fill(&Places::divide(100, 1).0[0]).len(), 100);
        let (few, _) = Places::divide(3, 2);
        assert_eq!(fill(&few[0]).len(), 3, "too few to be shared out");
        assert_eq!(fill(&few[1]).len(), 3);
    }

    #[test]
    fn newcomers_have_few_places_for_sure_and_compete_for_the_rest() {
        let (parties, rest) = Places::divide(1024, 1);
        let newcomer = rest.places();
        let first = fill(&parties[0]);
        assert_eq!(first.len(), 1024 - 8);
        assert!(fill(&rest.places()).is_empty(), "too late");
        assert_eq!(fill(&newcomer).len(), 8);
        drop((first, newcomer));
        assert_eq!(fill(&rest.places()).len(), 512, "all that is not for the first");
        let crowd: Vec<_> = (0..40).map(|_| rest.places()).collect();
        assert_eq!(fill(&parties[0]).len(), 1024 - 256, "that is for all of them together");
        let first = fill(&parties[0]);
        let of_each = |places: &Places| fill(places).len();
        assert_eq!(crowd.iter().map(of_each).max(), Some(8));
        let without = crowd.iter().filter(|places| of_each(places) == 0).count();
        assert_eq!(without, 8, "they came last");
        drop((first, crowd));
        assert_eq!(fill(&parties[0]).len(), 1024, "what was for them is given back");
    }

    #[test]
    fn number_of_places_can_change() {
        let places = Places::new(3);
        let mut taken = fill(&places);
        assert_eq!((taken.len(), places.most()), (3, 3));
        places.set_most(1);
        taken.truncate(1);
        assert!(places.try_enter().is_none(), "the one that is left has the only place");
        places.set_most(5);
        assert_eq!(fill(&places).len(), 4);
        drop(taken);
        places.set_most(0);
        assert!(places.try_enter().is_none());
    }

    #[test]
    fn exports_have_places_by_name() {
        let places = ExportPlaces::divide(4, 1, ["a", "b"].map(str::to_owned));
        let _a = places.try_enter("a").unwrap();
        assert!(places.try_enter("a").is_err());
        assert!(places.try_enter("b").is_ok());
    }

    #[test]
    fn share_has_a_limit_of_its_own_that_can_change() {
        let places = ExportPlaces::divide(4, 4, []);
        let share = places.share(2);
        let held = [share.try_enter("a").unwrap(), share.try_enter("b").unwrap()];
        assert!(share.try_enter("a").is_err());
        share.set_most(3);
        let more = share.try_enter("a").unwrap();
        share.set_most(1);
        drop(more);
        assert!(share.try_enter("a").is_err(), "there are more than one");
        let _other = [places.try_enter("a").unwrap(), places.try_enter("a").unwrap()];
        assert!(places.try_enter("c").is_err(), "the process has no more");
        drop(held);
        assert!(share.try_enter("b").is_ok());
    }

    #[test]
    fn exports_that_are_added_have_what_is_left() {
        let places = ExportPlaces::divide(4, 4, ["a".to_owned()]);
        let enter = |name| places.try_enter(name);
        let added = [enter("b").unwrap(), enter("c").unwrap()];
        assert!(enter("b").is_err(), "two are guaranteed to the first");
        let _first = [enter("a").unwrap(), enter("a").unwrap()];
        drop(added);
        let _third = enter("a").unwrap();
        places.forget("a");
        assert!(enter("b").is_ok());
    }
}
