//! A filter that says which parts of another disk are allocated, from a list, like nbdkit's filter
//! `extentlist`. It is for disks that cannot tell, and for tests of clients.
//!
//! `extentlist` is a file. Each line has an offset, a length, and possibly a type: a number from 0 to 3,
//! or `hole`, `zero` or both with a comma in between. Without one the range is data. What is in no line
//! is a hole that reads as zeroes. Lines may be in any order, but must not overlap:
//!
//! ```text
//! 0  1M
//! 2M 1M hole,zero
//! ```
//!
//! The file is read once, and has at most 8 MiB. The list does not change with the disk: what a client
//! writes to a hole, another may not find there. So clients had better get the disk read-only, with
//! `-r`.
//!
//! All other requests pass without a call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod list;

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Extent, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, Status,
};

use list::{MAX_TEXT, Range};

/// The most extents of an answer.
const MAX_EXTENTS: usize = 4096;

/// The open disk.
#[derive(Clone, Debug)]
pub struct ExtentList {
    base: Lower,
    /// In the order of their offsets. What is between them is a hole.
    ranges: Vec<Range>,
}

impl Backend for ExtentList {
    fn describe() -> Description {
        Description::new(
            "extentlist",
            env!("CARGO_PKG_VERSION"),
            "another disk, with the allocation status of a list",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::file("extentlist", "a text: OFFSET LENGTH [hole,zero] in each line")
                .required(),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let file = request.device("extentlist").ok_or(Error::EINVAL)?;
        let length = file.geometry().size;
        if length > MAX_TEXT {
            return Err(Error::EINVAL.because(format!(
                "the list of extents has {length} bytes; it may have at most {MAX_TEXT}"
            )));
        }
        let mut text = vec![0; length as usize];
        if length > 0 {
            file.read(0, &mut text)?;
        }
        Ok(Self { base, ranges: list::parse(&text)? })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        // Extents consist of whole blocks.
        let size = disk.size;
        let inside = self.ranges.iter().flat_map(|range| [range.start, range.end]);
        let bounds = inside.filter(|bound| *bound < size).fold(0, |all, bound| all | bound);
        let divisors = u64::from(disk.minimum_block) | bounds;
        Disk {
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities: disk.capabilities | Capabilities::EXTENTS | Capabilities::INTERCHANGEABLE,
            ..disk
        }
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let end = offset + length;
        let first = self.ranges.partition_point(|range| range.end <= offset);
        let mut extents = Vec::new();
        let mut at = offset;
        for range in &self.ranges[first..] {
            if at >= end || extents.len() + 2 > MAX_EXTENTS {
                return Ok(extents);
            }
            let start = range.start.clamp(at, end);
            if start > at {
                extents.push(Extent { length: start - at, status: Status::HOLE });
            }
            at = range.end.min(end);
            if at > start {
                extents.push(Extent { length: at - start, status: range.status });
            }
            at = at.max(start);
        }
        if at < end {
            extents.push(Extent { length: end - at, status: Status::HOLE });
        }
        Ok(extents)
    }
}

impl Filter for ExtentList {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(match request.operation {
            Operation::Extents => Route::new().segment(Place::Own, request.length),
            _ => self.base.pass(request),
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passed = self.base.pass_all(offset)?;
        Some(match operation {
            Operation::Extents => StableRoute::new(Place::Own, passed.length),
            _ => passed,
        })
    }
}

memnbd_guest::filter!(ExtentList);

#[cfg(test)]
mod tests {
    use memnbd_guest::{Geometry, Value, testing};

    use super::*;

    const DATA: Status = Status::DATA;
    const HOLE: Status = Status::HOLE;

    fn open_above(base: Lower, text: &[u8]) -> Result<ExtentList, Error> {
        let file = testing::device(text.len() as u64, Capabilities::WRITABLE);
        if !text.is_empty() {
            file.write(0, text, false).unwrap();
        }
        let request = OpenRequest::default()
            .with("base", Value::Device(base))
            .with("extentlist", Value::Device(file));
        ExtentList::open(&request)
    }

    fn open(text: &[u8]) -> ExtentList {
        open_above(testing::device(1000, Capabilities::NONE), text).unwrap()
    }

    fn extents(disk: &mut ExtentList, offset: u64, length: u64) -> Vec<(u64, Status)> {
        let extents = disk.extents(offset, length).unwrap();
        extents.iter().map(|extent| (extent.length, extent.status)).collect()
    }

    #[test]
    fn gaps_are_holes() {
        let mut disk = open(b"100 100\n300 50 zero\n350 50 hole,zero\n");
        let zero = Status::ZERO;
        let expected = [(100, HOLE), (100, DATA), (100, HOLE), (50, zero), (50, HOLE), (600, HOLE)];
        assert_eq!(extents(&mut disk, 0, 1000), expected);
        assert_eq!(extents(&mut disk, 150, 10), [(10, DATA)]);
        assert_eq!(extents(&mut disk, 150, 100), [(50, DATA), (50, HOLE)]);
        assert_eq!(extents(&mut disk, 200, 100), [(100, HOLE)]);
        assert_eq!(extents(&mut disk, 400, 600), [(600, HOLE)]);
        assert_eq!(extents(&mut open(b""), 5, 10), [(10, HOLE)]);
        assert_eq!(extents(&mut open(b"0 1E"), 5, 10), [(10, DATA)]);
        assert_eq!(extents(&mut open(b"1001 1"), 0, 1000), [(1000, HOLE)]);
    }

    #[test]
    fn long_answers_end_early() {
        let text: String = (0..10_000).map(|n| format!("{} 1\n", n * 2)).collect();
        let base = testing::device(20_000, Capabilities::NONE);
        let mut disk = open_above(base, text.as_bytes()).unwrap();
        let answer = disk.extents(0, 20_000).unwrap();
        assert!((4090..=4096).contains(&answer.len()), "{}", answer.len());
        assert_eq!(disk.extents(19_998, 2).unwrap().len(), 2);
    }

    #[test]
    fn blocks_divide_the_list() {
        let block = |text: &[u8]| {
            let base = testing::device_with(Geometry {
                size: 1 << 20,
                minimum_block: 4096,
                preferred_block: 4096,
                capabilities: Capabilities::NONE,
            });
            open_above(base, text).unwrap().disk().minimum_block
        };
        assert_eq!(block(b"4k 64k"), 4096);
        assert_eq!(block(b"4k 512"), 512);
        assert_eq!(block(b"2M 7"), 4096);
    }

    #[test]
    fn lists_are_not_too_long_and_mistakes_are_told() {
        let base = testing::device(1000, Capabilities::NONE);
        let error = open_above(base, &vec![b'\n'; (8 << 20) + 1]).unwrap_err();
        assert!(error.message.unwrap().ends_with("at most 8388608"));
        assert!(open_above(base, &vec![b'\n'; 8 << 20]).is_ok());
        assert!(open_above(base, b"hello").is_err());
    }

    #[test]
    fn other_requests_pass() {
        let mut disk = open(b"");
        for operation in Operation::ALL {
            let stable = disk.stable(operation, 10).unwrap();
            let route = disk.route(&Request::new(operation, 10, 20)).unwrap();
            assert_eq!(Route::new().segment(stable.place, 20), route);
            let passes = stable == disk.base.pass_all(10).unwrap();
            assert_eq!(passes, operation != Operation::Extents);
        }
    }
}
