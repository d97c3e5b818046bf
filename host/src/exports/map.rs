//! Maps of disks: how much of each part is stored.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Export;
use crate::block::{Command, Error, ErrorCode, Extents, Span};
use crate::device::{Answer, Cancelled, Order, execute};

/// The most extents of one request. What is behind them is estimated, once a cell had two requests.
const EXTENTS: usize = 256;

/// The most cells of a map.
pub const MAX_CELLS: u32 = 4096;

/// How much of each part of a disk is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// The size of the disk, in bytes.
    pub size: u64,
    /// The length of each part but the last one, in bytes.
    pub cell: u64,
    /// How much of each part is stored, in bytes: allocated, whether it reads as zeroes or not.
    pub stored: Vec<u64>,
    /// Some parts have so many extents that only the first ones were counted, and the rest taken to be like
    /// those.
    pub estimated: bool,
}

/// Why there is no map of a disk.
#[derive(Debug, PartialEq, Eq)]
pub enum NotMapped {
    /// The disk is not open.
    NotOpen,
    /// The disk does not tell.
    Failed(ErrorCode),
    /// The disk did not tell in time.
    Late,
}

impl fmt::Display for NotMapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOpen => f.write_str("the disk is not open"),
            Self::Failed(code) => write!(f, "it does not tell what is stored: {code}"),
            Self::Late => f.write_str("it did not tell in time what is stored"),
        }
    }
}

impl std::error::Error for NotMapped {}

impl Export {
    /// Returns how much of each of so many parts of the disk is stored, of at most [`MAX_CELLS`]. The disk
    /// is not opened for that. The work is bounded, so it may be an estimate. Filters of the disk take part
    /// in it as if a client had asked for the block status.
    ///
    /// # Errors
    ///
    /// Returns an error if the disk is not open, or does not tell within `limit`.
    pub async fn map(self: &Arc<Self>, cells: u32, limit: Duration) -> Result<Map, NotMapped> {
        let (export, end) = (self.clone(), Instant::now() + limit);
        // A request that has begun has to come to its end.
        let mapping = tokio::spawn(async move { export.map_until(cells, end).await });
        let mapped = tokio::time::timeout_at(end, mapping).await.map_err(|_| NotMapped::Late)?;
        mapped.unwrap_or(Err(NotMapped::Failed(ErrorCode::Io)))
    }

    async fn map_until(&self, cells: u32, end: Instant) -> Result<Map, NotMapped> {
        let size = self.size().ok_or(NotMapped::NotOpen)?;
        let mut map = Map::empty(size, cells);
        let (mut at, mut in_cell) = (0, 0);
        while at < size {
            if Instant::now() >= end {
                return Err(NotMapped::Late);
            }
            let (before, begin) = (at / map.cell, at);
            let extents = self.extents(Span { offset: at, length: size - at }).await?;
            for extent in extents.as_slice() {
                let length = if extent.status.hole { 0 } else { extent.length };
                map.add(Span { offset: at, length });
                at += extent.length;
            }
            if at == begin {
                return Err(NotMapped::Failed(ErrorCode::Io));
            }
            // A disk may tell less at a time than it could.
            let cell = at / map.cell;
            in_cell = if cell == before { in_cell + 1 } else { 1 };
            if at < size && !at.is_multiple_of(map.cell) && in_cell > 1 {
                at = map.estimate(cell, at);
            }
        }
        Ok(map)
    }

    /// Asks for the extents at the beginning of a span, while the device is not replaced.
    async fn extents(&self, span: Span) -> Result<Extents, NotMapped> {
        let _replacing = self.replacing().await;
        let device = self.opened().ok_or(NotMapped::NotOpen)?;
        let size = device.geometry().size;
        if span.end() > size {
            return Err(NotMapped::NotOpen);
        }
        let command = Command::Extents { span, limit: EXTENTS };
        match execute(device, Order::new(command, Bytes::new(), Cancelled::default())).await {
            Ok(Answer::Extents(extents)) => Ok(extents),
            Ok(_) => Err(NotMapped::Failed(ErrorCode::Io)),
            Err(Error { code, .. }) => Err(NotMapped::Failed(code)),
        }
    }
}

impl Map {
    fn empty(size: u64, cells: u32) -> Self {
        let cell = size.div_ceil(u64::from(cells.clamp(1, MAX_CELLS))).max(1);
        let stored = vec![0; size.div_ceil(cell) as usize];
        Self { size, cell, stored, estimated: false }
    }

    /// Adds what is stored.
    fn add(&mut self, span: Span) {
        let mut left = span;
        while left.length > 0 {
            let cell = left.offset / self.cell;
            let length = left.length.min((cell + 1) * self.cell - left.offset);
            self.stored[cell as usize] += length;
            left = left.after(length);
        }
    }

    /// Takes the rest of a cell, from `at` on, to be like its beginning. Returns the end of the cell.
    fn estimate(&mut self, cell: u64, at: u64) -> u64 {
        let begin = cell * self.cell;
        let end = begin.saturating_add(self.cell).min(self.size);
        let stored = &mut self.stored[cell as usize];
        let known = u128::from((at - begin).max(1));
        *stored = (u128::from(*stored) * u128::from(end - begin) / known) as u64;
        self.estimated = true;
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_divided_among_cells() {
        let mut map = Map::empty(1000, 3);
        assert_eq!((map.cell, map.stored.len()), (334, 3));
        map.add(Span { offset: 300, length: 400 });
        assert_eq!(map.stored, [34, 334, 32]);
        assert_eq!(Map::empty(2, 4096).stored.len(), 2, "none is empty");
        assert_eq!(Map::empty(1 << 62, u32::MAX).stored.len(), MAX_CELLS as usize);
        assert_eq!(Map::empty(0, 8).stored, [0; 0]);
    }

    #[test]
    fn rest_of_a_cell_is_taken_to_be_like_its_beginning() {
        let mut map = Map::empty(1000, 2);
        map.add(Span { offset: 500, length: 50 });
        assert_eq!(map.estimate(1, 600), 1000);
        assert_eq!((map.stored, map.estimated), (vec![0, 250], true));
    }
}
