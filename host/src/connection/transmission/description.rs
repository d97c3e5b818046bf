//! Requests for the status of a span in several metadata contexts, or in one of QEMU's.
//!
//! They are rare, so each is a task.

use std::sync::Arc;
use std::task::Context;

use super::Transmission;
use super::deferred::{Asked, Deferral};
use super::request::{Executed, Waiting};
use crate::block::{Command, Operation, Span};
use crate::connection::End;
use crate::device::guest::Begun;
use crate::device::{Buffer, MetaContext};
use crate::nbd::{Contexts, Request, index_of};
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Describes a span in metadata contexts, once there is memory for that.
    pub(super) fn describe(
        &mut self,
        request: &Request,
        span: Span,
        limit: usize,
        contexts: Contexts,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let entry = self.meter.entry(Operation::Extents);
        let held = self.gate.description_memory(contexts.count(), limit);
        let executed = Executed { reply: self.session.reply_to(request), entry, span, held };
        match self.gate.buffers().try_take(held) {
            Some(buffer) => self.describe_called(executed, buffer, contexts, limit, cx),
            None => {
                let waiting = Waiting::Describe { executed, contexts, limit };
                self.wait_for_buffer(held, waiting, cx)
            }
        }
    }

    /// As [`Self::describe`], with the memory.
    pub(super) fn describe_called(
        &mut self,
        executed: Executed,
        buffer: Buffer,
        contexts: Contexts,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let buffer = Some(buffer);
        match self.try_begin(&executed, Command::Extents { span: executed.span, limit }) {
            Ok(begun) => {
                self.describe_begun(executed, buffer, contexts, limit, begun);
                Ok(())
            }
            Err(Deferral) => {
                self.defer(executed, buffer, Asked::Description { contexts, limit }, cx)
            }
        }
    }

    /// As [`Self::describe_called`], for a request that may begin.
    pub(super) fn describe_begun(
        &mut self,
        executed: Executed,
        buffer: Option<Buffer>,
        contexts: Contexts,
        limit: usize,
        begun: Option<Begun>,
    ) {
        let allocation = Arc::new(MetaContext::Allocation);
        let context = |id| match index_of(id) {
            Some(index) => self.contexts.get(index).cloned(),
            None => Some(allocation.clone()),
        };
        let asked: Vec<_> = contexts.ids().filter_map(|id| Some((id, context(id)?))).collect();
        let pass = self.gate.pass();
        let describing = async move {
            let described = pass.describe(&asked, executed.span, limit).await;
            drop(begun);
            (described, pass)
        };
        self.spawn_request(executed, buffer, false, describing);
    }
}
