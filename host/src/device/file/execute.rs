//! Executing commands: the implementation of [`Device`], on the runtime's blocking threads.

use std::sync::Arc;

use super::FileDevice;
use super::error::Failure;
use super::open_file::{MAX_NOW, MAX_NOW_ALONE, OpenFile};
use super::pool;
use crate::block::{Command, Error, ErrorCode, Geometry, Span};
use crate::device::zero::Zero;
use crate::device::{
    Answer, Buffers, Cancelled, Content, Device, Execution, Order, Outcome, Part, execution,
};
use crate::throttle::Verdict;

/// Parts of a write end at multiples of this, in bytes.
const PART_UNIT: u64 = 32 << 10;

impl Device for FileDevice {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        execution(self.execute_order(order), place)
    }

    /// On a file system in memory, parts of a write take no longer than the whole, and are in the
    /// processor's cache when they are copied.
    fn partial_write_len(&self, span: Span, here: u64) -> u64 {
        if !self.file.in_memory || self.geometry.block_sizes.minimum > 1 {
            return 0;
        }
        let end = (span.offset + here) & !(PART_UNIT - 1);
        end.saturating_sub(span.offset)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        let order = Order::new(Command::Flush, Default::default(), Cancelled::default());
        let flushed = async move {
            self.clone().execute_order(order).await.inspect_err(|error| {
                let name = &self.export_name;
                match &error.message {
                    Some(message) => tracing::error!("export {name:?}: the last {message}"),
                    None => tracing::error!("export {name:?}: the last flush: {}", error.code),
                }
            })
        };
        execution(flushed, None)
    }
}

impl FileDevice {
    async fn execute_order(self: Arc<Self>, order: Order) -> Outcome {
        if let Command::Read { span } = order.command
            && !self.file.in_memory
            && let Some(bytes) = self.file.read_now(span)
        {
            return Ok(content(bytes));
        }
        if self.is_quick(&order) {
            let command = order.command;
            let outcome = self.file.execute(order).map_err(|failure| failure.of(command));
            return outcome.inspect_err(|error| self.log(error));
        }
        let device = self.clone();
        let permit = self.blocking.clone().acquire_owned().await.expect("it is never closed");
        let task = move || {
            let _permit = permit;
            let command = order.command;
            self.file.execute(order).map_err(|failure| failure.of(command))
        };
        // This fails if the task panicked, or the runtime was shut down before it began.
        let ended = tokio::task::spawn_blocking(task).await;
        let outcome = ended.unwrap_or_else(|_| Err(Error::from(ErrorCode::Io)));
        outcome.inspect_err(|error| device.log(error))
    }

    /// Whether a command may be executed on the calling thread, because it takes about as long as copying
    /// its data: on a file system in memory, or, where it delays nobody else, a write to the page cache.
    fn is_quick(&self, order: &Order) -> bool {
        let longest = if order.alone { MAX_NOW_ALONE } else { MAX_NOW };
        let is_short = order.command.span().length <= longest;
        match order.command {
            Command::Write { fua: false, .. } => is_short && (self.file.in_memory || order.alone),
            Command::Extents { .. } => false,
            _ => is_short && self.file.in_memory,
        }
    }

    /// Logs an error of the file, so that people learn of it who do not see what clients get.
    fn log(&self, error: &Error) {
        // The others are answers to what clients ask for.
        let is_fault = matches!(error.code, ErrorCode::Io | ErrorCode::NoSpc | ErrorCode::NoMem);
        let Some(message) = error.message.as_deref().filter(|_| is_fault) else { return };
        if let Verdict::Admitted { refused } = self.throttle.admit(message.len()) {
            let name = &self.export_name;
            match refused {
                0 => tracing::warn!("export {name:?}: {message}"),
                _ => tracing::warn!("export {name:?}: {message} ({refused} more were not logged)"),
            }
        }
    }
}

impl OpenFile {
    fn execute(&self, order: Order) -> Result<Answer, Failure> {
        let Order { command, payload, cancelled, to_socket, .. } = order;
        match command {
            // Writes take effect all the same.
            Command::Read { .. } if cancelled.is_cancelled() => return Err(Failure::Cancelled),
            Command::Read { span } => {
                let piped = to_socket.then(|| self.read_piped(span)).and_then(Result::transpose);
                return match piped {
                    Some(piped) => Ok(Answer::Piped(piped?)),
                    None => Ok(content(self.read(span)?)),
                };
            }
            Command::Write { span, fua } => self.write(span.offset, &payload, fua)?,
            Command::Zero { span, fua, keep_allocated, fast } => {
                self.zero(Zero { span, fua, keep_allocated, fast }, &cancelled)?;
            }
            Command::Trim { span, fua } => self.trim(span, fua)?,
            Command::Flush => self.sync()?,
            Command::Cache { span } => self.cache(span)?,
            Command::Extents { span, limit } => {
                return Ok(Answer::Extents(self.extents(span, limit)?));
            }
        }
        Ok(Answer::Done)
    }
}

fn content(bytes: Vec<u8>) -> Answer {
    Answer::Read(Content::Copied(vec![Part::Shared(pool::bytes(bytes))]))
}
