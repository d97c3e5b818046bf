//! The routes of requests.

use alloc::vec::Vec;

use memnbd_guest::{Error, Place, Request, Route};

use crate::{Cache, MAX_DIRTY, MAX_DIRTY_BYTES, MAX_EVICTED, MAX_FILLED, Mode, Pending};

impl Cache {
    pub(crate) fn route_read(&mut self, request: &Request, pending: &mut Pending) -> Route {
        let mut route = Route::new();
        for part in self.parts(request.offset, request.length) {
            let mut slot = self.slots.get(part.block).map(|entry| entry.slot);
            if slot.is_some() {
                self.use_slot(pending, part.block, false);
            } else if self.on_read && route.copies.len() < MAX_FILLED {
                (route, slot) = self.fill(route, pending, part.block);
            }
            let place = match slot {
                Some(slot) => self.cached(slot, part.within),
                None => self.base.at(part.block * self.block + part.within),
            };
            route.push(place, part.length);
        }
        route
    }

    pub(crate) fn route_write(&mut self, request: &Request, pending: &mut Pending) -> Route {
        if self.slots.count_dirty() * self.block > MAX_DIRTY_BYTES {
            let idle = |block: &u64| self.slots.get(*block).is_some_and(|one| one.users == 0);
            let some: Vec<u64> = self.slots.dirty().filter(idle).take(MAX_EVICTED).collect();
            for block in some {
                // What cannot be written back stays dirty.
                let _ = self.write_back(block);
            }
        }
        let mut route = Route::new();
        for part in self.parts(request.offset, request.length) {
            let mut slot = self.slots.get(part.block).map(|entry| entry.slot);
            if self.mode == Mode::WriteThrough {
                slot = None;
            } else if slot.is_none() && part.is_whole {
                slot = self.insert(part.block);
            } else if slot.is_none() {
                (route, slot) = self.fill(route, pending, part.block);
            }
            let place = match slot {
                Some(slot) => {
                    self.use_slot(pending, part.block, true);
                    self.cached(slot, part.within)
                }
                None => self.base.at(part.block * self.block + part.within),
            };
            route.push(place, part.length);
        }
        if self.mode == Mode::WriteThrough {
            let end = request.offset + request.length;
            pending.dropped = request.offset / self.block..end.div_ceil(self.block);
        }
        route
    }

    /// Routes what zeroes or trims: dirty blocks in their slots, and everything else beneath, so that
    /// nothing that is written back can come after it. Blocks that are not dirty leave the cache.
    pub(crate) fn route_drop(
        &mut self,
        request: &Request,
        pending: &mut Pending,
    ) -> Result<Route, Error> {
        let end = request.offset + request.length;
        let blocks = request.offset / self.block..end.div_ceil(self.block);
        let dirty = self.slots.within(blocks.clone()).filter(|(_, entry)| entry.is_dirty);
        let mut dirty: Vec<u64> = dirty.map(|(block, _)| block).collect();
        if dirty.len() > MAX_DIRTY {
            for block in dirty.drain(..) {
                self.write_back(block)?;
            }
        }
        pending.dropped = blocks;
        Ok(self.route_around(request, pending, &dirty, true))
    }

    /// Routes to the slots of some blocks, and beneath between them.
    fn route_around(
        &mut self,
        request: &Request,
        pending: &mut Pending,
        blocks: &[u64],
        writes: bool,
    ) -> Route {
        let end = request.offset + request.length;
        let mut route = Route::new();
        let mut at = request.offset;
        for &block in blocks {
            let Some(slot) = self.slots.get(block).map(|entry| entry.slot) else { continue };
            let start = at.max(block * self.block);
            let stop = end.min((block + 1) * self.block);
            if start > at {
                route.push(self.base.at(at), start - at);
            }
            self.use_slot(pending, block, writes);
            route.push(self.cached(slot, start - block * self.block), stop - start);
            at = stop;
        }
        if at < end {
            route.push(self.base.at(at), end - at);
        }
        route
    }

    pub(crate) fn route_prefetch(&mut self, request: &Request, pending: &mut Pending) -> Route {
        let mut route = Route::new();
        let mut at = request.offset;
        for part in self.parts(request.offset, request.length) {
            if route.copies.len() >= MAX_FILLED {
                break;
            }
            if self.slots.get(part.block).is_none() {
                let filled;
                (route, filled) = self.fill(route, pending, part.block);
                if filled.is_none() {
                    break;
                }
            }
            route.push(Place::Hole, part.length);
            at += part.length;
        }
        let end = request.offset + request.length;
        if at < end {
            route.push(self.base.at(at), end - at);
        }
        route
    }

    pub(crate) fn route_extents(&mut self, request: &Request, pending: &mut Pending) -> Route {
        let end = request.offset + request.length;
        let blocks = request.offset / self.block..end.div_ceil(self.block);
        let dirty = self.slots.within(blocks).filter(|(_, entry)| entry.is_dirty);
        let dirty: Vec<u64> = dirty.map(|(block, _)| block).take(MAX_DIRTY + 1).collect();
        // The answer may be for a part of the range.
        let length = match dirty.get(MAX_DIRTY) {
            Some(next) => (next * self.block).saturating_sub(request.offset).max(1),
            None => request.length,
        };
        let known = &dirty[..dirty.len().min(MAX_DIRTY)];
        self.route_around(&Request { length, ..*request }, pending, known, false)
    }
}
