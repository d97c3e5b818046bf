//! Copying the content of one device to another, as when a disk is filled from an image.
//!
//! Holes and zeroes of the source are not written. Where the destination does not read as zeroes
//! there, it is zeroed.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};

use super::answer::Part;
use super::zero::ZEROES;
use super::{Answer, Cancelled, Device, Order, Outcome, lower};
use crate::block::{Command, Error, Extent, Operation, Span, Status};

/// The length of a piece, in bytes.
const PIECE: u64 = 1 << 20;

/// The number of pieces that are copied at a time.
const IN_FLIGHT: usize = 8;

/// The granularity in which zeroes among the data of the source are found: the page of a sparse disk
/// in memory. Smaller ones save no memory, and make writes shorter.
const GRANULE: u64 = 32 << 10;

/// The longest span that is zeroed by one command, in bytes.
const ZERO_PIECE: u64 = 1 << 30;

/// The maximum number of extents in an answer.
const EXTENTS: usize = 1024;

/// The number of answers after which a destination counts as not blank.
const BLANK_ANSWERS: usize = 1024;

/// Why a device was not copied, or not completely.
#[derive(Debug, PartialEq, Eq)]
pub enum CopyError {
    /// The source is larger than the destination. Nothing was written.
    TooLarge {
        /// The size of the source in bytes.
        source: u64,
        /// The size of the destination in bytes.
        destination: u64,
    },
    /// The destination cannot be written to.
    ReadOnly,
    /// A command failed.
    Failed {
        /// The device that failed: the source if true, or else the destination.
        of_source: bool,
        /// The command.
        operation: Operation,
        /// The bytes that it was for.
        span: Span,
        /// The cause.
        error: Error,
    },
    /// It was cancelled.
    Cancelled,
    /// A task panicked.
    Panicked,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { source, destination } => write!(
                f,
                "the image has {source} bytes and the disk {destination}; the disk must be at least \
                 as large"
            ),
            Self::ReadOnly => f.write_str("the disk is read-only"),
            Self::Failed { of_source, operation, span, error } => {
                let of = if *of_source { "image" } else { "disk" };
                let (name, Span { offset, length }) = (operation.name(), span);
                write!(f, "{name}({offset}, {length}) of the {of}: ")?;
                match &error.message {
                    Some(message) => write!(f, "{}: {message}", error.code),
                    None => error.code.fmt(f),
                }
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::Panicked => f.write_str("a task panicked"),
        }
    }
}

impl std::error::Error for CopyError {}

impl From<JoinError> for CopyError {
    fn from(_: JoinError) -> Self {
        Self::Panicked
    }
}

/// Copies the content of `source` to the beginning of `destination`, zeroes the rest of it, and flushes
/// it. Calls `progress` with the number of bytes of the source that are done.
///
/// Nobody else may write to the destination meanwhile.
///
/// # Errors
///
/// Returns an error if the source is larger than the destination, a command fails, or `cancelled` is
/// cancelled. Except in the first case, a part may have been written.
pub async fn copy(
    source: Arc<dyn Device>,
    destination: Arc<dyn Device>,
    cancelled: Cancelled,
    mut progress: impl FnMut(u64),
) -> Result<(), CopyError> {
    let (size, room) = (source.geometry().size, destination.geometry().size);
    if size > room {
        return Err(CopyError::TooLarge { source: size, destination: room });
    }
    if !destination.geometry().capabilities.writable {
        return Err(CopyError::ReadOnly);
    }
    let largest = |device: &Arc<dyn Device>| u64::from(device.geometry().block_sizes.maximum);
    let piece = PIECE.min(largest(&source)).min(largest(&destination));
    // If one piece fails, the others end early.
    let ends = Ends { source, destination, cancelled: cancelled.child(), blank: false };
    let blank = ends.is_blank(room).await?;
    let ends = Ends { blank, ..ends };
    let mut copying = Copying { ends, tasks: JoinSet::new(), done: 0, progress: &mut progress };
    let copied = copying.copy_all(size, piece).await;
    if copied.is_err() {
        copying.ends.cancelled.cancel();
    }
    let ended = copying.finish().await;
    copied.and(ended)?;
    let ends = copying.ends;
    if !blank {
        ends.zero(Span { offset: size, length: room - size }).await?;
    }
    ends.destination(Command::Flush, Bytes::new()).await.map(drop)
}

/// Both devices.
#[derive(Clone)]
struct Ends {
    source: Arc<dyn Device>,
    destination: Arc<dyn Device>,
    cancelled: Cancelled,
    /// The destination is known to read as zeroes wherever nothing was written.
    blank: bool,
}

impl Ends {
    async fn source(&self, command: Command) -> Result<Answer, CopyError> {
        self.execute(true, command, Bytes::new()).await
    }

    async fn destination(&self, command: Command, payload: Bytes) -> Result<Answer, CopyError> {
        self.execute(false, command, payload).await
    }

    async fn execute(
        &self,
        of_source: bool,
        command: Command,
        payload: Bytes,
    ) -> Result<Answer, CopyError> {
        if self.cancelled.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let device = if of_source { &self.source } else { &self.destination };
        let order = Order::new(command, payload, self.cancelled.clone());
        let outcome: Outcome = lower::execute(device.clone(), order).await;
        outcome.map_err(|error| CopyError::Failed {
            of_source,
            operation: command.operation(),
            span: command.span(),
            error,
        })
    }

    /// Returns extents of a device from the beginning of a span: at least one.
    async fn extents(&self, of_source: bool, span: Span) -> Result<Vec<Extent>, CopyError> {
        let command = Command::Extents { span, limit: EXTENTS };
        let extents = match self.execute(of_source, command, Bytes::new()).await? {
            Answer::Extents(extents) => extents.as_slice().to_vec(),
            _ => Vec::new(),
        };
        match extents.is_empty() {
            true => Ok(vec![Extent { length: span.length, status: Status::DATA }]),
            false => Ok(extents),
        }
    }

    /// Returns true if the whole destination is known to read as zeroes.
    async fn is_blank(&self, room: u64) -> Result<bool, CopyError> {
        let mut left = Span { offset: 0, length: room };
        for _ in 0..BLANK_ANSWERS {
            if left.length == 0 {
                return Ok(true);
            }
            let extents = self.extents(false, left).await?;
            if extents.iter().any(|extent| !extent.status.zero) {
                return Ok(false);
            }
            left = left.after(extents.iter().map(|extent| extent.length).sum());
        }
        Ok(false)
    }

    /// Makes a span of the destination read as zeroes.
    async fn zero(&self, span: Span) -> Result<(), CopyError> {
        let mut left = span;
        while !self.blank && left.length > 0 {
            for Extent { length, status } in self.extents(false, left).await? {
                let mut extent = Span { length, ..left };
                left = left.after(length);
                while !status.zero && extent.length > 0 {
                    let span = Span { length: extent.length.min(ZERO_PIECE), ..extent };
                    let zero =
                        Command::Zero { span, fua: false, keep_allocated: false, fast: false };
                    self.destination(zero, Bytes::new()).await?;
                    extent = extent.after(span.length);
                }
            }
        }
        Ok(())
    }

    /// Copies a piece, which is not a hole.
    async fn copy_piece(self, piece: Span) -> Result<u64, CopyError> {
        let Answer::Read(content) = self.source(Command::Read { span: piece }).await? else {
            return Err(CopyError::Panicked);
        };
        let mut left = piece;
        for part in content.into_parts() {
            let mut data = match part {
                Part::Data(bytes) => Bytes::from(bytes),
                Part::Shared(bytes) => bytes,
                Part::Hole(length) => {
                    let length = u64::from(length);
                    self.zero(Span { length, ..left }).await?;
                    left = left.after(length);
                    continue;
                }
            };
            while !data.is_empty() {
                let (length, is_zero) = run(left.offset, &data);
                let run = data.split_to(length);
                let span = Span { length: length as u64, ..left };
                match is_zero {
                    true => self.zero(span).await?,
                    false => {
                        let write = Command::Write { span, fua: false };
                        self.destination(write, run).await?;
                    }
                }
                left = left.after(span.length);
            }
        }
        Ok(piece.length)
    }

    /// Copies a hole.
    async fn copy_hole(self, hole: Span) -> Result<u64, CopyError> {
        self.zero(hole).await.map(|()| hole.length)
    }
}

/// Returns the length of the granules at the beginning of data that are all zero, or all not, and
/// which. The data is at this offset of the disk, and is not empty.
fn run(offset: u64, data: &[u8]) -> (usize, bool) {
    let mut length = 0;
    let mut kind = None;
    while length < data.len() {
        let to_next = GRANULE - (offset + length as u64) % GRANULE;
        let end = data.len().min(length + to_next as usize);
        let granule = &data[length..end];
        let is_zero = *granule == ZEROES[..granule.len()];
        if *kind.get_or_insert(is_zero) != is_zero {
            break;
        }
        length = end;
    }
    (length, kind == Some(true))
}

/// A copy under way.
struct Copying<'a> {
    ends: Ends,
    /// Each returns the number of bytes that are done.
    tasks: JoinSet<Result<u64, CopyError>>,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl Copying<'_> {
    /// Starts to copy all pieces. The last ones are under way when it returns.
    async fn copy_all(&mut self, size: u64, piece: u64) -> Result<(), CopyError> {
        let mut left = Span { offset: 0, length: size };
        while left.length > 0 {
            for Extent { length, status } in self.ends.extents(true, left).await? {
                let mut extent = Span { length, ..left };
                left = left.after(length);
                if status.zero {
                    self.turn().await?;
                    self.tasks.spawn(self.ends.clone().copy_hole(extent));
                    continue;
                }
                while extent.length > 0 {
                    self.turn().await?;
                    let to_next = piece - extent.offset % piece;
                    let span = Span { length: extent.length.min(to_next), ..extent };
                    self.tasks.spawn(self.ends.clone().copy_piece(span));
                    extent = extent.after(span.length);
                }
            }
        }
        Ok(())
    }

    /// Waits until fewer pieces than [`IN_FLIGHT`] are under way.
    async fn turn(&mut self) -> Result<(), CopyError> {
        while self.tasks.len() >= IN_FLIGHT {
            self.join_next().await?;
        }
        match self.ends.cancelled.is_cancelled() {
            true => Err(CopyError::Cancelled),
            false => Ok(()),
        }
    }

    /// Waits until nothing is under way. Returns the first error.
    async fn finish(&mut self) -> Result<(), CopyError> {
        let mut result = Ok(());
        while !self.tasks.is_empty() {
            let joined = self.join_next().await;
            if joined.is_err() {
                self.ends.cancelled.cancel();
            }
            result = result.and(joined);
        }
        result
    }

    async fn join_next(&mut self) -> Result<(), CopyError> {
        if let Some(ended) = self.tasks.join_next().await {
            self.done += ended??;
            (self.progress)(self.done);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "copy/tests.rs"]
mod tests;
