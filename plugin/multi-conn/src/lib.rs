//! A filter that says whether clients may use several connections to another disk at once, like
//! nbdkit's filter `multi-conn`.
//!
//! `multi-conn-mode` is one of:
//!
//! - `auto`, the default, or `emulate`: several connections are allowed. All connections share one
//!   disk here, so what is written through one is visible to all of them at once, and a flush of any
//!   of them covers all requests that were complete.
//! - `plugin`: allowed if the disk beneath says so.
//! - `disable`: not allowed.
//! - `unsafe`: the same as `emulate`.
//!
//! With `--private`, each connection has a disk of its own, and is told so whatever the mode.
//!
//! nbdkit's `multi-conn-track-dirty` and `multi-conn-exportname`, which save flushes, do not exist
//! here: a flush is for a disk and not for a connection, so there is only one.
//!
//! Requests cost no call of this component, except flushes if the disk beneath does not allow several
//! connections and the mode does.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Request, Route, StableRoute,
};

/// The open disk.
#[derive(Clone, Debug)]
pub struct MultiConn {
    base: Lower,
    /// Whether several connections are allowed; `None` if the disk beneath says so.
    allowed: Option<bool>,
}

impl Backend for MultiConn {
    fn describe() -> Description {
        Description::new(
            "multi-conn",
            env!("CARGO_PKG_VERSION"),
            "another disk, for one connection of a client or for several",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "multi-conn-mode",
                "whether clients may use several connections at once",
                &["auto", "emulate", "plugin", "disable", "unsafe"],
            )
            .default("auto"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let allowed = match request.text("multi-conn-mode") {
            Some("plugin") => None,
            Some("disable") => Some(false),
            _ => Some(true),
        };
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)?, allowed })
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        let multi_conn = Capabilities::MULTI_CONN;
        match self.allowed {
            // The flush of this component is what it answers for.
            Some(true) if !disk.capabilities.contains(multi_conn) => {
                disk.capabilities |= multi_conn | Capabilities::FLUSH;
            }
            Some(false) => disk.capabilities = disk.capabilities.without(multi_conn),
            _ => {}
        }
        disk.capabilities |= Capabilities::INTERCHANGEABLE;
        disk
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.base.flush()
    }
}

impl Filter for MultiConn {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(MultiConn);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Value, testing};

    use super::*;

    fn open(capabilities: Capabilities, mode: Option<&str>) -> MultiConn {
        let base = testing::device(1000, capabilities);
        let request = OpenRequest::default().with("base", Value::Device(base));
        let request = match mode {
            Some(mode) => request.with("multi-conn-mode", Value::Text(mode.into())),
            None => request,
        };
        MultiConn::open(&request).unwrap()
    }

    #[test]
    fn mode_decides_whether_several_connections_are_allowed() {
        let (one, several) = (Capabilities::NONE, Capabilities::MULTI_CONN);
        for (mode, above_one, above_several) in [
            (None, true, true),
            (Some("auto"), true, true),
            (Some("emulate"), true, true),
            (Some("unsafe"), true, true),
            (Some("plugin"), false, true),
            (Some("disable"), false, false),
        ] {
            for (base, expected) in [(one, above_one), (several, above_several)] {
                let capabilities = open(base, mode).disk().capabilities;
                assert_eq!(capabilities.contains(Capabilities::MULTI_CONN), expected, "{mode:?}");
                // The host flushes by itself otherwise.
                let flushes = expected && base == one;
                assert_eq!(capabilities.contains(Capabilities::FLUSH), flushes, "{mode:?}");
            }
        }
    }

    #[test]
    fn flush_is_that_of_the_device_beneath() {
        let mut disk = open(Capabilities::NONE, None);
        assert_eq!(disk.flush(), Ok(()));
        testing::fail(disk.base, Some(ErrorCode::Enospc));
        assert_eq!(disk.flush(), Err(Error::ENOSPC));
    }

    #[test]
    fn all_requests_pass() {
        let mut disk = open(Capabilities::WRITABLE, None);
        for operation in Operation::ALL {
            assert_eq!(disk.stable(operation, 10), disk.base.pass_all(10));
            let request = Request::new(operation, 10, 20);
            assert_eq!(disk.route(&request), Ok(Route::lower(disk.base.at(10), 20)));
        }
    }
}
