//! A bounded number of events.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Event;

/// The last events, in the order of their numbers.
pub(super) struct Ring {
    events: VecDeque<(u64, Arc<Kept>)>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
}

/// An event as it is sent.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Its type.
    pub(crate) name: &'static str,
    /// The disk that it is about, if it is about one.
    pub(crate) disk: Option<String>,
    /// The event, as JSON.
    pub(crate) json: String,
}

impl Kept {
    pub(super) fn new(event: Event) -> Self {
        let json = serde_json::to_string(&event).unwrap_or_default();
        Self { name: event.happening.name(), disk: event.disk, json }
    }

    /// Returns the memory that it takes, in bytes.
    fn weight(&self) -> usize {
        let disk = self.disk.as_ref().map_or(0, String::len);
        size_of::<Self>() + size_of::<(u64, Arc<Self>)>() + disk + self.json.len()
    }
}

impl Ring {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, max_events, max_bytes }
    }

    /// Adds an event, whose number is greater than all before, and drops the oldest if there are
    /// too many.
    pub(super) fn push(&mut self, number: u64, kept: Kept) {
        self.bytes += kept.weight();
        self.events.push_back((number, Arc::new(kept)));
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.events.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }

    /// Returns the first event with at least this number.
    pub(super) fn first_since(&self, number: u64) -> Option<(u64, &Arc<Kept>)> {
        let index = self.events.partition_point(|(present, _)| *present < number);
        self.events.get(index).map(|(number, kept)| (*number, kept))
    }
}

#[cfg(test)]
impl Ring {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
