//! Parsing server-sent events.

/// The longest line and the longest event that are accepted, in bytes.
const MAX_LENGTH: usize = 1 << 20;

/// An event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// The id; empty if there is none.
    pub(crate) id: String,
    /// The lines of data, joined.
    pub(crate) data: String,
}

/// A parser of a stream that comes in pieces.
#[derive(Default)]
pub(crate) struct Parser {
    /// What came after the last whole line.
    line: Vec<u8>,
    event: Event,
    has_data: bool,
}

/// A line or an event is longer than is possible.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// Parses the next piece, and returns the events that it ends. What the server does not send
    /// (types, which the data repeats, and `retry`) is ignored.
    ///
    /// # Errors
    ///
    /// Returns an error if a line or an event is too long.
    pub(crate) fn parse(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + part.len() > MAX_LENGTH {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                events.extend(self.line(line.trim_end_matches(['\n', '\r']))?);
            }
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Result<Option<Event>, TooLong> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok(std::mem::take(&mut self.has_data).then_some(event));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = value.to_owned(),
            "data" => {
                if self.event.data.len() + value.len() > MAX_LENGTH {
                    return Err(TooLong);
                }
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_any_pieces() {
        let text = ":\n\nid: 1-2\nevent: log\ndata: {\"a\":1}\n\n: x\n\nid:3\r\ndata:a\r\ndata\r\ndata: b\r\n\r\n\
                    event: nothing\n\ndata: unfinished";
        let expected = [("1-2", "{\"a\":1}"), ("3", "a\n\nb")];
        let expected = expected.map(|(id, data)| Event { id: id.into(), data: data.into() });
        for length in 1..text.len() {
            let mut parser = Parser::default();
            let pieces = text.as_bytes().chunks(length);
            let events: Vec<Event> =
                pieces.flat_map(|piece| parser.parse(piece).unwrap()).collect();
            assert_eq!(events, expected);
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 1 << 16];
        assert!((0..17).any(|_| parser.parse(&piece).is_err()));
        let mut parser = Parser::default();
        let piece = [b"data: ".as_slice(), &piece, b"\n"].concat();
        assert!((0..17).any(|_| parser.parse(&piece).is_err()));
    }
}
