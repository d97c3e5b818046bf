//! A filter that prefetches a disk from its beginning to its end, like nbdkit's filter `scan`.
//!
//! With each read of a client, the disk beneath is asked to prefetch the block that comes next. Blocks have
//! 2 MiB, so that a client which reads less at a time finds the disk prefetched far ahead, and soon all of
//! it. The disk beneath has to support prefetching, as `file` does, and as the filter `cache` adds it to
//! others; if it does not, this filter says so in the log and does nothing.
//!
//! ```text
//! memnbd-host --export space=memory,1G \
//!             --export 'disk=file,disk.img,filter=scan,filter=cache,cache-device=space'
//! ```
//!
//! `scan-size` is the length of a block, a power of two from 512 to 32M. When a client reads beyond what was
//! prefetched, prefetching goes on behind that; with `scan-ahead=false` it does not, and goes through the
//! disk block by block. At the end it stops, and reads pass without a call from then on; with
//! `scan-forever=true` it begins again.
//!
//! # Differences from nbdkit
//!
//! nbdkit prefetches in the background, as long as a client is connected. Here a component does nothing
//! between requests, so the scan goes on with reads alone, and they wait until the disk beneath has answered:
//! `file` only tells the kernel, which takes no time and reads on by itself, while `cache` copies the block
//! first. `scan-clock` can only be true: a component does not learn when the last client has gone.
//!
//! Requests other than reads pass without a call. Reads are routed by one instance, one at a time.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Level, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute, log, set_route,
};

/// The length of a block by default, and the shortest and longest one, as in nbdkit.
const SIZE: u64 = 2 << 20;
const SIZES: core::ops::RangeInclusive<u64> = 512..=32 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Scan {
    base: Lower,
    size: u64,
    block: u64,
    ahead: bool,
    forever: bool,
    /// Where prefetching goes on, or `None` when it has ended.
    next: Option<u64>,
}

impl Scan {
    /// Returns the range to prefetch with a read.
    fn next(&mut self, offset: u64, length: u64) -> Option<(u64, u64)> {
        let mut start = self.next?;
        let end = offset + length;
        if self.ahead && end > start {
            start = end;
        }
        if start >= self.size && self.forever {
            start = 0;
        }
        let length = self.block.min(self.size.saturating_sub(start));
        let after = start + length;
        self.next = (after < self.size || self.forever).then_some(after);
        (length > 0).then_some((start, length))
    }
}

impl Backend for Scan {
    fn describe() -> Description {
        Description::new(
            "scan",
            env!("CARGO_PKG_VERSION"),
            "another disk, prefetched from its beginning to its end while it is read",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::boolean("scan-ahead", "whether to go on behind reads that are further on")
                .default("true"),
        )
        .parameter(
            Parameter::boolean("scan-clock", "whether to go on there for other clients; only true")
                .default("true"),
        )
        .parameter(
            Parameter::boolean("scan-forever", "whether to begin again at the end")
                .default("false"),
        )
        .parameter(
            Parameter::size("scan-size", "how much to prefetch at a time, a power of two")
                .default("2M"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let geometry = base.geometry();
        let block = request.size("scan-size").unwrap_or(SIZE);
        if !SIZES.contains(&block) || !block.is_power_of_two() {
            return Err(Error::EINVAL.because(format!(
                "scan-size must be a power of two from 512 to 32M, and is {block}"
            )));
        }
        if request.boolean("scan-clock") == Some(false) {
            return Err(Error::EINVAL.because(
                "scan-clock=false is not supported, for a component does not learn when clients come and \
                 go; leave it out",
            ));
        }
        let works = geometry.capabilities.contains(Capabilities::CACHE);
        if !works {
            log(
                Level::Warn,
                "the disk beneath does not prefetch, so this filter does nothing; --filter=cache after \
                 it helps",
            );
        }
        Ok(Self {
            base,
            size: geometry.size,
            block,
            ahead: request.boolean("scan-ahead").unwrap_or(true),
            forever: request.boolean("scan-forever").unwrap_or(false),
            next: (works && geometry.size > 0).then_some(0),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Scan {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.operation == Operation::Read && self.next.is_some() {
            if let Some((offset, length)) = self.next(request.offset, request.length) {
                // The read itself does not depend on it.
                let _ = self.base.cache(offset, length);
            }
            if self.next.is_none() {
                set_route(Operation::Read.into(), 0, self.size, Some(self.base.at(0)));
            }
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if operation == Operation::Read && self.next.is_some() {
            return None;
        }
        self.base.pass_until(offset, self.size)
    }
}

memnbd_guest::filter!(Scan);

#[cfg(test)]
mod tests {
    use memnbd_guest::testing::SetRoute;
    use memnbd_guest::{Value, testing};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn request(capabilities: Capabilities) -> OpenRequest {
        let base = testing::device(10 * MIB, capabilities);
        OpenRequest::default().with("base", Value::Device(base))
    }

    fn open(parameters: &[(&'static str, Value)]) -> Result<Scan, Error> {
        let request = request(Capabilities::CACHE);
        let with = |request: OpenRequest, (name, value): &(&'static str, Value)| {
            request.with(name, value.clone())
        };
        Scan::open(&parameters.iter().fold(request, with))
    }

    /// What is prefetched, as a beginning and an end in MiB, when these ranges in MiB are read.
    fn prefetched(disk: &mut Scan, reads: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let ranges = reads.iter().map(|(offset, length)| disk.next(offset * MIB, length * MIB));
        let ranges = ranges.flatten();
        ranges.map(|(offset, length)| (offset / MIB, (offset + length) / MIB)).collect()
    }

    #[test]
    fn disk_is_prefetched_once_with_reads_anywhere() {
        let mut disk = open(&[("scan-ahead", Value::Boolean(false))]).unwrap();
        let reads = [(0, 1), (9, 1), (3, 1), (3, 1), (3, 1), (3, 1), (3, 1)];
        assert_eq!(prefetched(&mut disk, &reads), [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]);
        assert_eq!(disk.next, None);
    }

    #[test]
    fn reads_further_on_move_the_scan_behind_them() {
        let mut disk = open(&[]).unwrap();
        let reads = [(0, 1), (1, 1), (4, 1), (5, 1), (0, 1), (0, 1)];
        assert_eq!(prefetched(&mut disk, &reads), [(1, 3), (3, 5), (5, 7), (7, 9), (9, 10)]);
        let mut disk = open(&[]).unwrap();
        assert_eq!(prefetched(&mut disk, &[(9, 1), (0, 1)]), [], "the end was read first");
        assert_eq!(disk.next, None);
    }

    #[test]
    fn scan_can_begin_again_at_the_end() {
        let parameters =
            [("scan-forever", Value::Boolean(true)), ("scan-size", Value::Size(4 * MIB))];
        let mut disk = open(&parameters).unwrap();
        let ranges = prefetched(&mut disk, &[(0, 1); 6]);
        assert_eq!(ranges, [(1, 5), (5, 9), (9, 10), (0, 4), (4, 8), (8, 10)]);
        assert_eq!(prefetched(&mut disk, &[(9, 1)]), [(0, 4)]);
    }

    #[test]
    fn reads_pass_without_a_call_once_all_is_prefetched() {
        testing::set_routes();
        let mut disk = open(&[("scan-size", Value::Size(8 * MIB))]).unwrap();
        assert!(disk.stable(Operation::Read, 0).is_none());
        assert!(disk.stable(Operation::Write, 0).is_some());
        let mut bytes = [1; 10];
        let read = Request::new(Operation::Read, 5, 10);
        testing::serve(&mut disk, &read, &mut bytes).unwrap();
        assert_eq!((bytes, testing::set_routes()), ([0; 10], Vec::new()));
        testing::serve(&mut disk, &read, &mut bytes).unwrap();
        let place = Some(disk.base.at(0));
        let operations = Operation::Read.into();
        let whole = SetRoute { operations, offset: 0, length: 10 * MIB, place };
        assert_eq!(testing::set_routes(), [whole]);
        assert!(disk.stable(Operation::Read, 0).is_some());
    }

    #[test]
    fn disk_that_does_not_prefetch_is_passed_to() {
        let mut disk = Scan::open(&request(Capabilities::NONE)).unwrap();
        assert!(Operation::ALL.iter().all(|one| disk.stable(*one, 0).is_some()));
    }

    #[test]
    fn parameters_that_nbdkit_refuses_or_that_cannot_be_are_refused() {
        for size in [0, 256, 3 << 10, 64 << 20] {
            let error = open(&[("scan-size", Value::Size(size))]).unwrap_err();
            assert!(error.message.unwrap().contains("power of two from 512 to 32M"));
        }
        let error = open(&[("scan-clock", Value::Boolean(false))]).unwrap_err();
        assert!(error.message.unwrap().contains("scan-clock=false is not supported"));
        assert!(open(&[("scan-clock", Value::Boolean(true))]).is_ok());
    }
}
