//! A filter that remembers which parts of another disk are allocated, like nbdkit's filter `cacheextents`.
//!
//! It is for clients that ask for one extent after the other, such as `qemu-img convert`, where the disk
//! beneath is slow to find extents but finds many at once. The last answer of the disk beneath is kept, and
//! given for as long as it has the offset that a client asks for. It is forgotten when something is written,
//! zeroed or trimmed.
//!
//! Reads and prefetches pass without a call. Changes are routed by one instance, and wait while the disk
//! beneath looks for extents.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Extent, Filter, Lock, Lower, OpenRequest,
    Operation, Parameter, Place, Request, Route, Rules, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct CacheExtents {
    base: Lower,
    size: u64,
    /// The last answer, from this offset on.
    start: u64,
    extents: Vec<Extent>,
}

impl CacheExtents {
    /// Returns what is known from an offset on: at least one extent if that is anything.
    fn known(&self, offset: u64) -> Vec<Extent> {
        let Some(mut before) = offset.checked_sub(self.start) else { return Vec::new() };
        let rest = self.extents.iter().filter_map(|extent| {
            let cut = before.min(extent.length);
            before -= cut;
            let length = extent.length - cut;
            (length > 0).then_some(Extent { length, ..*extent })
        });
        rest.collect()
    }
}

impl Backend for CacheExtents {
    fn describe() -> Description {
        Description::new(
            "cacheextents",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose allocation status is remembered",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        Ok(Self { base, size: base.geometry().size, start: 0, extents: Vec::new() })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        Disk { capabilities: disk.capabilities | Capabilities::EXTENTS, ..disk }
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        let known = self.known(offset);
        if !known.is_empty() {
            return Ok(known);
        }
        self.extents = self.base.extents(offset, length)?;
        self.start = offset;
        Ok(self.extents.clone())
    }
}

impl Filter for CacheExtents {
    /// A change of a range excludes that its extents are looked for, and so that what was there before the
    /// change is remembered.
    fn rules(&self) -> Rules {
        Rules {
            read: Lock::None,
            cache: Lock::None,
            ..Rules::shared_or_exclusive(
                self.base.geometry().preferred_block.clamp(512, 1 << 20).into(),
            )
        }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.operation == Operation::Extents {
            return Ok(Route::new().segment(Place::Own, request.length));
        }
        if request.operation.changes() {
            self.extents.clear();
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        match operation {
            Operation::Read | Operation::Cache => self.base.pass_until(offset, self.size),
            _ => None,
        }
    }
}

memnbd_guest::filter!(CacheExtents);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Value, testing};

    use super::*;

    fn open() -> CacheExtents {
        let base = testing::device(1 << 30, Capabilities::WRITABLE | Capabilities::TRIM);
        for page in [1, 2, 5, 100] {
            base.write(page * 4096, &[1], false).unwrap();
        }
        CacheExtents::open(&OpenRequest::default().with("base", Value::Device(base))).unwrap()
    }

    fn lengths(disk: &mut CacheExtents, offset: u64, length: u64) -> Result<Vec<u64>, ErrorCode> {
        let extents = disk.extents(offset, length).map_err(|error| error.code)?;
        Ok(extents.iter().map(|extent| extent.length).collect())
    }

    #[test]
    fn last_answer_is_given_again_from_any_offset_within() {
        let mut disk = open();
        let all = [4096, 4096, 4096, 8192, 4096, 10240];
        assert_eq!(lengths(&mut disk, 0, 34816), Ok(all.to_vec()));
        // The device beneath is not asked again.
        testing::fail(disk.base, Some(ErrorCode::Eio));
        assert_eq!(lengths(&mut disk, 0, 1), Ok(all.to_vec()));
        assert_eq!(lengths(&mut disk, 8191, 1), Ok(vec![1, 4096, 8192, 4096, 10240]));
        assert_eq!(lengths(&mut disk, 34815, 1 << 20), Ok(vec![1]));
        assert_eq!(lengths(&mut disk, 34816, 1), Err(ErrorCode::Eio));
    }

    #[test]
    fn changes_make_it_forget() {
        for operation in [Operation::Write, Operation::Zero, Operation::Trim] {
            let mut disk = open();
            lengths(&mut disk, 0, 1 << 20).unwrap();
            testing::serve(&mut disk, &Request::new(operation, 9000, 1), &mut [1]).unwrap();
            testing::fail(disk.base, Some(ErrorCode::Eio));
            assert_eq!(lengths(&mut disk, 0, 1), Err(ErrorCode::Eio), "{operation:?}");
        }
    }

    #[test]
    fn reads_pass_and_do_not_make_it_forget() {
        let mut disk = open();
        lengths(&mut disk, 0, 1 << 20).unwrap();
        let mut bytes = [0; 2];
        testing::serve(&mut disk, &Request::new(Operation::Read, 4096, 2), &mut bytes).unwrap();
        assert_eq!(bytes, [1, 0]);
        let passes = Operation::ALL.map(|operation| disk.stable(operation, 0).is_some());
        assert_eq!(passes, [true, false, false, false, true, false]);
        assert!(!disk.extents.is_empty());
    }
}
