//! Where the content of a disk is, and which of its filters can be put on another device.

use memnbd::component::BASE;
use memnbd::parameters::{Argument, Value};

use super::Known;
use crate::inputs::Inputs;

/// The words of a layer, parsed.
pub(super) struct Parsed<'a> {
    pub(super) known: &'a Known,
    pub(super) arguments: Vec<Argument>,
    pub(super) inputs: Option<&'a Inputs>,
    pub(super) read_only: bool,
}

impl Parsed<'_> {
    /// Returns true if it is a filter without content of its own, which can be put on another device.
    pub(super) fn is_plain_filter(&self) -> bool {
        let Known::Component(component) = self.known else { return false };
        let devices = self.arguments.iter().filter(|argument| argument.value.is_device());
        self.known.description().base().is_some()
            && devices.count() == 1
            && !component.reopens_lowers()
    }

    /// Returns where the layer keeps its content, as far as that is not beneath a filter.
    pub(super) fn keeps(&self) -> Kept {
        let Known::Component(_) = self.known else { return Kept::Files };
        let is_filter = self.known.description().base().is_some();
        let own = |argument: &&Argument| !(is_filter && argument.name == BASE);
        let kept = self.arguments.iter().filter(own).map(|argument| match &argument.value {
            value if value.is_scratch() => Kept::Memory,
            Value::Device(name, link) if link.writes || !link.unshared => Kept::Disk(name.clone()),
            Value::File(_, link) if link.writes => Kept::Files,
            _ => Kept::Memory,
        });
        kept.reduce(Kept::and).unwrap_or(Kept::Memory)
    }
}

impl Kept {
    /// Returns where a disk keeps its content of which a part is here and another there.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (disk @ Self::Disk(_), _) | (_, disk @ Self::Disk(_)) => disk,
            (Self::Memory, Self::Memory) => Self::Memory,
            _ => Self::Files,
        }
    }
}

/// What snapshots of a disk are taken of.
#[derive(Clone)]
pub(crate) struct Content {
    /// How many filters stand above it.
    pub(crate) filters: usize,
    pub(crate) kept: Kept,
}

impl Content {
    /// Everything that is beneath the filters is in memory.
    pub(super) fn in_memory(filters: usize) -> Self {
        Self { filters, kept: Kept::Memory }
    }

    /// Finds the content of all layers of a disk: it begins at the first one that is not a plain filter.
    pub(super) fn of(layers: &[Parsed<'_>]) -> Self {
        let filters = layers.iter().take_while(|layer| layer.is_plain_filter()).count();
        let kept = layers[filters..].iter().map(Parsed::keeps).reduce(Kept::and);
        Self { filters, kept: kept.unwrap_or(Kept::Memory) }
    }
}

/// Where a disk keeps its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// In memory, or in what does not change.
    Memory,
    /// In files, if it is writable.
    Files,
    /// On this disk, which others can change.
    Disk(String),
}
