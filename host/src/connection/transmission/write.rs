//! Writes whose payload has not arrived completely: executed in parts as it arrives, or collected
//! first.

use std::task::Context;

use bytes::{Buf, Bytes};

use super::input::{PAYLOAD_ALONE, PAYLOAD_IN_INPUT, RECEIVE_MAX};
use super::request::{Executed, Refused, Waiting, Write, code_text};
use super::{State, Transmission};
use crate::block::{Command, ErrorCode, Span};
use crate::connection::End;
use crate::device::{Answer, Mode};
use crate::nbd::Request;
use crate::transport::Stream;

/// The least part of a payload that is written before the rest has arrived, in bytes.
const PART_AT_ONCE: u64 = 32 << 10;

impl<S> Transmission<S>
where
    S: Stream,
{
    pub(super) fn begin_write(
        &mut self,
        request: &Request,
        span: Span,
        fua: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        // In this order: most writes are short, and the device need not be asked then.
        let elsewhere = span.length > PAYLOAD_IN_INPUT as u64
            && self.gate.partial_write_len(span, span.length) == 0;
        let executed = self.executed(request, &Command::Write { span, fua });
        let write = Write {
            executed,
            rest: span,
            fua,
            asked: span.offset,
            collected: None,
            buffer: None,
            before: None,
        };
        if elsewhere {
            return self.collect(write, cx);
        }
        self.state = State::Write(write);
        Ok(())
    }

    /// Collects the rest of a payload, once there is memory for it.
    fn collect(&mut self, write: Write, cx: &mut Context<'_>) -> Result<(), End> {
        let length = write.rest.length;
        match self.gate.buffers().try_take(length) {
            Some(buffer) => self.state = State::Write(write.collecting(buffer)),
            None => self.wait_for_buffer(length, Waiting::Collect(write), cx)?,
        }
        Ok(())
    }

    /// Executes what can be executed of a write with the payload that has arrived.
    pub(super) fn step_write(
        &mut self,
        mut write: Write,
        cx: &mut Context<'_>,
    ) -> Result<bool, End> {
        if let Some(mut data) = write.collected.take() {
            let missing = write.rest.length as usize - data.len();
            if self.take_input(missing, &mut data) == missing {
                self.execute_rest(write, data.into(), cx)?;
                return Ok(true);
            }
            write.collected = Some(data);
            self.state = State::Write(write);
            return Ok(false);
        }
        let here = self.input.len() as u64;
        if write.rest.length == 0 {
            // All of it was received directly into the device.
            self.answer(write.executed, Ok(Answer::Done), None, cx)?;
            return Ok(true);
        }
        if here >= write.rest.length {
            let data = self.input.split_to(write.rest.length as usize).freeze();
            self.execute_rest(write, data, cx)?;
            return Ok(true);
        }
        let worth_it = match self.can_receive() {
            // The rest can then be received directly into the device.
            true => here > 0 && write.rest.length - here >= PAYLOAD_ALONE as u64,
            false => here >= PART_AT_ONCE,
        };
        if worth_it {
            let written = self.gate.try_write_some(write.rest.offset, &self.input, write.fua);
            if written > 0 {
                self.input.advance(written);
                write.rest = write.rest.after(written as u64);
                self.state = State::Write(write);
                return Ok(true);
            }
        }
        if self.is_room_wanted(&write) {
            let span = Span { length: write.rest.length.min(RECEIVE_MAX), ..write.rest };
            write.asked = span.end();
            if let Some(Err(execution)) = self.request_room(span, cx) {
                write.before = Some(self.spawn_part(execution));
                self.collect(write, cx)?;
            } else {
                // There is a lease now, or none to be had.
                self.state = State::Write(write);
            }
            return Ok(true);
        }
        let part = self.gate.partial_write_len(write.rest, here);
        if part > 0 && self.must_wait(&write) {
            self.collect(write, cx)?;
            return Ok(true);
        }
        if part == 0 {
            self.state = State::Write(write);
            return Ok(false);
        }
        self.execute_part(write, part, cx)?;
        Ok(true)
    }

    /// Whether a write of which nothing was executed has to wait for its guest.
    fn must_wait(&self, write: &Write) -> bool {
        let &Write { rest: span, fua, ref executed, .. } = write;
        span == executed.span && self.gate.must_wait(Command::Write { span, fua })
    }

    /// Whether the rest of a write could be received directly into the device if that made room for it.
    fn is_room_wanted(&mut self, write: &Write) -> bool {
        let Write { rest, fua, asked, .. } = *write;
        let is_long = rest.length >= PAYLOAD_ALONE as u64;
        is_long
            && asked <= rest.offset
            && self.can_receive()
            && !self.must_wait(write)
            && self.gate.try_lease(Span { length: 1, ..rest }, Mode::Write { fua }).is_none()
    }

    /// Executes the rest of a write, whose payload has arrived.
    fn execute_rest(&mut self, write: Write, data: Bytes, cx: &mut Context<'_>) -> Result<(), End> {
        let Write { executed, rest, fua, buffer, before, .. } = write;
        let command = Command::Write { span: rest, fua };
        if let Some(before) = before {
            let pass = self.gate.pass();
            let execution = async move {
                // The sender is dropped if there are no threads.
                let outcome = match before.await.unwrap_or_else(|_| Err(ErrorCode::NoMem.into())) {
                    Ok(_) => pass.finish(pass.execute(command, data, None, false)).await,
                    error => error,
                };
                (outcome, pass)
            };
            self.spawn_request(executed, buffer, false, execution);
            return Ok(());
        }
        match buffer {
            None => self.execute_with(executed, command, data, cx),
            buffer => self.execute_called(executed, buffer, command, data, cx),
        }
    }

    /// Executes the next `length` bytes of a write, whose payload is at the start of the input.
    fn execute_part(
        &mut self,
        mut write: Write,
        length: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        let data = self.input.split_to(length as usize).freeze();
        let span = Span { offset: write.rest.offset, length };
        write.rest = write.rest.after(length);
        match self.start_write(span, data, write.fua, cx) {
            Ok(Ok(_)) => self.state = State::Write(write),
            Ok(Err(error)) => {
                let Executed { reply, entry, .. } = write.executed;
                let text = match error.message {
                    Some(message) => String::from(message).into(),
                    None => code_text(error.code).into(),
                };
                let refused = Refused { reply, entry: Some(entry), error: error.code, text };
                self.drain(refused, write.rest.length);
            }
            Err(execution) => {
                // It may hold a lock of the device, so it must not wait for the client. The rest is
                // executed after it.
                write.before = Some(self.spawn_part(execution));
                self.collect(write, cx)?;
            }
        }
        Ok(())
    }
}
