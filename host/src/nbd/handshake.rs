//! Option haggling as a state machine: bytes in, replies and events out.

use super::codes::{OptionCode, OptionReplyType, handshake_flag, magic};
use super::config::{HandshakeConfig, TlsMode};
use super::contexts::{ContextName, Selected};
use super::error::ProtocolError;
use super::limits::{MAX_HANDSHAKE_BYTES, MAX_OPTIONS, MAX_STRING, OPTION_HEADER_LEN};
use super::option::{ContextRequest, InfoRequest, export_name};
use super::option_reply::{ExportSummary, OptionReply};
use super::screen::{Standing, has_data, screen};
use super::style::ReplyStyle;

/// What the caller has to do next. Whatever was appended to the output must be sent first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Read more input and call [`Handshake::advance`] with the unconsumed bytes followed by the
    /// new ones.
    NeedInput,
    /// Call [`Handshake::list`] for each export, then [`Handshake::listed`].
    List,
    /// Look up an export and call [`Handshake::opened`].
    Open {
        /// The name as the client sent it, at most [`MAX_STRING`] bytes; empty for the default
        /// export.
        name: String,
        /// What the export is opened for.
        purpose: Purpose,
    },
    /// Start TLS and call [`Handshake::tls_established`], or close the connection.
    StartTls,
    /// Close the connection.
    Abort,
}

/// What an export is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// EXPORT_NAME or GO: transmission follows.
    Transmission,
    /// INFO.
    Info,
    /// LIST_META_CONTEXT or SET_META_CONTEXT.
    Contexts,
}

/// The server's side of one handshake.
///
/// Call [`Self::advance`] with input until it returns an event other than [`Event::NeedInput`], and
/// again once that event has been answered. Do not call it after [`Event::Abort`], after an error,
/// or once [`Self::opened`] has returned a session. With [`Event::NeedInput`], fewer than
/// [`MAX_OPTION_DATA`](super::limits::MAX_OPTION_DATA) bytes of the input are left unconsumed: a
/// buffer of that size is always large enough.
#[derive(Debug)]
pub struct Handshake {
    pub(super) config: HandshakeConfig,
    pub(super) state: State,
    /// The client's flags, sent in response to the greeting.
    pub(super) client_flags: u16,
    pub(super) tls: bool,
    pub(super) shutting_down: bool,
    pub(super) haggled: Haggled,
    options: u32,
    bytes: u64,
}

/// What was negotiated so far. STARTTLS discards all of it.
#[derive(Debug, Default)]
pub(super) struct Haggled {
    pub(super) style: ReplyStyle,
    /// The metadata contexts that are selected.
    pub(super) selected: Option<Selected>,
}

#[derive(Debug)]
pub(super) enum State {
    ClientFlags,
    Header,
    /// The data of an option is discarded as it arrives.
    Skip {
        option: OptionCode,
        left: u32,
        then: Then,
    },
    /// The data of an option has not arrived completely yet.
    Data {
        option: OptionCode,
        length: usize,
    },
    /// An event has been returned and not been answered yet.
    Waiting(Pending),
    Ended,
}

/// What to do with an option once its data has been discarded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Obey,
    Refuse(OptionReplyType, &'static str),
}

#[derive(Debug)]
pub(super) enum Pending {
    List,
    StartTls,
    ExportName(String),
    Info(InfoRequest),
    Go(InfoRequest),
    ListContexts(ContextRequest),
    SetContexts(ContextRequest),
}

impl Handshake {
    /// Creates a handshake in which nothing has been sent or received yet.
    pub fn new(config: HandshakeConfig) -> Self {
        Self {
            config,
            state: State::ClientFlags,
            client_flags: 0,
            tls: false,
            shutting_down: false,
            haggled: Haggled::default(),
            options: 0,
            bytes: 0,
        }
    }

    /// Returns the greeting, which the server sends before anything else.
    pub fn greeting(&self) -> [u8; 18] {
        let mut greeting = [0; 18];
        greeting[0..8].copy_from_slice(&magic::INIT.to_be_bytes());
        greeting[8..16].copy_from_slice(&magic::OPTION.to_be_bytes());
        greeting[16..18].copy_from_slice(&self.offered_flags().to_be_bytes());
        greeting
    }

    /// Consumes as much of `input` as it can and appends replies to `output`. Returns how many
    /// bytes were consumed and what to do next.
    ///
    /// The output of one call is bounded: about a hundred bytes for each of [`MAX_OPTIONS`]
    /// options.
    ///
    /// # Errors
    ///
    /// Returns an error if the client violates the protocol, or if an option can only be refused by
    /// disconnecting.
    pub fn advance(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(usize, Event), ProtocolError> {
        let mut rest = input;
        let mut event = None;
        while event.is_none() {
            match &mut self.state {
                State::ClientFlags => {
                    let Some((flags, after)) = rest.split_first_chunk() else { break };
                    rest = after;
                    self.accept_flags(u32::from_be_bytes(*flags))?;
                }
                State::Header => {
                    let Some((header, after)) = rest.split_first_chunk() else { break };
                    rest = after;
                    self.state = self.begin_option(header)?;
                }
                State::Skip { option, left, then } => {
                    let skipped = rest.len().min(*left as usize);
                    rest = &rest[skipped..];
                    *left -= skipped as u32;
                    if *left > 0 {
                        break;
                    }
                    let (option, then) = (*option, *then);
                    event = self.finish_skipped(option, then, rest.len(), output)?;
                }
                State::Data { option, length } => {
                    let Some((data, after)) = rest.split_at_checked(*length) else { break };
                    rest = after;
                    let option = *option;
                    event = self.finish_data(option, data, output)?;
                }
                State::Waiting(_) | State::Ended => break,
            }
        }
        Ok((input.len() - rest.len(), event.unwrap_or(Event::NeedInput)))
    }

    /// Answers [`Event::List`] with one more export. Call [`Self::listed`] after the last one.
    pub fn list(&mut self, export: &ExportSummary<'_>, output: &mut Vec<u8>) {
        if matches!(self.state, State::Waiting(Pending::List)) {
            OptionReply { option: OptionCode::LIST, out: output }.server(export);
        } else {
            debug_assert!(false, "no list is asked for");
        }
    }

    /// Ends the answer to [`Event::List`].
    pub fn listed(&mut self, output: &mut Vec<u8>) {
        if !matches!(self.state, State::Waiting(Pending::List)) {
            debug_assert!(false, "no list is asked for");
            return;
        }
        self.state = State::Header;
        OptionReply { option: OptionCode::LIST, out: output }.ack();
    }

    /// Answers [`Event::List`] with an error: clients are told of no exports.
    pub fn list_denied(&mut self, output: &mut Vec<u8>) {
        if !matches!(self.state, State::Waiting(Pending::List)) {
            debug_assert!(false, "no list is asked for");
            return;
        }
        self.state = State::Header;
        let mut reply = OptionReply { option: OptionCode::LIST, out: output };
        reply.error(
            OptionReplyType::ERR_POLICY,
            "the exports are not listed; ask for one by its name",
        );
    }

    /// Answers [`Event::StartTls`] once all further bytes are encrypted. Whatever was negotiated
    /// before is discarded (spec: NBD_OPT_STARTTLS).
    pub fn tls_established(&mut self) {
        if !matches!(self.state, State::Waiting(Pending::StartTls)) {
            debug_assert!(false, "no TLS is asked for");
            return;
        }
        self.state = State::Header;
        self.tls = true;
        self.haggled = Haggled::default();
    }

    /// Returns the metadata contexts besides `base:allocation` that the session has selected, if
    /// [`Self::opened`] has returned one. [`index_of`](super::index_of) an id is the index here.
    pub fn take_contexts(&mut self) -> Vec<ContextName> {
        self.haggled.selected.take().map_or_else(Vec::new, |selected| selected.others)
    }

    /// Refuses all further options but ABORT (spec: "Termination of the session during option
    /// haggling").
    pub fn shutting_down(&mut self) {
        self.shutting_down = true;
    }

    fn offered_flags(&self) -> u16 {
        let fixed = if self.config.fixed_newstyle { handshake_flag::FIXED_NEWSTYLE } else { 0 };
        let zeroes = if self.config.no_zeroes { handshake_flag::NO_ZEROES } else { 0 };
        fixed | zeroes
    }

    fn accept_flags(&mut self, flags: u32) -> Result<(), ProtocolError> {
        let offered = self.offered_flags();
        if flags & !u32::from(offered) != 0 {
            return Err(ProtocolError::ClientFlags { flags, offered });
        }
        self.client_flags = flags as u16;
        self.state = State::Header;
        Ok(())
    }

    /// Parses the header of an option and decides what to do with its data.
    fn begin_option(&mut self, header: &[u8; OPTION_HEADER_LEN]) -> Result<State, ProtocolError> {
        let [m0, m1, m2, m3, m4, m5, m6, m7, o0, o1, o2, o3, l0, l1, l2, l3] = *header;
        let magic = u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]);
        let option = OptionCode(u32::from_be_bytes([o0, o1, o2, o3]));
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if magic != magic::OPTION {
            return Err(ProtocolError::OptionMagic { magic });
        }
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(ProtocolError::TooManyOptions);
        }
        self.bytes += u64::from(length);
        if self.bytes > MAX_HANDSHAKE_BYTES {
            return Err(ProtocolError::TooManyBytes { option, length });
        }
        if option == OptionCode::EXPORT_NAME {
            return self.begin_export_name(length);
        }
        if !self.config.fixed_newstyle {
            return Err(ProtocolError::NotFixedNewstyle { option });
        }
        if option == OptionCode::SET_META_CONTEXT {
            // The option replaces the selected contexts even if it fails.
            self.haggled.selected = None;
        }
        let then = match screen(&self.standing(), option, length) {
            Err((kind, text)) => Then::Refuse(kind, text),
            Ok(()) if has_data(option) => {
                return Ok(State::Data { option, length: length as usize });
            }
            Ok(()) => Then::Obey,
        };
        Ok(State::Skip { option, left: length, then })
    }

    /// Returns whether TLS was established.
    pub fn is_encrypted(&self) -> bool {
        self.tls
    }

    fn standing(&self) -> Standing {
        Standing {
            config: self.config,
            tls: self.tls,
            fixed: self.is_fixed(),
            style: self.haggled.style,
            shutting_down: self.shutting_down,
        }
    }

    /// Returns whether the client speaks fixed newstyle. If not, it cannot use TLS (spec:
    /// "Server-side requirements").
    pub(super) fn is_fixed(&self) -> bool {
        self.client_flags & handshake_flag::FIXED_NEWSTYLE != 0
    }

    fn begin_export_name(&self, length: u32) -> Result<State, ProtocolError> {
        if self.config.tls == TlsMode::Require && !self.tls {
            return Err(ProtocolError::ExportNeedsTls);
        }
        if self.shutting_down {
            return Err(ProtocolError::ExportShutdown);
        }
        if self.haggled.style == ReplyStyle::Extended {
            return Err(ProtocolError::ExportNameWithExtendedHeaders);
        }
        if length as usize > MAX_STRING {
            return Err(ProtocolError::ExportNameTooLong { length });
        }
        Ok(State::Data { option: OptionCode::EXPORT_NAME, length: length as usize })
    }

    /// Handles an option whose data was discarded. `excess` bytes were received after it.
    fn finish_skipped(
        &mut self,
        option: OptionCode,
        then: Then,
        excess: usize,
        output: &mut Vec<u8>,
    ) -> Result<Option<Event>, ProtocolError> {
        self.state = State::Header;
        let mut reply = OptionReply { option, out: output };
        if let Then::Refuse(kind, text) = then {
            reply.error(kind, text);
            return Ok(None);
        }
        match option {
            OptionCode::LIST => {
                self.state = State::Waiting(Pending::List);
                return Ok(Some(Event::List));
            }
            OptionCode::STARTTLS => {
                if excess > 0 {
                    return Err(ProtocolError::PlaintextAfterStartTls { bytes: excess });
                }
                reply.ack();
                self.state = State::Waiting(Pending::StartTls);
                return Ok(Some(Event::StartTls));
            }
            OptionCode::ABORT => {
                reply.ack();
                self.state = State::Ended;
                return Ok(Some(Event::Abort));
            }
            OptionCode::STRUCTURED_REPLY => self.haggled.style = ReplyStyle::Structured,
            OptionCode::EXTENDED_HEADERS => self.haggled.style = ReplyStyle::Extended,
            _ => debug_assert!(false, "{option} is obeyed with its data"),
        }
        reply.ack();
        Ok(None)
    }

    /// Handles an option whose data has arrived.
    fn finish_data(
        &mut self,
        option: OptionCode,
        data: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Option<Event>, ProtocolError> {
        self.state = State::Header;
        let parsed = match option {
            OptionCode::EXPORT_NAME => {
                let name = export_name(data).map_err(|_| ProtocolError::ExportNameNotText)?;
                Ok(Pending::ExportName(name))
            }
            OptionCode::INFO => InfoRequest::parse(data).map(Pending::Info),
            OptionCode::GO => InfoRequest::parse(data).map(Pending::Go),
            OptionCode::LIST_META_CONTEXT => ContextRequest::parse(data).map(Pending::ListContexts),
            _ => ContextRequest::parse(data).map(Pending::SetContexts),
        };
        let pending = match parsed {
            Ok(pending) => pending,
            Err(malformed) => {
                OptionReply { option, out: output }.error(malformed.reply_type(), malformed.text());
                return Ok(None);
            }
        };
        let (name, purpose) = match &pending {
            Pending::ExportName(name) => (name, Purpose::Transmission),
            Pending::Go(request) => (&request.name, Purpose::Transmission),
            Pending::Info(request) => (&request.name, Purpose::Info),
            Pending::ListContexts(request) | Pending::SetContexts(request) => {
                (&request.name, Purpose::Contexts)
            }
            Pending::List | Pending::StartTls => return Ok(None),
        };
        let event = Event::Open { name: name.clone(), purpose };
        self.state = State::Waiting(pending);
        Ok(Some(event))
    }
}
