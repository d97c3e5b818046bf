//! Requests that are held back until there is memory for them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::execution::Executed;
use super::write::Write;
use super::{State, Transmission};
use crate::block::Command;
use crate::connection::{End, Stream};
use crate::disk::Buffer;

/// What goes on once there is memory for it.
pub(super) enum Waiting {
    /// A request whose data is here.
    Execute { executed: Executed, command: Command, data: Bytes },
    /// A write whose data is to be collected.
    Collect(Write),
}

/// Memory that is waited for.
pub(super) type Awaited = Pin<Box<dyn Future<Output = Buffer> + Send>>;

impl Waiting {
    pub(super) fn execute(executed: Executed, command: Command, data: Bytes) -> Self {
        Self::Execute { executed, command, data }
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Holds a request back, and with it all that the client sends after it.
    pub(super) fn wait_for_buffer(
        &mut self,
        bytes: u64,
        waiting: Waiting,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let buffer = Box::pin(self.access.buffers().clone().take(bytes));
        self.state = State::Waiting { waiting, buffer };
        self.poll_waiting(cx)
    }

    /// Goes on with what was held back, if there is memory for it now.
    #[inline]
    pub(super) fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let State::Waiting { buffer, .. } = &mut self.state else { return Ok(()) };
        let Poll::Ready(buffer) = buffer.as_mut().poll(cx) else { return Ok(()) };
        let State::Waiting { waiting, .. } = std::mem::replace(&mut self.state, State::Header)
        else {
            return Ok(());
        };
        match waiting {
            Waiting::Execute { executed, command, data } => {
                self.execute_called(executed, Some(buffer), command, data, cx)
            }
            Waiting::Collect(write) => {
                self.state = State::Write(write.collecting(buffer));
                Ok(())
            }
        }
    }
}
