//! A bounded number of events.
//!
//! Their texts are in blocks of memory, one after the other: if each had its own, those of the last disks of
//! thousands that were removed would keep as many pages of the heap from being given back.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::Event;

/// The size of a block, in bytes. Longer texts have one of their own.
const BLOCK: usize = 16 << 10;

/// The last events, in the order of their numbers.
pub(super) struct Ring {
    events: VecDeque<(u64, Kept)>,
    bytes: usize,
    max_events: usize,
    max_bytes: usize,
    /// What is left of the last block.
    block: BytesMut,
}

/// An event as it is sent.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Its type.
    pub(crate) name: &'static str,
    disk: Option<Bytes>,
    json: Bytes,
}

impl Kept {
    pub(super) fn new(event: Event) -> Self {
        let json = serde_json::to_string(&event).unwrap_or_default();
        Self {
            name: event.happening.name(),
            disk: event.disk.map(Bytes::from),
            json: Bytes::from(json),
        }
    }

    /// Returns the disk that it is about, if it is about one.
    pub(crate) fn disk(&self) -> Option<&str> {
        self.disk.as_ref().map(text)
    }

    /// Returns the event, as JSON.
    pub(crate) fn json(&self) -> &str {
        text(&self.json)
    }

    /// Returns the memory that it takes, in bytes.
    fn weight(&self) -> usize {
        let disk = self.disk.as_ref().map_or(0, Bytes::len);
        size_of::<(u64, Self)>() + disk + self.json.len()
    }
}

/// Returns what was made of a string.
fn text(bytes: &Bytes) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl Ring {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        let (events, block) = (VecDeque::new(), BytesMut::new());
        Self { events, bytes: 0, max_events, max_bytes, block }
    }

    /// Adds an event, whose number is greater than all before, and drops the oldest if there are
    /// too many.
    pub(super) fn push(&mut self, number: u64, kept: Kept) {
        self.bytes += kept.weight();
        let (disk, json) = (kept.disk.map(|disk| self.put(&disk)), self.put(&kept.json));
        self.events.push_back((number, Kept { disk, json, ..kept }));
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            let Some((_, oldest)) = self.events.pop_front() else { break };
            self.bytes -= oldest.weight();
        }
    }

    /// Puts a text into a block.
    fn put(&mut self, text: &[u8]) -> Bytes {
        if self.block.capacity() < text.len() {
            self.block = BytesMut::with_capacity(BLOCK.max(text.len()));
        }
        self.block.extend_from_slice(text);
        self.block.split().freeze()
    }

    /// Returns the first event with at least this number.
    pub(super) fn first_since(&self, number: u64) -> Option<(u64, &Kept)> {
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

#[cfg(test)]
mod tests {
    use super::super::Happening;
    use super::*;

    #[test]
    fn texts_are_beside_each_other_and_stay_what_they_are() {
        let mut ring = Ring::new(100, 1 << 20);
        for number in 1..=100 {
            let event = Event::now(Some(format!("disk-{number}")), Happening::DiskCreated);
            ring.push(number, Kept::new(event));
        }
        let texts: Vec<_> =
            ring.events.iter().map(|(_, kept)| kept.json().as_ptr() as usize).collect();
        assert!(texts[99] - texts[0] < BLOCK && texts.is_sorted());
        let (_, last) = ring.first_since(100).unwrap();
        assert_eq!(last.disk(), Some("disk-100"));
        assert!(last.json().contains("\"disk-100\"") && last.json().ends_with('}'));
        let long = Event::now(Some("x".repeat(2 * BLOCK)), Happening::DiskCreated);
        ring.push(101, Kept::new(long));
        assert_eq!(ring.first_since(101).unwrap().1.disk().map(str::len), Some(2 * BLOCK));
    }
}
