//! Looking at requests that are here before it is their turn, so that the processor can fetch what they
//! reach.

use super::Transmission;
use crate::block::{Command, Span};
use crate::nbd::{Admission, Verdict};
use crate::transport::Stream;

/// How many requests are looked at together.
const AHEAD: usize = 8;

/// Behind a longer payload nothing is looked at.
const LONGEST: u64 = 32 << 10;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Looks at the requests that are next in the input, when there are several. Nothing comes of
    /// what is wrong with one, before it is its turn.
    pub(super) fn look_ahead(&mut self) {
        let length = self.session.header_len();
        let mut spans = [Span { offset: 0, length: 0 }; AHEAD];
        let (mut at, mut headers, mut count) = (0, 0, 0);
        while headers < AHEAD
            && let Some(header) = self.input.get(at..at + length)
            && let Ok(request) = self.session.parse(header)
            && let Ok(Admission { payload, verdict }) = self.session.admit(&request)
            && payload <= LONGEST
        {
            if let Verdict::Execute(Command::Read { span } | Command::Write { span, .. }) = verdict
            {
                spans[count] = span;
                count += 1;
            }
            headers += 1;
            at += length + payload as usize;
        }
        self.seen = headers;
        if count < 2 {
            return;
        }
        for &span in &spans[..count] {
            self.gate.prefetch(span);
        }
    }
}
