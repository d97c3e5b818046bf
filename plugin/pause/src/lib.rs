//! A filter that makes requests wait, like nbdkit's filter `pause`: for a snapshot of what is beneath, or
//! to test what clients do with requests that hang.
//!
//! # Pausing the disk
//!
//! The command `pause` makes all requests wait that come later, and `resume` lets them go on. The answer to
//! `pause` comes when those that came before are complete. With `paused=true` the disk begins so. nbdkit
//! has a socket for this, `pause-control`; components have none. Flushes do not wait: what they cover is
//! complete.
//!
//! # Requests that hang
//!
//! Without these parameters, nothing hangs. `pause-operation` is `pread`, `pwrite`, `zero`, `trim`, `cache`
//! or `extents`: only such requests hang, all but `extents` by default. It can be repeated. `pause-rate` is
//! the probability with which a request hangs. With `pause-range=OFFSET:LENGTH`, which can be repeated, only
//! requests that touch this range do, with `pause-nth=N` every Nth, with `pause-once=true` one, and with
//! `pause-state=N` those in a state of the disk, which `pause-set-state=EVENT:FROM:TO` switches after a
//! request, such as `pwrite`. `pause-seed` makes the random numbers the same each time. If one of these, or
//! `pause-operation`, is given, but no rate, the rate is 100%.
//!
//! The command `release` lets those go on that hang, and so does `resume`. Later ones hang again.
//!
//! Requests that wait occupy neither this component nor a thread. They end when their client goes away.
//! Requests that do not have to wait pass without a call of this component.
//!
//! # Other commands
//!
//! - `status` tells whether the disk is paused, and how many requests wait.
//! - `set KEY=VALUE...` changes parameters; `set paused=true` is the same as `pause`. Counting begins anew.
//!   Requests that hang go on hanging.
//! - `state` tells the state, and how many requests matched and hung; `state state=N` goes to another.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use memnbd_faults::{Event, Names, Rule, names};
use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Lower, OpenRequest,
    Operation, Parameter, Request, Results, Route, StableRoute, Value, release, withdraw_routes,
};

/// The names of the parameters that limit what hangs.
const NAMES: Names = names!("pause");

/// The numbers under which requests are held.
const PAUSED: u64 = 1;
const HUNG: u64 = 2;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Pause {
    base: Lower,
    size: u64,
    is_paused: bool,
    /// Which requests hang.
    rule: Rule,
    /// The numbers under which routed requests are held, by their tokens; none for those that go on.
    under_way: BTreeMap<u64, Option<u64>>,
    next_token: u64,
    request: OpenRequest,
}

impl Pause {
    /// Lets the requests go on that are held under a number.
    fn let_go(&mut self, number: u64) {
        release(number);
        for hold in self.under_way.values_mut().filter(|hold| **hold == Some(number)) {
            *hold = None;
        }
    }

    fn waiting(&self) -> usize {
        self.under_way.values().filter(|hold| hold.is_some()).count()
    }

    /// Pauses the disk or lets it go on.
    fn set_paused(&mut self, is_paused: bool) -> String {
        self.is_paused = is_paused;
        if !is_paused {
            self.let_go(PAUSED);
            self.let_go(HUNG);
        }
        // This waits for requests that pass; those that were routed are counted.
        withdraw_routes();
        let going = self.under_way.len() - self.waiting();
        match (is_paused, going) {
            (false, _) => "resumed".into(),
            (true, 0) => "paused".into(),
            (true, count) => format!("paused; {count} requests that came before are under way"),
        }
    }
}

impl Backend for Pause {
    fn describe() -> Description {
        let description = Description::new(
            "pause",
            env!("CARGO_PKG_VERSION"),
            "another disk, whose requests can be made to wait",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::boolean("paused", "whether all requests wait until the command resume")
                .default("false"),
        )
        .parameter(
            Parameter::choice("pause-operation", "only these requests hang", Event::REQUESTS)
                .repeatable()
                .default("all but extents"),
        )
        .parameter(
            Parameter::probability(NAMES.rate, "the probability with which a request hangs")
                .default("0, or 100% if one of the others is given"),
        );
        NAMES.declare(description)
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let mut rule = Rule::open(request, &NAMES, size)?;
        let events: Vec<Event> = request
            .values("pause-operation")
            .filter_map(|value| match value {
                Value::Text(name) => Event::request(name),
                _ => None,
            })
            .collect();
        let default = if rule.is_limited() || !events.is_empty() { 1.0 } else { 0.0 };
        let rate = request.probability(NAMES.rate).unwrap_or(default);
        for operation in Operation::ALL {
            let event = Event::Request(operation);
            let hangs = match events.is_empty() {
                true => operation != Operation::Extents,
                false => events.contains(&event),
            };
            rule.set_rate(event, if hangs { rate } else { 0.0 });
        }
        Ok(Self {
            base,
            size,
            is_paused: request.boolean("paused").unwrap_or(false),
            rule,
            under_way: BTreeMap::new(),
            next_token: 0,
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry())
    }
}

impl Filter for Pause {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        let hangs = self.rule.affects(request);
        let hold = match (self.is_paused, hangs) {
            (_, true) => Some(HUNG),
            (true, false) => Some(PAUSED),
            (false, false) => None,
        };
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        self.under_way.insert(token, hold);
        let route = self.base.pass(request).token(token);
        Ok(Route { hold, ..route })
    }

    fn done(&mut self, token: u64, _: &Results) -> Result<(), Error> {
        self.under_way.remove(&token);
        Ok(())
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.is_paused {
            return None;
        }
        let length = self.rule.safe(operation, offset, self.size)?;
        Some(StableRoute::new(self.base.at(offset), length))
    }
}

impl Control for Pause {
    fn commands(&self) -> Vec<Command> {
        let mut commands = Rule::commands(Self::describe());
        commands.push(Command::new("pause", "makes all requests wait"));
        commands.push(Command::new("resume", "lets all requests go on"));
        commands.push(Command::new("release", "lets the requests go on that hang"));
        commands.push(Command::new("status", "tells how many requests wait"));
        commands
    }

    fn execute(&mut self, command: &str, arguments: &[Argument]) -> Result<String, Error> {
        if let Some(told) = self.rule.execute(command, arguments) {
            return Ok(told);
        }
        match command {
            "pause" => return Ok(self.set_paused(true)),
            "resume" => return Ok(self.set_paused(false)),
            "release" => {
                self.let_go(HUNG);
                return Ok(String::new());
            }
            "status" => {
                let paused = if self.is_paused { "paused" } else { "not paused" };
                return Ok(format!("{paused}, {} requests wait", self.waiting()));
            }
            _ => {}
        }
        let mut changed = Self::open(&self.request.changed(arguments))?;
        changed.under_way = core::mem::take(&mut self.under_way);
        changed.next_token = self.next_token;
        // The commands may have paused the disk since it was opened, unless this one says so.
        let is_given = arguments.iter().any(|argument| argument.name == "paused");
        changed.is_paused = if is_given { changed.is_paused } else { self.is_paused };
        let resumes = self.is_paused && !changed.is_paused;
        *self = changed;
        if resumes {
            self.let_go(PAUSED);
        }
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Pause);
memnbd_guest::control!(Pause);

#[cfg(test)]
mod tests;
