//! The syntax tree of an expression, and the texts it was made of.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::{Error, Reason};
use super::inputs::Input;

/// A place in the expression or in a variable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The index in [`Sources`].
    pub(super) source: u32,
    /// The offset in bytes.
    pub(super) offset: u32,
}

impl Place {
    pub(super) fn failure(self, reason: impl Into<Reason>) -> Failure {
        Failure { place: self, reason: reason.into() }
    }
}

/// What is wrong, and where.
pub(super) struct Failure {
    place: Place,
    reason: Reason,
}

/// An element of a list.
#[derive(Debug)]
pub(super) enum Element {
    Move(Place, Move),
    Term(Term),
}

/// A motion of the cursor.
#[derive(Clone, Copy, Debug)]
pub(super) enum Move {
    To(u64),
    Forward(u64),
    Back(u64),
    Align(u64),
}

/// Data with the operators that are applied to it, from left to right.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) place: Place,
    pub(super) primary: Primary,
    pub(super) operators: Vec<Operator>,
}

/// Data.
#[derive(Debug)]
pub(super) enum Primary {
    Bytes(Vec<u8>),
    List(Vec<Element>),
    Name(String),
    Input(Input),
}

/// An operator and its place.
#[derive(Debug)]
pub(super) struct Operator {
    pub(super) place: Place,
    pub(super) operation: Operation,
}

/// What is done to the data to the left.
#[derive(Debug)]
pub(super) enum Operation {
    Repeat(u64),
    Slice(u64, Option<u64>),
    Assign(String),
}

/// The expression and the variables that it uses.
#[derive(Default)]
pub(super) struct Sources(Vec<Source>);

struct Source {
    variable: Option<String>,
    text: Arc<str>,
}

impl Sources {
    /// Adds a text, unless the variable was added before. Returns its index and the text.
    pub(super) fn add(&mut self, variable: Option<&str>, text: &str) -> (u32, Arc<str>) {
        let known = self.0.iter().position(|source| source.variable.as_deref() == variable);
        let index = known.unwrap_or(self.0.len());
        if index == self.0.len() {
            self.0.push(Source { variable: variable.map(ToString::to_string), text: text.into() });
        }
        (index as u32, self.0[index].text.clone())
    }

    /// Makes an error of a failure.
    pub(super) fn error(&self, Failure { place, reason }: Failure) -> Error {
        let source = &self.0[place.source as usize];
        Error::new(source.variable.clone(), &source.text, place.offset as usize, reason)
    }
}
