//! Splits an expression into tokens. Operators and their numbers are one token.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::Reason;
use super::inputs::Source;
use super::syntax::{Failure, Move, Operation, Place};
use crate::MAX_SIZE;

/// A token and its place.
pub(super) struct Token {
    pub(super) place: Place,
    pub(super) kind: TokenKind,
}

pub(super) enum TokenKind {
    Byte(u8),
    /// An integer or a string.
    Bytes(Vec<u8>),
    Move(Move),
    Operation(Operation),
    Open,
    Close,
    Name(String),
    Variable(String),
    Input(Source),
}

/// The words before integers, with the length in bytes and whether the low byte is first.
const WORDS: [(&str, usize, bool); 6] = [
    ("le16:", 2, true),
    ("le32:", 4, true),
    ("le64:", 8, true),
    ("be16:", 2, false),
    ("be32:", 4, false),
    ("be64:", 8, false),
];

/// The lexer of one text.
pub(super) struct Lexer {
    source: u32,
    text: Arc<str>,
    at: usize,
}

impl Lexer {
    /// Creates a lexer of a text, whose length must fit in 32 bits.
    pub(super) fn new((source, text): (u32, Arc<str>)) -> Self {
        Self { source, text, at: 0 }
    }

    /// Returns the next token, or `None` at the end of the text.
    ///
    /// The place of an error is the current one, unless it is about the whole token.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Failure> {
        self.skip_blanks();
        let place = self.place();
        let Some(first) = self.peek() else {
            return Ok(None);
        };
        let kind = match first {
            b'0'..=b'9' => self.byte(),
            b'l' | b'b' => self.word(),
            b'"' => self.string(),
            b'@' => self.offset().map(TokenKind::Move),
            b'*' => self.repeat().map(TokenKind::Operation),
            b'[' => self.slice().map(TokenKind::Operation),
            b'-' => self.assignment().map(TokenKind::Operation),
            b'\\' => self.name("\\").map(TokenKind::Name),
            b'$' => self.variable(),
            b'<' => self.input().map(TokenKind::Input),
            b'(' => {
                self.at += 1;
                Ok(TokenKind::Open)
            }
            b')' => {
                self.at += 1;
                Ok(TokenKind::Close)
            }
            _ => Err(Reason::Unexpected(self.character())),
        };
        match kind {
            Ok(kind) => Ok(Some(Token { place, kind })),
            Err(
                reason @ (Reason::OpenString
                | Reason::OpenScript
                | Reason::Slice
                | Reason::SliceOrder(..)
                | Reason::ZeroAlignment),
            ) => Err(place.failure(reason)),
            Err(reason) => Err(self.place().failure(reason)),
        }
    }

    fn place(&self) -> Place {
        Place { source: self.source, offset: self.at as u32 }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Returns the current character, or a space at the end of the text.
    fn character(&self) -> char {
        self.rest().chars().next().unwrap_or(' ')
    }

    /// Returns the current byte and skips it.
    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Skips a character if it is the current one.
    fn accept(&mut self, expected: u8) -> bool {
        let found = self.peek() == Some(expected);
        self.at += usize::from(found);
        found
    }

    /// Skips bytes as long as they match, and returns them. Bytes of characters that are not ASCII
    /// must match all or none.
    fn take_while(&mut self, matches: impl Fn(u8) -> bool) -> &str {
        let start = self.at;
        while self.peek().is_some_and(&matches) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn skip_spaces(&mut self) {
        self.take_while(is_space);
    }

    fn skip_blanks(&mut self) {
        self.skip_spaces();
        while self.accept(b'#') {
            self.take_while(|byte| byte != b'\n');
            self.skip_spaces();
        }
    }

    /// Parses a number that follows `operator` immediately.
    fn number(&mut self, operator: &'static str, largest: u64) -> Result<u64, Reason> {
        let start = self.at;
        let radix = match self.text.as_bytes()[self.at..] {
            [b'0', b'x' | b'X', ..] => 16,
            [b'0', ..] => 8,
            _ => 10,
        };
        if radix == 16 {
            self.at += 2;
        }
        let digits = self.take_while(|byte| char::from(byte).is_digit(radix));
        if digits.is_empty() {
            return Err(if radix == 16 { Reason::NoHexDigit } else { Reason::NoNumber(operator) });
        }
        // All characters are digits, so this only fails on overflow.
        let number = u64::from_str_radix(digits, radix).ok().filter(|number| *number <= largest);
        number.ok_or_else(|| {
            self.at = start;
            Reason::LargeNumber(largest)
        })
    }

    /// Parses a number that spaces and a sign may precede, as for C's `scanf`.
    fn operand(&mut self, operator: &'static str) -> Result<u64, Reason> {
        self.skip_spaces();
        if self.peek() == Some(b'-') {
            return Err(Reason::Negative(operator));
        }
        self.accept(b'+');
        self.number(operator, MAX_SIZE)
    }

    fn byte(&mut self) -> Result<TokenKind, Reason> {
        self.number("", 255).map(|value| TokenKind::Byte(value as u8)).map_err(
            |reason| match reason {
                Reason::LargeNumber(_) => Reason::Byte,
                other => other,
            },
        )
    }

    fn word(&mut self) -> Result<TokenKind, Reason> {
        let word = WORDS.iter().find(|(word, ..)| self.rest().starts_with(word));
        let (word, length, little_endian) = *word.ok_or(Reason::UnknownWord)?;
        self.at += word.len();
        if self.peek() == Some(b'-') {
            return Err(Reason::Negative(word));
        }
        self.accept(b'+');
        let value = self.number(word, u64::MAX >> (64 - 8 * length))?;
        if self.peek().is_some_and(|next| next.is_ascii_alphanumeric()) {
            return Err(Reason::WordEnd(self.character()));
        }
        let bytes = match little_endian {
            true => value.to_le_bytes()[..length].to_vec(),
            false => value.to_be_bytes()[8 - length..].to_vec(),
        };
        Ok(TokenKind::Bytes(bytes))
    }

    fn string(&mut self) -> Result<TokenKind, Reason> {
        self.at += 1;
        let mut bytes = Vec::new();
        while let Some(byte) = self.take() {
            let byte = match byte {
                b'"' => return Ok(TokenKind::Bytes(bytes)),
                b'\\' => self.escape()?,
                other => other,
            };
            bytes.push(byte);
        }
        Err(Reason::OpenString)
    }

    /// Parses an escape after the backslash, and returns the byte that it stands for. The place of
    /// an error is the backslash.
    fn escape(&mut self) -> Result<u8, Reason> {
        Ok(match self.take().ok_or(Reason::OpenString)? {
            b'a' => 0x07,
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'r' => b'\r',
            b'x' => {
                let digit = |at| {
                    let byte = self.text.as_bytes().get(at).copied()?;
                    char::from(byte).to_digit(16)
                };
                let (Some(high), Some(low)) = (digit(self.at), digit(self.at + 1)) else {
                    self.at -= 2;
                    return Err(Reason::HexEscape);
                };
                self.at += 2;
                (high << 4 | low) as u8
            }
            letter @ (b'0'..=b'9' | b'u') => {
                self.at -= 2;
                return Err(Reason::Escape(letter.into()));
            }
            // Any other byte stands for itself, and so do the rest of its character.
            other => other,
        })
    }

    fn offset(&mut self) -> Result<Move, Reason> {
        self.at += 1;
        if self.accept(b'+') {
            self.operand("@+").map(Move::Forward)
        } else if self.accept(b'-') {
            self.operand("@-").map(Move::Back)
        } else if self.accept(b'^') {
            match self.operand("@^")? {
                0 => Err(Reason::ZeroAlignment),
                alignment => Ok(Move::Align(alignment)),
            }
        } else {
            self.number("@", MAX_SIZE).map(Move::To)
        }
    }

    fn repeat(&mut self) -> Result<Operation, Reason> {
        self.at += 1;
        self.operand("*").map(Operation::Repeat)
    }

    fn slice(&mut self) -> Result<Operation, Reason> {
        self.at += 1;
        self.skip_spaces();
        let start = if self.peek() == Some(b':') { 0 } else { self.bound("[")? };
        self.skip_spaces();
        if !self.accept(b':') {
            return Err(Reason::Slice);
        }
        self.skip_spaces();
        let end = if self.peek() == Some(b']') { None } else { Some(self.bound(":")?) };
        self.skip_spaces();
        if !self.accept(b']') {
            return Err(Reason::Slice);
        }
        match end {
            Some(end) if start > end => Err(Reason::SliceOrder(start, end)),
            _ => Ok(Operation::Slice(start, end)),
        }
    }

    fn bound(&mut self, operator: &'static str) -> Result<u64, Reason> {
        self.operand(operator).map_err(|reason| match reason {
            Reason::NoNumber(_) => Reason::Slice,
            other => other,
        })
    }

    fn assignment(&mut self) -> Result<Operation, Reason> {
        if !self.rest().starts_with("->") {
            return Err(Reason::Dash);
        }
        self.at += 2;
        self.skip_spaces();
        if self.peek() != Some(b'\\') {
            return Err(Reason::NoName("->"));
        }
        self.name("->").map(Operation::Assign)
    }

    /// Parses the name after a backslash.
    fn name(&mut self, after: &'static str) -> Result<String, Reason> {
        self.at += 1;
        let name =
            self.take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if name.is_empty() { Err(Reason::NoName(after)) } else { Ok(name.to_string()) }
    }

    fn variable(&mut self) -> Result<TokenKind, Reason> {
        self.at += 1;
        if self.peek().is_some_and(|first| first.is_ascii_digit()) {
            return Err(Reason::NoVariable);
        }
        let name = self.take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if name.is_empty() {
            return Err(Reason::NoVariable);
        }
        Ok(TokenKind::Variable(name.to_string()))
    }

    fn input(&mut self) -> Result<Source, Reason> {
        self.at += 1;
        if self.peek() == Some(b'(') {
            return self.script().map(Source::Script);
        }
        let name =
            self.take_while(|byte| !matches!(byte, b'*' | b'[' | b')' | b' ' | b'\t' | b'\n'));
        if name.is_empty() { Err(Reason::NoFileName) } else { Ok(Source::File(name.to_string())) }
    }

    /// Parses a script to the parenthesis that closes it. As in nbdkit, parentheses within count
    /// wherever they are, in strings of the shell too.
    fn script(&mut self) -> Result<String, Reason> {
        self.at += 1;
        let start = self.at;
        let mut depth = 1_u32;
        while let Some(byte) = self.take() {
            match byte {
                b'(' => depth += 1,
                b')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(self.text[start..self.at - 1].to_string());
            }
        }
        Err(Reason::OpenScript)
    }
}

/// Returns whether a byte is white space in C.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
