//! A filter that gives another disk silent faults: requests succeed, and did something else. It tests
//! whether checksums, generation numbers and the like find that.
//!
//! `silent-fault` is the fault:
//!
//! - `phantom-write`, the default: a write, zeroing or trim is acknowledged and changes nothing. Others
//!   call it a lost write.
//! - `torn-write`: only the first sectors of a write or zeroing are changed, half of them by default, or
//!   as many as `silent-sectors` says.
//! - `misdirected-write`: a write or zeroing changes another place.
//! - `misdirected-read`: a read returns what is at another place.
//! - `stale-read`: a read returns what sectors had before they were changed for the last time.
//!
//! `silent-rate` is the probability with which a request has the fault, 0 by default. With
//! `silent-range=OFFSET:LENGTH`, which can be repeated, only requests that touch this range have it, with
//! `silent-nth=N` every Nth, with `silent-once=true` one, and with `silent-state=N` those in a state of
//! the disk. `silent-set-state=EVENT:FROM:TO` switches the state after a request, such as `pwrite`. If one
//! of the first four is given, but no rate, the rate is 100%. `silent-seed` makes the random numbers the
//! same each time.
//!
//! Sectors have `silent-sector` bytes, 512 by default. Misdirected requests go `silent-distance` bytes
//! further, or as much back where the disk ends, or without the parameter to a random place. If there is
//! no such place, the request is executed as it is.
//!
//! For `stale-read`, what sectors had is kept in the memory of this component, up to `silent-memory`, 16
//! MiB by default and at most half of what the disk may have, and 2 GiB; older sectors are forgotten. Of
//! a request that changes more than 1 MiB, the first MiB is kept.
//!
//! Data do not pass through this component, but for what is dropped or stale. Requests that cannot have
//! the fault pass without a call of it; with `stale-read`, those that change the disk have to be seen.
//!
//! # Commands
//!
//! `set KEY=VALUE...` changes parameters while the disk is in use. Counting begins anew, and what was kept
//! is forgotten. `state` tells the state, and how many requests matched and had the fault; `state state=N`
//! goes to another state.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod history;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use memnbd_faults::{Event, Names, Random, Rule, names};
use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Lower, OpenRequest,
    Operation, Parameter, ParameterType, Place, Request, Route, Rules, StableRoute, ZeroOptions,
    withdraw_routes,
};

use history::History;

/// The names of the parameters that limit faults.
const NAMES: Names = names!("silent");

/// The default of `silent-memory`.
const DEFAULT_MEMORY: u64 = 16 << 20;

/// The most memory: a WebAssembly memory ends at 4 GiB.
const MAX_MEMORY: u64 = 2 << 30;

/// The longest sector.
const MAX_SECTOR: u64 = 65536;

/// The faults, under their names.
const FAULTS: [(&str, Fault); 5] = [
    ("phantom-write", Fault::PhantomWrite),
    ("torn-write", Fault::TornWrite),
    ("misdirected-write", Fault::MisdirectedWrite),
    ("misdirected-read", Fault::MisdirectedRead),
    ("stale-read", Fault::StaleRead),
];
const FAULT_NAMES: &[&str] = &[FAULTS[0].0, FAULTS[1].0, FAULTS[2].0, FAULTS[3].0, FAULTS[4].0];

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PhantomWrite,
    TornWrite,
    MisdirectedWrite,
    MisdirectedRead,
    StaleRead,
}

impl Fault {
    /// Returns the operations that can have the fault.
    fn operations(self) -> &'static [Operation] {
        use Operation::{Read, Trim, Write, Zero};
        match self {
            Self::PhantomWrite => &[Write, Zero, Trim],
            Self::TornWrite | Self::MisdirectedWrite => &[Write, Zero],
            Self::MisdirectedRead | Self::StaleRead => &[Read],
        }
    }
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Silent {
    base: Lower,
    size: u64,
    fault: Fault,
    rule: Rule,
    /// The length of a sector.
    sector: u64,
    /// How far requests are misdirected; randomly without it.
    distance: Option<u64>,
    /// How many sectors of a torn write are changed; half of them without it.
    sectors: Option<u64>,
    /// For the places of misdirected requests.
    random: Random,
    /// What sectors had, for [`Fault::StaleRead`].
    history: History,
    request: OpenRequest,
}

impl Silent {
    /// Returns another place for a request of this length, at the same position within a sector.
    fn elsewhere(&mut self, request: &Request) -> Option<u64> {
        let last = self.size - request.length;
        if let Some(distance) = self.distance {
            let further = request.offset.checked_add(distance).filter(|offset| *offset <= last);
            return further.or_else(|| request.offset.checked_sub(distance));
        }
        let first = request.offset % self.sector;
        let others = last.checked_sub(first)? / self.sector;
        if others == 0 {
            return None;
        }
        let own = request.offset / self.sector;
        let chosen = self.random.below(others);
        Some(first + (chosen + u64::from(chosen >= own)) * self.sector)
    }

    /// Returns how many bytes of a torn write are changed.
    fn torn(&self, request: &Request) -> u64 {
        let first = request.offset / self.sector;
        let sectors = request.end().div_ceil(self.sector) - first;
        let kept = self.sectors.unwrap_or(sectors / 2);
        let end = first.saturating_add(kept).saturating_mul(self.sector);
        end.clamp(request.offset, request.end()) - request.offset
    }

    /// Returns true if requests of an operation have to be kept for stale reads.
    fn keeps(&self, operation: Operation) -> bool {
        let reads = Event::Request(Operation::Read);
        self.fault == Fault::StaleRead && operation.changes() && self.rule.may_affect(reads)
    }

    /// Routes a request that has the fault.
    fn strike(&mut self, request: &Request) -> Route {
        match self.fault {
            Fault::PhantomWrite | Fault::StaleRead => {
                Route::new().segment(Place::Own, request.length)
            }
            Fault::TornWrite => {
                let changed = self.torn(request);
                let mut route = Route::new();
                if changed > 0 {
                    route.push(self.base.at(request.offset), changed);
                }
                if changed < request.length {
                    route.push(Place::Own, request.length - changed);
                }
                route
            }
            Fault::MisdirectedWrite | Fault::MisdirectedRead => match self.elsewhere(request) {
                Some(offset) => Route::lower(self.base.at(offset), request.length),
                None => self.base.pass(request),
            },
        }
    }
}

impl Backend for Silent {
    fn describe() -> Description {
        let description = Description::new(
            "silent",
            env!("CARGO_PKG_VERSION"),
            "another disk, with writes that get lost, torn or misdirected, and reads that are wrong",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice("silent-fault", "the fault", FAULT_NAMES).default("phantom-write"),
        )
        .parameter(
            Parameter::probability(
                NAMES.rate,
                "the probability with which a request has the fault",
            )
            .default(
                "0, or 100% with silent-range, silent-nth, silent-once or silent-state",
            ),
        )
        .parameter(
            Parameter::new(
                "silent-sector",
                "the length of a sector",
                ParameterType::Size(1, MAX_SECTOR),
            )
            .default("512"),
        )
        .parameter(
            Parameter::size("silent-distance", "how far requests are misdirected")
                .default("to a random place"),
        )
        .parameter(
            Parameter::number(
                "silent-sectors",
                "how many sectors of a torn write are changed",
                0,
                i64::MAX,
            )
            .default("half of them"),
        )
        .parameter(
            Parameter::size("silent-memory", "the memory for what stale reads return")
                .default("16M, or half of the memory limit"),
        );
        NAMES.declare(description)
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let name = request.text("silent-fault");
        let fault = FAULTS.iter().find(|(known, _)| name == Some(known));
        let fault = fault.map_or(Fault::PhantomWrite, |(_, fault)| *fault);
        let mut rule = Rule::open(request, &NAMES, size)?;
        let default = if rule.is_limited() { 1.0 } else { 0.0 };
        let rate = request.probability(NAMES.rate).unwrap_or(default);
        for operation in fault.operations() {
            rule.set_rate(Event::Request(*operation), rate);
        }
        let sector = request.size("silent-sector").unwrap_or(512);
        if !sector.is_power_of_two() {
            return Err(Error::EINVAL
                .because(format!("silent-sector={sector} must be a power of two, such as 4096")));
        }
        let distance = request.size("silent-distance");
        if distance == Some(0) {
            return Err(Error::EINVAL
                .because("silent-distance=0 leads to the same place; it must be at least 1"));
        }
        let memory = request.size("silent-memory").unwrap_or(DEFAULT_MEMORY);
        Ok(Self {
            base,
            size,
            fault,
            rule,
            sector,
            distance,
            sectors: request.number("silent-sectors").map(|sectors| sectors as u64),
            random: Random::from_request(request, NAMES.seed),
            history: History::new(
                base,
                sector,
                memory.min(request.memory_limit / 2).min(MAX_MEMORY),
            ),
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry()).in_pieces()
    }

    /// Reads what is stale, or the blocks around the part of a write that is dropped.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)?;
        self.history.overlay(offset, buffer);
        Ok(())
    }

    /// Drops the data, here as in `zero` and `trim`.
    fn write(&mut self, _: u64, _: &[u8], _: bool) -> Result<(), Error> {
        Ok(())
    }

    fn zero(&mut self, _: u64, _: u64, _: ZeroOptions) -> Result<(), Error> {
        Ok(())
    }
}

impl Filter for Silent {
    /// Nothing changes a sector between the moment in which its bytes are kept and its write.
    fn rules(&self) -> Rules {
        Rules::shared_or_exclusive(MAX_SECTOR)
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if self.keeps(request.operation) {
            self.history.keep(request.offset, request.end())?;
        }
        let fresh = self.fault == Fault::StaleRead
            && request.operation == Operation::Read
            && !self.history.touches(request.offset, request.end());
        if fresh {
            self.rule.observe(request);
        } else if self.rule.affects(request) {
            return Ok(self.strike(request));
        }
        Ok(self.base.pass(request))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.keeps(operation) {
            return None;
        }
        let length = self.rule.safe(operation, offset, self.size)?;
        Some(StableRoute::new(self.base.at(offset), length))
    }
}

impl Control for Silent {
    fn commands(&self) -> Vec<Command> {
        Rule::commands(Self::describe())
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        if let Some(told) = self.rule.execute(command, arguments) {
            return Ok(told);
        }
        *self = Self::open(&self.request.changed(arguments))?;
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Silent);
memnbd_guest::control!(Silent);

#[cfg(test)]
mod tests;
