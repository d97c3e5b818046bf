//! Replies as they come together from chunks, checked by what the specification says of each.

use super::numbers::*;
use super::session::{Request, Style};

/// A request and what was said of it so far.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: Request,
    outcome: Outcome,
    /// Where the content that came ends: it comes in order.
    covered: u64,
}

/// What a request came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// 0 for success.
    pub(crate) error: u32,
    /// What was read, holes as zeroes.
    pub(crate) data: Vec<u8>,
    /// The content chunks of a structured reply: offset, length, and whether it is a hole.
    pub(crate) chunks: Vec<(u64, u64, bool)>,
    /// Lengths and states.
    pub(crate) extents: Vec<(u64, u64)>,
    /// The text of the error; simple replies have none.
    pub(crate) text: String,
}

impl Outcome {
    pub(crate) fn success(self) -> Self {
        assert_eq!(self.error, 0, "{}", self.text);
        self
    }
}

fn number<const N: usize>(data: &[u8], at: usize) -> u64 {
    let bytes: [u8; N] = data[at..at + N].try_into().expect("so many bytes");
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

impl Pending {
    pub(crate) fn new(request: Request) -> Self {
        Self { request, outcome: Outcome::default(), covered: request.offset }
    }

    pub(crate) fn simple(&mut self, error: u32, data: Vec<u8>) {
        if error == 0 {
            self.covered += data.len() as u64;
            self.outcome.data = data;
        } else {
            self.fail(error);
        }
    }

    pub(crate) fn chunk(
        &mut self,
        style: Style,
        done: bool,
        kind: u16,
        data: &[u8],
        context: Option<u32>,
    ) {
        let read = self.request.command == cmd::READ;
        match kind {
            0 => {
                assert!(data.is_empty() && done, "NONE has no data and is the last");
                // What succeeds without content is said by a simple reply, where there are any.
                assert!(style == Style::Extended || read);
            }
            1 => {
                assert!(read && data.len() >= 9);
                self.content(number::<8>(data, 0), data.len() as u64 - 8, Some(&data[8..]));
            }
            2 => {
                assert!(read && data.len() == 12);
                self.content(number::<8>(data, 0), number::<4>(data, 8), None);
            }
            5 => {
                assert_eq!(style, Style::Structured);
                assert_eq!(data.len() % 8, 4);
                assert_eq!(Some(number::<4>(data, 0) as u32), context);
                let extent = |data: &[u8]| (number::<4>(data, 0), number::<4>(data, 4));
                self.status(data[4..].chunks(8).map(extent).collect());
            }
            6 => {
                assert_eq!(style, Style::Extended);
                assert_eq!(Some(number::<4>(data, 0) as u32), context);
                let extent = |data: &[u8]| (number::<8>(data, 0), number::<8>(data, 8));
                let extents: Vec<_> = data[8..].chunks_exact(16).map(extent).collect();
                assert_eq!(number::<4>(data, 4), extents.len() as u64);
                assert_eq!(data.len(), 8 + 16 * extents.len());
                self.status(extents);
            }
            0x8001 | 0x8002 => self.error_chunk(kind, data),
            _ => panic!("a chunk of type {kind:#x}"),
        }
    }

    fn content(&mut self, at: u64, length: u64, data: Option<&[u8]>) {
        let Request { offset, length: wanted, flags, .. } = self.request;
        assert_eq!(at, self.covered, "content in order, without gaps");
        assert!(length > 0 && at + length <= offset + wanted);
        self.covered += length;
        let outcome = &mut self.outcome;
        match data {
            Some(data) => outcome.data.extend_from_slice(data),
            None => outcome.data.resize(outcome.data.len() + length as usize, 0),
        }
        outcome.chunks.push((at, length, data.is_none()));
        assert!(flags & with::DF == 0 || outcome.chunks.len() == 1, "DF is one chunk");
    }

    fn status(&mut self, extents: Vec<(u64, u64)>) {
        let Request { command, offset, length, flags, .. } = self.request;
        assert_eq!(command, cmd::BLOCK_STATUS);
        assert!(self.outcome.extents.is_empty(), "one chunk for each context");
        assert!(!extents.is_empty() && extents.len() <= 1 << 20);
        let (last, first) = extents.split_last().expect("it is not empty");
        let before: u64 = first.iter().map(|(length, _)| length).sum();
        // With PAYLOAD_LEN it is the payload that knows how much was asked about.
        if flags & with::PAYLOAD_LEN == 0 {
            assert!(before < length, "the last one alone may reach beyond the request");
            offset.checked_add(before + last.0).expect("within the export");
            assert!(flags & with::REQ_ONE == 0 || (first.is_empty() && last.0 <= length));
        }
        assert!(extents.iter().all(|(length, state)| *length > 0 && *state <= 3));
        assert!(extents.windows(2).all(|pair| pair[0].1 != pair[1].1), "neighbours differ");
        self.outcome.extents = extents;
    }

    fn error_chunk(&mut self, kind: u16, data: &[u8]) {
        let length = number::<2>(data, 4) as usize;
        let end = if kind == 0x8002 { 14 } else { 6 };
        assert_eq!(data.len(), length + end);
        let text = String::from_utf8(data[6..6 + length].to_vec()).expect("a text");
        assert!(text.len() <= 256 && !text.contains('\0'), "{text}");
        if kind == 0x8002 {
            let Request { offset, length: wanted, .. } = self.request;
            let place = number::<8>(data, 6 + length);
            assert!(place >= offset && place - offset < wanted, "an error at {place:#x}");
        }
        self.outcome.text = text;
        self.fail(number::<4>(data, 0) as u32);
    }

    fn fail(&mut self, error: u32) {
        let Request { command, flags, .. } = self.request;
        assert!(errno::ALL.contains(&error), "error {error}");
        assert_eq!(self.outcome.error, 0, "one error for each request");
        if error == errno::ENOTSUP {
            assert!(command == cmd::WRITE_ZEROES && flags & with::FAST_ZERO != 0);
        }
        if error == errno::EOVERFLOW {
            assert_ne!(command, cmd::WRITE, "EOVERFLOW is not for payloads of clients");
        }
        self.outcome.error = error;
    }

    /// What it came to, once it is complete.
    pub(crate) fn finish(self) -> Outcome {
        let Request { command, offset, length, .. } = self.request;
        if self.outcome.error == 0 {
            match command {
                cmd::READ => assert_eq!(self.covered, offset + length, "all of it was read"),
                cmd::BLOCK_STATUS => assert!(!self.outcome.extents.is_empty()),
                _ => {}
            }
        }
        self.outcome
    }
}
