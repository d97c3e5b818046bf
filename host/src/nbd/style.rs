//! The three styles of replies.

use std::fmt;

/// Which replies, and which headers, a session uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyStyle {
    /// Simple replies only.
    #[default]
    Simple,
    /// Structured replies, and simple replies for success without content.
    Structured,
    /// Extended headers in both directions.
    Extended,
}

impl fmt::Display for ReplyStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple => "simple",
            Self::Structured => "structured",
            Self::Extended => "extended",
        })
    }
}
