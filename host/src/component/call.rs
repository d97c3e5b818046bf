//! The calls of the contract's functions, as messages name them.

use std::fmt;

use crate::block::{Operation, Span};

/// A call of a component, with those of its arguments that are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `describe`.
    Describe,
    /// `open`.
    Open,
    /// `read`.
    Read(Span),
    /// `write`, with FUA or without.
    Write(Span, bool),
    /// `zero`.
    Zero {
        /// The span to zero.
        span: Span,
        /// Durable when the call returns.
        fua: bool,
        /// Left allocated.
        keep_allocated: bool,
        /// Not slower than necessary.
        fast: bool,
    },
    /// `trim`, with FUA or without.
    Trim(Span, bool),
    /// `flush`.
    Flush,
    /// `extents`.
    Extents(Span),
    /// `cache`.
    Cache(Span),
    /// `sharding.stripe-size`.
    StripeSize,
    /// `sharding.stored`.
    Stored,
    /// `direct-access.page-size`.
    PageSize,
    /// `direct-access.page`, of the page at this offset.
    Page(u64),
    /// `direct-access.make-page`, of the page at this offset.
    MakePage(u64),
    /// `routing.rules`.
    Rules,
    /// `routing.route`.
    Route(Operation, Span),
    /// `routing.done`, with this token.
    Done(u64),
    /// `routing.stable`, from this offset on.
    Stable(Operation, u64),
    /// `control.commands`.
    Commands,
    /// `control.execute`.
    Control,
    /// `listing.exports`.
    ListExports,
    /// `events.flush-began`.
    FlushBegan,
    /// `events.flush-ended`, with this token.
    FlushEnded(u64),
    /// `events.closing`.
    Closing,
}

impl fmt::Display for Call {
    /// Formats the call as in code: `write(4096, 512, fua)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, span, flags): (_, _, &[(bool, &str)]) = match self {
            Self::Describe => return f.write_str("describe()"),
            Self::Open => return f.write_str("open"),
            Self::Flush => return f.write_str("flush()"),
            Self::Commands => return f.write_str("commands()"),
            Self::Control => return f.write_str("execute"),
            Self::ListExports => return f.write_str("exports"),
            Self::FlushBegan => return f.write_str("flush-began()"),
            Self::FlushEnded(token) => return write!(f, "flush-ended({token})"),
            Self::Closing => return f.write_str("closing()"),
            Self::StripeSize => return f.write_str("stripe-size()"),
            Self::Stored => return f.write_str("stored()"),
            Self::PageSize => return f.write_str("page-size()"),
            Self::Page(offset) => return write!(f, "page({offset})"),
            Self::MakePage(offset) => return write!(f, "make-page({offset})"),
            Self::Rules => return f.write_str("rules()"),
            Self::Route(operation, span) => {
                return write!(f, "route({}, {}, {})", operation.name(), span.offset, span.length);
            }
            Self::Done(token) => return write!(f, "done({token})"),
            Self::Stable(operation, offset) => {
                return write!(f, "stable({}, {offset})", operation.name());
            }
            Self::Read(span) => ("read", span, &[]),
            Self::Write(span, fua) => ("write", span, &[(*fua, "fua")]),
            Self::Zero { span, fua, keep_allocated, fast } => (
                "zero",
                span,
                &[(*fua, "fua"), (*keep_allocated, "keep-allocated"), (*fast, "fast")],
            ),
            Self::Trim(span, fua) => ("trim", span, &[(*fua, "fua")]),
            Self::Extents(span) => ("extents", span, &[]),
            Self::Cache(span) => ("cache", span, &[]),
        };
        write!(f, "{name}({}, {}", span.offset, span.length)?;
        flags.iter().filter(|(set, _)| *set).try_for_each(|(_, flag)| write!(f, ", {flag}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_read_like_code() {
        let span = Span { offset: 4096, length: 512 };
        assert_eq!(Call::Read(span).to_string(), "read(4096, 512)");
        assert_eq!(Call::Write(span, true).to_string(), "write(4096, 512, fua)");
        let zero = Call::Zero { span, fua: false, keep_allocated: true, fast: true };
        assert_eq!(zero.to_string(), "zero(4096, 512, keep-allocated, fast)");
        assert_eq!(Call::Page(0).to_string(), "page(0)");
    }
}
