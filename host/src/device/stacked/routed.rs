//! The execution of a request by its route.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_timer::Delay;
use futures_util::future::{Either, select};

use super::StackedDevice;
use super::below::Late;
use super::stable::Use;
use crate::block::{Command, Error, ErrorCode, Operation, Span};
use crate::component::{Hold, Lock, Place, Request, Results, Route, Segment};
use crate::device::lower::write_zeroes;
use crate::device::{Answer, Cancelled, Order, Outcome};

impl StackedDevice {
    /// Executes a command whose place is known for good.
    pub(super) async fn execute_stable(
        &self,
        place: Place,
        under_way: Use,
        order: Order,
    ) -> Outcome {
        let span = order.command.span();
        let segment = Segment { place, length: span.length };
        if order.locate {
            return Ok(Answer::Located(self.located(vec![segment])));
        }
        let answer = self.execute_segment(segment, span, &order, None).await?;
        // The component may be withdrawing its routes, and cannot be called then.
        drop(under_way);
        self.make_durable(Request::of(&order.command).fua, &order).await?;
        Ok(answer)
    }

    /// Routes a command and executes it.
    pub(super) async fn execute_routed(self: Arc<Self>, order: Order) -> Outcome {
        match order.command {
            Command::Zero { span, fua, fast, .. } if !self.guest.zeroes() => {
                return Box::pin(write_zeroes(self, span, fua, fast, order)).await;
            }
            // Writes take effect all the same.
            Command::Read { .. } if order.cancelled.is_cancelled() => {
                return Err(ErrorCode::Shutdown.into());
            }
            _ => {}
        }
        let request = Request::of(&order.command);
        let lock = self.rules.filter(|rules| rules.has_locks());
        let _locked = match lock.map_or(Lock::None, |rules| rules.lock(request.operation)) {
            Lock::None => None,
            lock => Some(self.granules.lock(request.span, lock == Lock::Exclusive).await),
        };
        // Rule 1.
        let Some(mut route) = self.guest.route(&request).await? else {
            return self.execute_own(order).await;
        };
        wait(route.delay).await;
        let may_begin = match route.hold.take() {
            Some(hold) => is_released(hold, &order.cancelled).await,
            None => true,
        };
        let (mut outcome, mut results) = match may_begin {
            true => self.execute_parts(&route, &request, &order).await,
            false => {
                let code = ErrorCode::Shutdown;
                (Err(code.into()), Results::failed(&route, code))
            }
        };
        let Some(token) = route.token else {
            let answer = outcome?;
            self.make_durable(request.fua, &order).await?;
            return Ok(answer);
        };
        let mut repeats = 0;
        let answer = loop {
            // The component may use the lower device, of which no lease may be held then.
            let answered = outcome.map(Answer::into_copy);
            // Rule 5.
            match self.guest.route_done(request.span.offset, token, results, repeats).await {
                Ok(None) => break answered?,
                Ok(Some(_)) if order.cancelled.is_cancelled() => break answered?,
                Ok(Some(delay)) => wait(delay).await,
                Err(error) => return Err(answered.err().unwrap_or(error)),
            }
            repeats += 1;
            (outcome, results) = self.execute_parts(&route, &request, &order).await;
        };
        self.make_durable(request.fua, &order).await?;
        Ok(answer)
    }

    /// Makes the component's own data durable, after a request with FUA (rule 6).
    async fn make_durable(&self, fua: bool, order: &Order) -> Result<(), Error> {
        if fua && self.guest.flushes() {
            let flush = Order::new(Command::Flush, Default::default(), order.cancelled.clone());
            self.execute_own(flush).await?;
        }
        Ok(())
    }

    async fn execute_parts(
        &self,
        route: &Route,
        request: &Request,
        order: &Order,
    ) -> (Outcome, Results) {
        if request.fast && !self.all_zero_fast(&route.segments) {
            let code = ErrorCode::NotSup;
            return (Err(code.into()), Results::failed(route, code));
        }
        let mut results = Results {
            copies: vec![None; route.copies.len()],
            segments: vec![None; route.segments.len()],
        };
        let late = Late::default();
        // Rule 3.
        for (index, copy) in route.copies.iter().enumerate() {
            if let Err(error) = self.copy(copy, request.fua, &late).await {
                results.copies[index..].fill(Some(error.code));
                results.segments.fill(Some(error.code));
                return (Err(error), results);
            }
        }
        let outcome = match (&route.segments[..], request.operation) {
            (segments, Operation::Extents) if order.locate => {
                Ok(Answer::Located(self.located(segments.to_vec())))
            }
            ([segment], _) => {
                let span = Span { length: segment.length, ..request.span };
                let outcome = self.execute_part(*segment, span, order, &late).await;
                results.segments[0] = outcome.as_ref().err().map(|error| error.code);
                outcome
            }
            (segments, Operation::Read) => {
                self.read_segments(segments, order, &late, &mut results.segments).await
            }
            (segments, Operation::Extents) => {
                self.extents_of_segments(segments, order, &late).await
            }
            (segments, Operation::Zero) if request.fast => {
                self.zero_segments_fast(segments, order, &late, &mut results.segments).await
            }
            (segments, _) => {
                self.change_segments(segments, order, &late, &mut results.segments).await
            }
        };
        (outcome, results)
    }
}

/// Waits before a route is executed.
async fn wait(delay: Duration) {
    if !delay.is_zero() {
        // tokio's timer counts in milliseconds, and takes one or two more than it was asked for.
        Delay::new(delay).await;
    }
}

/// Waits until a request is released. Returns false if its client has gone away.
async fn is_released(hold: Hold, cancelled: &Cancelled) -> bool {
    match select(hold, pin!(cancelled.cancelled())).await {
        // An error: the device is gone.
        Either::Left((released, _)) => released.is_ok(),
        Either::Right(_) => false,
    }
}
