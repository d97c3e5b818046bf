//! What the disks are made of, and the snapshots that were taken of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use memnbd::device::snapshot::Snapshot;

use super::changes::Origin;
use super::model::DiskSpec;
use crate::chain::Chain;

/// How many times as large as its content a table may be before it gives back memory.
const SPARSE: usize = 8;

/// What the API knows of disks and snapshots, besides the exports.
#[derive(Default)]
pub(super) struct Catalog {
    disks: HashMap<String, Entry>,
    snapshots: BTreeMap<String, Taken>,
    /// The memory that the texts of the disks take, in bytes.
    weight: usize,
}

/// A disk.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) spec: DiskSpec,
    /// What its present device is made of.
    pub(super) chain: Arc<Chain>,
    /// The configuration that made it, if one did.
    pub(super) origin: Option<Origin>,
}

/// A snapshot.
#[derive(Clone)]
pub(super) struct Taken {
    pub(super) snapshot: Snapshot,
    /// The disk of which it was taken.
    pub(super) disk: String,
    pub(super) at: Instant,
}

impl Catalog {
    /// Records a disk, in place of one of the same name.
    pub(super) fn insert(&mut self, name: &str, entry: Entry) {
        self.weight += entry.spec.weight();
        let before = self.disks.insert(name.to_owned(), entry);
        self.weight -= before.map_or(0, |entry| entry.spec.weight());
    }

    /// Forgets a disk.
    pub(super) fn remove(&mut self, name: &str) {
        let removed = self.disks.remove(name);
        if self.disks.len() < self.disks.capacity() / SPARSE {
            self.disks.shrink_to(2 * self.disks.len());
        }
        self.weight -= removed.map_or(0, |entry| entry.spec.weight());
    }

    /// Records what the device of a disk is made of now.
    pub(super) fn set_chain(&mut self, name: &str, chain: Arc<Chain>) {
        if let Some(entry) = self.disks.get_mut(name) {
            entry.chain = chain;
        }
    }

    pub(super) fn disk(&self, name: &str) -> Option<&Entry> {
        self.disks.get(name)
    }

    /// Returns what a disk is made of.
    pub(super) fn spec(&self, name: &str) -> Option<&DiskSpec> {
        self.disks.get(name).map(|entry| &entry.spec)
    }

    /// Returns the names of the disks that a configuration made.
    pub(super) fn of_origin(&self, origin: Origin) -> impl Iterator<Item = &String> {
        let of = move |(_, entry): &(&String, &Entry)| entry.origin == Some(origin);
        self.disks.iter().filter(of).map(|(name, _)| name)
    }

    /// Returns true if a configuration made the disk.
    pub(super) fn of_this(&self, name: &str, origin: Origin) -> bool {
        self.disks.get(name).is_some_and(|entry| entry.origin == Some(origin))
    }

    /// The memory that the texts of the disks take, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// The snapshots, by their names.
    pub(super) fn snapshots(&mut self) -> &mut BTreeMap<String, Taken> {
        &mut self.snapshots
    }
}
