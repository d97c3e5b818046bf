//! What needs neither a call of the component nor waiting for others: reading and writing pages that
//! the host knows.

use std::sync::Arc;

use tokio::sync::RwLock;

use super::shards::Shard;
use super::{Content, Disk};
use crate::block::Span;
use crate::component::{Hint, Places};

impl Disk {
    /// Reads, if it can.
    #[inline]
    pub(super) fn read_now(&self, span: Span) -> Option<Content> {
        let shard = self.direct(span)?.clone().try_read_owned().ok()?;
        let known = shard.started()?.known(span)?;
        Some(Content::Known(shard, known))
    }

    /// Writes, if it can. False, and nothing is written, if not.
    #[inline]
    pub(super) fn write_now(&self, span: Span, data: &[u8], fua: bool) -> bool {
        if self.must_flush(fua) {
            return false;
        }
        let Some(mut shard) = self.direct(span).and_then(|shard| shard.try_write().ok()) else {
            return false;
        };
        shard.started_mut().is_some_and(|instance| instance.write_known(span, data))
    }

    /// Writes the beginning of `data`, if it can. Returns how many bytes it has written.
    pub(super) fn write_part_now(&self, offset: u64, data: &[u8], fua: bool) -> usize {
        let part = self.shards.first_stripe(Span { offset, length: data.len() as u64 });
        let data = &data[..part.length as usize];
        if !data.is_empty() && self.write_now(part, data, fua) { data.len() } else { 0 }
    }

    /// Lets `receive` write to the beginning of a span, if it can.
    pub(super) fn receive_now<T>(
        &self,
        span: Span,
        fua: bool,
        behind: &mut [u8],
        receive: impl FnOnce(Places<'_>) -> T,
    ) -> Option<T> {
        if self.must_flush(fua) {
            return None;
        }
        let part = self.shards.first_stripe(span);
        let behind = if part.length == span.length { behind } else { &mut [] };
        let mut shard = self.direct(part)?.try_write().ok()?;
        shard.started_mut()?.places(part, behind).map(receive)
    }

    /// Where a span begins, if it could be read and written now.
    #[inline]
    pub(super) fn hint(&self, span: Span) -> Option<Hint> {
        self.direct(span)?.try_read().ok()?.started()?.hint(span)
    }

    /// Whether a write with or without FUA takes a call of its own to flush.
    pub(super) fn must_flush(&self, fua: bool) -> bool {
        fua && !self.component.capabilities.fua
    }

    /// The shard of a span, if it could have known pages. A disk whose blocks are longer than a byte
    /// takes care of parts of blocks first.
    #[inline]
    fn direct(&self, span: Span) -> Option<&Arc<RwLock<Shard>>> {
        let direct = self.component.direct_access
            && !self.is_dead()
            && self.component.block_sizes.minimum == 1
            && span.length <= self.shards.left_in_stripe(span.offset);
        direct.then(|| self.shards.shard(self.shards.index(span.offset)))
    }
}
