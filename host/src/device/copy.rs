//! Copying the content of one device to another, as when a disk is filled from an image.
//!
//! Holes and zeroes of the source are not written. Where the destination does not read as zeroes
//! there, it is zeroed.

mod target;

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::{JoinError, JoinSet};

use super::answer::Part;
use super::{Answer, Cancelled, Device};
use crate::block::{Command, Error, Extent, Operation, Span};
use target::{Target, execute, extents};

/// The length of a piece, in bytes.
const PIECE: u64 = 1 << 20;

/// The number of pieces that are copied at a time.
const IN_FLIGHT: usize = 8;

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
    /// The source is a stream, and has more bytes than the destination.
    StreamTooLong {
        /// The size of the destination in bytes.
        destination: u64,
    },
    /// Reading the source, which is a stream, failed.
    Stream(io::ErrorKind),
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
            Self::StreamTooLong { destination } => write!(
                f,
                "the image has more than the {destination} bytes of the disk; the disk must be at least \
                 as large"
            ),
            Self::Stream(kind) => write!(f, "reading the image failed: {kind}"),
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
    let largest = |device: &Arc<dyn Device>| u64::from(device.geometry().block_sizes.maximum);
    let piece = PIECE.min(largest(&source)).min(largest(&destination));
    // If one piece fails, the others end early.
    let target = Target::new(destination, cancelled.child()).await?;
    let mut pieces = Pieces::new(target.cancelled.clone(), &mut progress);
    let ends = Ends { source, target: target.clone() };
    let copied = pieces.copy_all(&ends, size, piece).await;
    let ended = pieces.finish(copied.is_err()).await;
    copied.and(ended)?;
    target.finish(size).await
}

/// Both devices.
#[derive(Clone)]
struct Ends {
    source: Arc<dyn Device>,
    target: Target,
}

impl Ends {
    /// Copies a piece, which is not a hole.
    async fn copy_piece(self, piece: Span) -> Result<u64, CopyError> {
        let command = Command::Read { span: piece };
        let read = execute(&self.source, true, command, Bytes::new(), &self.target.cancelled);
        let Answer::Read(content) = read.await? else { return Err(CopyError::Panicked) };
        let mut left = piece;
        for part in content.into_parts() {
            let data = match part {
                Part::Data(bytes) => Bytes::from(bytes),
                Part::Shared(bytes) => bytes,
                Part::Hole(length) => {
                    let length = u64::from(length);
                    self.target.zero(Span { length, ..left }).await?;
                    left = left.after(length);
                    continue;
                }
            };
            let (offset, length) = (left.offset, data.len() as u64);
            self.target.write(offset, data).await?;
            left = left.after(length);
        }
        Ok(piece.length)
    }

    /// Copies a hole.
    async fn copy_hole(self, hole: Span) -> Result<u64, CopyError> {
        self.target.zero(hole).await.map(|()| hole.length)
    }
}

/// Copies a stream to the beginning of `destination`, zeroes the rest of it, and flushes it, as [`copy`]
/// does. Zeroes are not written.
///
/// # Errors
///
/// Returns an error if the stream is longer than the destination or fails, a command fails, or `cancelled`
/// is cancelled. A part may have been written.
pub async fn copy_stream<R: AsyncRead + Unpin>(
    source: R,
    destination: Arc<dyn Device>,
    cancelled: Cancelled,
    mut progress: impl FnMut(u64),
) -> Result<(), CopyError> {
    let mut source = source;
    let piece = PIECE.min(destination.geometry().block_sizes.maximum.into());
    let target = Target::new(destination, cancelled.child()).await?;
    let mut pieces = Pieces::new(target.cancelled.clone(), &mut progress);
    let copied = pieces.copy_stream(&mut source, &target, piece).await;
    let ended = pieces.finish(copied.as_ref().err().is_some()).await;
    let copied = copied?;
    ended?;
    target.finish(copied).await
}

/// Pieces that are being copied.
struct Pieces<'a> {
    cancelled: Cancelled,
    /// Each returns the number of bytes that are done.
    tasks: JoinSet<Result<u64, CopyError>>,
    done: u64,
    progress: &'a mut dyn FnMut(u64),
}

impl<'a> Pieces<'a> {
    fn new(cancelled: Cancelled, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self { cancelled, tasks: JoinSet::new(), done: 0, progress }
    }

    /// Starts to copy all pieces. The last ones are under way when it returns.
    async fn copy_all(&mut self, ends: &Ends, size: u64, piece: u64) -> Result<(), CopyError> {
        let mut left = Span { offset: 0, length: size };
        while left.length > 0 {
            for Extent { length, status } in
                extents(&ends.source, true, left, &self.cancelled).await?
            {
                let mut extent = Span { length, ..left };
                left = left.after(length);
                if status.zero {
                    self.turn().await?;
                    self.tasks.spawn(ends.clone().copy_hole(extent));
                    continue;
                }
                while extent.length > 0 {
                    self.turn().await?;
                    let to_next = piece - extent.offset % piece;
                    let span = Span { length: extent.length.min(to_next), ..extent };
                    self.tasks.spawn(ends.clone().copy_piece(span));
                    extent = extent.after(span.length);
                }
            }
        }
        Ok(())
    }

    /// Starts to copy a stream, like [`Self::copy_all`]. Returns its length.
    async fn copy_stream<R: AsyncRead + Unpin>(
        &mut self,
        source: &mut R,
        target: &Target,
        piece: u64,
    ) -> Result<u64, CopyError> {
        let mut offset = 0;
        loop {
            let mut data = Vec::with_capacity(piece as usize);
            let read = source.take(piece).read_to_end(&mut data).await;
            let length = read.map_err(|error| CopyError::Stream(error.kind()))? as u64;
            if length > target.size() - offset {
                return Err(CopyError::StreamTooLong { destination: target.size() });
            }
            if length == 0 {
                return Ok(offset);
            }
            self.turn().await?;
            let target = target.clone();
            let write = async move { target.write(offset, data.into()).await.map(|()| length) };
            self.tasks.spawn(write);
            offset += length;
        }
    }

    /// Waits until fewer pieces than [`IN_FLIGHT`] are under way.
    async fn turn(&mut self) -> Result<(), CopyError> {
        while self.tasks.len() >= IN_FLIGHT {
            self.join_next().await?;
        }
        match self.cancelled.is_cancelled() {
            true => Err(CopyError::Cancelled),
            false => Ok(()),
        }
    }

    /// Waits until nothing is under way. Returns the first error. If the copy has failed, the pieces end
    /// early.
    async fn finish(&mut self, failed: bool) -> Result<(), CopyError> {
        if failed {
            self.cancelled.cancel();
        }
        let mut result = Ok(());
        while !self.tasks.is_empty() {
            let joined = self.join_next().await;
            if joined.is_err() {
                self.cancelled.cancel();
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
