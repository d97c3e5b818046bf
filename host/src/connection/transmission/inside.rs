//! Entering and leaving the gate to the device, which may be replaced by another when nobody is inside.

use std::mem;
use std::task::{Context, Poll, ready};

use super::request::Waiting;
use super::{Exit, State, Transmission};
use crate::device::Gate;
use crate::transport::Stream;

impl<S> Transmission<S>
where
    S: Stream,
{
    /// Makes progress inside of the gate, unless it is closed.
    pub(super) fn poll_inside(&mut self, cx: &mut Context<'_>) -> Poll<Exit> {
        if !self.inside {
            if ready!(Gate::poll_enter(&mut self.gate, cx)) {
                self.registered = None;
                // It may hold on to the device that was replaced.
                self.slot = None;
            }
            self.inside = true;
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
