//! A filter that changes how another disk zeroes, like nbdkit's filter `nozero`. It tests clients, and
//! shows what efficient zeroing is good for.
//!
//! `zeromode` is one of:
//!
//! - `none`, the default, or `emulate`: the disk beneath gets writes of zeroes. nbdkit does not offer
//!   zeroing to clients with `none`; here it is offered with both, because the host always does.
//! - `notrim`: zeroing passes, but the disk beneath keeps the range allocated.
//! - `plugin`: zeroing passes.
//!
//! `fastzeromode` says what happens when a client asks for zeroing only if it is fast:
//!
//! - `none`: clients are not offered that.
//! - `slow`: they are, but it fails at once with ENOTSUP.
//! - `ignore`: it is like other zeroing, fast or not; with `zeromode=emulate` it is like `slow`.
//! - `default`: like `none` with `zeromode=none`, like `slow` with `zeromode=emulate`, and else up to
//!   the disk beneath.
//!
//! With `zeromode=none` it is never offered. All other requests pass without a call of this component.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, Place, Request, Route, StableRoute, ZeroOptions,
};

/// What the disk beneath gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ZeroMode {
    None,
    Emulate,
    NoTrim,
    Plugin,
}

/// What happens to fast zeroing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FastMode {
    None,
    Slow,
    Ignore,
    Default,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct NoZero {
    base: Lower,
    mode: ZeroMode,
    fast_mode: FastMode,
}

impl NoZero {
    /// Returns true if fast zeroing is offered to clients.
    fn offers_fast(&self) -> bool {
        match (self.mode, self.fast_mode) {
            (ZeroMode::None, _) | (_, FastMode::None) => false,
            (ZeroMode::Emulate, _) | (_, FastMode::Slow | FastMode::Ignore) => true,
            (_, FastMode::Default) => {
                self.base.geometry().capabilities.contains(Capabilities::FAST_ZERO)
            }
        }
    }

    /// Returns true if fast zeroing fails at once.
    fn refuses_fast(&self) -> bool {
        self.mode == ZeroMode::Emulate || self.fast_mode == FastMode::Slow
    }
}

impl Backend for NoZero {
    fn describe() -> Description {
        Description::new("nozero", env!("CARGO_PKG_VERSION"), "another disk, with another zeroing")
            .parameter(Parameter::device("base", "the device beneath").writes().required())
            .parameter(
                Parameter::choice(
                    "zeromode",
                    "what the device beneath gets: writes, zeroing that keeps the range allocated, \
                     or zeroing",
                    &["none", "emulate", "notrim", "plugin"],
                )
                .default("none"),
            )
            .parameter(
                Parameter::choice(
                    "fastzeromode",
                    "fast zeroing is not offered, fails, is like other zeroing, or is up to the \
                     device beneath",
                    &["default", "none", "slow", "ignore"],
                )
                .default("default"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let mode = match request.text("zeromode") {
            Some("emulate") => ZeroMode::Emulate,
            Some("notrim") => ZeroMode::NoTrim,
            Some("plugin") => ZeroMode::Plugin,
            _ => ZeroMode::None,
        };
        let fast_mode = match request.text("fastzeromode") {
            Some("none") => FastMode::None,
            Some("slow") => FastMode::Slow,
            Some("ignore") => FastMode::Ignore,
            _ => FastMode::Default,
        };
        Ok(Self { base: request.device("base").ok_or(Error::EINVAL)?, mode, fast_mode })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        let all = Capabilities::ZERO | Capabilities::FAST_ZERO;
        let mut capabilities = disk.capabilities.without(all) | Capabilities::INTERCHANGEABLE;
        if self.offers_fast() {
            capabilities |= all;
        } else if matches!(self.mode, ZeroMode::NoTrim | ZeroMode::Plugin) {
            capabilities |= Capabilities::ZERO;
        }
        // Otherwise the host writes zeroes instead.
        Disk { capabilities, ..disk }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        self.base.write(offset, data, fua)
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        if self.mode == ZeroMode::Emulate {
            // The host then writes zeroes.
            return Err(Error::ENOTSUP);
        }
        let options = ZeroOptions {
            keep_allocated: options.keep_allocated || self.mode == ZeroMode::NoTrim,
            fast: options.fast && self.fast_mode != FastMode::Ignore,
            ..options
        };
        self.base.zero(offset, length, options)
    }
}

impl Filter for NoZero {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.operation != Operation::Zero {
            return Ok(self.base.pass(request));
        }
        if request.fast && self.refuses_fast() {
            return Err(Error::ENOTSUP);
        }
        let changes =
            self.mode != ZeroMode::Plugin || request.fast && self.fast_mode == FastMode::Ignore;
        Ok(if changes {
            Route::new().segment(Place::Own, request.length)
        } else {
            self.base.pass(request)
        })
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let passes = self.mode == ZeroMode::Plugin
            && matches!(self.fast_mode, FastMode::Default | FastMode::None);
        if operation == Operation::Zero && !passes {
            return None;
        }
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(NoZero);

#[cfg(test)]
mod tests;
