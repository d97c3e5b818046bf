//! Requests that are held back because they exceed a limit.
//!
//! Nothing of such a request is executed, and its payload was not received beyond what is in the input
//! buffer. So it holds no memory, no thread and nothing of the device.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::{HUNG_UP_TIME, State, Transmission};
use crate::block::Command;
use crate::connection::End;
use crate::nbd::{Admission, Request, Verdict};
use crate::rate::{Payment, Transfer};
use crate::transport::Stream;

/// The interval at which to check whether the client is still there.
const LOOK: Duration = Duration::from_secs(1);

/// A request that is held back.
pub(super) struct Throttled {
    request: Request,
    admission: Admission,
    /// `None` once it was paid for.
    payment: Option<Payment>,
    /// Until when the time is counted for which it is held back.
    counted: Instant,
    look: Pin<Box<Sleep>>,
    /// When the client was first seen to have closed its side of the stream.
    hung_up: Option<Instant>,
}

impl Throttled {
    /// Returns the time since it was last counted.
    fn count(&mut self) -> Duration {
        let counted = std::mem::replace(&mut self.counted, Instant::now());
        self.counted.saturating_duration_since(counted)
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Charges a request. Returns what to wait for if it exceeds a limit.
    #[cold]
    pub(super) fn charge(&mut self, verdict: &Verdict) -> Option<Payment> {
        let transfer = match verdict {
            Verdict::Execute(Command::Read { span }) => Transfer::Read(span.length),
            Verdict::Execute(Command::Write { span, .. }) => Transfer::Write(span.length),
            Verdict::Disconnect => return None,
            _ => Transfer::Nothing,
        };
        self.allowance.charge(transfer)
    }

    /// Holds back a request until it is paid for, and with it all that follows it.
    pub(super) fn throttle(
        &mut self,
        request: Request,
        admission: Admission,
        payment: Payment,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let look = Box::pin(tokio::time::sleep(LOOK));
        let payment = Some(payment);
        let counted = Instant::now();
        let throttled = Throttled { request, admission, payment, counted, look, hung_up: None };
        self.state = State::Throttled(Box::new(throttled));
        self.poll_throttled(cx)
    }

    /// Continues with the request that is held back, if it is paid for now. It pays even while something
    /// else keeps it from being executed, so that its turn passes to others.
    #[cold]
    pub(super) fn poll_throttled(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let State::Throttled(throttled) = &mut self.state else { return Ok(()) };
        while throttled.look.as_mut().poll(cx).is_ready() {
            throttled.look.as_mut().reset(Instant::now() + LOOK);
            if throttled.payment.is_some() {
                self.meter.held_back(throttled.count());
            }
            let Some(socket) = self.stream.socket() else { continue };
            if socket.is_hung_up() {
                return Err(End::Transport(io::ErrorKind::ConnectionReset.into()));
            }
            // It may wait for replies, but not for long.
            throttled.hung_up = match socket.is_half_closed() {
                true => throttled.hung_up.or_else(|| Some(Instant::now())),
                false => None,
            };
            if throttled.hung_up.is_some_and(|since| since.elapsed() >= HUNG_UP_TIME) {
                return Err(End::Transport(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        let paid =
            throttled.payment.as_mut().is_none_or(|payment| payment.as_mut().poll(cx).is_ready());
        if paid && throttled.payment.take().is_some() {
            self.meter.held_back(throttled.count());
        }
        let may_begin =
            paid && self.reading.is_none() && self.in_flight.has_room() && self.has_room();
        if !may_begin && !self.draining {
            return Ok(());
        }
        let State::Throttled(throttled) = std::mem::replace(&mut self.state, State::Header) else {
            return Ok(());
        };
        let Throttled { request, admission, .. } = *throttled;
        match self.draining {
            true => {
                self.refuse_for_shutdown(&request, admission.payload);
                Ok(())
            }
            false => self.obey(request, admission, cx),
        }
    }
}
