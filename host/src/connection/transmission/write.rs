//! Writes whose data is not all here: in parts as it comes, or collected first.

use std::task::Context;

use bytes::{Buf, Bytes};

use super::execution::{Executed, Task, error_text};
use super::input::{INPUT_MAX, PAYLOAD_ALONE, PAYLOAD_IN_INPUT};
use super::{Refused, State, Transmission};
use crate::block::{Command, ErrorCode, Span};
use crate::connection::{End, Stream};
use crate::disk::Answer;
use crate::nbd::Request;

/// So much of a payload is worth being written before the rest is here.
const PART_AT_ONCE: u64 = 32 << 10;

/// An admitted write of which not all data is here.
pub(super) struct Write {
    pub(super) executed: Executed,
    /// What is still to be executed, in bytes of the disk.
    pub(super) rest: Span,
    pub(super) fua: bool,
    /// Where the data of the rest is collected, when it is not executed from the input.
    pub(super) collected: Option<Vec<u8>>,
    /// The part before the rest, if that was not ready at once.
    before: Option<Task>,
}

impl Write {
    /// How many bytes are still to come, those in the input included.
    pub(super) fn missing(&self) -> usize {
        let collected = self.collected.as_ref().map_or(0, Vec::len);
        self.rest.length as usize - collected
    }
}

impl<S> Transmission<S>
where
    S: Stream,
{
    pub(super) fn begin_write(&mut self, request: &Request, span: Span, fua: bool) {
        let in_parts = self.access.part_of_write(span, span.length) > 0;
        // Nothing is allocated for a length before its first bytes are here, `limit` in poll_fill
        // bounds the rest.
        let elsewhere = span.length > PAYLOAD_IN_INPUT as u64 && !in_parts;
        let collected =
            elsewhere.then(|| Vec::with_capacity((span.length as usize).min(INPUT_MAX)));
        let executed = self.executed(request, &Command::Write { span, fua });
        self.state = State::Write(Write { executed, rest: span, fua, collected, before: None });
    }

    /// Executes as much of a write as is here and can be executed.
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
            // All was received to where it belongs.
            self.answer(write.executed, Ok(Answer::Done), cx)?;
            return Ok(true);
        }
        if here >= write.rest.length {
            let data = self.input.split_to(write.rest.length as usize).freeze();
            self.execute_rest(write, data, cx)?;
            return Ok(true);
        }
        let worth_it = match self.can_receive() {
            // The rest is then received to where it belongs.
            true => here > 0 && write.rest.length - here >= PAYLOAD_ALONE as u64,
            false => here >= PART_AT_ONCE,
        };
        if worth_it {
            let written = self.access.write_part_now(write.rest, &self.input, write.fua);
            if written > 0 {
                self.input.advance(written);
                write.rest = write.rest.after(written as u64);
                self.state = State::Write(write);
                return Ok(true);
            }
        }
        let part = self.access.part_of_write(write.rest, here);
        if part == 0 {
            self.state = State::Write(write);
            return Ok(false);
        }
        self.execute_part(write, part, cx);
        Ok(true)
    }

    /// Starts what is left of a write, with its data.
    fn execute_rest(&mut self, write: Write, data: Bytes, cx: &mut Context<'_>) -> Result<(), End> {
        let Write { executed, rest, fua, before, .. } = write;
        let command = Command::Write { span: rest, fua };
        if let Some(before) = before {
            let access = self.access.clone();
            self.put_aside(executed, async move {
                // A task ends in no other way, unless the process ends.
                before.await.unwrap_or(Err(ErrorCode::Io))?;
                access.execute(command, data).await
            });
            return Ok(());
        }
        self.execute_with(executed, command, data, cx)
    }

    /// Starts the next `length` bytes of a write, whose data is at the beginning of the input.
    fn execute_part(&mut self, mut write: Write, length: u64, cx: &mut Context<'_>) {
        let data = self.input.split_to(length as usize).freeze();
        let span = Span { offset: write.rest.offset, length };
        let part = Command::Write { span, fua: write.fua };
        write.rest = write.rest.after(length);
        match self.start(part, data, cx) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let refused =
                    Refused { reply: write.executed.reply, error, text: error_text(error) };
                self.drain(refused, write.rest.length);
                return;
            }
            Err(execution) => {
                // It holds the disk, and so must not wait for more data. The rest comes after it.
                write.before = Some(tokio::spawn(execution));
                let length = (write.rest.length as usize).min(INPUT_MAX);
                write.collected = Some(Vec::with_capacity(length));
            }
        }
        self.state = State::Write(write);
    }
}
