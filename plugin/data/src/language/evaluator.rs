//! Evaluates a syntax tree into an image.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::error::{FileError, Reason};
use super::inputs::{Input, input_of};
use super::syntax::{Element, Failure, Move, Operation, Operator, Place, Primary, Term};
use super::{Files, MAX_FILE_BYTES};
use crate::builder::{Budget, Builder, repeat, slice};
use crate::image::Image;

/// Evaluates an expression.
pub(super) fn evaluate(elements: &[Element], files: &mut dyn Files) -> Result<Image, Failure> {
    let names = Names { images: BTreeMap::new(), log: Vec::new() };
    let budget = Budget::new();
    Evaluator { files, names, budget: &budget, file_bytes: MAX_FILE_BYTES }.list(elements)
}

/// The names that are in scope.
struct Names<'a> {
    images: BTreeMap<&'a str, Arc<Image>>,
    /// The names that were defined, in this order, each with the image that it had before.
    log: Vec<(&'a str, Option<Arc<Image>>)>,
}

impl<'a> Names<'a> {
    fn define(&mut self, name: &'a str, image: Arc<Image>) {
        let before = self.images.insert(name, image);
        self.log.push((name, before));
    }

    /// Ends the scopes that began after `log` had this length.
    fn restore(&mut self, length: usize) {
        for (name, before) in self.log.drain(length..).rev() {
            match before {
                Some(image) => self.images.insert(name, image),
                None => self.images.remove(name),
            };
        }
    }
}

struct Evaluator<'a, 'b> {
    files: &'b mut dyn Files,
    names: Names<'a>,
    budget: &'b Budget,
    /// How many bytes may be read from files.
    file_bytes: usize,
}

impl<'a> Evaluator<'a, '_> {
    fn list(&mut self, elements: &'a [Element]) -> Result<Image, Failure> {
        let scope = self.names.log.len();
        let mut builder = Builder::new(self.budget);
        let mut last = Place { source: 0, offset: 0 };
        for element in elements {
            let result = match element {
                Element::Move(place, by) => {
                    last = *place;
                    let offset =
                        target(builder.cursor(), *by).map_err(|reason| last.failure(reason))?;
                    builder.move_to(offset)
                }
                Element::Term(term) => {
                    last = term.place;
                    match &term.primary {
                        Primary::Bytes(bytes) if term.operators.is_empty() => builder.write(bytes),
                        _ => builder.place(&self.term(term)?),
                    }
                }
            };
            result.map_err(|excess| last.failure(excess))?;
        }
        self.names.restore(scope);
        builder.finish().map_err(|excess| last.failure(excess))
    }

    /// Evaluates data with its operators.
    fn term(&mut self, term: &'a Term) -> Result<Arc<Image>, Failure> {
        let (mut image, operators) = self.primary(term)?;
        for (index, Operator { place, operation }) in operators.iter().enumerate() {
            image = match operation {
                Operation::Repeat(count) => {
                    repeat(&image, *count).map_err(|excess| place.failure(excess))?
                }
                Operation::Slice(start, Some(end)) if start == end => Arc::default(),
                Operation::Slice(start, end) => {
                    let size = image.size();
                    let end = end.unwrap_or(size);
                    if *start > end || end > size {
                        return Err(place.failure(Reason::SliceRange(*start, end, size)));
                    }
                    slice(&image, *start..end, self.budget)
                        .map_err(|excess| place.failure(excess))?
                }
                Operation::Assign(name) => {
                    // An operator after an assignment begins a scope that ends with the term.
                    if index + 1 == operators.len() {
                        self.names.define(name, image);
                    }
                    Arc::default()
                }
            };
        }
        Ok(image)
    }

    /// Evaluates data. Returns the operators that remain to be applied.
    fn primary(&mut self, term: &'a Term) -> Result<(Arc<Image>, &'a [Operator]), Failure> {
        let Term { place, primary, operators } = term;
        // Only the slice of a file is read, as the file may be endless.
        if let Some(input) = input_of(primary)
            && let [Operator { operation: Operation::Slice(start, end), .. }, rest @ ..] =
                &operators[..]
        {
            return Ok((self.file(*place, input, *start, *end)?, rest));
        }
        let image = match primary {
            Primary::Bytes(bytes) => Arc::new(Image::of_bytes(bytes)),
            Primary::List(elements) => Arc::new(self.list(elements)?),
            Primary::Name(name) => {
                let image = self.names.images.get(name.as_str()).cloned();
                image.ok_or_else(|| place.failure(Reason::UndefinedName(name.clone())))?
            }
            Primary::Input(input) => self.file(*place, input, 0, None)?,
        };
        Ok((image, operators))
    }

    fn file(
        &mut self,
        place: Place,
        input: &Input,
        start: u64,
        end: Option<u64>,
    ) -> Result<Arc<Image>, Failure> {
        let bytes = self.files.read(input, start, end, self.file_bytes);
        let bytes = bytes.map_err(|error| match error {
            FileError::TooLong => place.failure(Reason::FileBytes),
            error => place.failure(Reason::Input(input.source.clone(), error)),
        })?;
        let remaining = self.file_bytes.checked_sub(bytes.len());
        self.file_bytes = remaining.ok_or_else(|| place.failure(Reason::FileBytes))?;
        Ok(Arc::new(Image::of_bytes(&bytes)))
    }
}

/// Returns the offset after a motion of the cursor.
fn target(cursor: u64, by: Move) -> Result<u64, Reason> {
    match by {
        Move::To(offset) => Some(offset),
        Move::Forward(count) => cursor.checked_add(count),
        Move::Align(alignment) => cursor.checked_next_multiple_of(alignment),
        Move::Back(count) => {
            return cursor.checked_sub(count).ok_or(Reason::BeforeStart(count, cursor));
        }
    }
    .ok_or(Reason::Size)
}
