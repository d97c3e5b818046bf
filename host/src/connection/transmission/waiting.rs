//! Requests that are held back until there is memory for them.

use std::task::{Context, Poll};

use super::request::Waiting;
use super::{State, Transmission};
use crate::connection::End;
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Holds back a request until there is memory for it, and with it all that follows it.
    pub(super) fn wait_for_buffer(
        &mut self,
        bytes: u64,
        waiting: Waiting,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let buffer = Box::pin(self.gate.buffers().clone().take(bytes));
        self.state = State::Waiting { waiting, buffer };
        self.poll_waiting(cx)
    }

    /// Continues with the request that was held back, if there is memory for it now.
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
            Waiting::Describe { executed, contexts, limit } => {
                self.describe_called(executed, buffer, contexts, limit, cx)
            }
            Waiting::Collect(write) => {
                self.state = State::Write(write.collecting(buffer));
                Ok(())
            }
        }
    }
}
