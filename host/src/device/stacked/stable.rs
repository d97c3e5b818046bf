//! The stable routes of a device: where its bytes are until the component says otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{Mutex, Notify};

use super::table::{Found, Operations, Table};
use crate::block::{Operation, Span};
use crate::component::{Location, MemoryBudget, Place};
use crate::device::Turnstile;
use crate::device::lower::Lowers;

/// The most routes that are kept for an operation. Others are asked for one by one.
pub(super) const MAX_ROUTES: usize = 64;

/// A range and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) place: Place,
}

/// The stable routes of a device.
pub(super) struct StableRoutes {
    /// For each operation, in the order of their offsets. Those in `table` come before these.
    lists: RwLock<Lists>,
    /// The same once they cannot change any more: requests then take no lock.
    fixed: OnceLock<Lists>,
    /// Set when the component may set routes.
    shape: OnceLock<Shape>,
    /// Routes that the component has set, once there is one; `None` if there was no memory.
    table: OnceLock<Option<Table>>,
    /// The component may withdraw routes, so requests that rely on one are counted.
    withdrawable: bool,
    /// Counts the requests under way that rely on a route. It is closed during a withdrawal.
    requests: Turnstile,
    /// Notified when the last of these requests has ended during a withdrawal.
    no_requests: Notify,
    /// Locked during a withdrawal.
    withdrawing: Mutex<()>,
    /// True until the component has been asked again, after it withdrew its routes.
    ask: AtomicBool,
}

/// The disk whose routes are set.
pub(super) struct Shape {
    pub(super) size: u64,
    /// The size of a granule.
    pub(super) granule: u64,
    /// The operations that are routed.
    pub(super) routed: Operations,
    /// The budget of the disk.
    pub(super) memory: MemoryBudget,
}

#[derive(Default)]
struct Lists {
    by_operation: [Vec<Entry>; Operation::ALL.len()],
    /// How often the routes were withdrawn.
    generation: u64,
    /// True during a withdrawal.
    withdrawing: bool,
}

/// A request that relies on a stable route.
pub(super) struct Use(Option<Arc<StableRoutes>>);

impl Drop for Use {
    fn drop(&mut self) {
        if let Some(routes) = &self.0
            && routes.requests.leave()
        {
            routes.no_requests.notify_waiters();
        }
    }
}

impl StableRoutes {
    pub(super) fn new(withdrawable: bool) -> Arc<Self> {
        Arc::new(Self {
            lists: RwLock::default(),
            fixed: OnceLock::new(),
            shape: OnceLock::new(),
            table: OnceLock::new(),
            withdrawable,
            requests: Turnstile::default(),
            no_requests: Notify::new(),
            withdrawing: Mutex::default(),
            ask: AtomicBool::new(false),
        })
    }

    /// Returns true if requests under a stable route are counted.
    pub(super) fn is_withdrawable(&self) -> bool {
        self.withdrawable
    }

    /// Calls a function with the place of the first bytes of a span, and the number of those bytes, if it
    /// is known. The route is not withdrawn before the function has returned.
    #[inline]
    pub(super) fn with<T>(
        &self,
        operation: Operation,
        span: Span,
        call: impl FnOnce(Place, u64) -> Option<T>,
    ) -> Option<T> {
        if let Some(lists) = self.fixed.get() {
            let (place, length) = lists.find(operation, span)?;
            return call(place, length);
        }
        if !self.withdrawable {
            // Most routes that change are found here, without the lock.
            return match self.find_set(operation, span) {
                Found::At(location, length) => call(Place::Lower(location), length),
                Found::Routed => None,
                Found::Nothing(length) => {
                    let (place, length) = self.read().find(operation, Span { length, ..span })?;
                    call(place, length)
                }
            };
        }
        let lists = self.read();
        let (place, length) = self.find(&lists, operation, span)?;
        call(place, length)
    }

    fn find(&self, lists: &Lists, operation: Operation, span: Span) -> Option<(Place, u64)> {
        match self.find_set(operation, span) {
            Found::At(location, length) => Some((Place::Lower(location), length)),
            Found::Routed => None,
            Found::Nothing(length) => lists.find(operation, Span { length, ..span }),
        }
    }

    /// Returns what the component has set for the first bytes of a span.
    #[inline]
    fn find_set(&self, operation: Operation, span: Span) -> Found {
        match self.table.get() {
            Some(Some(table)) => table.find(operation, span),
            _ => Found::Nothing(span.length),
        }
    }

    /// Lets the component set routes.
    pub(super) fn allow_setting(&self, shape: Shape) {
        // It is called once.
        let _ = self.shape.set(shape);
    }

    /// Sets the route of a span. Requests that begin after this has returned do not follow a former one.
    ///
    /// # Errors
    ///
    /// Returns a message if the span is not one of whole granules.
    pub(super) fn set_route(
        &self,
        operations: Operations,
        span: Span,
        place: Option<Location>,
    ) -> Result<(), String> {
        let Some(Shape { size, granule, routed, memory }) = self.shape.get() else { return Ok(()) };
        let end = span.offset.checked_add(span.length).filter(|&end| end <= *size);
        let Some(end) = end.filter(|_| span.length > 0) else {
            return Err(format!("that is not within the disk of {size} bytes"));
        };
        let is_whole = |offset: u64| offset.is_multiple_of(*granule);
        if !is_whole(span.offset) || !is_whole(end) && end != *size {
            return Err(format!("that is not a range of whole granules of {granule} bytes"));
        }
        match self.table.get_or_init(|| Table::new(*size, *granule, memory)) {
            Some(table) => table.set(operations.and(*routed), span, place),
            None => {
                let mut lists = self.write();
                let generation = lists.generation + 1;
                *lists = Lists { generation, withdrawing: lists.withdrawing, ..Lists::default() };
            }
        }
        Ok(())
    }

    /// Returns the place of a whole span, if it is known. A withdrawal waits until the returned [`Use`] is
    /// dropped.
    pub(super) fn whole(
        self: &Arc<Self>,
        operation: Operation,
        span: Span,
    ) -> Option<(Place, Use)> {
        if let Some(lists) = self.fixed.get() {
            let (place, length) = lists.find(operation, span)?;
            return (length >= span.length).then_some((place, Use(None)));
        }
        let lists = self.read();
        let (place, length) = self.find(&lists, operation, span)?;
        if length < span.length {
            return None;
        }
        // What is the component's own waits for its instance, which may be withdrawing this route.
        if !self.withdrawable || place == Place::Own {
            return Some((place, Use(None)));
        }
        self.requests.try_enter().then(|| (place, Use(Some(self.clone()))))
    }

    /// Returns true once after each withdrawal.
    pub(super) fn must_ask(&self) -> bool {
        self.withdrawable && self.ask.swap(false, Ordering::AcqRel)
    }

    /// Returns the number of withdrawals, to be passed to [`Self::set`].
    pub(super) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// Sets the routes of an operation, unless some were withdrawn since the component was asked, or
    /// are being withdrawn: then it will be asked again.
    pub(super) fn set(&self, operation: Operation, list: Vec<Entry>, generation: u64) {
        let mut lists = self.write();
        if lists.generation == generation && !lists.withdrawing {
            lists.by_operation[operation as usize] = list;
        }
    }

    /// Says that all routes are known, and do not change unless the component can set or withdraw some.
    pub(super) fn fix(&self) {
        if !self.withdrawable && self.shape.get().is_none() {
            let lists = std::mem::take(&mut *self.write());
            // Nobody else sets it.
            let _ = self.fixed.set(lists);
        }
    }

    /// Withdraws all routes, and waits for the requests that rely on one and for the leases of lower
    /// devices.
    pub(super) async fn withdraw(&self, lowers: &Lowers) {
        // Another withdrawal would let requests in again before this one is complete.
        let _alone = self.withdrawing.lock().await;
        {
            let mut lists = self.write();
            let generation = lists.generation + 1;
            *lists = Lists { generation, withdrawing: true, ..Lists::default() };
            if let Some(Some(table)) = self.table.get() {
                table.clear();
            }
            self.requests.close();
        }
        loop {
            let mut notified = std::pin::pin!(self.no_requests.notified());
            notified.as_mut().enable();
            if self.requests.is_empty() {
                break;
            }
            notified.await;
        }
        for lower in lowers.list() {
            lower.device.clone().end_leases().await;
        }
        self.write().withdrawing = false;
        self.requests.open();
        self.ask.store(true, Ordering::Release);
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lists {
    #[inline]
    fn find(&self, operation: Operation, span: Span) -> Option<(Place, u64)> {
        let list = &self.by_operation[operation as usize];
        let index = match list.as_slice() {
            [] => return None,
            [_] => 0,
            list => list.partition_point(|entry| entry.offset <= span.offset).checked_sub(1)?,
        };
        let entry = &list[index];
        let skipped = span.offset.checked_sub(entry.offset)?;
        let left = entry.length.checked_sub(skipped).filter(|&left| left > 0)?;
        let place = match entry.place {
            Place::Lower(Location { device, offset }) => {
                Place::Lower(Location { device, offset: offset + skipped })
            }
            place => place,
        };
        Some((place, left.min(span.length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(device: usize, offset: u64) -> Place {
        Place::Lower(Location { device, offset })
    }

    fn span(offset: u64, length: u64) -> Span {
        Span { offset, length }
    }

    #[test]
    fn places_are_found_within_ranges() {
        let routes = StableRoutes::new(false);
        let find = |offset, length| {
            routes
                .with(Operation::Read, span(offset, length), |place, length| Some((place, length)))
        };
        assert_eq!(find(0, 1), None);
        let list = vec![
            Entry { offset: 100, length: 100, place: at(0, 5000) },
            Entry { offset: 200, length: 50, place: Place::Hole },
        ];
        routes.set(Operation::Read, list, 0);
        assert_eq!(find(99, 10), None, "before the first");
        assert_eq!(find(100, 10), Some((at(0, 5000), 10)));
        assert_eq!(find(190, 100), Some((at(0, 5090), 10)), "cut off at the end of the range");
        assert_eq!(find(200, 100), Some((Place::Hole, 50)));
        assert_eq!(find(250, 1), None, "after the last");
        assert!(routes.with(Operation::Write, span(100, 1), |_, _| Some(())).is_none());
        assert!(routes.whole(Operation::Read, span(190, 11)).is_none());
        assert!(routes.whole(Operation::Read, span(190, 10)).is_some());
    }

    #[test]
    fn places_are_the_same_once_they_are_fixed() {
        for withdrawable in [false, true] {
            let routes = StableRoutes::new(withdrawable);
            let entry = Entry { offset: 0, length: 100, place: at(0, 5000) };
            routes.set(Operation::Read, vec![entry], 0);
            routes.fix();
            let found = routes.with(Operation::Read, span(90, 20), |place, n| Some((place, n)));
            assert_eq!(found, Some((at(0, 5090), 10)));
            assert!(routes.with(Operation::Read, span(100, 1), |_, _| Some(())).is_none());
            let (place, relies) = routes.whole(Operation::Read, span(90, 10)).unwrap();
            assert_eq!((place, relies.0.is_some()), (at(0, 5090), withdrawable));
            assert!(routes.whole(Operation::Read, span(90, 11)).is_none());
        }
    }

    #[tokio::test]
    async fn withdrawal_waits_for_those_who_rely_on_a_route() {
        let routes = StableRoutes::new(true);
        let entry = Entry { offset: 0, length: 10, place: at(0, 0) };
        routes.set(Operation::Read, vec![entry], 0);
        let (_, under_way) = routes.whole(Operation::Read, span(0, 10)).unwrap();
        let generation = routes.generation();
        let lowers = Lowers::new(Vec::new());
        let mut withdrawing = Box::pin(routes.withdraw(&lowers));
        assert!(futures_util::poll!(withdrawing.as_mut()).is_pending());
        assert!(routes.whole(Operation::Read, span(0, 1)).is_none(), "it is withdrawn already");
        assert!(!routes.must_ask());
        routes.set(Operation::Read, vec![entry], routes.generation());
        drop(under_way);
        withdrawing.await;
        let found = routes.with(Operation::Read, span(0, 1), |place, _| Some(place));
        assert_eq!(found, None, "an answer that was given meanwhile is withdrawn, too");
        assert!(routes.must_ask() && !routes.must_ask(), "once");
        routes.set(Operation::Read, vec![entry], generation);
        assert!(routes.whole(Operation::Read, span(0, 1)).is_none(), "an answer of before");
        routes.set(Operation::Read, vec![entry], routes.generation());
        assert!(routes.whole(Operation::Read, span(0, 1)).is_some());
    }
}
