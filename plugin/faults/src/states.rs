//! States that requests switch, as those of qemu's `blkdebug`.

use alloc::format;

use memnbd_guest::{Error, Operation};

use crate::Range;

/// The state in which a disk is opened.
pub(crate) const FIRST_STATE: i64 = 1;

/// The largest number of a state.
pub(crate) const MAX_STATE: i64 = 65535;

/// What can happen to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request for a range.
    Request(Operation),
    /// A flush.
    Flush,
}

impl Event {
    /// The number of events.
    pub(crate) const COUNT: usize = Operation::ALL.len() + 1;

    /// The names of the events, in the order of their indices.
    pub(crate) const NAMES: [&str; Self::COUNT] =
        ["pread", "pwrite", "zero", "trim", "cache", "extents", "flush"];

    /// The names of requests for ranges, for parameters that choose one.
    pub const REQUESTS: &[&str] = Self::NAMES.split_at(Operation::ALL.len()).0;

    /// Returns the request of a name.
    pub fn request(name: &str) -> Option<Self> {
        let index = Self::REQUESTS.iter().position(|known| *known == name)?;
        Some(Self::Request(Operation::ALL[index]))
    }

    /// Returns the position of the event in a table of all.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Request(operation) => operation as usize,
            Self::Flush => Self::COUNT - 1,
        }
    }
}

/// A change of the state, at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The index of the event.
    event: usize,
    /// The range that the request has to touch; any without one.
    range: Option<Range>,
    from: i64,
    to: i64,
}

impl Transition {
    /// Parses `EVENT:FROM:TO` or `EVENT:FROM:TO:OFFSET:LENGTH`, the value of the parameter `name`.
    pub(crate) fn parse(name: &str, text: &str, size: u64) -> Result<Self, Error> {
        let wrong = || {
            Error::EINVAL.because(format!(
                "{name} must be EVENT:FROM:TO or EVENT:FROM:TO:OFFSET:LENGTH, where EVENT is one of \
                 {}, and states are numbers up to {MAX_STATE}, such as pwrite:1:2; {text} is not",
                Event::NAMES.join(", ")
            ))
        };
        let state = |text: &str| {
            let number = text.parse::<u16>().ok().map(i64::from);
            number.ok_or_else(wrong)
        };
        let mut parts = text.splitn(4, ':');
        let event = parts.next().unwrap_or_default();
        let event = Event::NAMES.iter().position(|name| *name == event).ok_or_else(wrong)?;
        let from = state(parts.next().ok_or_else(wrong)?)?;
        let to = state(parts.next().ok_or_else(wrong)?)?;
        let range = match parts.next() {
            Some(_) if event == Event::Flush.index() => return Err(wrong()),
            Some(text) => Some(Range::parse(name, text, size)?),
            None => None,
        };
        Ok(Self { event, range, from, to })
    }

    /// Returns true if this kind of event can change the state.
    pub(crate) fn is_at(&self, event: Event) -> bool {
        self.event == event.index()
    }

    /// Returns the state after an event in a state; for a flush, the range is empty.
    pub(crate) fn next(&self, event: Event, start: u64, end: u64, state: i64) -> Option<i64> {
        let touches = self.range.is_none_or(|range| start < range.end && range.start < end);
        (self.is_at(event) && self.from == state && touches).then_some(self.to)
    }

    /// Returns the range that requests have to touch.
    pub(crate) fn range(&self) -> Option<Range> {
        self.range
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Event = Event::Request(Operation::Write);

    #[test]
    fn names_are_in_the_order_of_operations() {
        for operation in Operation::ALL {
            let name = Event::NAMES[Event::Request(operation).index()];
            let last = format!("{operation:?}").to_lowercase();
            assert_eq!(name.trim_start_matches('p'), last.trim_start_matches('p'));
        }
        assert_eq!(Event::NAMES[Event::Flush.index()], "flush");
        assert_eq!(Event::request("pwrite"), Some(WRITE));
        assert_eq!(Event::request("flush"), None);
        assert_eq!(Event::REQUESTS.len(), Operation::ALL.len());
    }

    #[test]
    fn transitions_have_an_event_two_states_and_possibly_a_range() {
        let parse = |text| Transition::parse("set", text, 10_000);
        let write = parse("pwrite:1:2").unwrap();
        assert_eq!(write.next(WRITE, 0, 1, 1), Some(2));
        assert_eq!(write.next(WRITE, 0, 1, 2), None);
        assert_eq!(write.next(Event::Request(Operation::Read), 0, 1, 1), None);
        let ranged = parse("pwrite:0:65535:4k:512").unwrap();
        assert_eq!(ranged.next(WRITE, 4095, 4097, 0), Some(65535));
        assert_eq!(ranged.next(WRITE, 4608, 4609, 0), None);
        assert_eq!(parse("flush:3:4").unwrap().next(Event::Flush, 0, 0, 3), Some(4));
        for text in [
            "",
            "pwrite",
            "pwrite:1",
            "pwrite:1:",
            "pwrite:x:2",
            "pwrite:1:65536",
            "pwrite:-1:2",
            "write:1:2",
            "pwrite:1:2:4k",
            "pwrite:1:2:9999:2",
            "flush:1:2:0:1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
