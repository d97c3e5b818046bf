//! Parsing of probabilities, in nbdkit's notation.

use std::fmt;

/// The rule that the text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Empty,
    Negative,
    NotANumber,
    OfNothing,
    TooLarge,
}

/// Parses a probability: a decimal number, whole, with a fraction or with an exponent; such a
/// number with a percent sign; or the ratio of two such numbers, written with `:` or `/`. The
/// result is finite, from 0 to 1.
pub(super) fn parse(text: &str) -> Result<f64, Reason> {
    if text.is_empty() {
        return Err(Reason::Empty);
    }
    if text.starts_with('-') {
        return Err(Reason::Negative);
    }
    let (part, whole) = match (text.split_once([':', '/']), text.strip_suffix('%')) {
        (Some((part, whole)), _) => (number(part), number(whole)),
        (None, Some(percents)) => (number(percents), Some(100.0)),
        (None, None) => (number(text), Some(1.0)),
    };
    match (part, whole) {
        (Some(_), Some(0.0)) => Err(Reason::OfNothing),
        (Some(part), Some(whole)) if part > whole => Err(Reason::TooLarge),
        (Some(part), Some(whole)) => Ok(part / whole),
        _ => Err(Reason::NotANumber),
    }
}

/// Parses a finite number without a sign.
fn number(text: &str) -> Option<f64> {
    // The standard library also accepts signs and words, such as "inf" and "nan".
    let begins = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = begins.then(|| text.parse().ok())??;
    number.is_finite().then_some(number)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty; give a number from 0 to 1, like 0.1, 10% or 1:10",
            Self::Negative => "is negative; the smallest probability is 0",
            Self::NotANumber => {
                "is not a probability; right would be a number from 0 to 1, like 0.1, 10% or 1:10"
            }
            Self::OfNothing => "is a ratio to 0; right would be one like 1:10",
            Self::TooLarge => "is too large; the largest probability is 1, or 100%, or 1:1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::ParameterType;

    #[test]
    fn probabilities_are_numbers_percentages_or_ratios() {
        for (text, probability) in [
            ("0", 0.0),
            ("1", 1.0),
            ("0.1", 0.1),
            (".5", 0.5),
            ("1.", 1.0),
            ("1e-3", 0.001),
            ("1E-3", 0.001),
            ("10e-1", 1.0),
            ("0e999", 0.0),
            ("1e-400", 0.0),
            ("10%", 0.1),
            ("0%", 0.0),
            ("100%", 1.0),
            ("1e-1%", 0.001),
            ("1:100", 0.01),
            ("1/100", 0.01),
            ("0:1", 0.0),
            ("3:3", 1.0),
            ("0.5:2", 0.25),
            ("1e-400:1", 0.0),
            ("1e300:1e300", 1.0),
            ("1:1e308", 1e-308),
        ] {
            assert_eq!(parse(text), Ok(probability), "{text}");
        }
        let long = format!("0.{}", "3".repeat(1 << 16));
        assert_eq!(parse(&long), Ok(1.0 / 3.0));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        let long = "9".repeat(1 << 16);
        for (text, reason) in [
            ("", Reason::Empty),
            ("-1", Reason::Negative),
            ("-0", Reason::Negative),
            ("-", Reason::Negative),
            ("often", Reason::NotANumber),
            ("nan", Reason::NotANumber),
            ("inf", Reason::NotANumber),
            ("inf:inf", Reason::NotANumber),
            ("1:nan", Reason::NotANumber),
            ("1e999", Reason::NotANumber),
            ("1e999:1e999", Reason::NotANumber),
            ("1:1e999", Reason::NotANumber),
            (long.as_str(), Reason::NotANumber),
            ("+1", Reason::NotANumber),
            (" 1", Reason::NotANumber),
            ("1 ", Reason::NotANumber),
            ("1\n", Reason::NotANumber),
            (".", Reason::NotANumber),
            ("0,1", Reason::NotANumber),
            ("0x1", Reason::NotANumber),
            ("1e", Reason::NotANumber),
            ("%", Reason::NotANumber),
            ("10%%", Reason::NotANumber),
            ("10 %", Reason::NotANumber),
            (":", Reason::NotANumber),
            ("1:", Reason::NotANumber),
            (":1", Reason::NotANumber),
            ("1:2:3", Reason::NotANumber),
            ("1:-2", Reason::NotANumber),
            ("1:100%", Reason::NotANumber),
            ("\u{661}", Reason::NotANumber),
            ("1:0", Reason::OfNothing),
            ("0/0", Reason::OfNothing),
            ("1:1e-400", Reason::OfNothing),
            ("1.0000001", Reason::TooLarge),
            ("2", Reason::TooLarge),
            ("101%", Reason::TooLarge),
            ("2:1", Reason::TooLarge),
            ("1e308:1e-308", Reason::TooLarge),
        ] {
            assert_eq!(parse(text), Err(reason), "{text:?}");
        }
    }

    #[test]
    fn refusals_quote_the_text_and_say_what_is_right() {
        for (text, said) in [
            ("", "\"\" is empty; give a number from 0 to 1, like 0.1, 10% or 1:10"),
            ("-1", "\"-1\" is negative; the smallest probability is 0"),
            (
                "of\tten",
                "\"of\\tten\" is not a probability; right would be a number from 0 to 1, like \
                 0.1, 10% or 1:10",
            ),
            ("1:0", "\"1:0\" is a ratio to 0; right would be one like 1:10"),
            ("200%", "\"200%\" is too large; the largest probability is 1, or 100%, or 1:1"),
        ] {
            assert_eq!(ParameterType::Probability.parse(text).unwrap_err().to_string(), said);
        }
    }
}
