//! A filter that corrupts what is read from another disk, like nbdkit's filter `evil`. It tests whether
//! checksums find that.
//!
//! `evil`, or `evil-mode`, is what happens to bits:
//!
//! - `cosmic-rays`: each bit that is read is flipped with the probability `evil-probability`. Another
//!   read of the same bit is right again.
//! - `stuck-bits`, the default: some bits of the disk are stuck high or low, whatever is written there.
//! - `stuck-wires`: bits at some positions of each reply are stuck, wherever on the disk it comes from.
//!   Positions may begin anew within replies that are longer than the host can send at once.
//! - `bit-rot`, which nbdkit does not have: some bits of the disk are flipped until something is written
//!   there, or zeroed, or trimmed.
//!
//! `evil-probability` is the probability that a bit is flipped or stuck, 1e-8 by default, or 1e-6 with
//! `stuck-wires`. With `evil-stuck-probability`, a stuck bit reads as stuck with this probability, and
//! as it is otherwise.
//!
//! With the same `evil-seed`, the same bits of the disk or of replies are affected, and each read is
//! affected the same as long as requests come in the same order. Without it a seed is chosen and logged.
//! `evil-range=OFFSET:LENGTH`, an addition to nbdkit's, limits all of this to a part of the disk. It can
//! be repeated.
//!
//! Writes are not changed, so the right data are on the disk beneath. Extents are those of the disk
//! beneath: clients that skip holes do not see what is corrupted there, unless the filter `noextents` is
//! above this one.
//!
//! Data pass through this component only around bits that are affected; all other reads pass without a
//! call of it, except with `cosmic-rays` and `stuck-wires`, which have to see each read. nbdkit treats
//! probabilities above 1/8 as 1, and those below 1e-12 as 0; here they are what they are. Bits beyond
//! 2 EiB are never affected. With `bit-rot`, up to a million rotten bits can be rewritten; writes to
//! further ones fail with ENOMEM.
//!
//! The command `set KEY=VALUE...` changes parameters while the disk is in use. Random numbers begin anew
//! then, and bits that were rewritten rot again.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod bits;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_faults::{Random, Ranges, Scatter};
use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Filter, Level, Lower, MAX_PARTS,
    OpenRequest, Operation, Parameter, Place, Request, Results, Route, Rules, StableRoute, Value,
    log, random_u64, withdraw_routes,
};

use bits::{Bits, Change, Reply, grain_after};

/// The modes with all their names, as nbdkit has them.
const MODES: &[&str] = &[
    "cosmic-rays",
    "cosmic",
    "stuck-bits",
    "stuck-bit",
    "stuck",
    "stuck-wires",
    "stuck-wire",
    "bit-rot",
];

/// The longest stable route to this component, in bytes.
const MAX_OWN: u64 = 16 << 20;

/// Set in tokens of requests that change the disk; those of reads are their offsets.
const CHANGES: u64 = 1 << 63;

/// What happens to bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    CosmicRays,
    StuckBits,
    StuckWires,
    BitRot,
}

/// The open disk.
#[derive(Clone, Debug)]
pub struct Evil {
    base: Lower,
    size: u64,
    mode: Mode,
    probability: f64,
    /// The bits of the disk, or of replies with `stuck-wires`.
    bits: Bits,
    random: Random,
    /// Reads of which some bits are to change, by their offsets. They do not overlap, because each has
    /// its granules alone.
    replies: BTreeMap<u64, Reply>,
    /// The ranges of requests that rewrite rotten bits, by their tokens.
    rewriting: BTreeMap<u64, (u64, u64)>,
    next_token: u64,
    request: OpenRequest,
}

impl Evil {
    /// Returns true if which bits are affected depends on the disk, and not on the request.
    fn is_of_disk(&self) -> bool {
        matches!(self.mode, Mode::StuckBits | Mode::BitRot)
    }

    /// Returns the first affected byte of the disk from `start` up to `end`.
    fn next_of_disk(&self, start: u64, end: u64) -> Option<u64> {
        self.is_of_disk().then(|| self.bits.next(start, end)).flatten()
    }

    /// Routes the parts of a read around affected bytes to this component. `next` returns the first
    /// affected byte of a range.
    fn route_read(&self, request: &Request, next: impl Fn(u64, u64) -> Option<u64>) -> Route {
        let mut route = Route::new();
        let (mut at, end) = (request.offset, request.end());
        while at < end {
            let bad = next(at, end).unwrap_or(end);
            if bad > at {
                route.push(self.base.at(at), bad - at);
                at = bad;
            }
            if at < end {
                // The rest, once there are many parts.
                let own =
                    if route.parts() >= MAX_PARTS - 2 { end } else { grain_after(at).min(end) };
                route.push(Place::Own, own - at);
                at = own;
            }
        }
        route
    }

    fn read_of_request(&mut self, request: &Request) -> Route {
        let change = match self.mode {
            Mode::CosmicRays => Change::Flip,
            _ => Change::Stick,
        };
        let scatter = match self.mode {
            Mode::CosmicRays => Scatter::new(self.random.draw(), self.probability),
            _ => self.bits.scatter,
        };
        let reply = Reply { start: request.offset, end: request.end(), scatter, change };
        let ranges = &self.bits.ranges;
        let route = self.route_read(request, |start, end| reply.next(ranges, start, end));
        if !route.segments.iter().any(|segment| segment.place == Place::Own) {
            return route;
        }
        self.replies.insert(request.offset, reply);
        route.token(request.offset)
    }

    /// Routes a request that rewrites what it touches.
    fn rewrite(&mut self, request: &Request) -> Result<Route, Error> {
        let route = self.base.pass(request);
        let (start, end) = (request.offset, request.end());
        if self.mode != Mode::BitRot || self.bits.next(start, end).is_none() {
            return Ok(route);
        }
        if !self.bits.can_mend(start, end) {
            return Err(Error::ENOMEM.because(
                "too many rotten bits were rewritten; a lower evil-probability or an evil-range helps",
            ));
        }
        let token = CHANGES | self.next_token;
        self.next_token = (self.next_token + 1) % CHANGES;
        self.rewriting.insert(token, (start, end));
        Ok(route.token(token))
    }
}

impl Backend for Evil {
    fn describe() -> Description {
        Description::new(
            "evil",
            env!("CARGO_PKG_VERSION"),
            "another disk, some of whose bits read wrong",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(Parameter::choice("evil", "what happens to bits", MODES).default("stuck-bits"))
        .parameter(Parameter::choice("evil-mode", "the same as evil", MODES))
        .parameter(
            Parameter::probability(
                "evil-probability",
                "the probability that a bit is flipped or stuck",
            )
            .default("1e-8, or 1e-6 with stuck-wires"),
        )
        .parameter(
            Parameter::probability(
                "evil-stuck-probability",
                "the probability that a stuck bit reads as stuck",
            )
            .default("100%"),
        )
        .parameter(
            Parameter::number(
                "evil-seed",
                "the seed; with the same, the same bits are affected",
                0,
                u32::MAX.into(),
            )
            .default("a random one, which is logged"),
        )
        .parameter(
            Parameter::text("evil-range", "OFFSET:LENGTH, only bits in this range are affected")
                .repeatable()
                .default("the whole disk"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let size = base.geometry().size;
        let modes = request.arguments.iter().filter(|argument| argument.name.starts_with("evil"));
        let mode = modes.rev().find_map(|argument| match &argument.value {
            Value::Text(text) if argument.name != "evil-range" => Some(text.as_str()),
            _ => None,
        });
        let mode = match mode {
            Some("cosmic-rays" | "cosmic") => Mode::CosmicRays,
            Some("stuck-wires" | "stuck-wire") => Mode::StuckWires,
            Some("bit-rot") => Mode::BitRot,
            _ => Mode::StuckBits,
        };
        let default = if mode == Mode::StuckWires { 1e-6 } else { 1e-8 };
        let probability = request.probability("evil-probability").unwrap_or(default);
        let seed = request.number("evil-seed").map_or_else(
            || {
                let seed = random_u64() & u64::from(u32::MAX);
                log(Level::Info, &format!("chose a seed; evil-seed={seed} does the same again"));
                seed
            },
            |seed| seed as u64,
        );
        let ranges = Ranges::from_request(request, "evil-range", size)?;
        let stuck = request.probability("evil-stuck-probability").unwrap_or(1.0);
        Ok(Self {
            base,
            size,
            mode,
            probability,
            bits: Bits::new(ranges, size, Scatter::new(seed, probability), stuck),
            random: Random::new(Some(seed)),
            replies: BTreeMap::new(),
            rewriting: BTreeMap::new(),
            next_token: 0,
            request: request.clone(),
        })
    }

    fn disk(&self) -> Disk {
        Disk::above(&self.base.geometry()).in_pieces()
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.base.read(offset, buffer)?;
        let end = offset + buffer.len() as u64;
        for reply in self.replies.range(..end).rev().map(|(_, reply)| reply) {
            if reply.end <= offset {
                break;
            }
            reply.corrupt(&self.bits, &mut self.random, offset, buffer);
        }
        match self.mode {
            Mode::StuckBits => self.bits.corrupt(Change::Stick, &mut self.random, offset, buffer),
            Mode::BitRot => self.bits.corrupt(Change::Flip, &mut self.random, offset, buffer),
            Mode::CosmicRays | Mode::StuckWires => {}
        }
        Ok(())
    }
}

impl Filter for Evil {
    /// A read that is routed has its granules alone, so that it is clear whose bytes this component is
    /// asked for.
    fn rules(&self) -> Rules {
        use memnbd_guest::Lock::Exclusive;
        Rules { granule: 1 << 16, read: Exclusive, ..Rules::NONE }
    }

    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        match request.operation {
            Operation::Read if self.probability <= 0.0 => Ok(self.base.pass(request)),
            Operation::Read if self.is_of_disk() => {
                Ok(self.route_read(request, |start, end| self.bits.next(start, end)))
            }
            Operation::Read => Ok(self.read_of_request(request)),
            Operation::Write | Operation::Zero | Operation::Trim => self.rewrite(request),
            Operation::Cache | Operation::Extents => Ok(self.base.pass(request)),
        }
    }

    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        if token & CHANGES == 0 {
            self.replies.remove(&token);
        } else if let Some((start, end)) = self.rewriting.remove(&token)
            && results.succeeded()
            && self.mode == Mode::BitRot
        {
            self.bits.mend(start, end);
        }
        Ok(())
    }

    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let rots = self.mode == Mode::BitRot && operation.changes();
        let reads = operation == Operation::Read && self.probability > 0.0;
        if !rots && !reads {
            return self.base.pass_until(offset, self.size);
        }
        if reads && !self.is_of_disk() {
            return None;
        }
        match self.next_of_disk(offset, self.size) {
            Some(bad) if bad > offset => self.base.pass_until(offset, bad),
            Some(_) if reads => {
                // As far as there are affected bytes close to each other.
                let mut end = grain_after(offset);
                while end < self.size && end - offset < MAX_OWN {
                    let next = grain_after(end);
                    if self.next_of_disk(end, next.min(self.size)).is_none() {
                        break;
                    }
                    end = next;
                }
                Some(StableRoute::new(Place::Own, end.min(self.size) - offset))
            }
            Some(_) => None,
            None => self.base.pass_until(offset, self.size),
        }
    }
}

impl Control for Evil {
    fn commands(&self) -> Vec<Command> {
        vec![Command::set(Self::describe())]
    }

    fn execute(&mut self, _: &str, arguments: &[Argument]) -> Result<String, Error> {
        let mut request = self.request.changed(arguments);
        // Both say the same, so that which is newer holds.
        if arguments.iter().any(|argument| argument.name == "evil" || argument.name == "evil-mode")
        {
            let is_old = |name: &str| {
                matches!(name, "evil" | "evil-mode")
                    && arguments.iter().all(|argument| argument.name != name)
            };
            request.arguments.retain(|argument| !is_old(&argument.name));
        }
        let changed = Self::open(&request)?;
        let replies = core::mem::take(&mut self.replies);
        *self = Self { replies, ..changed };
        withdraw_routes();
        Ok(String::new())
    }
}

memnbd_guest::filter!(Evil);
memnbd_guest::control!(Evil);

#[cfg(test)]
mod tests;
