//! A filter that counts and times the requests to another disk, like nbdkit's filter `stats`.
//!
//! `statsfile` is the file, pipe or terminal to which the report is written when the disk is closed. What a
//! file has is discarded when the server first opens it, or kept with `statsappend=true`. Without
//! `statsfile`, which nbdkit requires, the report is only for the command `show`. A private disk of a
//! client is discarded without a report.
//!
//! `statsthreshold` is a percentage: sizes and alignments are listed from the most frequent one on until
//! they make up so many of the requests; 0 lists none.
//!
//! # The report
//!
//! It is that of nbdkit, with two lines more for each operation: the times that 50%, 90%, 99% and 99.9% of
//! the requests did not exceed, rounded up by at most an eighth, with the longest, and how many requests
//! failed. Failed requests are not counted otherwise.
//!
//! ```text
//! total: 191 ops, 21.917545 s, 25.13 GiB, 1.15 GiB/s
//! read: 136 ops, 0.000230 s, 3.16 MiB, 13.43 GiB/s op, 147.83 KiB/s total
//!   Latency: 50% 1.5 us, 90% 3.3 us, 99% 12.3 us, 99.9% 12.3 us, longest 11.9 us
//!   Request size and alignment breakdown:
//!     12 bits: 68.4% (93 reqs, 372.00 KiB total)
//!          12 bit aligned: 100.0% (93)
//!          13 bit aligned:  72.0% (67)
//! ```
//!
//! `12 bits` are sizes of 2^12 to 2^13-1 bytes. An offset of 0 has every alignment. The time of a request
//! is that which the disk beneath takes. For block status, the size is what was asked for.
//!
//! Requests are routed by one instance, each with two calls.
//!
//! # Commands
//!
//! `show` answers with the report, cut after 60 KiB. `write` adds the report to `statsfile`. `reset`
//! begins anew. `set statsthreshold=N` changes the percentage.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod report;
mod tally;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, ErrorCode, Events, Filter,
    Level, Lower, OpenRequest, Output, Parameter, Request, Results, Route, Value, log, uptime,
};

use tally::{Kind, Tallies};

/// The longest answer of a command. The contract allows 64 KiB.
const MAX_ANSWER: usize = 60 << 10;

/// A request that has begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    kind: Kind,
    offset: u64,
    length: u64,
    at: Duration,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Stats {
    base: Lower,
    output: Option<Output>,
    threshold: u8,
    since: Duration,
    tallies: Tallies,
    /// The number of requests so far.
    count: u64,
    begun: BTreeMap<u64, Begun>,
}

impl Stats {
    fn begin(&mut self, kind: Kind, offset: u64, length: u64) -> u64 {
        self.count += 1;
        self.begun.insert(self.count, Begun { kind, offset, length, at: uptime() });
        self.count
    }

    fn end(&mut self, token: u64, error: Option<ErrorCode>) {
        let Some(Begun { kind, offset, length, at }) = self.begun.remove(&token) else { return };
        match error {
            None => self.tallies.add(kind, offset, length, uptime().saturating_sub(at)),
            Some(_) => self.tallies.fail(kind),
        }
    }

    fn report(&self) -> String {
        report::of(&self.tallies, uptime().saturating_sub(self.since), self.threshold)
    }

    fn write_report(&self) -> Result<(), Error> {
        self.output.map_or(Ok(()), |output| output.append(self.report().as_bytes()))
    }
}

/// The parameter that can be changed.
fn threshold_parameter() -> Parameter {
    Parameter::number(
        "statsthreshold",
        "the percentage of the requests whose sizes and alignments are listed; 0 lists none",
        0,
        100,
    )
}

impl Backend for Stats {
    fn describe() -> Description {
        Description::new(
            "stats",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose requests are counted and timed",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::output(
                "statsfile",
                "the file, pipe or terminal to which the report is written in the end",
                Some("statsappend"),
            )
            .default("none; the command show answers with the report"),
        )
        .parameter(
            Parameter::boolean("statsappend", "whether what the file has is kept").default("false"),
        )
        .parameter(threshold_parameter().default("95"))
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        Ok(Self {
            base: request.device("base").ok_or(Error::EINVAL)?,
            output: request.output("statsfile"),
            // Checked by the host.
            threshold: request.number("statsthreshold").unwrap_or(95) as u8,
            since: uptime(),
            tallies: Tallies::default(),
            count: 0,
            begun: BTreeMap::new(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Stats {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let kind = Kind::of(request.operation);
        let token = self.begin(kind, request.offset, request.length);
        Ok(self.base.pass(request).token(token))
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        self.end(token, results.segments.iter().flatten().next().copied());
        Ok(())
    }
}

impl Events for Stats {
    fn flush_began(&mut self) -> u64 {
        self.begin(Kind::Flush, 0, 0)
    }

    fn flush_ended(&mut self, token: u64, result: Option<ErrorCode>) {
        self.end(token, result);
    }

    fn closing(&mut self) {
        if self.write_report().is_err() {
            log(Level::Warn, "the statsfile is as long as it may be; there is no report");
        }
    }
}

impl Control for Stats {
    fn commands(&self) -> Vec<Command> {
        vec![
            Command::new("show", "answers with the report"),
            Command::new("write", "adds the report to statsfile"),
            Command::new("reset", "begins anew"),
            Command::new("set", "changes the percentage")
                .parameter(threshold_parameter().required()),
        ]
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        match command {
            "show" => {
                let mut report = self.report();
                if report.len() > MAX_ANSWER {
                    // All of it is ASCII.
                    report.truncate(MAX_ANSWER);
                    report.push_str("...\n");
                }
                return Ok(report);
            }
            "write" if self.output.is_none() => {
                return Err(Error::EINVAL.because("there is no statsfile"));
            }
            "write" => self.write_report()?,
            "reset" => {
                self.tallies = Tallies::default();
                self.since = uptime();
            }
            _ => {
                if let Some(Value::Number(threshold)) = arguments.first().map(|first| &first.value)
                {
                    self.threshold = *threshold as u8;
                }
            }
        }
        Ok(String::new())
    }
}

memnbd_guest::filter!(Stats);
memnbd_guest::events!(Stats);
memnbd_guest::control!(Stats);

#[cfg(test)]
mod tests;
