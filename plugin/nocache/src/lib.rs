//! A filter that changes what prefetching does on another disk, like nbdkit's filter `nocache`. It
//! shows what prefetching is good for.
//!
//! `cachemode` is one of:
//!
//! - `none`, the default: prefetching is not offered to clients.
//! - `emulate`: the data are read from the disk beneath, and dropped. That is done for at most the
//!   first 64 MiB of a request.
//! - `nop`: prefetching succeeds and does nothing.
//!
//! All other requests pass without a call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute,
};

/// The most that a request reads.
const MAX_READ: u64 = 64 << 20;

/// The length of the pieces in which data are read.
const PIECE: u64 = 1 << 20;

/// What prefetching does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    Emulate,
    Nop,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct NoCache {
    base: Lower,
    mode: Mode,
}

impl Backend for NoCache {
    fn describe() -> Description {
        Description::new(
            "nocache",
            env!("CARGO_PKG_VERSION"),
            "another disk, with another prefetching or none",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "cachemode",
                "what prefetching does: it is not offered, it reads, or it does nothing",
                &["none", "emulate", "nop"],
            )
            .default("none"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let mode = match request.text("cachemode") {
            Some("emulate") => Mode::Emulate,
            Some("nop") => Mode::Nop,
            _ => Mode::None,
        };
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)?, mode })
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        disk.capabilities = match self.mode {
            Mode::None => disk.capabilities.without(Capabilities::CACHE),
            Mode::Emulate | Mode::Nop => disk.capabilities | Capabilities::CACHE,
        };
        disk.capabilities |= Capabilities::INTERCHANGEABLE;
        disk
    }

    fn cache(&mut self, offset: u64, length: u64) -> Result<(), Error> {
        let end = offset + length.min(MAX_READ);
        let mut at = offset;
        while at < end {
            let piece = (end - at).min(PIECE);
            self.base.read_chunks(at, piece as u32)?;
            at += piece;
        }
        Ok(())
    }
}

impl Filter for NoCache {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(match (request.operation, self.mode) {
            (Operation::Cache, Mode::Emulate) => Route::new().segment(Place::Own, request.length),
            (Operation::Cache, Mode::Nop) => Route::new().segment(Place::Hole, request.length),
            _ => self.base.pass(request),
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passed = self.base.pass_all(offset)?;
        Some(match (operation, self.mode) {
            (Operation::Cache, Mode::Emulate) => StableRoute::new(Place::Own, passed.length),
            (Operation::Cache, Mode::Nop) => StableRoute::new(Place::Hole, passed.length),
            _ => passed,
        })
    }
}

memnbd_guest::filter!(NoCache);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Value, testing};

    use super::*;

    fn open(size: u64, capabilities: Capabilities, mode: Option<&str>) -> NoCache {
        let base = testing::device(size, capabilities);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let request = match mode {
            Some(mode) => request.with("cachemode", Value::Text(mode.into())),
            None => request,
        };
        NoCache::open(&request).unwrap()
    }

    #[test]
    fn prefetching_is_offered_unless_the_mode_is_none() {
        for capabilities in [Capabilities::NONE, Capabilities::CACHE] {
            for (mode, expected) in
                [(None, false), (Some("none"), false), (Some("emulate"), true), (Some("nop"), true)]
            {
                let disk = open(1000, capabilities, mode).disk();
                assert_eq!(disk.capabilities.contains(Capabilities::CACHE), expected, "{mode:?}");
            }
        }
    }

    #[test]
    fn emulation_reads_and_nop_does_not() {
        let cache = Request::new(Operation::Cache, 10, 20);
        for (mode, expected) in [("emulate", Some(ErrorCode::Eio)), ("nop", None)] {
            let mut disk = open(1000, Capabilities::NONE, Some(mode));
            assert_eq!(testing::serve(&mut disk, &cache, &mut []), Ok(()));
            testing::fail(disk.base, Some(ErrorCode::Eio));
            let failure = testing::serve(&mut disk, &cache, &mut []).err();
            assert_eq!(failure.map(|error| error.code), expected, "{mode}");
        }
    }

    #[test]
    fn emulation_of_a_large_request_ends() {
        let mut disk = open(1 << 60, Capabilities::NONE, Some("emulate"));
        assert_eq!(disk.cache(0, 1 << 60), Ok(()));
        assert_eq!(disk.cache((1 << 60) - 3, 3), Ok(()));
    }

    #[test]
    fn other_requests_pass() {
        for mode in ["none", "emulate", "nop"] {
            let mut disk = open(1000, Capabilities::WRITABLE, Some(mode));
            for operation in Operation::ALL {
                let stable = disk.stable(operation, 10).unwrap();
                let route = disk.route(&Request::new(operation, 10, 20)).unwrap();
                assert_eq!(Route::new().segment(stable.place, 20), route);
                let passes = stable == disk.base.pass_all(10).unwrap();
                assert_eq!(passes, operation != Operation::Cache || mode == "none");
            }
        }
    }
}
