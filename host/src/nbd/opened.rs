//! Answers the options that open an export.

use super::codes::{BASE_ALLOCATION, OptionCode, OptionReplyType, handshake_flag};
use super::config::TlsMode;
use super::contexts::{ContextName, Contexts, select};
use super::error::ProtocolError;
use super::handshake::{Handshake, Pending, State};
use super::limits::{MAX_CONTEXTS, MAX_LISTED_BITMAPS};
use super::option::{ContextRequest, InfoRequest};
use super::option_reply::{ExportInfo, OptionReply};
use super::session::{Negotiated, Session};
use super::style::ReplyStyle;
use std::mem;

/// The formerly reserved zeroes after the reply to EXPORT_NAME.
const RESERVED_ZEROES: [u8; 124] = [0; 124];

/// Why an export cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError<'a> {
    /// There is no export with this name.
    Unknown,
    /// The export exists, but could not be opened.
    Failed {
        /// The reason, as sent to the client. May be empty, and of any length and content.
        text: &'a str,
    },
    /// This client may not use the export, or not now.
    Policy {
        /// The reason, as sent to the client.
        text: &'a str,
    },
    /// The export is only served over TLS, and TLS is not running.
    TlsRequired,
    /// The server is shutting down.
    Shutdown,
}

impl Handshake {
    /// Answers [`Event::Open`](super::Event::Open) with the export, or with why it cannot be
    /// served. Returns the session if transmission begins.
    ///
    /// # Errors
    ///
    /// Returns an error if EXPORT_NAME cannot be satisfied: it has no error reply.
    pub fn opened(
        &mut self,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) -> Result<Option<Session>, ProtocolError> {
        let export = match self.shutting_down {
            true => Err(OpenError::Shutdown),
            false => export,
        };
        match mem::replace(&mut self.state, State::Header) {
            State::Waiting(Pending::ExportName(name)) => {
                return self.opened_by_name(&name, export, output).map(Some);
            }
            State::Waiting(Pending::Go(request)) => {
                return Ok(self.opened_by_go(&request, export, output));
            }
            State::Waiting(Pending::Info(request)) => {
                self.tell(OptionCode::INFO, &request, export, output);
            }
            State::Waiting(Pending::ListContexts(request)) => {
                self.list_contexts(&request, export, output);
            }
            State::Waiting(Pending::SetContexts(request)) => {
                self.set_contexts(request, export, output);
            }
            other => {
                debug_assert!(false, "no export is asked for");
                self.state = other;
            }
        }
        Ok(None)
    }

    fn opened_by_name(
        &mut self,
        name: &str,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) -> Result<Session, ProtocolError> {
        let export = export.map_err(|error| match error {
            OpenError::Unknown => ProtocolError::ExportUnknown,
            OpenError::Failed { .. } => ProtocolError::ExportFailed,
            OpenError::Policy { .. } => ProtocolError::ExportForbidden,
            OpenError::TlsRequired => ProtocolError::ExportNeedsTls,
            OpenError::Shutdown => ProtocolError::ExportShutdown,
        })?;
        let session = self.session(name, export, false);
        output.extend_from_slice(&export.geometry.size.to_be_bytes());
        output.extend_from_slice(&session.transmission_flags().to_be_bytes());
        if self.client_flags & handshake_flag::NO_ZEROES == 0 {
            output.extend_from_slice(&RESERVED_ZEROES);
        }
        self.state = State::Ended;
        Ok(session)
    }

    fn opened_by_go(
        &mut self,
        request: &InfoRequest,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) -> Option<Session> {
        let session = self.tell(OptionCode::GO, request, export, output)?;
        self.state = State::Ended;
        Some(session)
    }

    /// Answers INFO or GO, whose replies are the same.
    fn tell(
        &self,
        option: OptionCode,
        request: &InfoRequest,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) -> Option<Session> {
        let mut reply = OptionReply { option, out: output };
        let export = match export {
            Ok(export) => export,
            Err(error) => {
                let (kind, text) = self.describe(error);
                reply.error(kind, text);
                return None;
            }
        };
        let session = self.session(&request.name, export, request.wanted.block_size);
        reply.infos(export, request.wanted, &session);
        reply.ack();
        Some(session)
    }

    fn list_contexts(
        &self,
        request: &ContextRequest,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) {
        let mut reply = OptionReply { option: OptionCode::LIST_META_CONTEXT, out: output };
        let export = match export {
            Ok(export) => export,
            Err(error) => {
                let (kind, text) = self.describe_for_contexts(error);
                return reply.error(kind, text);
            }
        };
        // The id is reserved here and SHOULD be zero.
        let mut list = |name: &str| reply.context(0, name);
        if request.all || request.wildcard || request.allocation {
            list(BASE_ALLOCATION);
        }
        let all = request.all || request.qemu_wildcard;
        if all && offers(export, &ContextName::AllocationDepth) {
            list(&ContextName::AllocationDepth.to_string());
        }
        let all_bitmaps = all || request.bitmap_wildcard;
        if all_bitmaps && let Some(bitmaps) = export.bitmaps {
            for name in bitmaps.names(MAX_LISTED_BITMAPS) {
                list(&ContextName::DirtyBitmap(name).to_string());
            }
        }
        for name in request.others.iter().filter(|name| offers(export, name)) {
            let is_listed = match name {
                ContextName::AllocationDepth => all,
                ContextName::DirtyBitmap(_) => all_bitmaps,
            };
            if !is_listed {
                list(&name.to_string());
            }
        }
        reply.ack();
    }

    fn set_contexts(
        &mut self,
        request: ContextRequest,
        export: Result<&ExportInfo<'_>, OpenError<'_>>,
        output: &mut Vec<u8>,
    ) {
        let mut reply = OptionReply { option: OptionCode::SET_META_CONTEXT, out: output };
        let export = match export {
            Ok(export) => export,
            Err(error) => {
                let (kind, text) = self.describe_for_contexts(error);
                return reply.error(kind, text);
            }
        };
        let others = request.others.into_iter().filter(|name| offers(export, name)).collect();
        let Some(selected) = select(request.name, request.allocation, others) else {
            let text = format!("at most {MAX_CONTEXTS} contexts can be selected");
            return reply.error(OptionReplyType::ERR_TOO_BIG, &text);
        };
        selected.list().for_each(|(id, name)| reply.context(id, &name));
        reply.ack();
        self.haggled.selected = Some(selected);
    }

    /// Returns the session that begins, or would begin, with an export requested as `name`.
    /// Metadata contexts are active only if they were selected for the same name.
    fn session(&self, name: &str, export: &ExportInfo<'_>, block_sizes: bool) -> Session {
        let style = self.haggled.style;
        let selected = self
            .haggled
            .selected
            .as_ref()
            .filter(|selected| selected.export == name && style != ReplyStyle::Simple);
        let contexts = selected.map_or(Contexts::default(), |selected| selected.contexts);
        Session::new(export.geometry, Negotiated { style, block_sizes, contexts })
    }

    /// Returns the type and the message of the reply to INFO or GO for an export that cannot be
    /// served.
    fn describe<'a>(&self, error: OpenError<'a>) -> (OptionReplyType, &'a str) {
        match error {
            OpenError::Unknown => (OptionReplyType::ERR_UNKNOWN, "there is no such export"),
            OpenError::Failed { text: "" } => {
                (OptionReplyType::ERR_UNKNOWN, "the export could not be opened")
            }
            OpenError::Failed { text } => (OptionReplyType::ERR_UNKNOWN, text),
            OpenError::Policy { text } => (OptionReplyType::ERR_POLICY, text),
            OpenError::TlsRequired if self.can_start_tls() => {
                (OptionReplyType::ERR_TLS_REQD, "the export is only served over TLS")
            }
            OpenError::TlsRequired => {
                (OptionReplyType::ERR_POLICY, "the export is only served over TLS")
            }
            OpenError::Shutdown => (OptionReplyType::ERR_SHUTDOWN, "the server is shutting down"),
        }
    }

    /// Like [`Self::describe`], but for the options that must not be answered with ERR_TLS_REQD
    /// (spec: "SELECTIVETLS mode").
    fn describe_for_contexts<'a>(&self, error: OpenError<'a>) -> (OptionReplyType, &'a str) {
        match error {
            OpenError::TlsRequired => {
                (OptionReplyType::ERR_POLICY, "the export is only served over TLS")
            }
            other => self.describe(other),
        }
    }

    /// Returns whether STARTTLS would be accepted.
    fn can_start_tls(&self) -> bool {
        self.config.tls != TlsMode::Off && !self.tls && self.is_fixed()
    }
}

/// Returns whether an export has a metadata context.
fn offers(export: &ExportInfo<'_>, name: &ContextName) -> bool {
    match name {
        ContextName::AllocationDepth => export.bitmaps.is_some(),
        ContextName::DirtyBitmap(name) => export.bitmaps.is_some_and(|all| all.exists(name)),
    }
}
