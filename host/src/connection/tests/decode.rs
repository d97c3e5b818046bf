//! Replies, put together again from their bytes.

use std::collections::HashMap;

use crate::nbd::ReplyStyle;

/// What a reply came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) error: u32,
    /// The text of the error.
    pub(super) text: String,
    /// What was read, holes as zeroes.
    pub(super) data: Vec<u8>,
    /// How many content chunks there were.
    pub(super) chunks: usize,
    pub(super) done: bool,
}

/// What must be known of the reads among the requests: cookie, offset and length.
pub(super) type Reads = HashMap<u64, (u64, usize)>;

/// What comes from a server.
pub(super) struct Decoder<'a> {
    style: ReplyStyle,
    reads: &'a Reads,
    replies: HashMap<u64, Decoded>,
}

/// The replies, all of them complete.
pub(super) fn decode(bytes: &[u8], style: ReplyStyle, reads: &Reads) -> HashMap<u64, Decoded> {
    let (replies, rest) = decode_some(bytes, style, reads);
    assert!(rest.is_empty(), "{} bytes are left", rest.len());
    replies
}

/// The replies, as many as are complete, and the rest.
pub(super) fn decode_some<'b>(
    mut bytes: &'b [u8],
    style: ReplyStyle,
    reads: &Reads,
) -> (HashMap<u64, Decoded>, &'b [u8]) {
    let mut decoder = Decoder { style, reads, replies: HashMap::new() };
    while let Some(rest) = decoder.chunk(Rest(bytes)) {
        bytes = rest;
    }
    (decoder.replies, bytes)
}

impl Decoder<'_> {
    /// Takes a chunk, if it is there as a whole, and returns what follows it.
    fn chunk<'b>(&mut self, mut rest: Rest<'b>) -> Option<&'b [u8]> {
        let magic = rest.number(4)?;
        if magic == 0x6744_6698 {
            let (error, cookie) = (rest.number(4)? as u32, rest.number(8)?);
            let mut data = Vec::new();
            if let Some(&(_, length)) = self.reads.get(&cookie)
                && error == 0
            {
                assert_eq!(self.style, ReplyStyle::Simple, "a read is answered by chunks");
                data = rest.take(length)?.to_vec();
            }
            *self.reply(cookie) = Decoded { error, data, done: true, ..Decoded::default() };
            return Some(rest.0);
        }
        let extended = self.style == ReplyStyle::Extended;
        assert_eq!(magic, if extended { 0x6e8a_278c } else { 0x668e_33ef }, "out of step");
        let (flags, kind, cookie) = (rest.number(2)?, rest.number(2)?, rest.number(8)?);
        let read = self.reads.get(&cookie).copied();
        if extended {
            let offset = rest.number(8)?;
            assert!(read.is_none_or(|read| read.0 == offset));
        }
        let length = rest.number(if extended { 8 } else { 4 })? as usize;
        let mut data = Rest(rest.take(length)?);
        let reply = self.reply(cookie);
        reply.done = flags & 1 != 0;
        match kind {
            1 | 2 => {
                let at = read.expect("content is for reads").0 + reply.data.len() as u64;
                assert_eq!(data.number(8), Some(at), "content in order");
                match kind {
                    1 => reply.data.extend_from_slice(data.0),
                    _ => {
                        let hole = data.number(4)? as usize;
                        reply.data.resize(reply.data.len() + hole, 0);
                    }
                }
                reply.chunks += 1;
            }
            0x8001 | 0x8002 => {
                reply.error = data.number(4)? as u32;
                let length = data.number(2)? as usize;
                reply.text = String::from_utf8(data.take(length)?.to_vec()).expect("UTF-8");
            }
            _ => {}
        }
        Some(rest.0)
    }

    fn reply(&mut self, cookie: u64) -> &mut Decoded {
        let reply = self.replies.entry(cookie).or_default();
        assert!(!reply.done, "{cookie} was answered twice");
        reply
    }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(front)
    }

    fn number(&mut self, length: usize) -> Option<u64> {
        let bytes = self.take(length)?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}
