//! The difference between two snapshots, or a disk and a snapshot, that stem from the same data.
//!
//! Both begin with what their last common snapshot holds. A block that neither has changed since is the same
//! in both. The maps of snapshots tell that; a disk is asked.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::consume_budget;

use super::{HEADER, Layer, Mark, Snapshot, block};
use crate::block::{Command, Error, ErrorCode, Extents, Span};
use crate::device::description::dirty;
use crate::device::{Answer, Cancelled, Chunks, Device, Order, lower};

/// The most blocks of a map that are read at a time.
const READ: u64 = 1 << 20;

/// The most blocks that are looked at for an answer.
const MAX_BLOCKS: u64 = 1 << 26;

/// The most extents of a disk that are asked for at a time.
const MAX_ASKED: usize = 1 << 14;

/// The number of the base in a map.
const BASE: u8 = 0;

/// What is compared with a snapshot.
pub enum Side<'a> {
    /// Another snapshot.
    Snapshot(&'a Snapshot),
    /// A disk in use.
    Disk(&'a Layer),
}

/// What may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The size of both in bytes.
    pub size: u64,
    /// The unit in which changes are recorded, in bytes.
    pub granularity: u64,
    /// What may differ, in ascending order; extents do not touch.
    pub extents: Vec<Span>,
    /// Where to go on, if that is not all.
    pub next: Option<u64>,
}

/// Why two disks cannot be compared.
#[derive(Debug)]
pub enum NotCompared {
    /// They do not stem from the same data.
    Unrelated,
    /// The offset is not less than the size of the disk, which is this.
    BeyondEnd(u64),
    /// A device failed.
    Failed(Error),
}

impl From<Error> for NotCompared {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Snapshot {
    /// Returns true if the other one began with this one, or is the same.
    pub fn is_ancestor_of(&self, other: &Self) -> bool {
        let Some(stage) = other.stages().find(|stage| stage.is_same_base(self)) else {
            return false;
        };
        // Each overlay is above one snapshot only.
        self.overlays.last().is_none_or(|last| {
            let same = stage.overlays.get(self.overlays.len() - 1);
            same.is_some_and(|same| Arc::ptr_eq(same, last))
        })
    }

    /// Returns what tells whether something was changed since.
    pub fn mark(&self) -> Mark {
        Mark::of(self)
    }

    /// Returns the extents that may differ between this snapshot and another side, from the block on that has
    /// the byte `start`: at most `most`, at least one.
    ///
    /// # Errors
    ///
    /// Returns an error if they do not stem from the same data, or a device fails.
    pub async fn difference(
        &self,
        other: Side<'_>,
        start: u64,
        most: usize,
    ) -> Result<Difference, NotCompared> {
        let common = match &other {
            Side::Snapshot(other) => self.common(other),
            Side::Disk(layer) => self.common(layer.below()),
        };
        let common = common.ok_or(NotCompared::Unrelated)?;
        let (size, granularity) = (self.size(), block(self.size()));
        if start >= size {
            return Err(NotCompared::BeyondEnd(size));
        }
        let mark = common.mark();
        let mut found = Found { extents: Vec::new(), most: most.max(1) };
        let mut at = start / granularity * granularity;
        let mut blocks = 0;
        while at < size && blocks < MAX_BLOCKS {
            consume_budget().await;
            let count = (size - at).div_ceil(granularity).min(READ);
            let mut span = Span { offset: at, length: (count * granularity).min(size - at) };
            let mut changed = vec![false; count as usize];
            self.changed_since(&common, at / granularity, &mut changed).await?;
            match &other {
                Side::Snapshot(other) => {
                    other.changed_since(&common, at / granularity, &mut changed).await?;
                }
                Side::Disk(layer) => {
                    let extents = dirty(layer.device(), &mark, span, MAX_ASKED).await?;
                    span.length = add(&extents, span.length, granularity, &mut changed);
                }
            }
            if let Some(next) = found.add(span, granularity, &changed) {
                return Ok(Difference {
                    size,
                    granularity,
                    extents: found.extents,
                    next: Some(next),
                });
            }
            blocks += span.length.div_ceil(granularity);
            at += span.length;
        }
        let next = (at < size).then_some(at);
        Ok(Difference { size, granularity, extents: found.extents, next })
    }

    /// Returns the last snapshot with which both begin. It has no map.
    fn common(&self, other: &Self) -> Option<Self> {
        let mut stages = self.stages().flat_map(|own| other.stages().map(move |its| (own, its)));
        let (own, its) = stages.find(|(own, its)| own.is_same_base(its))?;
        let overlays = own.overlays.iter().zip(&its.overlays);
        let same = overlays.take_while(|(one, other)| Arc::ptr_eq(one, other));
        let overlays = same.map(|(one, _)| one.clone()).collect();
        Some(Self { base: own.base.clone(), overlays, map: None, beneath: None })
    }

    /// Returns this snapshot, that which its base is, and so on.
    fn stages(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |one| one.beneath.as_deref())
    }

    fn is_same_base(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.base, &other.base)
    }

    /// Sets the blocks, from `first` on, that are not where a snapshot had them with which this one begins.
    async fn changed_since(
        &self,
        common: &Self,
        first: u64,
        changed: &mut [bool],
    ) -> Result<(), Error> {
        for stage in self.stages() {
            let is_last = stage.is_same_base(common);
            // What is above the base of an earlier stage was changed in any case.
            let unchanged = if is_last { common.overlays.len() as u8 } else { BASE };
            if let Some(map) = &stage.map {
                add_map(map, first, unchanged, changed).await?;
            }
            if is_last {
                break;
            }
        }
        Ok(())
    }
}

/// Sets the blocks, from `first` on, that are on a higher layer than `unchanged` by a map.
async fn add_map(
    map: &Arc<dyn Device>,
    first: u64,
    unchanged: u8,
    changed: &mut [bool],
) -> Result<(), Error> {
    let span = Span { offset: HEADER + first, length: changed.len() as u64 };
    let order = Order::new(Command::Read { span }, Bytes::new(), Cancelled::default());
    let Answer::Read(content) = lower::execute(map.clone(), order).await? else {
        return Err(ErrorCode::Io.into());
    };
    let mut rest = changed.iter_mut();
    for chunk in content.chunks() {
        match chunk {
            // All on the base.
            crate::block::Chunk::Hole(length) => rest.by_ref().take(length as usize).for_each(drop),
            crate::block::Chunk::Data(layers) => {
                layers.iter().zip(rest.by_ref()).for_each(|(layer, changed)| {
                    *changed |= *layer > unchanged;
                });
            }
        }
    }
    Ok(())
}

/// Sets the blocks that are dirty by the extents of a span that begins with a block and has this length.
/// Returns how many bytes the extents are for, in whole blocks.
fn add(extents: &Extents<u32>, length: u64, granularity: u64, changed: &mut [bool]) -> u64 {
    let mut at = 0;
    for extent in extents.as_slice() {
        let end = at + extent.length;
        if extent.status != 0 {
            let blocks = (at / granularity) as usize..end.div_ceil(granularity) as usize;
            changed[blocks].fill(true);
        }
        at = end;
    }
    if at == length {
        return at;
    }
    // Changes are recorded for blocks, so this is expected to be a whole number of them.
    if at < granularity {
        changed[..1].fill(true);
        return granularity.min(length);
    }
    at / granularity * granularity
}

/// The extents that were found.
struct Found {
    extents: Vec<Span>,
    most: usize,
}

impl Found {
    /// Adds the blocks of a span that changed. Returns where to go on if there are too many.
    fn add(&mut self, span: Span, granularity: u64, changed: &[bool]) -> Option<u64> {
        let mut offset = span.offset;
        for run in changed.chunk_by(|one, other| one == other) {
            if offset >= span.end() {
                break;
            }
            let length = (run.len() as u64 * granularity).min(span.end() - offset);
            if run[0] {
                let is_full = self.extents.len() >= self.most;
                match self.extents.last_mut() {
                    Some(last) if last.end() == offset => last.length += length,
                    _ if is_full => return Some(offset),
                    _ => self.extents.push(Span { offset, length }),
                }
            }
            offset += length;
        }
        None
    }
}
