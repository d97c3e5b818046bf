//! A filter that delays requests to another disk, like nbdkit's filter `delay`. It simulates a slow
//! or remote disk.
//!
//! The parameters are those of nbdkit: `rdelay` or `delay-read`, `wdelay` for writes, zeroing and
//! trims at once, and `delay-write`, `delay-zero`, `delay-trim`, `delay-extents` and `delay-cache`.
//! Of several that set the same delay, the last one holds. With `delay-fast-zero=false`, fast
//! zeroing fails at once while zeroing is delayed; otherwise it is delayed like other zeroing.
//!
//! # Additions
//!
//! `delay-jitter` makes each delay that is given, even as 0, longer by a random time.
//! `delay-distribution` says how:
//!
//! - `uniform`, the default: by up to the jitter.
//! - `normal`: the delay is the mean and the jitter the standard deviation.
//! - `pareto`: by the jitter on average, rarely by much more. `delay-shape` is the shape, 3 by default;
//!   with 2, the longest delays are longer.
//! - `constant`: not at all.
//!
//! `delay-trace=FILE` makes each delay that is given longer by the next time of a file, from the beginning
//! again after the last one: a trace of a real disk. Each line is a time such as `1.5ms`; without a unit
//! it is in seconds. The file is read once, and has at most 8 MiB and a million times.
//!
//! `delay-range=OFFSET:LENGTH`, which can be repeated, delays only requests that touch this range, like
//! those that a drive has to try again. `delay-nth=N` delays every Nth, `delay-once=true` one, `delay-rate`
//! each with a probability, and `delay-state=N` those in a state of the disk, which
//! `delay-set-state=EVENT:FROM:TO` switches after a request, such as `pwrite`. `delay-seed` makes the
//! random numbers the same each time.
//!
//! With `delay-stall-every=T` and `delay-stall-for=D`, the disk stalls for the time `D` each time that `T`
//! has passed: requests that arrive meanwhile, but for those of block status, wait for its end.
//!
//! A delay lasts up to 10 minutes; longer ones that chance would have are cut. Delayed requests occupy
//! neither this component nor a thread, and any number of them can wait at the same time. Requests that
//! cannot be delayed cost no call of this component.
//!
//! The command `set KEY=VALUE...` changes parameters while the disk is in use. Counting, stalls and the
//! trace begin anew. `state` tells the state, and how many requests matched and were delayed; `state
//! state=N` goes to another state.
//!
//! `delay-open` and `delay-close` delay clients: before they get the disk, and after they have asked to be
//! disconnected. They are the server's part of this filter, for a component is opened once for a disk, and
//! does not learn of the connections of clients; so they are not for commands, `memnbd update` changes them
//! for clients that connect later. A client that is only told of the disk is not delayed. Flushing is never
//! delayed, as in nbdkit.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod distribution;
mod stalls;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_faults::{Event, Names, Random, Rule, names};
use memnbd_guest::{
    Argument, Backend, Capabilities, Command, Control, Description, Disk, Error, Filter, Lower,
    MAX_DELAY, OpenRequest, Operation, Parameter, Request, Route, StableRoute, Value,
    withdraw_routes,
};

use distribution::Distribution;
use stalls::Stalls;

/// The names of the parameters that limit delays.
const NAMES: Names = names!("delay");

/// The parameters that are delays, with their summaries and the operations that they delay.
const DELAYS: [(&str, &str, &[Operation]); 8] = [
    ("rdelay", "the delay of reads", &[Operation::Read]),
    ("delay-read", "the same as rdelay", &[Operation::Read]),
    (
        "wdelay",
        "the delay of writes, zeroing and trims",
        &[Operation::Write, Operation::Zero, Operation::Trim],
    ),
    ("delay-write", "the delay of writes", &[Operation::Write]),
    ("delay-zero", "the delay of zeroing", &[Operation::Zero]),
    ("delay-trim", "the delay of trims", &[Operation::Trim]),
    ("delay-extents", "the delay of block status requests", &[Operation::Extents]),
    ("delay-cache", "the delay of prefetching", &[Operation::Cache]),
];

/// The parameters that the server takes, with their summaries.
const OF_SERVER: [(&str, &str); 2] = [
    ("delay-open", "the delay of clients that connect, before they get the disk"),
    (
        "delay-close",
        "the delay of clients that disconnect, before the server closes the connection",
    ),
];

/// The open disk.
#[derive(Clone, Debug)]
pub struct Delay {
    base: Lower,
    size: u64,
    /// The delay of each operation, if one was given.
    delays: [Option<Duration>; Operation::ALL.len()],
    /// The time that is added to a delay, as the distribution has it.
    jitter: Duration,
    distribution: Distribution,
    random: Random,
    rule: Rule,
    stalls: Option<Stalls>,
    /// False if fast zeroing fails at once instead of being delayed.
    fast_zero: bool,
    /// What the settings were made of.
    request: OpenRequest,
}

impl Delay {
    /// Sets the delays that an argument gives.
    fn set(&mut self, argument: &Argument) -> Result<(), Error> {
        let Value::Duration(delay) = argument.value else { return Ok(()) };
        if delay.checked_add(self.jitter).is_none_or(|longest| longest > MAX_DELAY) {
            let name = &argument.name;
            return Err(Error::EINVAL.because(if self.jitter.is_zero() {
                format!("{name} must be at most 10 minutes")
            } else {
                format!("{name} and delay-jitter together must be at most 10 minutes")
            }));
        }
        for (name, _, operations) in DELAYS {
            if name == argument.name {
                for operation in operations {
                    self.delays[*operation as usize] = Some(delay);
                }
            }
        }
        Ok(())
    }

    /// Returns true if requests of this operation can have to wait.
    fn delays(&self, operation: Operation) -> bool {
        self.delays[operation as usize]
            .is_some_and(|delay| !delay.is_zero() || self.distribution.varies(self.jitter))
    }

    /// Returns true if fast zeroing fails at once.
    fn refuses_fast_zero(&self) -> bool {
        !self.fast_zero && self.delays(Operation::Zero)
    }
}

impl Backend for Delay {
    fn describe() -> Description {
        let description =
            Description::new("delay", env!("CARGO_PKG_VERSION"), "another disk, with delays")
                .parameter(Parameter::device("base", "the device beneath").writes().required());
        let description = DELAYS.iter().fold(description, |description, (name, summary, _)| {
            description.parameter(Parameter::duration(name, summary).default("0"))
        });
        let description = OF_SERVER.iter().fold(description, |description, (name, summary)| {
            description.parameter(Parameter::duration(name, summary).default("0"))
        });
        let description = description
            .parameter(
                Parameter::boolean(
                    "delay-fast-zero",
                    "whether fast zeroing is delayed; otherwise it fails at once",
                )
                .default("true"),
            )
            .parameter(
                Parameter::duration(
                    "delay-jitter",
                    "the random time that is added to each delay that is given",
                )
                .default("0"),
            )
            .parameter(
                Parameter::choice(
                    "delay-distribution",
                    "how delays are distributed",
                    distribution::NAMES,
                )
                .default("uniform"),
            )
            .parameter(
                Parameter::number("delay-shape", "the shape of the distribution pareto", 2, 20)
                    .default("3"),
            )
            .parameter(Parameter::file(
                "delay-trace",
                "a text with a time in each line, which are added to the delays one after the other",
            ))
            .parameter(Parameter::duration(
                "delay-stall-every",
                "the time from the beginning of a stall of the disk to the next",
            ))
            .parameter(Parameter::duration("delay-stall-for", "how long a stall lasts"))
            .parameter(
                Parameter::probability(NAMES.rate, "the probability that a request is delayed")
                    .default("100%"),
            );
        NAMES.declare(description)
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        if let Some((name, _)) = OF_SERVER.iter().find(|(name, _)| request.duration(name).is_some())
        {
            return Err(Error::EINVAL.because(format!(
                "{name} is for the server, which takes it with the built-in filter delay, and not for a \
                 command"
            )));
        }
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let jitter = request.duration("delay-jitter").unwrap_or(Duration::ZERO);
        let mut disk = Self {
            base,
            size,
            delays: [None; Operation::ALL.len()],
            jitter,
            distribution: Distribution::open(request)?,
            random: Random::from_request(request, NAMES.seed),
            rule: Rule::open(request, &NAMES, size)?,
            stalls: Stalls::open(request)?,
            fast_zero: request.boolean("delay-fast-zero").unwrap_or(true),
            request: request.clone(),
        };
        for argument in &request.arguments {
            if !matches!(&*argument.name, "delay-jitter" | "delay-stall-every" | "delay-stall-for")
            {
                disk.set(argument)?;
            }
        }
        let is_trace = matches!(disk.distribution, Distribution::Trace(..));
        if (is_trace || !jitter.is_zero()) && disk.delays.iter().all(Option::is_none) {
            let name = if is_trace { "delay-trace" } else { "delay-jitter" };
            return Err(Error::EINVAL
                .because(format!("{name} needs a delay that it adds to, such as rdelay=0")));
        }
        let rate = request.probability(NAMES.rate).unwrap_or(1.0);
        for operation in Operation::ALL {
            if disk.delays(operation) {
                disk.rule.set_rate(Event::Request(operation), rate);
            }
        }
        Ok(disk)
    }

    fn disk(&self) -> Disk {
        let mut disk = Disk::above(&self.base.geometry());
        if self.refuses_fast_zero() {
            disk.capabilities |= Capabilities::FAST_ZERO;
        }
        disk
    }
}

impl Filter for Delay {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        if request.fast && self.refuses_fast_zero() {
            return Err(Error::ENOTSUP);
        }
        let mut wait = Duration::ZERO;
        if self.rule.affects(request)
            && let Some(delay) = self.delays[request.operation as usize]
        {
            wait = self.distribution.next(delay, self.jitter, &mut self.random);
        }
        if let Some(stalls) = self.stalls.filter(|_| request.operation != Operation::Extents) {
            wait += stalls.rest();
        }
        Ok(self.base.pass(request).delayed(wait.min(MAX_DELAY)))
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let refuses = operation == Operation::Zero && self.refuses_fast_zero();
        let stalls = self.stalls.is_some() && operation != Operation::Extents;
        if refuses || stalls {
            return None;
        }
        let length = self.rule.safe(operation, offset, self.size)?;
        Some(StableRoute::new(self.base.at(offset), length))
    }
}

impl Control for Delay {
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

memnbd_guest::filter!(Delay);
memnbd_guest::control!(Delay);

#[cfg(test)]
mod tests;
