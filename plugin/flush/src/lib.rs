//! A filter whose flushes fail, or lie. It tests whether programs keep their promises when a disk does
//! not: databases, file systems, and whatever calls `fsync`.
//!
//! `flush-mode` is what happens to a flush:
//!
//! - `fail`, the default: it fails, and nothing is lost.
//! - `drop`: it fails, and everything that was written since the last good flush is lost, while later
//!   flushes succeed. That is what Linux does: whoever ignores an error of `fsync` and calls it again
//!   believes that the data are safe.
//! - `lie`: it succeeds and flushes nothing, as a drive with a volatile cache that ignores flushes. The
//!   command `crash` is a power loss: everything that was written since the last true flush is gone. So
//!   it is when the server stops.
//!
//! `flush-error` is the error, `EIO` by default.
//!
//! With `flush-nth=N` it happens to every Nth flush only, and with `flush-once=true` to one. `drop` alone
//! means once. `flush-rate` is the probability, 100% by default, and `flush-seed` makes the random numbers
//! the same each time. With `flush-state=N` it happens in one state of the disk only;
//! `flush-set-state=EVENT:FROM:TO` switches it after an event, such as `flush` or `pwrite`. All other
//! flushes are true.
//!
//! A write with FUA is a write and a flush of the whole disk, to which the same happens.
//!
//! # The cache
//!
//! With `drop` and `lie`, what is written stays in the memory of this component until a flush is true:
//! the disk beneath does not have it before. `flush-cache` is the most that stays there, 64 MiB by
//! default, and at most half of what the disk may have, and 2 GiB. Beyond that all of it goes to the disk beneath,
//! and is safe from then on, as drives write back when their caches are full. So are trims, and zeroing
//! of more than 1 MiB at once.
//!
//! With `fail`, everything but flushes passes without a call of this component.
//!
//! # Commands
//!
//! - `crash` loses what is in the cache, and tells how many bytes that were.
//! - `status` tells how many bytes are in the cache.
//! - `state` tells the state and how many flushes were affected; `state state=N` goes to another.
//! - `set KEY=VALUE...` changes parameters. Counting begins anew. The cache stays, or goes to the disk
//!   beneath with `flush-mode=fail`.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod cache;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use memnbd_faults::{ERROR_NAMES, Event, Names, Rule, error_code, names};
use memnbd_guest::{
    Argument, Backend, Capabilities, Command, Control, Description, Disk, Error, ErrorCode, Extent,
    Filter, Level, Lower, OpenRequest, Operation, Parameter, Place, Request, Route, StableRoute,
    ZeroOptions, log, withdraw_routes,
};

use cache::Cache;

/// The names of the parameters that limit faults.
const NAMES: Names = names!("flush");

/// The default of `flush-cache`.
const DEFAULT_CACHE: u64 = 64 << 20;

/// The largest cache: a WebAssembly memory ends at 4 GiB.
const MAX_CACHE: u64 = 2 << 30;

/// The longest zeroing that is cached.
const MAX_ZERO: u64 = 1 << 20;

/// What happens to a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Fail,
    Drop,
    Lie,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Flush {
    base: Lower,
    size: u64,
    mode: Mode,
    code: ErrorCode,
    rule: Rule,
    /// What was written and is not on the disk beneath; nothing with [`Mode::Fail`].
    cache: Cache,
    request: OpenRequest,
}

impl Flush {
    /// Returns true if writes stay in the cache.
    fn caches(&self) -> bool {
        self.mode != Mode::Fail
    }

    /// Routes a request that the rule has seen.
    fn place(&self, request: &Request) -> Route {
        let own = match request.operation {
            Operation::Cache => false,
            Operation::Read | Operation::Extents => {
                self.cache.touches(request.offset, request.end())
            }
            Operation::Write | Operation::Zero | Operation::Trim => self.caches(),
        };
        if own { Route::new().segment(Place::Own, request.length) } else { self.base.pass(request) }
    }

    fn crash(&mut self) -> String {
        let lost = self.cache.lose();
        log(Level::Info, &format!("{lost} bytes that were not flushed are lost in a crash"));
        format!("{lost} bytes are lost")
    }
}

impl Backend for Flush {
    fn describe() -> Description {
        let description = Description::new(
            "flush",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose flushes fail or lie",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "flush-mode",
                "what happens: failing, also dropping what was written, or lying",
                &["fail", "drop", "lie"],
            )
            .default("fail"),
        )
        .parameter(Parameter::choice("flush-error", "the error", ERROR_NAMES).default("EIO"))
        .parameter(
            Parameter::size("flush-cache", "the most that is written and not flushed")
                .default("64M, or half of the memory limit"),
        )
        .parameter(
            Parameter::probability(NAMES.rate, "the probability with which it happens to a flush")
                .default("100%"),
        );
        NAMES.declare_without_ranges(description)
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let geometry = base.geometry();
        let mode = match request.text("flush-mode") {
            Some("drop") => Mode::Drop,
            Some("lie") => Mode::Lie,
            _ => Mode::Fail,
        };
        let code = match request.text("flush-error") {
            Some(name) => error_code(name).ok_or(Error::EINVAL)?,
            None => ErrorCode::Eio,
        };
        let mut rule = Rule::open(request, &NAMES, geometry.size)?;
        let rate = request.probability(NAMES.rate);
        rule.set_rate(Event::Flush, rate.unwrap_or(1.0));
        if mode == Mode::Drop && rate.is_none() && !rule.is_limited() {
            rule.limit_to_once();
        }
        let limit = request.size("flush-cache").unwrap_or(DEFAULT_CACHE);
        let cache = Cache::new(base, limit.min(request.memory_limit / 2).min(MAX_CACHE));
        Ok(Self { base, size: geometry.size, mode, code, rule, cache, request: request.clone() })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry()).in_pieces();
        // The host then asks for a flush after a write with FUA.
        let capabilities = disk.capabilities.without(Capabilities::FUA) | Capabilities::FLUSH;
        Disk { capabilities, ..disk }
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.cache.read(offset, buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), Error> {
        if self.caches() {
            self.cache.write(offset, data)
        } else {
            self.base.write(offset, data, fua)
        }
    }

    fn zero(&mut self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        if self.caches() && length <= MAX_ZERO {
            return self.cache.zero(offset, length);
        }
        self.base.zero(offset, length, options)?;
        // The bytes at the ends of the range are in pages that stay.
        self.cache.forget(offset, length)
    }

    fn trim(&mut self, offset: u64, length: u64, fua: bool) -> Result<(), Error> {
        self.base.trim(offset, length, fua)?;
        self.cache.discard(offset, length);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if !self.rule.affects_flush() {
            self.cache.write_back()?;
            return self.base.flush();
        }
        match self.mode {
            Mode::Lie => Ok(()),
            Mode::Fail => Err(Error::new(self.code).because("injected by the filter flush")),
            Mode::Drop => {
                let lost = self.cache.lose();
                let message = format!("injected by the filter flush; {lost} bytes were dropped");
                Err(Error::new(self.code).because(message))
            }
        }
    }

    fn extents(&mut self, offset: u64, length: u64) -> Result<Vec<Extent>, Error> {
        self.cache.extents(offset, length)
    }
}

impl Filter for Flush {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        self.rule.observe(request);
        Ok(self.place(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.rule.safe(operation, offset, self.size)?;
        match operation {
            Operation::Read | Operation::Extents if self.caches() => None,
            operation if operation.changes() && self.caches() => {
                Some(StableRoute::new(Place::Own, length))
            }
            _ => Some(StableRoute::new(self.base.at(offset), length)),
        }
    }
}

impl Control for Flush {
    fn commands(&self) -> Vec<Command> {
        let mut commands = Rule::commands(Self::describe());
        commands.push(Command::new("crash", "loses what was written and not flushed"));
        commands.push(Command::new("status", "tells how much was written and not flushed"));
        commands
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        if let Some(told) = self.rule.execute(command, arguments) {
            return Ok(told);
        }
        match command {
            "crash" => return Ok(self.crash()),
            "status" => return Ok(format!("{} bytes are not flushed", self.cache.bytes())),
            _ => {}
        }
        let mut changed = Self::open(&self.request.changed(arguments))?;
        if !changed.caches() || !changed.cache.has_room_for(&self.cache) {
            self.cache.write_back()?;
        }
        changed.cache.take(&mut self.cache);
        *self = changed;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Flush);
memnbd_guest::control!(Flush);

#[cfg(test)]
mod tests;
