//! The beginning of a request whose header has arrived: it is judged, charged, and then executed or
//! refused.

use std::task::Context;

use super::{State, Transmission};
use crate::block::Command;
use crate::connection::End;
use crate::nbd::{Admission, Request, Verdict};
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    pub(super) fn begin(&mut self, request: Request, cx: &mut Context<'_>) -> Result<(), End> {
        let admission = self.session.admit(&request)?;
        if self.draining && !matches!(admission.verdict, Verdict::Disconnect) {
            self.refuse_for_shutdown(&request, admission.payload);
            return Ok(());
        }
        if self.allowance.is_limited()
            && let Some(payment) = self.charge(&admission.verdict)
        {
            return self.throttle(request, admission, payment, cx);
        }
        self.obey(request, admission, cx)
    }

    /// Executes or refuses a request that was admitted, and charged.
    pub(super) fn obey(
        &mut self,
        request: Request,
        admission: Admission,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let Admission { payload, verdict } = admission;
        match verdict {
            Verdict::Execute(Command::Write { span, fua }) => {
                self.begin_write(&request, span, fua, cx)?;
            }
            Verdict::Execute(command) => self.execute(&request, command, cx)?,
            Verdict::Describe { span, limit, contexts } => {
                self.describe(&request, span, limit, contexts, cx)?;
            }
            Verdict::Filter => {
                let missing = payload as usize;
                self.state = State::Filter { request, data: Vec::new(), missing };
            }
            Verdict::Refuse { error, reason } => {
                self.refuse(&request, payload, error, reason.text());
            }
            Verdict::Disconnect => self.state = State::Finished,
        }
        Ok(())
    }
}
