//! The language of nbdkit's data plugin: expressions that describe the content of a disk.
//!
//! An expression is a list of elements, which write at a cursor and move it:
//!
//! | Element | Effect |
//! |---|---|
//! | `0 017 0xff` | writes a byte: decimal, octal, hexadecimal |
//! | `le16:N le32:N le64:N be16:N be32:N be64:N` | writes an integer |
//! | `"text\n\x00"` | writes a string; the escapes are `\a \b \f \n \r \t \v \\ \" \xNN` |
//! | `@N @+N @-N` | moves the cursor to an offset, forward, or back |
//! | `@^N` | moves the cursor forward to a multiple of `N` |
//! | `( ... )` | writes an image of its own, whose offsets and names are its own |
//! | `<FILE` | writes the content of a file |
//! | `<(SCRIPT)` | writes the output of a shell script |
//! | `$VAR` | writes the expression in a variable, as if it was in parentheses |
//! | `\NAME` | writes the image with that name |
//! | `E -> \NAME` | writes nothing, and names the image of the element before it |
//! | `E*N` | writes the element before it `N` times |
//! | `E[N:M]` | writes the bytes from offset `N` to before `M` of the element before it |
//! | `# ...` | comment, to the end of the line |
//!
//! The size of the image is the largest offset that the cursor reached, also if nothing is written
//! there. An element replaces what was there before, holes included.
//!
//! # Differences from nbdkit
//!
//! As in nbdkit, a number ends at the first character that is no digit of its radix, so `08` is two
//! bytes, 0 and 8. In contrast to nbdkit:
//!
//! - Files, scripts and the environment are up to the caller, see [`Files`] and [`inputs()`].
//! - Numbers out of range are refused rather than reduced to their low bits. `0x` without a digit
//!   and `[N:-1]` are refused, too.
//! - Everything is evaluated, once. Errors are found also in names that are never used, and before
//!   `*0` and `[N:N]`.
//! - `@^N` takes any multiple, not only powers of two; spaces may surround the numbers of `[N:M]`;
//!   and an integer like `le16:1` ends at the last digit, so that `(le16:1)` and `le16:1*3` work.
//! - The limits below apply.

mod error;
mod evaluator;
mod inputs;
mod lexer;
mod parser;
mod syntax;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;

pub use error::{Error, FileError, Reason};
pub use inputs::{Input, InputUse, Source, inputs};

use crate::image::Image;

/// The longest text in bytes, with variables counted each time they are used. A byte of text takes
/// up to 80 bytes of memory. Linux limits a command-line argument to 128 KiB.
pub const MAX_TEXT: usize = 1 << 20;

/// The deepest nesting of parentheses and variables. The parser and the evaluator recurse, and a
/// component's stack has 1 MiB.
pub const MAX_NESTING: usize = 100;

/// The deepest nesting of images that are shared, by names and repeats that are too large to copy.
/// Reads recurse this deep.
pub const MAX_DEPTH: u32 = 64;

/// The largest number of pieces written, which take 56 bytes each.
pub const MAX_PIECES: u64 = 1 << 18;

/// The largest number of steps to search images when they are cut. A step takes some nanoseconds.
pub const MAX_STEPS: u64 = 1 << 25;

/// The largest total of bytes read from files. They are kept in memory.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// The most files and scripts that an expression reads. One that is used under a name counts once.
pub const MAX_INPUTS: usize = 256;

/// Evaluates an expression.
///
/// `variables` returns the value of a `$VAR`, which is an expression, too.
///
/// # Errors
///
/// Returns an error that says where the text is wrong, why, and what would be right.
pub fn evaluate(
    text: &str,
    variables: &dyn Fn(&str) -> Option<String>,
    files: &mut dyn Files,
) -> Result<Image, Error> {
    let mut sources = syntax::Sources::default();
    parser::parse(text, variables, &mut sources)
        .and_then(|elements| evaluator::evaluate(&elements, files))
        .map_err(|failure| sources.error(failure))
}

/// The files that `<FILE` reads, and the output of scripts.
pub trait Files {
    /// Reads the bytes of an input from `start` to before `end`, or to its end. Returns fewer if it
    /// ends before.
    ///
    /// May stop after more than `limit` bytes, which the evaluator refuses, or return
    /// [`FileError::TooLong`].
    ///
    /// # Errors
    ///
    /// Returns the reason if the file cannot be read.
    fn read(
        &mut self,
        input: &Input,
        start: u64,
        end: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u8>, FileError>;
}

/// Refuses to read files.
pub struct NoFiles;

impl Files for NoFiles {
    fn read(&mut self, _: &Input, _: u64, _: Option<u64>, _: usize) -> Result<Vec<u8>, FileError> {
        Err(FileError::NoFiles)
    }
}
