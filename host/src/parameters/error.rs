//! The error for a value, and how texts of users are quoted in messages.

use std::error::Error;
use std::fmt;

use super::{duration, number, probability, secret, size};

/// The error for text that is not a value of the expected type. Its `Display` output quotes the
/// text and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueError {
    text: String,
    reason: Reason,
}

impl ValueError {
    pub(super) fn new(text: &str, reason: Reason) -> Self {
        Self { text: text.to_owned(), reason }
    }
}

/// The rule that the text breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NoSuchChoice {
        nearest: Option<String>,
        choices: Vec<String>,
    },
    NotABoolean,
    Number(number::Reason),
    Size(size::Reason),
    Duration(duration::Reason),
    Probability(probability::Reason),
    /// The text is not shown.
    Secret(secret::Reason),
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Secret(reason) => reason.fmt(f),
            _ => write!(f, "{} {}", Quoted(&self.text), self.reason),
        }
    }
}

impl Error for ValueError {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchChoice { nearest, choices } => {
                f.write_str("is not a choice")?;
                suggest(f, nearest.as_deref())?;
                write!(f, "; right would be {}", choices.join(", "))
            }
            Self::NotABoolean => f.write_str(
                "is neither true nor false; \
                 right would be true, yes, on or 1, or false, no, off or 0",
            ),
            Self::Number(reason) => reason.fmt(f),
            Self::Size(reason) => reason.fmt(f),
            Self::Duration(reason) => reason.fmt(f),
            Self::Probability(reason) => reason.fmt(f),
            Self::Secret(reason) => reason.fmt(f),
        }
    }
}

/// Returns the name that was probably misspelt as `text`, if any is near enough.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// The longest text that is compared, in bytes: the time and the memory grow with it.
    const LONGEST: usize = 100;

    if text.len() > LONGEST {
        return None;
    }
    let text = text.to_lowercase();
    let distance = |name: &str| strsim::damerau_levenshtein(&text, &name.to_lowercase());
    let names = names.into_iter().map(|name| (distance(name), name));
    // If more than a third of the letters differ, another word is meant.
    let near = names.filter(|(distance, name)| *distance <= name.len() / 3);
    near.min().map(|(_, name)| name)
}

/// Writes a question for the name that was probably meant, if there is one.
pub(super) fn suggest(f: &mut fmt::Formatter<'_>, nearest: Option<&str>) -> fmt::Result {
    match nearest {
        Some(nearest) => write!(f, " (did you mean {nearest:?}?)"),
        None => Ok(()),
    }
}

/// A text of a user in a message: in quotes, with control characters escaped, and cut after 60
/// characters, which three dots behind the quotes show.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LENGTH: usize = 60;
        match self.0.char_indices().nth(LENGTH) {
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escape_what_would_disturb_a_terminal() {
        for (text, quoted) in [
            ("", r#""""#),
            ("a\"b\\", r#""a\"b\\""#),
            ("a\n\t\0\u{1b}[1m\u{7f}", r#""a\n\t\0\u{1b}[1m\u{7f}""#),
            ("\u{85}\u{202e}\u{2066}\u{2028}", r#""\u{85}\u{202e}\u{2066}\u{2028}""#),
            ("\u{e4}\u{661}", "\"\u{e4}\u{661}\""),
        ] {
            assert_eq!(Quoted(text).to_string(), quoted);
        }
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(Quoted(&"x".repeat(60)).to_string(), format!("\"{}\"", "x".repeat(60)));
        assert_eq!(Quoted(&"x".repeat(61)).to_string(), format!("\"{}\"...", "x".repeat(60)));
        let long = "\u{e4}".repeat(1 << 20);
        assert_eq!(Quoted(&long).to_string(), format!("\"{}\"...", "\u{e4}".repeat(60)));
    }

    #[test]
    fn misspelt_names_are_near_the_right_ones() {
        let names = ["size", "mode", "read-delay"];
        for (text, name) in [
            ("size", Some("size")),
            ("SIZE", Some("size")),
            ("siez", Some("size")),
            ("sizes", Some("size")),
            ("mod", Some("mode")),
            ("readdelay", Some("read-delay")),
            ("raed_deley", Some("read-delay")),
            ("delay", None),
            ("md", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, names), name, "{text:?}");
        }
        assert_eq!(nearest("size", []), None);
        // "abcd" is nearer, but half of it would have been added.
        let names = ["abcd", "abcdefxyz"];
        assert_eq!(nearest("abcdef", names), Some("abcdefxyz"));
        assert_eq!(nearest(&"x".repeat(1 << 20), ["x".repeat(1 << 20).as_str()]), None);
    }
}
