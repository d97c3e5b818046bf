//! Transmission, as a client that believes nothing: requests out, replies checked as they come.

use super::haggle::Infos;
use super::numbers::*;
use super::reply::{Outcome, Pending};
use super::stream::Stream;

const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;
const EXTENDED_REPLY: u32 = 0x6e8a_278c;

/// Which replies were negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Simple,
    Structured,
    Extended,
}

/// A request without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A connection in its transmission phase.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    pub(crate) style: Style,
    pub(crate) infos: Infos,
    /// The id of `base:allocation`, where it is selected.
    pub(crate) context: Option<u32>,
    /// See [`Haggle::lenient`](super::haggle::Haggle::lenient).
    pub(crate) lenient: bool,
    waiting: Vec<Pending>,
    cookie: u64,
}

/// The bytes of a request without PAYLOAD_LEN, with compact headers.
pub(crate) fn compact(request: &Request) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    put_fields(request, &mut bytes);
    bytes.extend((request.length as u32).to_be_bytes());
    bytes
}

/// The bytes of a request with extended headers.
pub(crate) fn extended(request: &Request) -> Vec<u8> {
    let mut bytes = 0x21e4_1c71_u32.to_be_bytes().to_vec();
    put_fields(request, &mut bytes);
    bytes.extend(request.length.to_be_bytes());
    bytes
}

fn put_fields(request: &Request, bytes: &mut Vec<u8>) {
    bytes.extend(request.flags.to_be_bytes());
    bytes.extend(request.command.to_be_bytes());
    bytes.extend(request.cookie.to_be_bytes());
    bytes.extend(request.offset.to_be_bytes());
}

impl Session {
    pub(crate) fn new(stream: Stream, style: Style, context: Option<u32>, infos: Infos) -> Self {
        assert_ne!(infos.flags & flag::HAS_FLAGS, 0);
        assert_eq!(infos.flags & 0xe000, 0, "undefined flags");
        // Something that is not zero, and whose bytes differ.
        let cookie = 0xf123_4567_89ab_cd00;
        Self { stream, style, infos, context, lenient: false, waiting: Vec::new(), cookie }
    }

    /// The next request, with a cookie of its own.
    pub(crate) fn request(&mut self, flags: u16, command: u16, at: u64, length: u64) -> Request {
        self.cookie += 1;
        // Over extended headers a write announces its payload.
        let own = match self.style {
            Style::Extended if command == cmd::WRITE => with::PAYLOAD_LEN,
            _ => 0,
        };
        Request { flags: flags | own, command, cookie: self.cookie, offset: at, length }
    }

    /// The bytes of a request's header.
    pub(crate) fn header(&self, request: &Request) -> Vec<u8> {
        match self.style {
            Style::Extended => extended(request),
            _ => compact(request),
        }
    }

    /// Expects a reply to a request, whose bytes the caller sends.
    pub(crate) fn expect(&mut self, request: Request) {
        self.waiting.push(Pending::new(request));
    }

    /// Sends a request and what follows it.
    pub(crate) fn send(&mut self, request: Request, payload: &[u8]) {
        let bytes = [self.header(&request), payload.to_vec()].concat();
        self.expect(request);
        self.stream.put(&bytes);
    }

    /// Takes replies until one is complete.
    pub(crate) fn receive(&mut self) -> (Request, Outcome) {
        loop {
            if let Some(index) = self.receive_chunk() {
                let pending = self.waiting.swap_remove(index);
                let (request, outcome) = (pending.request, pending.finish());
                let said = outcome.error == 0 || !outcome.text.is_empty();
                assert!(said || self.lenient || self.style == Style::Simple, "no text");
                return (request, outcome);
            }
        }
    }

    /// Takes one chunk, and tells which request it completes.
    fn receive_chunk(&mut self) -> Option<usize> {
        let magic = self.stream.take_u32();
        if magic == SIMPLE_REPLY {
            return Some(self.receive_simple());
        }
        let expected = match self.style {
            Style::Simple => panic!("only simple replies were negotiated: {magic:#x}"),
            Style::Structured => STRUCTURED_REPLY,
            Style::Extended => EXTENDED_REPLY,
        };
        assert_eq!(magic, expected);
        let flags = self.stream.take_u16();
        assert_eq!(flags & !1, 0, "undefined flags of a chunk");
        let kind = self.stream.take_u16();
        let cookie = self.stream.take_u64();
        let index = self.find(cookie);
        let length = match self.style {
            Style::Extended => {
                let offset = self.stream.take_u64();
                assert_eq!(offset, self.waiting[index].request.offset);
                self.stream.take_u64()
            }
            _ => u64::from(self.stream.take_u32()),
        };
        let maximum = self.infos.block_sizes.map_or(32 << 20, |[_, _, maximum]| maximum);
        assert!(length <= u64::from(maximum) + 8, "a chunk of {length} bytes");
        let data = self.stream.take_vec(length as usize);
        let context = self.context;
        let pending = &mut self.waiting[index];
        pending.chunk(self.style, flags & 1 != 0, kind, &data, context);
        (flags & 1 != 0).then_some(index)
    }

    fn receive_simple(&mut self) -> usize {
        assert_ne!(self.style, Style::Extended, "extended headers have no simple replies");
        let error = self.stream.take_u32();
        let cookie = self.stream.take_u64();
        let index = self.find(cookie);
        let request = self.waiting[index].request;
        let read = request.command == cmd::READ;
        if self.style == Style::Structured {
            assert!(
                !read && (error == 0 || self.lenient),
                "this is to be said by chunks: {request:?} {error}"
            );
            assert_ne!(request.command, cmd::BLOCK_STATUS);
        }
        let data = match read && error == 0 {
            true => self.stream.take_vec(request.length as usize),
            false => Vec::new(),
        };
        self.waiting[index].simple(error, data);
        index
    }

    fn find(&self, cookie: u64) -> usize {
        let found = self.waiting.iter().position(|pending| pending.request.cookie == cookie);
        found.unwrap_or_else(|| panic!("nothing with the cookie {cookie:#x} waits"))
    }

    /// Sends a request and takes its reply. Nothing else may be outstanding.
    pub(crate) fn call(
        &mut self,
        flags: u16,
        command: u16,
        at: u64,
        length: u64,
        payload: &[u8],
    ) -> Outcome {
        assert!(self.waiting.is_empty());
        let request = self.request(flags, command, at, length);
        self.send(request, payload);
        self.receive().1
    }

    /// How many requests wait for their reply.
    pub(crate) fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// What a request without payload comes to.
    pub(crate) fn ask(&mut self, flags: u16, command: u16, at: u64, length: u64) -> u32 {
        self.call(flags, command, at, length, b"").error
    }

    pub(crate) fn read(&mut self, at: u64, length: u64) -> Vec<u8> {
        self.call(0, cmd::READ, at, length, b"").success().data
    }

    pub(crate) fn write(&mut self, at: u64, data: &[u8]) {
        self.write_with(0, at, data);
    }

    pub(crate) fn write_with(&mut self, flags: u16, at: u64, data: &[u8]) {
        self.call(flags, cmd::WRITE, at, data.len() as u64, data).success();
    }

    pub(crate) fn zero(&mut self, flags: u16, at: u64, length: u64) {
        self.call(flags, cmd::WRITE_ZEROES, at, length, b"").success();
    }

    pub(crate) fn flush(&mut self) {
        self.call(0, cmd::FLUSH, 0, 0, b"").success();
    }

    /// The extents of a range, as lengths and states.
    pub(crate) fn status(&mut self, flags: u16, at: u64, length: u64) -> Vec<(u64, u64)> {
        self.call(flags, cmd::BLOCK_STATUS, at, length, b"").success().extents
    }

    /// The server understands what comes next.
    pub(crate) fn expect_in_sync(&mut self) {
        let length = self.infos.size.min(4096);
        assert_eq!(self.read(0, length).len() as u64, length);
    }

    /// Says good-bye, and sees the connection closed without a reply.
    pub(crate) fn disconnect(mut self) {
        let request = self.request(0, cmd::DISC, 0, 0);
        let header = self.header(&request);
        self.stream.put(&header);
        self.stream.expect_end();
    }
}
