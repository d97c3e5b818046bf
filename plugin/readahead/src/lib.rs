//! A filter that prefetches what clients are about to read, like nbdkit's filter `readahead`.
//!
//! When a client reads one range after the other, the disk beneath is asked to prefetch what follows: 32 KiB
//! at first, twice as much each time that the client gets beyond it, and up to 4 MiB. A read at a lower
//! offset makes it begin anew. The disk beneath has to support prefetching, as `file` does, and as the
//! filter `cache` adds it to others; if it does not, this filter says so in the log and does nothing.
//!
//! ```text
//! memnbd-host --export space=memory,1G \
//!             --export 'disk=file,disk.img,filter=readahead,filter=cache,cache-device=space'
//! ```
//!
//! # Differences from nbdkit
//!
//! nbdkit prefetches in the background. Here the read waits until the disk beneath has answered: `file` only
//! tells the kernel, which takes no time and reads on by itself, while `cache` copies the blocks first, so
//! that above it little is gained for a single client. More is asked for only when less than half of what
//! was prefetched is left.
//!
//! Requests other than reads pass without a call. Reads are routed by one instance, one at a time.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Level, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute, log,
};

/// The shortest and the longest range that is prefetched at a time.
const WINDOW: core::ops::RangeInclusive<u64> = 32 << 10..=4 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct ReadAhead {
    base: Lower,
    size: u64,
    /// The disk beneath prefetches.
    works: bool,
    window: u64,
    /// The offset of the last read.
    last: u64,
    /// The end of what was prefetched.
    ahead: u64,
}

impl ReadAhead {
    /// Returns the range to prefetch after a read.
    fn next(&mut self, offset: u64, length: u64) -> Option<(u64, u64)> {
        let end = offset + length;
        if offset < self.last || offset > self.ahead.max(self.last + 2 * self.window) {
            // Somewhere else.
            self.window = *WINDOW.start();
            self.ahead = end;
        }
        self.last = offset;
        if self.ahead.saturating_sub(end) >= self.window / 2 && self.ahead > end {
            return None;
        }
        let start = self.ahead.max(end);
        let length = self.window.min(self.size.saturating_sub(start));
        self.ahead = start + length;
        self.window = (self.window * 2).min(*WINDOW.end());
        (length > 0).then_some((start, length))
    }
}

impl Backend for ReadAhead {
    fn describe() -> Description {
        Description::new(
            "readahead",
            env!("CARGO_PKG_VERSION"),
            "another disk, with prefetching ahead of reads",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let geometry = base.geometry();
        let works = geometry.capabilities.contains(Capabilities::CACHE);
        if !works {
            log(
                Level::Warn,
                "the disk beneath does not prefetch, so this filter does nothing; --filter=cache after \
                 it helps",
            );
        }
        let (size, window) = (geometry.size, *WINDOW.start());
        Ok(Self { base, size, works, window, last: 0, ahead: 0 })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for ReadAhead {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.operation == Operation::Read
            && self.works
            && let Some((offset, length)) = self.next(request.offset, request.length)
        {
            // The read itself does not depend on it.
            let _ = self.base.cache(offset, length);
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if operation == Operation::Read && self.works {
            return None;
        }
        self.base.pass_until(offset, self.size)
    }
}

memnbd_guest::filter!(ReadAhead);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Value, testing};

    use super::*;

    const KIB: u64 = 1 << 10;

    fn open(capabilities: Capabilities) -> ReadAhead {
        let base = testing::device(10 << 20, capabilities);
        ReadAhead::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    /// What is prefetched, as a beginning and an end in KiB, when these ranges in KiB are read.
    fn prefetched(reads: impl IntoIterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
        let mut disk = open(Capabilities::CACHE);
        let reads = reads.into_iter();
        let ranges = reads.filter_map(|(offset, length)| disk.next(offset * KIB, length * KIB));
        ranges.map(|(offset, length)| (offset / KIB, (offset + length) / KIB)).collect()
    }

    #[test]
    fn window_grows_with_sequential_reads() {
        let reads = (0..100).map(|n| (n * 16, 16));
        assert_eq!(prefetched(reads)[..4], [(16, 48), (48, 112), (112, 240), (240, 496)]);
        // Up to 4 MiB, and to the end of the disk.
        let ranges = prefetched((0..640).map(|n| (n * 16, 16)));
        assert!(ranges.iter().all(|(start, end)| end - start <= 4096));
        assert!(ranges.iter().any(|(start, end)| end - start == 4096));
        assert_eq!(ranges.last().unwrap().1, 10 * KIB);
        assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0), "without gaps");
    }

    #[test]
    fn window_is_small_again_after_a_jump() {
        let there = (0..20).map(|n| (n * 16, 16));
        let ranges = prefetched(there.chain([(5000, 16), (5016, 16), (0, 16)]));
        assert_eq!(ranges[ranges.len() - 3..], [(5016, 5048), (5048, 5112), (16, 48)]);
    }

    #[test]
    fn nothing_is_prefetched_beyond_the_end() {
        assert_eq!(prefetched([(10 * KIB - 16, 16)]), []);
        assert_eq!(prefetched([(10 * KIB - 20, 16)]), [(10 * KIB - 4, 10 * KIB)]);
    }

    #[test]
    fn disk_that_does_not_prefetch_is_passed_to() {
        let mut disk = open(Capabilities::NONE);
        assert!(Operation::ALL.iter().all(|one| disk.stable(*one, 0).is_some()));
        let mut disk = open(Capabilities::CACHE);
        assert!(disk.stable(Operation::Read, 0).is_none());
        assert!(disk.stable(Operation::Write, 0).is_some());
        let mut bytes = [1; 10];
        let read = Request::new(Operation::Read, 5, 10);
        testing::serve(&mut disk, &read, &mut bytes).unwrap();
        assert_eq!((bytes, disk.ahead), ([0; 10], 15 + 32 * KIB));
    }
}
