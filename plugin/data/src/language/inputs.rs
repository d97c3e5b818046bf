//! The files and scripts that an expression reads.

use alloc::string::String;
use alloc::vec::Vec;

use super::error::Error;
use super::parser;
use super::syntax::{Element, Operation, Operator, Primary, Sources, Term};

/// A file or script in an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Its number among the inputs of the expression, in the order of the text, with variables
    /// where they are used. The first is 0.
    pub number: usize,
    /// Where the bytes come from.
    pub source: Source,
}

/// Where the bytes of an input come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// From the file of this name.
    File(String),
    /// From the output of this shell script.
    Script(String),
}

/// An input, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputUse {
    /// The input.
    pub input: Input,
    /// The end of the slice that is used, or `None` if all of it is.
    pub end: Option<u64>,
}

/// Returns the inputs of an expression, by their numbers. [`evaluate`](super::evaluate) reads each
/// of them once.
///
/// # Errors
///
/// Returns an error if the expression cannot be parsed.
pub fn inputs(
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<InputUse>, Error> {
    let mut sources = Sources::default();
    let elements = parser::parse(text, variables, &mut sources);
    let elements = elements.map_err(|failure| sources.error(failure))?;
    let mut list = Vec::new();
    collect(&elements, &mut list);
    Ok(list)
}

fn collect(elements: &[Element], list: &mut Vec<InputUse>) {
    for element in elements {
        let Element::Term(Term { primary, operators, .. }) = element else { continue };
        if let Some(input) = input_of(primary) {
            let end = match operators.first() {
                Some(Operator { operation: Operation::Slice(_, end), .. }) => *end,
                _ => None,
            };
            list.push(InputUse { input: input.clone(), end });
        } else if let Primary::List(elements) = primary {
            collect(elements, list);
        }
    }
}

/// Returns the input that is all of the data. Only its slice is read then.
pub(super) fn input_of(primary: &Primary) -> Option<&Input> {
    match primary {
        Primary::Input(input) => Some(input),
        Primary::List(elements) => match &elements[..] {
            [Element::Term(term)] if term.operators.is_empty() => input_of(&term.primary),
            _ => None,
        },
        Primary::Bytes(_) | Primary::Name(_) => None,
    }
}
