//! Transcripts in the notation of the spec: what the client sends and what it gets for it.
//!
//! Each line is `C:` or `S:` and bytes: hexadecimal digits, `'text'`, `0*124` for so many zeroes,
//! `[...]`, `(...)` and `{...}` for the bytes within after their length in 32, 16 and 64 bits,
//! `[*]` for a text that people can read. `S: EOF` is a disconnect. What follows `#` is a comment.
//! `SHUTDOWN` on a line of its own tells the server that it is about to stop.

use super::server::{End, Server};
use super::*;

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Text,
}

/// A server to talk to.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) config: HandshakeConfig,
    pub(super) geometry: Geometry,
}

impl Default for Setup {
    fn default() -> Self {
        Self { config: HandshakeConfig::default(), geometry: geometry() }
    }
}

/// Holds a conversation that begins with the greeting and the client flags 3.
pub(super) fn talk(transcript: &str) -> Server {
    Setup::default().talk(transcript)
}

impl Setup {
    pub(super) fn tls(tls: TlsMode) -> Self {
        let config = HandshakeConfig { tls, ..HandshakeConfig::default() };
        Self { config, ..Self::default() }
    }

    /// Holds a conversation that begins with the greeting and the client flags 3.
    pub(super) fn talk(&self, transcript: &str) -> Server {
        let hello = "S: 'NBDMAGIC' 'IHAVEOPT' 0003\nC: 00000003\n";
        self.talk_from_greeting(&format!("{hello}{transcript}"))
    }

    /// Holds a conversation twice: with as much as possible in one segment, and byte by byte.
    pub(super) fn talk_from_greeting(&self, transcript: &str) -> Server {
        self.hold(transcript, 1);
        self.hold(transcript, usize::MAX)
    }

    fn hold(&self, transcript: &str, segment: usize) -> Server {
        let mut server = Server::new(self.config, self.geometry.clone());
        let mut seen = 0;
        let mut sent = Vec::new();
        for line in transcript.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            match line.split_at_checked(2) {
                None => continue,
                Some(("C:", bytes)) => {
                    sent.extend(parse(bytes).into_iter().map(|token| match token {
                        Token::Byte(byte) => byte,
                        Token::Text => panic!("[*] is for what the server says"),
                    }))
                }
                Some(("S:", expected)) => {
                    deliver(&mut server, &mut sent, segment);
                    if expected.trim() == "EOF" {
                        assert!(server.end.is_some(), "the server should have hung up");
                        continue;
                    }
                    seen += matched(&parse(expected), &server.output[seen..], line);
                }
                Some(_) if line == "SHUTDOWN" => {
                    deliver(&mut server, &mut sent, segment);
                    server.handshake.shutting_down();
                }
                Some(_) => panic!("neither C: nor S: {line}"),
            }
        }
        deliver(&mut server, &mut sent, segment);
        assert!(seen == server.output.len(), "unexpected: {:02x?}", &server.output[seen..]);
        server
    }
}

impl Server {
    pub(super) fn violation(&self) -> ProtocolError {
        match self.end {
            Some(End::Violation(error)) => error,
            other => panic!("ended by {other:?}"),
        }
    }
}

fn deliver(server: &mut Server, sent: &mut Vec<u8>, segment: usize) {
    for piece in sent.chunks(segment.min(sent.len().max(1))) {
        server.feed(piece);
    }
    sent.clear();
}

/// How many bytes of `actual` the line stands for.
fn matched(expected: &[Token], actual: &[u8], line: &str) -> usize {
    let mut at = 0;
    for token in expected {
        match *token {
            Token::Byte(byte) => {
                assert!(
                    actual.get(at) == Some(&byte),
                    "{line}\nat {at}: {:02x?}\n{}",
                    &actual[at.min(actual.len())..],
                    String::from_utf8_lossy(actual)
                );
                at += 1;
            }
            Token::Text => {
                let (length, rest) = actual[at..].split_first_chunk().expect("a length");
                let length = u32::from_be_bytes(*length) as usize;
                let text = str::from_utf8(&rest[..length]).expect("text");
                assert!(!text.is_empty() && text.len() <= 256 && !text.contains('\0'), "{text}");
                at += 4 + length;
            }
        }
    }
    at
}

/// The bytes that a line stands for.
pub(super) fn bytes(line: &str) -> Vec<u8> {
    let token = |token| match token {
        Token::Byte(byte) => byte,
        Token::Text => panic!("[*] is not so many bytes"),
    };
    parse(line).into_iter().map(token).collect()
}

fn parse(line: &str) -> Vec<Token> {
    let mut rest = line;
    let tokens = parse_until(&mut rest, None);
    assert!(rest.is_empty(), "unbalanced: {line}");
    tokens
}

fn parse_until(rest: &mut &str, close: Option<char>) -> Vec<Token> {
    let mut tokens = Vec::new();
    loop {
        *rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            assert!(close.is_none(), "unbalanced");
            return tokens;
        };
        if Some(first) == close {
            *rest = &rest[1..];
            return tokens;
        }
        if let Some(after) = rest.strip_prefix("[*]") {
            *rest = after;
            tokens.push(Token::Text);
        } else if let Some((close, width)) = bracket(first) {
            *rest = &rest[1..];
            let inner = parse_until(rest, Some(close));
            let length = (inner.len() as u64).to_be_bytes();
            tokens.extend(length[8 - width..].iter().map(|&byte| Token::Byte(byte)));
            tokens.extend(inner);
        } else if let Some(after) = rest.strip_prefix('\'') {
            let (text, after) = after.split_once('\'').expect("a closing quote");
            *rest = after;
            tokens.extend(text.bytes().map(Token::Byte));
        } else if let Some(after) = rest.strip_prefix("0*") {
            let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            tokens.extend((0..after[..end].parse().unwrap()).map(|_: u32| Token::Byte(0)));
            *rest = &after[end..];
        } else {
            let (digits, after) = rest.split_at(2);
            tokens.push(Token::Byte(u8::from_str_radix(digits, 16).expect("hexadecimal digits")));
            *rest = after;
        }
    }
}

/// The closing bracket, and the bytes of the length.
fn bracket(open: char) -> Option<(char, usize)> {
    match open {
        '[' => Some((']', 4)),
        '(' => Some((')', 2)),
        '{' => Some(('}', 8)),
        _ => None,
    }
}
