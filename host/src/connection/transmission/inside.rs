//! Entering and leaving the gate to the device, which may be replaced by another when nobody is inside.

use std::mem;
use std::task::{Context, Poll, ready};

use super::request::Waiting;
use super::{Exit, State, Transmission};
use crate::connection::End;
use crate::device::{Ended, Gate};
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Makes progress inside of the gate, unless it is closed.
    pub(super) fn poll_inside(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        if !self.inside {
            let Poll::Ready(entered) = Gate::poll_enter(&mut self.gate, cx) else {
                self.deferred.give_up_turn();
                return Poll::Pending;
            };
            match entered {
                Ok(false) => {}
                Ok(true) => {
                    self.registered = None;
                    // It may hold on to the device that was replaced.
                    self.slot = None;
                }
                Err(Ended) => return self.poll_ended(cx),
            }
            self.inside = true;
        } else if self.gate.has_ended() {
            return Poll::Ready(Exit::End(End::Removed));
        }
        let polled = self.poll_progress(cx).map(|exit| exit.unwrap_or_else(Exit::End));
        if !self.is_midway() {
            self.leave();
        }
        if !self.registered.as_ref().is_some_and(|registered| registered.will_wake(cx.waker())) {
            self.gate.register(cx.waker());
            self.registered = Some(cx.waker().clone());
        }
        polled
    }

    /// Sends the replies to what was executed before the export was removed, and ends, at the latest when a
    /// client that does not read them has had its time.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        self.deferred.give_up_turn();
        // Nothing may follow a reply that finds no room: the rest of it cannot be read any more.
        while self.reading.is_none()
            && let Poll::Ready(Some(completed)) = self.in_flight.completed.poll_recv(cx)
        {
            if let Err(end) = self.complete(completed, cx) {
                return Poll::Ready(Exit::End(end));
            }
        }
        if let Poll::Ready(Err(end)) = self.poll_piped(cx) {
            return Poll::Ready(Exit::End(end));
        }
        if let Poll::Ready(sent) = self.output.poll_send(&mut self.stream, cx)
            && !self.is_piped_left()
        {
            return Poll::Ready(Exit::End(sent.map_or_else(End::Transport, |()| End::Removed)));
        }
        self.blocked = true;
        ready!(self.poll_hung_up(cx));
        Poll::Ready(Exit::End(End::Removed))
    }

    /// Whether a part of a request was executed, and the rest is not under way yet.
    fn is_midway(&self) -> bool {
        let written = match &self.state {
            State::Write(write) | State::Waiting { waiting: Waiting::Collect(write), .. } => {
                write.rest.length < write.executed.span.length
            }
            _ => false,
        };
        written || self.reading.is_some()
    }
}

impl<S> Transmission<S> {
    /// Leaves the gate, if it was entered.
    pub(super) fn leave(&mut self) {
        if mem::take(&mut self.inside) {
            self.gate.leave();
        }
    }
}
