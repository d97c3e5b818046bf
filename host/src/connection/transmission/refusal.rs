//! Refused requests: their payload is discarded, then they are answered.

use super::request::Refused;
use super::{State, Transmission};
use crate::block::ErrorCode;
use crate::nbd::Request;
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    pub(super) fn refuse(
        &mut self,
        request: &Request,
        payload: u64,
        error: ErrorCode,
        text: &'static str,
    ) {
        tracing::debug!(
            "{} {:#x}+{:#x} refused: {text}",
            request.command,
            request.offset,
            request.length
        );
        let reply = self.session.reply_to(request);
        self.drain(Refused { reply, entry: None, error, text: text.into() }, payload);
    }

    /// Refuses a request that comes after the server was told to stop.
    pub(super) fn refuse_for_shutdown(&mut self, request: &Request, payload: u64) {
        self.refuse(request, payload, ErrorCode::Shutdown, "the server is shutting down");
    }

    /// Answers once the payload was discarded: clients do not expect a reply to a request that they
    /// have not sent completely.
    pub(super) fn drain(&mut self, refused: Refused, payload: u64) {
        match payload {
            0 => self.answer_refused(refused),
            missing => self.state = State::Drain { refused, missing },
        }
    }

    pub(super) fn answer_refused(&mut self, refused: Refused) {
        let Refused { reply, entry, error, text } = refused;
        self.meter.failed(error);
        match entry {
            Some(entry) => self.meter.answered(entry, 0, true),
            None => self.meter.refused(),
        }
        reply.error(error, &text, self.output.batch());
    }
}
