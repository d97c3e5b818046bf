//! The handshake, as a client that believes nothing.

use openssl::ssl::{Ssl, SslVersion};

use super::numbers::*;
use super::session::{Session, Style};
use super::stream::Stream;
use crate::support::Server;
use crate::tls::client::{alice, is_inside_tls};

/// The handshake flags of a client that knows both of them.
pub(crate) const FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;

const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// A connection that negotiates.
pub(crate) struct Haggle {
    pub(crate) stream: Stream,
    style: Style,
    /// The id of `base:allocation`, where it is selected.
    context: Option<u32>,
    /// Whether what the specification only recommends is forgiven: other servers are older.
    pub(crate) lenient: bool,
}

/// All replies to one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The interim ones, by type.
    pub(crate) interim: Vec<(u32, Vec<u8>)>,
    /// [`rep::ACK`] or an error.
    pub(crate) end: u32,
    /// The text of the error.
    pub(crate) text: String,
}

/// What INFO and GO tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Infos {
    pub(crate) size: u64,
    pub(crate) flags: u16,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    /// Minimum, preferred, maximum.
    pub(crate) block_sizes: Option<[u32; 3]>,
}

/// A string with its length.
pub(crate) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// The data of INFO and GO.
pub(crate) fn info(name: impl AsRef<[u8]>, requests: &[u16]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = string(name);
    data.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(string(query)));
    data
}

/// The bytes of an option.
pub(crate) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    announced(number, data.len() as u32, data)
}

/// The bytes of an option that lies about its length.
pub(crate) fn announced(number: u32, length: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

impl Haggle {
    /// Connects and gets as far as the first option.
    pub(crate) fn new(server: &Server) -> Self {
        Self::with_flags(server, FIXED_NEWSTYLE_NO_ZEROES)
    }

    pub(crate) fn with_flags(server: &Server, flags: u32) -> Self {
        let mut haggle = Self::greeted(Stream::connect(server));
        haggle.stream.put(&flags.to_be_bytes());
        match is_inside_tls() {
            true => haggle.start_tls(alice(SslVersion::TLS1_3)),
            false => haggle,
        }
    }

    /// Starts TLS, by which everything is forgotten.
    pub(crate) fn start_tls(mut self, ssl: Ssl) -> Self {
        self.accept(opt::STARTTLS, b"");
        let stream = self.stream.into_tls(ssl);
        let stream = stream.unwrap_or_else(|error| panic!("no TLS: {error}"));
        Self { stream, style: Style::Simple, context: None, lenient: self.lenient }
    }

    /// Checks the greeting, and answers nothing yet.
    pub(crate) fn greeted(mut stream: Stream) -> Self {
        assert_eq!(&stream.take(), b"NBDMAGIC");
        assert_eq!(&stream.take(), b"IHAVEOPT");
        assert_eq!(stream.take_u16(), 3, "FIXED_NEWSTYLE and NO_ZEROES, no others");
        Self { stream, style: Style::Simple, context: None, lenient: false }
    }

    /// Sends an option and takes all that it is answered.
    pub(crate) fn option(&mut self, number: u32, data: &[u8]) -> Answer {
        self.stream.put(&option(number, data));
        self.answer(number)
    }

    /// Takes the answer to an option that was sent.
    pub(crate) fn answer(&mut self, number: u32) -> Answer {
        let mut interim = Vec::new();
        loop {
            let (kind, data) = self.reply(number);
            if kind >> 31 == 0 && kind != rep::ACK {
                let expected = match number {
                    opt::LIST => rep::SERVER,
                    opt::INFO | opt::GO => rep::INFO,
                    opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => rep::META_CONTEXT,
                    _ => panic!("option {number} has no interim replies, but this: {kind}"),
                };
                assert_eq!(kind, expected);
                interim.push((kind, data));
                continue;
            }
            let text = String::from_utf8(data).expect("a text");
            if kind == rep::ACK {
                assert!(text.is_empty(), "an ACK has no data");
            } else {
                assert!(self.lenient || !text.is_empty(), "an error has a text");
                assert!(text.len() <= 256 && !text.contains('\0'), "{text}");
            }
            let answer = Answer { interim, end: kind, text };
            self.remember(number, &answer);
            return answer;
        }
    }

    fn reply(&mut self, number: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.stream.take_u64(), OPTION_REPLY_MAGIC);
        assert_eq!(self.stream.take_u32(), number, "a reply to another option");
        let kind = self.stream.take_u32();
        let length = self.stream.take_u32();
        assert!(length < 9000, "a reply of {length} bytes");
        (kind, self.stream.take_vec(length as usize))
    }

    fn remember(&mut self, number: u32, answer: &Answer) {
        if number == opt::SET_META_CONTEXT {
            self.context = None;
        }
        if answer.end != rep::ACK {
            return;
        }
        match number {
            opt::STRUCTURED_REPLY => self.style = Style::Structured,
            opt::EXTENDED_HEADERS => self.style = Style::Extended,
            opt::SET_META_CONTEXT => {
                self.context = answer.contexts().first().map(|(id, _)| *id);
            }
            _ => {}
        }
    }

    /// The server understands what comes next.
    pub(crate) fn expect_in_sync(&mut self) {
        let answer = self.option(opt::UNKNOWN, b"");
        assert_eq!(answer.end, rep::ERR_UNSUP, "{}", answer.text);
    }

    pub(crate) fn accept(&mut self, number: u32, data: &[u8]) -> Answer {
        let answer = self.option(number, data);
        assert_eq!(answer.end, rep::ACK, "option {number}: {}", answer.text);
        answer
    }

    /// Structured replies, with `base:allocation` selected for this export.
    pub(crate) fn structured(mut self, name: &str) -> Self {
        self.accept(opt::STRUCTURED_REPLY, b"");
        self.select(name)
    }

    /// Extended headers, with `base:allocation` selected for this export.
    pub(crate) fn extended(mut self, name: &str) -> Self {
        self.accept(opt::EXTENDED_HEADERS, b"");
        self.select(name)
    }

    fn select(mut self, name: &str) -> Self {
        let answer = self.accept(opt::SET_META_CONTEXT, &meta(name, &["base:allocation"]));
        let [(_, context)] = &answer.contexts()[..] else { panic!("{answer:?}") };
        assert_eq!(context, "base:allocation");
        self
    }

    /// Enters transmission.
    pub(crate) fn go(mut self, name: &str) -> Session {
        let infos = self.accept(opt::GO, &info(name, &[3])).infos();
        self.into_session(infos)
    }

    /// Transmission follows what was said last.
    pub(crate) fn into_session(self, infos: Infos) -> Session {
        let mut session = Session::new(self.stream, self.style, self.context, infos);
        session.lenient = self.lenient;
        session
    }
}

impl Answer {
    /// What INFO and GO told.
    pub(crate) fn infos(&self) -> Infos {
        let mut infos = Infos::default();
        let mut seen = Vec::new();
        for (_, data) in &self.interim {
            let (kind, rest) = data.split_first_chunk().expect("a type");
            let kind = u16::from_be_bytes(*kind);
            assert!(!seen.contains(&kind), "{kind} was sent twice");
            seen.push(kind);
            let text = || {
                assert!(!rest.contains(&0) && rest.len() <= 4096);
                Some(String::from_utf8(rest.to_vec()).expect("a text"))
            };
            match kind {
                0 => {
                    let (size, flags) = rest.split_at(8);
                    infos.size = u64::from_be_bytes(size.try_into().expect("8 bytes"));
                    infos.flags = u16::from_be_bytes(flags.try_into().expect("2 bytes"));
                }
                1 => infos.name = text(),
                2 => infos.description = text(),
                3 => {
                    assert_eq!(rest.len(), 12);
                    let number = |at: usize| rest[at..at + 4].try_into().expect("4 bytes");
                    infos.block_sizes = Some([0, 4, 8].map(|at| u32::from_be_bytes(number(at))));
                }
                _ => panic!("information of type {kind}"),
            }
        }
        assert!(seen.contains(&0), "NBD_INFO_EXPORT is always sent");
        infos
    }

    /// What LIST told: names and descriptions.
    pub(crate) fn exports(&self) -> Vec<(String, String)> {
        let entry = |(_, data): &(u32, Vec<u8>)| {
            let (length, rest) = data.split_first_chunk().expect("a length");
            let (name, description) = rest.split_at(u32::from_be_bytes(*length) as usize);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a text");
            (text(name), text(description))
        };
        self.interim.iter().map(entry).collect()
    }

    /// What LIST_META_CONTEXT and SET_META_CONTEXT told: ids and names.
    pub(crate) fn contexts(&self) -> Vec<(u32, String)> {
        let entry = |(_, data): &(u32, Vec<u8>)| {
            let (id, name) = data.split_first_chunk().expect("an id");
            (u32::from_be_bytes(*id), String::from_utf8(name.to_vec()).expect("a name"))
        };
        self.interim.iter().map(entry).collect()
    }
}
