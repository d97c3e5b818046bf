//! Access that is not aligned to the component's minimum block, for clients that did not ask for
//! block sizes.
//!
//! Reads read whole blocks and cut off the rest. Writes read, modify and write the blocks at the
//! edges, to the exclusion of other writers, and so do zeroes. Trims leave out the edges.

use super::GuestDevice;
use crate::block::{Chunk, Error, ErrorCode, Span};
use crate::device::zero::Zero;
use crate::device::{Cancelled, Chunks, Content, Part};

impl GuestDevice {
    fn minimum(&self) -> u64 {
        u64::from(self.component.block_sizes.minimum)
    }

    #[inline]
    pub(super) fn is_aligned(&self, span: Span) -> bool {
        (span.offset | span.length) & (self.minimum() - 1) == 0
    }

    /// Returns the whole blocks that a span touches. They lie within the device, whose size is a
    /// multiple of the minimum block.
    pub(super) fn widened(&self, span: Span) -> Span {
        let mask = self.minimum() - 1;
        let offset = span.offset & !mask;
        Span { offset, length: ((span.end() - offset) + mask) & !mask }
    }

    /// Returns the whole blocks within a span, if there are any.
    fn narrowed(&self, span: Span) -> Option<Span> {
        let mask = self.minimum() - 1;
        let offset = span.offset.checked_add(mask)? & !mask;
        let end = span.end() & !mask;
        (offset < end).then(|| Span { offset, length: end - offset })
    }

    pub(super) async fn read_unaligned(&self, span: Span) -> Result<Content, Error> {
        let wide = self.widened(span);
        let content = self.read(wide).await?;
        let mut skip = span.offset - wide.offset;
        let mut left = span.length;
        let mut parts = Vec::new();
        for chunk in content.chunks() {
            let skipped = skip.min(chunk.len() as u64);
            let taken = left.min(chunk.len() as u64 - skipped);
            skip -= skipped;
            left -= taken;
            if taken == 0 {
                continue;
            }
            parts.push(match chunk {
                Chunk::Data(data) => {
                    Part::Data(data[skipped as usize..][..taken as usize].to_vec())
                }
                Chunk::Hole(_) => Part::Hole(u32::try_from(taken).expect("part of a u32")),
            });
        }
        Ok(Content::Copied(parts))
    }

    pub(super) async fn write_unaligned(
        &self,
        span: Span,
        data: &[u8],
        fua: bool,
    ) -> Result<(), Error> {
        let _alone = self.blocks.write().await;
        let wide = self.widened(span);
        // At most the longest payload and two blocks.
        let mut blocks = Vec::with_capacity(wide.length as usize);
        let minimum = self.minimum();
        let first = Span { offset: wide.offset, length: minimum };
        let last = Span { offset: wide.end() - minimum, length: minimum };
        self.append_block(first, &mut blocks).await?;
        if last.offset > first.offset {
            blocks.resize((wide.length - minimum) as usize, 0);
            self.append_block(last, &mut blocks).await?;
        }
        let start = (span.offset - wide.offset) as usize;
        blocks[start..start + data.len()].copy_from_slice(data);
        self.write_blocks(wide, &blocks, fua).await
    }

    async fn append_block(&self, block: Span, bytes: &mut Vec<u8>) -> Result<(), Error> {
        for chunk in self.read(block).await?.chunks() {
            match chunk {
                Chunk::Data(data) => bytes.extend_from_slice(data),
                Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
            }
        }
        Ok(())
    }

    pub(super) async fn zero_any(&self, zero: Zero, cancelled: &Cancelled) -> Result<(), Error> {
        if self.is_aligned(zero.span) {
            let _shared = self.share_blocks().await;
            return self.zero(zero, cancelled).await;
        }
        let span = zero.span;
        let Some(middle) = self.narrowed(span) else {
            // No whole block: read, modify and write.
            if zero.fast {
                return Err(ErrorCode::NotSup.into());
            }
            let zeroes = vec![0; span.length as usize];
            return self.write_unaligned(span, &zeroes, zero.fua).await;
        };
        {
            // This comes first, for a fast zero that fails must not have changed anything.
            let _shared = self.share_blocks().await;
            self.zero(Zero { span: middle, ..zero }, cancelled).await?;
        }
        let head = Span { offset: span.offset, length: middle.offset - span.offset };
        let tail = Span { offset: middle.end(), length: span.end() - middle.end() };
        for edge in [head, tail] {
            if edge.length > 0 {
                let zeroes = vec![0; edge.length as usize];
                self.write_unaligned(edge, &zeroes, zero.fua).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn trim_any(&self, span: Span, fua: bool) -> Result<(), Error> {
        match self.narrowed(span) {
            Some(blocks) => {
                let _shared = self.share_blocks().await;
                self.trim(blocks, fua).await
            }
            None => Ok(()),
        }
    }
}
