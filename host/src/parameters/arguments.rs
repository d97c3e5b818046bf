//! Assigning words to parameters: KEY=VALUE and bare values.

use std::error::Error;
use std::fmt;

use super::error::{Quoted, nearest, suggest};
use super::{Argument, Parameter, ParameterType, ValueError};

/// Parses words into arguments, in the order of the words.
///
/// A word is KEY=VALUE, or else a value of the parameter named `bare`, like the magic parameter of
/// an nbdkit plugin. KEY=VALUE is split at the first `=`, and only if the text before it could be
/// the name of a parameter: an ASCII letter, then ASCII letters, digits, `-` and `_`. So `/a=b` is
/// a bare value. Defaults are not filled in, except for devices that are made if none is
/// named ([`Link::scratch`](super::Link::scratch)). With `others`, other keys are accepted as parameters of
/// the type text.
///
/// # Errors
///
/// Returns an error if a word belongs to no parameter, if a parameter that is not repeatable is
/// given twice, if a required one is missing, or if a value is not of its parameter's type.
pub fn parse_arguments(
    parameters: &[Parameter],
    bare: Option<&str>,
    others: bool,
    words: &[String],
) -> Result<Vec<Argument>, ArgumentError> {
    let other = ParameterType::Text;
    let mut given: Vec<(&str, &ParameterType, &str)> = Vec::new();
    for word in words {
        let (name, text) = match (key_value(word), bare) {
            (Some(pair), _) => pair,
            (None, Some(bare)) => (bare, word.as_str()),
            (None, None) => {
                return Err(ArgumentError::NoBareParameter {
                    word: word.clone(),
                    known: names(parameters),
                });
            }
        };
        let (kind, repeatable) = match parameters.iter().find(|known| known.name == name) {
            Some(parameter) => (&parameter.kind, parameter.repeatable),
            None if others => (&other, false),
            None => {
                let known = names(parameters);
                return Err(ArgumentError::UnknownParameter {
                    name: name.to_owned(),
                    nearest: nearest(name, known.iter().map(String::as_str)).map(str::to_owned),
                    known,
                });
            }
        };
        if !repeatable && let Some((.., first)) = given.iter().find(|given| given.0 == name) {
            let shown = |text: &str| match kind {
                ParameterType::Secret => "(secret)".to_owned(),
                _ => text.to_owned(),
            };
            return Err(ArgumentError::GivenTwice {
                name: name.to_owned(),
                first: shown(first),
                second: shown(text),
                bare: bare == Some(name),
            });
        }
        given.push((name, kind, text));
    }
    let is_given = |parameter: &Parameter| given.iter().any(|given| given.0 == parameter.name);
    if let Some(missing) =
        parameters.iter().find(|parameter| parameter.required && !is_given(parameter))
    {
        return Err(ArgumentError::Missing {
            name: missing.name.clone(),
            summary: missing.summary.clone(),
            usage: missing.kind.usage(),
        });
    }
    let scratch = parameters.iter().filter(|parameter| {
        !is_given(parameter)
            && matches!(parameter.kind, ParameterType::Device(link) if link.scratch)
    });
    let scratch: Vec<_> =
        scratch.map(|parameter| (parameter.name.as_str(), &parameter.kind, "")).collect();
    let arguments = given.into_iter().chain(scratch).map(|(name, kind, text)| {
        let name = name.to_owned();
        match kind.parse(text) {
            Ok(value) => Ok(Argument { name, value }),
            Err(error) => Err(ArgumentError::Value { name, error }),
        }
    });
    arguments.collect()
}

/// Splits KEY=VALUE if the key could be the name of a parameter. Other words are bare values.
pub fn key_value(word: &str) -> Option<(&str, &str)> {
    let (key, value) = word.split_once('=')?;
    is_name(key).then_some((key, value))
}

/// Returns true if a text could be the name of a parameter: an ASCII letter, then ASCII letters, digits,
/// `-` and `_`.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn names(parameters: &[Parameter]) -> Vec<String> {
    parameters.iter().map(|parameter| parameter.name.clone()).collect()
}

/// The error for words that are not arguments of the parameters.
///
/// Its `Display` output calls the owner of the parameters "it"; [`ArgumentError::of`] takes the
/// owner's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArgumentError {
    /// A key is not the name of a parameter.
    UnknownParameter {
        /// The key.
        name: String,
        /// The parameter that was probably meant.
        nearest: Option<String>,
        /// The names of all parameters.
        known: Vec<String>,
    },
    /// A word is not KEY=VALUE, and no parameter takes bare values.
    NoBareParameter {
        /// The word.
        word: String,
        /// The names of all parameters.
        known: Vec<String>,
    },
    /// A parameter that is not repeatable has two values.
    GivenTwice {
        /// The parameter.
        name: String,
        /// The text of its first value.
        first: String,
        /// The text of its second value.
        second: String,
        /// True if the parameter takes bare values, so its name may be in none of the words.
        bare: bool,
    },
    /// A required parameter has no value.
    Missing {
        /// The parameter.
        name: String,
        /// The sentence that describes the parameter.
        summary: String,
        /// The description of its value.
        usage: String,
    },
    /// A value is not of the type of its parameter.
    Value {
        /// The parameter.
        name: String,
        /// What is wrong with the value.
        error: ValueError,
    },
}

impl ArgumentError {
    /// Returns the message with the name of the parameters' owner, such as `memory has no parameter
    /// "colour"; it has size`.
    pub fn of<'a>(&'a self, owner: &'a str) -> impl fmt::Display {
        Message { owner: Some(owner), error: self }
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Message { owner: None, error: self }.fmt(f)
    }
}

impl Error for ArgumentError {}

struct Message<'a> {
    owner: Option<&'a str>,
    error: &'a ArgumentError,
}

impl fmt::Display for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = self.owner.unwrap_or("it");
        match self.error {
            ArgumentError::UnknownParameter { name, nearest, known } => {
                write!(f, "{owner} has no parameter {}", Quoted(name))?;
                suggest(f, nearest.as_deref())?;
                write!(f, "; {}", Known(known))
            }
            ArgumentError::NoBareParameter { word, known } => write!(
                f,
                "{} is not KEY=VALUE, and {owner} has no parameter for bare values; {}",
                Quoted(word),
                Known(known)
            ),
            ArgumentError::GivenTwice { name, first, second, bare } => {
                let (first, second) = (Quoted(first), Quoted(second));
                write!(f, "parameter {name:?} is given twice, as {first} and as {second}")?;
                match bare {
                    true => write!(f, " (what is not KEY=VALUE is a value of {name:?})"),
                    false => f.write_str("; give it once"),
                }
            }
            ArgumentError::Missing { name, summary, usage } => {
                let summary = summary.trim_end_matches('.');
                write!(f, "{owner} needs the parameter {name:?}: {summary}; its value is {usage}")
            }
            ArgumentError::Value { name, error } => {
                self.owner.map_or(Ok(()), |owner| write!(f, "{owner}: "))?;
                write!(f, "{name}: {error}")
            }
        }
    }
}

/// The names of the parameters, in a message.
struct Known<'a>(&'a [String]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("it has no parameters"),
            names => write!(f, "it has {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::MAX_SIZE;
    use crate::parameters::{ParameterType, Value};

    fn parameter(name: &str, kind: ParameterType) -> Parameter {
        Parameter {
            name: name.into(),
            summary: format!("the {name}"),
            kind,
            required: false,
            repeatable: false,
            default: None,
        }
    }

    fn parameters() -> [Parameter; 3] {
        [
            Parameter { required: true, ..parameter("size", ParameterType::Size(0..=MAX_SIZE)) },
            parameter("mode", ParameterType::Text),
            Parameter { repeatable: true, ..parameter("delay", ParameterType::Duration) },
        ]
    }

    fn parse(words: &[&str]) -> Result<Vec<Argument>, ArgumentError> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        parse_arguments(&parameters(), Some("size"), false, &words)
    }

    fn argument(name: &str, value: Value) -> Argument {
        Argument { name: name.into(), value }
    }

    fn refusal(words: &[&str]) -> String {
        parse(words).unwrap_err().of("memory").to_string()
    }

    #[test]
    fn words_keep_their_order() {
        let arguments = parse(&["mode=x=y", "2G"]).unwrap();
        let expected =
            [argument("mode", Value::Text("x=y".into())), argument("size", Value::Size(2 << 30))];
        assert_eq!(arguments, expected);
    }

    #[test]
    fn repeatable_parameters_have_several_values() {
        let arguments = parse(&["delay=1", "size=1", "delay=1ns", "delay=1"]).unwrap();
        let delay = |nanoseconds| argument("delay", Value::Duration(nanoseconds));
        let expected = [
            delay(1_000_000_000),
            argument("size", Value::Size(1)),
            delay(1),
            delay(1_000_000_000),
        ];
        assert_eq!(arguments, expected);
    }

    #[test]
    fn devices_that_are_made_need_not_be_named() {
        let link = super::super::Link { writes: true, unshared: false, scratch: true };
        let parameters = [
            parameter("size", ParameterType::Text),
            parameter("overlay", ParameterType::Device(link)),
        ];
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            parse_arguments(&parameters, Some("size"), false, &words).unwrap()
        };
        let overlay = |name: &str| argument("overlay", Value::Device(name.into(), link));
        assert_eq!(parse(&["1"]), [argument("size", Value::Text("1".into())), overlay("")]);
        assert_eq!(parse(&["overlay="]), [overlay("")]);
        assert!(parse(&[])[0].value.is_scratch());
        assert_eq!(parse(&["overlay=a"]), [overlay("a")]);
        assert!(!parse(&["overlay=a"])[0].value.is_scratch());
    }

    #[test]
    fn words_without_a_possible_name_are_bare_values() {
        let text = [parameter("file", ParameterType::Text)];
        for word in [
            "", "x", "=", "=x", "/a=b", "_x=1", "1a=2", "-a=1", "a b=1", "a.b=1", "\u{e4}=1",
            "a\n=1",
        ] {
            let arguments = parse_arguments(&text, Some("file"), false, &[word.to_owned()]);
            assert_eq!(arguments, Ok(vec![argument("file", Value::Text(word.into()))]), "{word:?}");
        }
        for (word, value) in [("file=", ""), ("file==", "="), ("file= x", " x")] {
            let arguments = parse_arguments(&text, Some("file"), false, &[word.to_owned()]);
            assert_eq!(
                arguments,
                Ok(vec![argument("file", Value::Text(value.into()))]),
                "{word:?}"
            );
        }
        let odd = [parameter("a-b_9", ParameterType::Text)];
        let arguments = parse_arguments(&odd, None, false, &["a-b_9=/x/y=z".into()]);
        assert_eq!(arguments, Ok(vec![argument("a-b_9", Value::Text("/x/y=z".into()))]));
    }

    #[test]
    fn other_parameters_are_texts() {
        let parse = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            parse_arguments(&parameters(), Some("size"), true, &words)
        };
        let expected = [argument("x", Value::Text("0x1".into())), argument("size", Value::Size(2))];
        assert_eq!(parse(&["x=0x1", "2"]).unwrap(), expected);
        assert!(matches!(parse(&["2", "x=1", "x=2"]), Err(ArgumentError::GivenTwice { .. })));
    }

    #[test]
    fn no_words_are_no_arguments() {
        assert_eq!(parse_arguments(&[], None, false, &[]), Ok(vec![]));
        assert_eq!(parse_arguments(&parameters()[1..], None, false, &[]), Ok(vec![]));
    }

    #[test]
    fn unknown_parameters_are_refused_with_the_known_ones() {
        for (word, said) in [
            ("colour=red", r#"memory has no parameter "colour"; it has size, mode, delay"#),
            (
                "siez=1",
                "memory has no parameter \"siez\" (did you mean \"size\"?); it has size, mode, \
                 delay",
            ),
            (
                "Size=1",
                "memory has no parameter \"Size\" (did you mean \"size\"?); it has size, mode, \
                 delay",
            ),
        ] {
            assert_eq!(refusal(&["1", word]), said);
        }
        let error = parse_arguments(&[], None, false, &["x=1".into()]).unwrap_err();
        assert_eq!(error.to_string(), r#"it has no parameter "x"; it has no parameters"#);
        let error = parse(&[&format!("{}=1", "x".repeat(1 << 20))]).unwrap_err();
        assert_eq!(
            error.of("memory").to_string(),
            format!("memory has no parameter \"{}\"...; it has size, mode, delay", "x".repeat(60))
        );
    }

    #[test]
    fn bare_values_need_a_parameter() {
        let error = parse_arguments(&parameters(), None, false, &["2\u{7}".into()]).unwrap_err();
        assert_eq!(
            error.of("memory").to_string(),
            "\"2\\u{7}\" is not KEY=VALUE, and memory has no parameter for bare values; it has \
             size, mode, delay"
        );
    }

    #[test]
    fn parameters_are_given_once() {
        let twice = "parameter \"size\" is given twice, as \"1\" and as \"2\" (what is not \
                     KEY=VALUE is a value of \"size\")";
        for words in [["size=1", "size=2"], ["1", "size=2"], ["size=1", "2"], ["1", "2"]] {
            assert_eq!(refusal(&words), twice);
        }
        assert_eq!(
            refusal(&["mode=a", "mode=a"]),
            r#"parameter "mode" is given twice, as "a" and as "a"; give it once"#
        );
    }

    #[test]
    fn missing_parameter_is_refused_with_its_meaning() {
        let said = "memory needs the parameter \"size\": the size; its value is SIZE";
        assert_eq!(refusal(&[]), said);
        assert_eq!(refusal(&["mode=x"]), said);
        // Words that are no arguments come first, wrong values last.
        assert_eq!(refusal(&["delay=x"]), said);
        assert!(refusal(&["delay=x", "colour=x"]).contains("colour"));
    }

    #[test]
    fn wrong_values_are_refused_with_the_parameter() {
        for (words, said) in [
            (["size=2X"], r#"size: "2X" has an unknown suffix; known are b k m g t p e s"#),
            (["2X"], r#"size: "2X" has an unknown suffix; known are b k m g t p e s"#),
            (["size="], r#"size: "" is empty; give a number of bytes, or one like 512M or 2G"#),
        ] {
            assert_eq!(refusal(&words), format!("memory: {said}"));
            assert_eq!(parse(&words).unwrap_err().to_string(), said);
        }
    }
}
