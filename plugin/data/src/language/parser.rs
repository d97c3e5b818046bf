//! Parses tokens into a syntax tree: applies operators, nests parentheses, and expands variables.

use alloc::string::String;
use alloc::vec::Vec;

use super::error::Reason;
use super::inputs::Input;
use super::lexer::{Lexer, Token, TokenKind};
use super::syntax::{Element, Failure, Operation, Operator, Place, Primary, Sources, Term};
use super::{MAX_INPUTS, MAX_NESTING, MAX_TEXT};

/// Parses an expression. Adds its text and those of its variables to `sources`.
pub(super) fn parse(
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
    sources: &mut Sources,
) -> Result<Vec<Element>, Failure> {
    let mut parser = Parser { variables, sources, remaining: MAX_TEXT, nesting: 0, inputs: 0 };
    let mut lexer = Lexer::new(parser.sources.add(None, text));
    parser.count(text, Place { source: 0, offset: 0 })?;
    parser.list(&mut lexer, None)
}

struct Parser<'a> {
    variables: &'a dyn Fn(&str) -> Option<String>,
    sources: &'a mut Sources,
    /// How many bytes of text may follow.
    remaining: usize,
    nesting: usize,
    /// How many files and scripts there were so far.
    inputs: usize,
}

impl Parser<'_> {
    /// Parses a list. It begins after an opening parenthesis and ends with the closing one, or is a
    /// whole text.
    fn list(
        &mut self,
        lexer: &mut Lexer,
        parenthesis: Option<Place>,
    ) -> Result<Vec<Element>, Failure> {
        let mut list = List::default();
        while let Some(Token { place, kind }) = lexer.next()? {
            let primary = match kind {
                TokenKind::Byte(byte) => {
                    list.push_bytes(place, &[byte]);
                    continue;
                }
                TokenKind::Bytes(bytes) => {
                    list.push_bytes(place, &bytes);
                    continue;
                }
                TokenKind::Move(by) => {
                    list.elements.push(Element::Move(place, by));
                    continue;
                }
                TokenKind::Operation(operation) => {
                    list.apply(place, operation)?;
                    continue;
                }
                TokenKind::Close if parenthesis.is_some() => return Ok(list.elements),
                TokenKind::Close => return Err(place.failure(Reason::CloseParenthesis)),
                TokenKind::Open => self.nested(place, lexer, Some(place))?,
                TokenKind::Variable(name) => {
                    let mut lexer = self.expand(place, name)?;
                    self.nested(place, &mut lexer, None)?
                }
                TokenKind::Name(name) => Primary::Name(name),
                TokenKind::Input(source) => {
                    if self.inputs == MAX_INPUTS {
                        return Err(place.failure(Reason::Inputs));
                    }
                    let number = self.inputs;
                    self.inputs += 1;
                    Primary::Input(Input { number, source })
                }
            };
            list.elements.push(Element::Term(Term { place, primary, operators: Vec::new() }));
        }
        match parenthesis {
            Some(place) => Err(place.failure(Reason::OpenParenthesis)),
            None => Ok(list.elements),
        }
    }

    fn nested(
        &mut self,
        place: Place,
        lexer: &mut Lexer,
        parenthesis: Option<Place>,
    ) -> Result<Primary, Failure> {
        if self.nesting == MAX_NESTING {
            return Err(place.failure(Reason::Nesting));
        }
        self.nesting += 1;
        let elements = self.list(lexer, parenthesis)?;
        self.nesting -= 1;
        Ok(Primary::List(elements))
    }

    fn expand(&mut self, place: Place, name: String) -> Result<Lexer, Failure> {
        let Some(text) = (self.variables)(&name) else {
            return Err(place.failure(Reason::UnsetVariable(name)));
        };
        self.count(&text, place)?;
        Ok(Lexer::new(self.sources.add(Some(&name), &text)))
    }

    fn count(&mut self, text: &str, place: Place) -> Result<(), Failure> {
        let remaining = self.remaining.checked_sub(text.len());
        self.remaining = remaining.ok_or_else(|| place.failure(Reason::LongText))?;
        Ok(())
    }
}

/// A list that is being parsed.
#[derive(Default)]
struct List {
    elements: Vec<Element>,
    /// The place and the length of the last number or string. Adjacent ones become one term, but an
    /// operator applies to the last one only.
    last: Option<(Place, usize)>,
}

impl List {
    fn push_bytes(&mut self, place: Place, bytes: &[u8]) {
        self.last = Some((place, bytes.len()));
        if let Some(Element::Term(Term { primary: Primary::Bytes(list), operators, .. })) =
            self.elements.last_mut()
            && operators.is_empty()
        {
            list.extend_from_slice(bytes);
            return;
        }
        let primary = Primary::Bytes(bytes.to_vec());
        self.elements.push(Element::Term(Term { place, primary, operators: Vec::new() }));
    }

    /// Applies an operator to the last element.
    fn apply(&mut self, place: Place, operation: Operation) -> Result<(), Failure> {
        self.separate_last_bytes();
        match self.elements.last_mut() {
            None => Err(place.failure(Reason::NoOperand(symbol(&operation)))),
            Some(Element::Move(..)) => Err(place.failure(Reason::MoveOperand(symbol(&operation)))),
            Some(Element::Term(term)) => {
                term.operators.push(Operator { place, operation });
                Ok(())
            }
        }
    }

    fn separate_last_bytes(&mut self) {
        if let Some(Element::Term(Term { primary: Primary::Bytes(list), operators, .. })) =
            self.elements.last_mut()
            && operators.is_empty()
            && let Some((place, length)) = self.last
            && length < list.len()
        {
            let primary = Primary::Bytes(list.split_off(list.len() - length));
            self.elements.push(Element::Term(Term { place, primary, operators: Vec::new() }));
        }
    }
}

fn symbol(operation: &Operation) -> &'static str {
    match operation {
        Operation::Repeat(_) => "*",
        Operation::Slice(..) => "[",
        Operation::Assign(_) => "->",
    }
}
