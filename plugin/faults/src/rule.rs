//! The decision which requests a fault is for.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Command, Description, Error, OpenRequest, Operation, Parameter, Request, Value,
};

use crate::states::{FIRST_STATE, MAX_STATE, Transition};
use crate::{Event, Random, Ranges};

/// The most changes of the state, each of which is looked at for each request.
const MAX_TRANSITIONS: usize = 1024;

/// The command that tells and changes the state.
const STATE_COMMAND: &str = "state";

/// The names of the parameters of a [`Rule`], which begin with a prefix. [`names!`](crate::names!)
/// returns them.
///
/// - `PREFIX-range=OFFSET:LENGTH` limits the fault to requests that touch this range. It can be
///   repeated.
/// - `PREFIX-nth=N` limits the fault to every Nth of the requests that match: the Nth, the 2Nth and so
///   on, over all operations.
/// - `PREFIX-once=true` ends the fault after the first time.
/// - `PREFIX-seed=N` makes the random numbers the same each time.
/// - `PREFIX-state=N` limits the fault to a state of the disk. A disk begins in state 1.
/// - `PREFIX-set-state=EVENT:FROM:TO` goes from one state to another after an event, which is `pread`,
///   `pwrite`, `zero`, `trim`, `cache` or `extents`. `EVENT:FROM:TO:OFFSET:LENGTH` is for requests that
///   touch the range. It can be repeated, and the first that applies holds.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// `PREFIX-range`.
    pub range: &'static str,
    /// `PREFIX-nth`.
    pub nth: &'static str,
    /// `PREFIX-once`.
    pub once: &'static str,
    /// `PREFIX-rate`, which a component declares itself.
    pub rate: &'static str,
    /// `PREFIX-seed`.
    pub seed: &'static str,
    /// `PREFIX-state`.
    pub state: &'static str,
    /// `PREFIX-set-state`.
    pub set_state: &'static str,
}

/// Returns the [`Names`] with a prefix, which is a literal.
#[macro_export]
macro_rules! names {
    ($prefix:literal) => {
        $crate::Names {
            range: concat!($prefix, "-range"),
            nth: concat!($prefix, "-nth"),
            once: concat!($prefix, "-once"),
            rate: concat!($prefix, "-rate"),
            seed: concat!($prefix, "-seed"),
            state: concat!($prefix, "-state"),
            set_state: concat!($prefix, "-set-state"),
        }
    };
}

impl Names {
    /// Declares the parameters of requests for ranges.
    #[must_use]
    pub fn declare(&self, description: Description) -> Description {
        let range = Parameter::text(
            self.range,
            "OFFSET:LENGTH, only requests that touch this range are affected",
        );
        self.declare_without_ranges(
            description.parameter(range.repeatable().default("the whole disk")),
        )
    }

    /// Declares the parameters of flushes, which have no range.
    #[must_use]
    pub fn declare_without_ranges(&self, description: Description) -> Description {
        description
            .parameter(
                Parameter::number(
                    self.nth,
                    "only every Nth of the requests that could be affected is",
                    1,
                    i64::MAX,
                )
                .default("1"),
            )
            .parameter(
                Parameter::boolean(self.once, "whether only one request is affected")
                    .default("false"),
            )
            .parameter(
                Parameter::number(
                    self.seed,
                    "the seed; with the same, the same requests are affected",
                    0,
                    i64::MAX,
                )
                .default("other requests each time"),
            )
            .parameter(
                Parameter::number(
                    self.state,
                    "only in this state of the disk, requests are affected",
                    0,
                    MAX_STATE,
                )
                .default("every state"),
            )
            .parameter(
                Parameter::text(
                    self.set_state,
                    "EVENT:FROM:TO or EVENT:FROM:TO:OFFSET:LENGTH, changes the state after a request",
                )
                .repeatable()
                .default("the state is always 1"),
            )
    }
}

/// The requests that a fault is for, and which of them it strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The probability for each event, 0 if the fault is not for it.
    rates: [f64; Event::COUNT],
    /// Where requests are affected; everywhere if there are none.
    ranges: Ranges,
    /// One of this many requests that match is affected.
    nth: u64,
    /// Only one request is affected.
    once: bool,
    /// The only state in which requests are affected.
    only_state: Option<i64>,
    transitions: Vec<Transition>,
    random: Random,
    is_limited: bool,
    /// The state of the disk.
    state: i64,
    /// The number of requests that matched.
    matched: u64,
    /// The number of requests that were affected.
    affected: u64,
}

impl Rule {
    /// Returns the rule of a request to open a disk of `size` bytes. It affects nothing until it has a
    /// [rate](Self::set_rate).
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if a range or a change of the state is wrong, or there are too many.
    pub fn open(request: &OpenRequest, names: &Names, size: u64) -> Result<Self, Error> {
        let mut transitions = Vec::new();
        for value in request.values(names.set_state) {
            if let Value::Text(text) = value {
                transitions.push(Transition::parse(names.set_state, text, size)?);
            }
        }
        if transitions.len() > MAX_TRANSITIONS {
            return Err(Error::EINVAL.because(format!(
                "{} can be given at most {MAX_TRANSITIONS} times",
                names.set_state
            )));
        }
        let ranges = Ranges::from_request(request, names.range, size)?;
        let nth = request.number(names.nth);
        let once = request.boolean(names.once).unwrap_or(false);
        let only_state = request.number(names.state);
        Ok(Self {
            rates: [0.0; Event::COUNT],
            is_limited: nth.is_some() || once || only_state.is_some() || !ranges.is_empty(),
            ranges,
            nth: nth.map_or(1, |nth| nth.max(1) as u64),
            once,
            only_state,
            transitions,
            random: Random::from_request(request, names.seed),
            state: FIRST_STATE,
            matched: 0,
            affected: 0,
        })
    }

    /// Returns true if a parameter limits the requests that are affected.
    pub fn is_limited(&self) -> bool {
        self.is_limited
    }

    /// Sets the probability with which an event is affected.
    pub fn set_rate(&mut self, event: Event, rate: f64) {
        self.rates[event.index()] = rate;
    }

    /// Limits the rule to one request.
    pub fn limit_to_once(&mut self) {
        self.once = true;
    }

    /// Notes a request that cannot be affected: it may change the state.
    pub fn observe(&mut self, request: &Request) {
        self.advance(Event::Request(request.operation), request.offset, request.end());
    }

    /// Returns true if a request is affected. This is called once for each request.
    pub fn affects(&mut self, request: &Request) -> bool {
        let event = Event::Request(request.operation);
        let touches = self.ranges.is_empty() || self.ranges.touches(request.offset, request.end());
        let affected = touches && self.strikes(event);
        self.advance(event, request.offset, request.end());
        affected
    }

    /// Returns true if a flush is affected. This is called once for each flush.
    pub fn affects_flush(&mut self) -> bool {
        let affected = self.strikes(Event::Flush);
        self.advance(Event::Flush, 0, 0);
        affected
    }

    /// Decides about a request that touches a range.
    fn strikes(&mut self, event: Event) -> bool {
        let is_state = self.only_state.is_none_or(|state| state == self.state);
        if !self.may_affect(event) || !is_state {
            return false;
        }
        self.matched += 1;
        let affected =
            self.matched.is_multiple_of(self.nth) && self.random.happens(self.rates[event.index()]);
        self.affected += u64::from(affected);
        affected
    }

    fn advance(&mut self, event: Event, start: u64, end: u64) {
        let state = self.state;
        let next = self.transitions.iter().find_map(|next| next.next(event, start, end, state));
        self.state = next.unwrap_or(state);
    }

    /// Returns true if such requests can be affected now or in another state.
    pub fn may_affect(&self, event: Event) -> bool {
        self.rates[event.index()] > 0.0 && !(self.once && self.affected > 0)
    }

    /// Returns true if the rule has to see such requests.
    pub fn watches(&self, event: Event) -> bool {
        self.may_affect(event) || self.transitions.iter().any(|next| next.is_at(event))
    }

    /// Returns the number of bytes from `offset` on in which the rule does not have to see requests of
    /// an operation, on a disk of `size` bytes; `None` if there are none.
    pub fn safe(&self, operation: Operation, offset: u64, size: u64) -> Option<u64> {
        let event = Event::Request(operation);
        let mut end = size;
        if self.may_affect(event) {
            if self.ranges.is_empty() {
                return None;
            }
            end = self.ranges.next(offset).map_or(end, |range| range.start);
        }
        for next in self.transitions.iter().filter(|next| next.is_at(event)) {
            match next.range() {
                None => return None,
                Some(range) if range.end > offset => end = end.min(range.start),
                Some(_) => {}
            }
        }
        end.checked_sub(offset).filter(|length| *length > 0)
    }

    /// Returns the command of all rules: `state` tells the state and changes it.
    pub fn command() -> Command {
        Command::new(
            STATE_COMMAND,
            "goes to a state if one is given, and tells the state and counts",
        )
        .parameter(Parameter::number(STATE_COMMAND, "the state to go to", 0, MAX_STATE))
    }

    /// Carries out [`command`](Self::command). Returns `None` if it is another one.
    pub fn execute(&mut self, command: &str, arguments: &[Argument]) -> Option<String> {
        if command != STATE_COMMAND {
            return None;
        }
        if let [Argument { value: Value::Number(state), .. }] = arguments {
            self.state = *state;
        }
        let Self { state, matched, affected, .. } = self;
        Some(format!("state {state}, {matched} requests matched, {affected} affected"))
    }

    /// Returns the commands of a component with this rule: `state`, and `set` for the parameters of a
    /// description.
    pub fn commands(description: Description) -> Vec<Command> {
        vec![Command::set(description), Self::command()]
    }
}

#[cfg(test)]
mod tests;
