//! Prefetching for requests that were received but whose turn has not come.

use super::Transmission;
use crate::block::{Command, Span};
use crate::nbd::{Admission, Verdict};
use crate::transport::Stream;

/// The number of requests to prefetch for at once.
const AHEAD: usize = 8;

/// The longest payload to look past, in bytes.
const LONGEST: u64 = 32 << 10;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Prefetches for the next requests in the input, if there are several. Errors in them are
    /// reported when their turn comes.
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
        if count > 1 {
            self.gate.prefetch(&spans[..count]);
        }
    }
}
