//! A filter that logs the requests to another disk, like nbdkit's filter `log`.
//!
//! `logfile` is the file, pipe or terminal to which the log goes. What a file has is discarded when the
//! server first opens it, or kept with `logappend=true`. Lines that are not written in time are dropped,
//! and the server's log says how many; nothing waits for the log. A file gets at most what the server's
//! option `--max-output` says, and no lines after that.
//!
//! Without `logfile`, the lines go to the server's log, which takes at most 50 of them a second after a burst
//! of 200, and says how many it refused. nbdkit's filter is inactive then.
//!
//! # Formats
//!
//! `log-format=nbdkit` has two lines for each request, when it begins and when it ends, in nbdkit's format:
//!
//! ```text
//! 2026-11-28 02:07:23.080415 Read id=1 offset=0x0 count=0x200 ...
//! 2026-11-28 02:07:23.080502 ...Read id=1 return=0
//! 2026-11-28 02:07:23.080712 Write id=2 offset=0x0 count=0x200 fua=0 ...
//! 2026-11-28 02:07:23.080907 ...Write id=2 return=-1 error=EIO
//! ```
//!
//! `log-format=json` has one line for each request, when it has ended: a JSON object with the time at which
//! the request began and its duration in nanoseconds. Offsets and lengths can exceed 2^53.
//!
//! ```text
//! {"time":"2026-11-28T02:07:23.080415Z","event":"read","id":1,"offset":0,"length":512,"duration":87421,"error":null}
//! ```
//!
//! Times are UTC. The first line, which comes with the first request, has the properties of the disk, the
//! last one the number of requests. That one is missing for the private disk of a client, which is
//! discarded without a word.
//!
//! The time of a request is that which the disk beneath takes. Requests are routed by one instance, each
//! with two calls.
//!
//! # Differences from nbdkit
//!
//! A component does not learn of connections, so lines have no `connection=N`, and there is `Open` and
//! `Close` of the disk instead of `Connect` and `Disconnect` of clients. The extents that the disk beneath
//! reports are not logged, for they do not enter the component. `logscript` does not exist.
//!
//! # Commands
//!
//! `set log-format=FORMAT` changes the format.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod line;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, ErrorCode, Events, Filter,
    Level, Lower, OpenRequest, Output, Parameter, Request, Results, Route, Value, log, time,
    uptime,
};

use line::{Format, Opened};

/// Something that takes its time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Request(Request),
    Flush,
}

/// An action that has begun.
#[derive(Clone, Copy, Debug)]
struct Begun {
    action: Action,
    time: Duration,
    uptime: Duration,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Log {
    base: Lower,
    output: Option<Output>,
    /// The first line, until it is written: the server opens a disk also to see whether it can.
    first: Option<String>,
    /// The output takes nothing more.
    is_full: bool,
    format: Format,
    /// The number of actions so far, which is also that of the last.
    count: u64,
    begun: BTreeMap<u64, Begun>,
}

const FORMATS: &[&str] = &["nbdkit", "json"];

/// The parameter that can be changed.
fn format_parameter() -> Parameter {
    Parameter::choice("log-format", "two lines for each request, or one of JSON", FORMATS)
}

fn format_of(text: Option<&str>) -> Format {
    match text {
        Some("json") => Format::Json,
        _ => Format::Nbdkit,
    }
}

impl Log {
    fn write(&mut self, line: String) {
        if let Some(first) = self.first.take() {
            self.append(first);
        }
        self.append(line);
    }

    fn append(&mut self, mut line: String) {
        let Some(output) = self.output else {
            log(Level::Info, &line);
            return;
        };
        line.push('\n');
        if !self.is_full && output.append(line.as_bytes()).is_err() {
            self.is_full = true;
            log(Level::Warn, "the log is as long as it may be; nothing more is logged");
        }
    }

    /// Returns the time for a line, which the server's log has already.
    fn now(&self) -> Option<Duration> {
        (self.output.is_some() || matches!(self.format, Format::Json)).then(time)
    }

    fn begin(&mut self, action: Action) -> u64 {
        self.count += 1;
        let id = self.count;
        self.begun.insert(id, Begun { action, time: time(), uptime: uptime() });
        if let Some(line) = self.format.begin(self.now(), id, &action) {
            self.write(line);
        }
        id
    }

    fn end(&mut self, id: u64, error: Option<ErrorCode>) {
        let Some(Begun { action, time, uptime: begin }) = self.begun.remove(&id) else { return };
        let duration = uptime().saturating_sub(begin);
        let now = self.now();
        let line = match self.format {
            Format::Nbdkit => line::nbdkit_end(now, id, &action, error),
            Format::Json => line::json(time, id, &action, duration, error),
        };
        self.write(line);
    }
}

impl Backend for Log {
    fn describe() -> Description {
        Description::new(
            "log",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose requests are logged",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::output(
                "logfile",
                "the file, pipe or terminal to which the log goes",
                Some("logappend"),
            )
            .default("the log of the server, with few lines a second"),
        )
        .parameter(
            Parameter::boolean("logappend", "whether what the file has is kept").default("false"),
        )
        .parameter(format_parameter().default("nbdkit"))
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let mut disk = Self {
            base,
            output: request.output("logfile"),
            first: None,
            is_full: false,
            format: format_of(request.text("log-format")),
            count: 0,
            begun: BTreeMap::new(),
        };
        let opened = Opened::new(request, base.geometry());
        disk.first = Some(disk.format.open(disk.now(), &opened));
        Ok(disk)
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Log {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let id = self.begin(Action::Request(*request));
        Ok(self.base.pass(request).token(id))
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        self.end(token, results.segments.iter().flatten().next().copied());
        Ok(())
    }
}

impl Events for Log {
    fn flush_began(&mut self) -> u64 {
        self.begin(Action::Flush)
    }

    fn flush_ended(&mut self, token: u64, result: Option<ErrorCode>) {
        self.end(token, result);
    }

    fn closing(&mut self) {
        let line = self.format.close(self.now(), self.count);
        self.write(line);
    }
}

impl Control for Log {
    fn commands(&self) -> Vec<Command> {
        let set = Command::new("set", "changes the format");
        vec![set.parameter(format_parameter().required())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        for argument in arguments {
            if let Value::Text(format) = &argument.value {
                self.format = format_of(Some(format));
            }
        }
        Ok(String::new())
    }
}

memnbd_guest::filter!(Log);
memnbd_guest::events!(Log);
memnbd_guest::control!(Log);

#[cfg(test)]
mod tests;
