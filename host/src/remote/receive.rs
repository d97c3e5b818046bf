//! Receiving replies.

use tokio::io::{AsyncRead, AsyncReadExt};

use super::link::{Lost, Requests, Waiting};
use super::negotiation::{Style, printable};
use super::{Violation, content};
use crate::block::{Command, Error, ErrorCode, Extents, Span, Status};
use crate::device::Answer;
use crate::nbd::codes::{ChunkType, errno, magic, reply_flag, state_flag};

/// The longest message of an error, in bytes (spec: "Conventions").
const MAX_MESSAGE: usize = 4096;

/// The most extents in a reply (spec: "NBD_CMD_BLOCK_STATUS"). They are not all kept.
const MAX_EXTENTS: u32 = 1 << 20;

/// What has come of a reply.
#[derive(Default)]
pub(super) struct Received {
    /// The content of a read, once some of it is data.
    bytes: Vec<u8>,
    /// How much of the span of a read the chunks cover.
    covered: u64,
    extents: Option<Extents>,
    error: Option<Error>,
}

impl Received {
    pub(super) fn new(command: &Command) -> Self {
        let extents = match *command {
            Command::Extents { span, limit } => Some(Extents::new(span.length, limit)),
            _ => None,
        };
        Self { extents, ..Self::default() }
    }
}

/// Receives replies until the connection ends. Returns why it did.
pub(super) async fn receive<R: AsyncRead + Unpin>(
    mut reader: R,
    requests: &Requests,
    style: Style,
) -> Lost {
    loop {
        let received = match reader.read_u32().await {
            Ok(magic::SIMPLE_REPLY) => receive_simple(&mut reader, requests, style).await,
            Ok(magic::STRUCTURED_REPLY) if style.structured => {
                receive_chunk(&mut reader, requests, style).await
            }
            Ok(other) => Err(Violation::ReplyMagic(other).into()),
            Err(error) => Err(error.into()),
        };
        if let Err(lost) = received {
            return lost;
        }
    }
}

/// Receives a simple reply, after its magic number.
async fn receive_simple<R: AsyncRead + Unpin>(
    reader: &mut R,
    requests: &Requests,
    style: Style,
) -> Result<(), Lost> {
    let error = reader.read_u32().await?;
    let waiting = requests.take(reader.read_u64().await?)?;
    let outcome = match (waiting.command, error) {
        (Command::Read { .. }, _) if style.structured => {
            return fail(waiting, Violation::SimpleRead.into());
        }
        (Command::Extents { .. }, 0) => return fail(waiting, Violation::NoExtents.into()),
        (Command::Read { span }, 0) => {
            // A read is not longer than its sender allows.
            let mut bytes = vec![0; span.length as usize];
            if let Err(error) = reader.read_exact(&mut bytes).await {
                return fail(waiting, error.into());
            }
            Ok(content(bytes, span.length))
        }
        (_, 0) => Ok(Answer::Done),
        (_, number) => Err(code(number).into()),
    };
    // Nobody may wait for it.
    let _ = waiting.answer.send(outcome);
    Ok(())
}

/// Fails a request whose reply has ended in the middle, with the connection.
fn fail(waiting: Waiting, lost: Lost) -> Result<(), Lost> {
    let _ = waiting.answer.send(Err(lost.clone().into()));
    Err(lost)
}

/// Receives a chunk of a structured reply, after its magic number.
async fn receive_chunk<R: AsyncRead + Unpin>(
    reader: &mut R,
    requests: &Requests,
    style: Style,
) -> Result<(), Lost> {
    let flags = reader.read_u16().await?;
    let kind = ChunkType(reader.read_u16().await?);
    let cookie = reader.read_u64().await?;
    let length = reader.read_u32().await?;
    let mut waiting = requests.take(cookie)?;
    let parsed = receive_payload(reader, &mut waiting, style, kind, length).await;
    let is_last = flags & reply_flag::DONE != 0;
    let complete = match parsed {
        Ok(()) if !is_last => {
            requests.put_back(cookie, waiting);
            return Ok(());
        }
        Ok(()) => waiting.received.check(&waiting.command),
        Err(lost) => return fail(waiting, lost),
    };
    if let Err(violation) = complete {
        return fail(waiting, violation.into());
    }
    let Waiting { command, answer, received } = waiting;
    let Received { bytes, extents, error, .. } = received;
    let outcome = match (error, command, extents) {
        (Some(error), ..) => Err(error),
        (None, Command::Read { span }, _) => Ok(content(bytes, span.length)),
        (None, _, Some(extents)) => Ok(Answer::Extents(extents)),
        (None, _, None) => Ok(Answer::Done),
    };
    // Nobody may wait for it.
    let _ = answer.send(outcome);
    Ok(())
}

async fn receive_payload<R: AsyncRead + Unpin>(
    reader: &mut R,
    waiting: &mut Waiting,
    style: Style,
    kind: ChunkType,
    length: u32,
) -> Result<(), Lost> {
    let Waiting { command, received, .. } = waiting;
    let wrong_length = Violation::ChunkLength(kind, length);
    match (kind, *command) {
        (ChunkType::NONE, _) if length == 0 => {}
        (ChunkType::OFFSET_DATA, Command::Read { span }) => {
            let data = length.checked_sub(8).filter(|&data| data > 0).ok_or(wrong_length)?;
            let part = Span { offset: reader.read_u64().await?, length: data.into() };
            let range = received.cover(part, span)?;
            if received.bytes.is_empty() {
                received.bytes = vec![0; span.length as usize];
            }
            reader.read_exact(&mut received.bytes[range]).await?;
        }
        (ChunkType::OFFSET_HOLE, Command::Read { span }) if length == 12 => {
            let offset = reader.read_u64().await?;
            let length = reader.read_u32().await?.into();
            if length == 0 {
                return Err(Violation::Outside.into());
            }
            received.cover(Span { offset, length }, span)?;
        }
        (ChunkType::BLOCK_STATUS, Command::Extents { .. }) => {
            let count = length.checked_sub(4).filter(|rest| rest % 8 == 0).ok_or(wrong_length)? / 8;
            if count > MAX_EXTENTS {
                return Err(wrong_length.into());
            }
            let context = reader.read_u32().await?;
            if Some(context) != style.allocation {
                return Err(Violation::Chunk(kind).into());
            }
            for _ in 0..count {
                let length = reader.read_u32().await?;
                let flags = reader.read_u32().await?;
                if length == 0 {
                    return Err(Violation::NoExtents.into());
                }
                let hole = flags & state_flag::HOLE != 0;
                let status = Status { hole, zero: flags & state_flag::ZERO != 0 };
                if let Some(extents) = &mut received.extents {
                    extents.push(length.into(), status);
                }
            }
        }
        // The highest bit marks errors.
        (kind, _) if kind.0 >> 15 == 1 => {
            let rest = length.checked_sub(6).ok_or(wrong_length)?;
            if length as usize > MAX_MESSAGE + 16 {
                return Err(wrong_length.into());
            }
            let number = reader.read_u32().await?;
            let text = usize::from(reader.read_u16().await?);
            let mut bytes = vec![0; rest as usize];
            reader.read_exact(&mut bytes).await?;
            let text = bytes.get(..text).ok_or(wrong_length)?;
            let message = (!text.is_empty()).then(|| printable(text).into());
            received.error.get_or_insert(Error { code: code(number), message });
        }
        _ => return Err(Violation::Chunk(kind).into()),
    }
    Ok(())
}

impl Received {
    /// Counts a chunk of a read. Returns its place in the buffer.
    fn cover(&mut self, part: Span, span: Span) -> Result<std::ops::Range<usize>, Violation> {
        let start = part.offset.checked_sub(span.offset).ok_or(Violation::Outside)?;
        let end = start.checked_add(part.length).ok_or(Violation::Outside)?;
        if end > span.length {
            return Err(Violation::Outside);
        }
        self.covered += part.length;
        // Chunks that overlap cover too much, or leave a gap, which is as much an error.
        match self.covered > span.length {
            true => Err(Violation::Cover),
            false => Ok(start as usize..end as usize),
        }
    }

    /// Checks a reply that has ended.
    fn check(&self, command: &Command) -> Result<(), Violation> {
        match command {
            _ if self.error.is_some() => Ok(()),
            Command::Read { span } if self.covered != span.length => Err(Violation::Cover),
            Command::Extents { .. }
                if self.extents.as_ref().is_none_or(|extents| extents.as_slice().is_empty()) =>
            {
                Err(Violation::NoExtents)
            }
            _ => Ok(()),
        }
    }
}

/// Returns the error of a number on the wire. Unknown ones count as EINVAL (spec: "Error values").
fn code(number: u32) -> ErrorCode {
    use ErrorCode::{Inval, Io, NoMem, NoSpc, NotSup, Overflow, Perm, Shutdown};
    let known = [Perm, Io, NoMem, Inval, NoSpc, Overflow, NotSup, Shutdown];
    known.into_iter().find(|&code| errno(code) == number).unwrap_or(Inval)
}
