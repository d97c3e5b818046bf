//! Decides which options are refused before their data is parsed.

use super::codes::{OptionCode, OptionReplyType};
use super::config::{HandshakeConfig, TlsMode};
use super::limits::MAX_OPTION_DATA;
use super::style::ReplyStyle;

/// The state of the handshake that decides which options are accepted.
pub(super) struct Standing {
    pub(super) config: HandshakeConfig,
    /// TLS is running.
    pub(super) tls: bool,
    /// The client speaks fixed newstyle.
    pub(super) fixed: bool,
    pub(super) style: ReplyStyle,
    pub(super) shutting_down: bool,
}

/// Decides by its header whether an option is accepted. If it is not, returns the type and the
/// message of the error reply.
pub(super) fn screen(
    standing: &Standing,
    option: OptionCode,
    length: u32,
) -> Result<(), (OptionReplyType, &'static str)> {
    use OptionCode as O;
    use OptionReplyType as R;
    let Standing { config, tls, fixed, style, shutting_down } = *standing;
    if option == O::ABORT {
        return Ok(());
    }
    if config.tls == TlsMode::Require && !tls && option != O::STARTTLS {
        return Err(match fixed {
            true => (R::ERR_TLS_REQD, "TLS is required"),
            // The spec's NOTLS mode, in which ERR_TLS_REQD is never sent.
            false => (R::ERR_POLICY, "TLS is required, and needs fixed newstyle negotiation"),
        });
    }
    if shutting_down {
        return Err((R::ERR_SHUTDOWN, "the server is shutting down"));
    }
    let offered = match option {
        O::LIST | O::STARTTLS | O::INFO | O::GO => true,
        O::STRUCTURED_REPLY => config.structured_replies,
        O::EXTENDED_HEADERS => config.extended_headers,
        O::LIST_META_CONTEXT | O::SET_META_CONTEXT => {
            config.meta_contexts && (config.structured_replies || config.extended_headers)
        }
        _ => false,
    };
    if !offered {
        return Err((R::ERR_UNSUP, "the option is not supported"));
    }
    if has_data(option) && length as usize > MAX_OPTION_DATA {
        return Err((R::ERR_TOO_BIG, "the option data is too long"));
    }
    if !has_data(option) && length > 0 {
        return Err((R::ERR_INVALID, "the option takes no data"));
    }
    match option {
        O::STARTTLS if tls => Err((R::ERR_INVALID, "TLS is already running")),
        O::STARTTLS if config.tls == TlsMode::Off => Err((R::ERR_POLICY, "TLS is not enabled")),
        O::STARTTLS if !fixed => Err((R::ERR_POLICY, "TLS needs fixed newstyle negotiation")),
        O::STRUCTURED_REPLY if style == ReplyStyle::Extended => {
            Err((R::ERR_EXT_HEADER_REQD, "extended headers are already in use"))
        }
        O::LIST_META_CONTEXT | O::SET_META_CONTEXT if style == ReplyStyle::Simple => {
            Err((R::ERR_INVALID, "structured replies or extended headers come first"))
        }
        _ => Ok(()),
    }
}

/// Returns whether an option has data that is to be parsed.
pub(super) fn has_data(option: OptionCode) -> bool {
    matches!(
        option,
        OptionCode::EXPORT_NAME
            | OptionCode::INFO
            | OptionCode::GO
            | OptionCode::LIST_META_CONTEXT
            | OptionCode::SET_META_CONTEXT
    )
}
