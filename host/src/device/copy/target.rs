//! The destination of a copy.

use std::sync::Arc;

use bytes::Bytes;

use super::CopyError;
use crate::block::{Command, Extent, Span, Status};
use crate::device::zero::ZEROES;
use crate::device::{Answer, Cancelled, Device, Order, Outcome, lower};

/// The granularity in which zeroes among the data of the source are found: the page of a sparse disk
/// in memory. Smaller ones save no memory, and make writes shorter.
pub(super) const GRANULE: u64 = 32 << 10;

/// The longest span that is zeroed by one command, in bytes.
const ZERO_PIECE: u64 = 1 << 30;

/// The maximum number of extents in an answer.
const EXTENTS: usize = 1024;

/// The number of answers after which a destination counts as not blank.
const BLANK_ANSWERS: usize = 1024;

/// The destination.
#[derive(Clone)]
pub(super) struct Target {
    device: Arc<dyn Device>,
    pub(super) cancelled: Cancelled,
    /// It is known to read as zeroes wherever nothing was written.
    blank: bool,
}

impl Target {
    /// Looks whether a destination is blank.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be written to, or a command fails.
    pub(super) async fn new(
        device: Arc<dyn Device>,
        cancelled: Cancelled,
    ) -> Result<Self, CopyError> {
        if !device.geometry().capabilities.writable {
            return Err(CopyError::ReadOnly);
        }
        let target = Self { device, cancelled, blank: false };
        let blank = target.is_blank().await?;
        Ok(Self { blank, ..target })
    }

    pub(super) fn size(&self) -> u64 {
        self.device.geometry().size
    }

    async fn execute(&self, command: Command, payload: Bytes) -> Result<Answer, CopyError> {
        execute(&self.device, false, command, payload, &self.cancelled).await
    }

    /// Returns true if the whole destination is known to read as zeroes.
    async fn is_blank(&self) -> Result<bool, CopyError> {
        let mut left = Span { offset: 0, length: self.size() };
        for _ in 0..BLANK_ANSWERS {
            if left.length == 0 {
                return Ok(true);
            }
            let extents = extents(&self.device, false, left, &self.cancelled).await?;
            if extents.iter().any(|extent| !extent.status.zero) {
                return Ok(false);
            }
            left = left.after(extents.iter().map(|extent| extent.length).sum());
        }
        Ok(false)
    }

    /// Makes a span of the destination read as zeroes.
    pub(super) async fn zero(&self, span: Span) -> Result<(), CopyError> {
        let mut left = span;
        while !self.blank && left.length > 0 {
            for Extent { length, status } in
                extents(&self.device, false, left, &self.cancelled).await?
            {
                let mut extent = Span { length, ..left };
                left = left.after(length);
                while !status.zero && extent.length > 0 {
                    let span = Span { length: extent.length.min(ZERO_PIECE), ..extent };
                    let zero =
                        Command::Zero { span, fua: false, keep_allocated: false, fast: false };
                    self.execute(zero, Bytes::new()).await?;
                    extent = extent.after(span.length);
                }
            }
        }
        Ok(())
    }

    /// Writes data. Zeroes among it are zeroed instead.
    pub(super) async fn write(&self, offset: u64, data: Bytes) -> Result<(), CopyError> {
        let (mut offset, mut data) = (offset, data);
        while !data.is_empty() {
            let (length, is_zero) = run(offset, &data);
            let run = data.split_to(length);
            let span = Span { offset, length: length as u64 };
            match is_zero {
                true => self.zero(span).await?,
                false => {
                    self.execute(Command::Write { span, fua: false }, run).await?;
                }
            }
            offset += span.length;
        }
        Ok(())
    }

    /// Zeroes what is behind the copy, and flushes.
    pub(super) async fn finish(&self, copied: u64) -> Result<(), CopyError> {
        self.zero(Span { offset: copied, length: self.size() - copied }).await?;
        self.execute(Command::Flush, Bytes::new()).await.map(drop)
    }
}

/// Executes a command of the source or the destination.
pub(super) async fn execute(
    device: &Arc<dyn Device>,
    of_source: bool,
    command: Command,
    payload: Bytes,
    cancelled: &Cancelled,
) -> Result<Answer, CopyError> {
    if cancelled.is_cancelled() {
        return Err(CopyError::Cancelled);
    }
    let order = Order::new(command, payload, cancelled.clone());
    let outcome: Outcome = lower::execute(device.clone(), order).await;
    outcome.map_err(|error| CopyError::Failed {
        of_source,
        operation: command.operation(),
        span: command.span(),
        error,
    })
}

/// Returns extents of a device from the beginning of a span: at least one.
pub(super) async fn extents(
    device: &Arc<dyn Device>,
    of_source: bool,
    span: Span,
    cancelled: &Cancelled,
) -> Result<Vec<Extent>, CopyError> {
    let command = Command::Extents { span, limit: EXTENTS };
    let extents = match execute(device, of_source, command, Bytes::new(), cancelled).await? {
        Answer::Extents(extents) => extents.as_slice().to_vec(),
        _ => Vec::new(),
    };
    match extents.is_empty() {
        true => Ok(vec![Extent { length: span.length, status: Status::DATA }]),
        false => Ok(extents),
    }
}

/// Returns the length of the granules at the beginning of data that are all zero, or all not, and
/// which. The data is at this offset of the disk, and is not empty.
pub(super) fn run(offset: u64, data: &[u8]) -> (usize, bool) {
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
