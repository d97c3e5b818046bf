//! The error of an expression: the place, what is wrong, and what would be right.

use alloc::string::{String, ToString};
use core::fmt;

use super::inputs::Source;
use super::{MAX_DEPTH, MAX_FILE_BYTES, MAX_INPUTS, MAX_NESTING, MAX_PIECES, MAX_STEPS, MAX_TEXT};
use crate::MAX_SIZE;
use crate::builder::Excess;

/// The most characters that an error quotes.
const MAX_EXCERPT: usize = 24;

/// An expression is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The variable that contains the error, if it is not in the expression itself.
    pub variable: Option<String>,
    /// The line, from 1 on.
    pub line: usize,
    /// The column in characters, from 1 on.
    pub column: usize,
    /// The offset in bytes.
    pub offset: usize,
    /// The beginning of the text at this place, at most to the end of the line. It is empty at the
    /// end of the text.
    pub excerpt: String,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with an expression. The `Display` output also says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The character begins no element.
    Unexpected(char),
    /// A word begins with `l` or `b`, and is no integer.
    UnknownWord,
    /// A script has no end.
    OpenScript,
    /// More than [`MAX_INPUTS`].
    Inputs,
    /// A byte is larger than 255.
    Byte,
    /// An integer is followed by this character, which is no digit of its radix.
    WordEnd(char),
    /// No number follows the operator.
    NoNumber(&'static str),
    /// A negative number follows the operator.
    Negative(&'static str),
    /// A number is larger than this one.
    LargeNumber(u64),
    /// No digit follows `0x`.
    NoHexDigit,
    /// `@^0`.
    ZeroAlignment,
    /// A string has no end.
    OpenString,
    /// Not exactly two digits follow `\x` in a string.
    HexEscape,
    /// An escape of C that strings do not have.
    Escape(char),
    /// `[N:M]` is not of that form.
    Slice,
    /// A slice from the first number to before the second one, which is smaller.
    SliceOrder(u64, u64),
    /// No name follows `<`.
    NoFileName,
    /// No name follows `\` or `->`.
    NoName(&'static str),
    /// No `>` follows `-`.
    Dash,
    /// No name follows `$`.
    NoVariable,
    /// A parenthesis has no end.
    OpenParenthesis,
    /// A parenthesis has no beginning.
    CloseParenthesis,
    /// Nothing is to the left of the operator.
    NoOperand(&'static str),
    /// The motion of the cursor to the left of the operator is no data.
    MoveOperand(&'static str),
    /// The variable is not set.
    UnsetVariable(String),
    /// More than [`MAX_TEXT`].
    LongText,
    /// More than [`MAX_NESTING`].
    Nesting,
    /// The name is not defined.
    UndefinedName(String),
    /// The cursor is moved back by the first number from the offset that is the second.
    BeforeStart(u64, u64),
    /// A slice from the first number to before the second one, of data whose size is the third.
    SliceRange(u64, u64, u64),
    /// More than [`MAX_SIZE`].
    Size,
    /// More than [`MAX_PIECES`].
    Pieces,
    /// More than [`MAX_STEPS`].
    Steps,
    /// More than [`MAX_DEPTH`].
    Depth,
    /// The file cannot be read, or there is no output of the script.
    Input(Source, FileError),
    /// More than [`MAX_FILE_BYTES`].
    FileBytes,
}

impl Error {
    pub(super) fn new(variable: Option<String>, text: &str, offset: usize, reason: Reason) -> Self {
        let (before, after) = text.split_at(offset);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let excerpt = after.lines().next().unwrap_or_default();
        let end = excerpt.char_indices().nth(MAX_EXCERPT).map_or(excerpt.len(), |(end, _)| end);
        Self {
            variable,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            offset,
            excerpt: excerpt[..end].to_string(),
            reason,
        }
    }
}

/// The reason why a file cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileError {
    /// There are no files, whatever their names.
    NoFiles,
    /// There is no file of that name.
    NotFound,
    /// The file has more bytes than may be read.
    TooLong,
    /// There is not enough memory for the bytes.
    NoMemory,
    /// Reading the file failed.
    Failed,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoFiles => {
                "the disk was given none for it; add input-file=PATH for each <FILE, in their order"
            }
            Self::NotFound => "there is no such file",
            Self::TooLong => "it is too long",
            Self::NoMemory => "the memory limit of the disk leaves too little room for it",
            Self::Failed => "reading failed",
        })
    }
}

impl core::error::Error for FileError {}

impl From<Excess> for Reason {
    fn from(excess: Excess) -> Self {
        match excess {
            Excess::Size => Self::Size,
            Excess::Pieces => Self::Pieces,
            Excess::Steps => Self::Steps,
            Excess::Depth => Self::Depth,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variable, line, column, offset: _, excerpt, reason } = self;
        if let Some(name) = variable {
            write!(f, "in ${name}, ")?;
        }
        write!(f, "line {line}, column {column}")?;
        if !excerpt.is_empty() {
            write!(f, ", at {excerpt:?}")?;
        }
        write!(f, ": {reason}")
    }
}

impl core::error::Error for Error {}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unexpected('>') => f.write_str(
                "no element begins with '>'; write a space before ->, as names may contain -",
            ),
            Self::Unexpected(found) => write!(
                f,
                "no element begins with {found:?}; write bytes like 0x55, integers like le32:1, \
                 strings in double quotes, or offsets like @512 (numbers have no suffixes: write \
                 1024, not 1K)"
            ),
            Self::UnknownWord => f.write_str(
                "unknown word; integers are le16:N le32:N le64:N be16:N be32:N be64:N, without a \
                 space before N (base64 is a parameter of its own: base64=...)",
            ),
            Self::OpenScript => f.write_str(
                "the script has no end; parentheses within <(SCRIPT) must be in matching pairs",
            ),
            Self::Inputs => write!(
                f,
                "more than {MAX_INPUTS} files and scripts are read; name the data to use it again: \
                 <FILE -> \\name"
            ),
            Self::Byte => f.write_str(
                "the number does not fit in a byte, whose range is 0 to 255; write larger numbers \
                 as integers, like le16:256",
            ),
            Self::WordEnd(found) => write!(
                f,
                "{found:?} follows the digits of an integer; numbers are decimal, octal after 0, \
                 or hexadecimal after 0x"
            ),
            Self::NoNumber(operator) => {
                write!(f, "no number follows {operator}; write {operator}16 or {operator}0x10")
            }
            Self::Negative(operator) => {
                write!(f, "the number after {operator} is negative; the smallest is 0")
            }
            Self::LargeNumber(largest) => {
                write!(f, "the number is too large; the largest is {largest}")
            }
            Self::NoHexDigit => {
                f.write_str("no hexadecimal digit follows 0x; write 0x0, or 0 for zero")
            }
            Self::ZeroAlignment => f.write_str("no offset is a multiple of 0; write @^1 or larger"),
            Self::OpenString => {
                f.write_str("the string has no end; add a double quote (within strings: \\\")")
            }
            Self::HexEscape => {
                f.write_str("\\x is not followed by exactly two hexadecimal digits; write \\x0f")
            }
            Self::Escape(found) => write!(
                f,
                "strings have no escape \\{found}; write bytes in hexadecimal, like \\x00, and \
                 other characters as they are"
            ),
            Self::Slice => f.write_str(
                "not a slice; write [N:M] for the bytes from offset N to before M, where both may \
                 be left out: [N:] [:M] [:]",
            ),
            Self::SliceOrder(start, end) => {
                write!(f, "[{start}:{end}] ends before it begins; [N:M] needs N <= M")
            }
            Self::NoFileName => f.write_str("no file name follows <; write <FILE, without a space"),
            Self::NoName(after) => write!(
                f,
                "no name follows {after}; write a backslash, then letters, digits, - or _, like \
                 {}",
                if *after == "->" { "-> \\name" } else { "\\name" }
            ),
            Self::Dash => f.write_str(
                "- begins only ->, which names an element: E -> \\name; to move back write @-N",
            ),
            Self::NoVariable => f.write_str(
                "no name follows $; write a letter or _, then letters, digits or _, like $var",
            ),
            Self::OpenParenthesis => f.write_str("the parenthesis has no end; add a )"),
            Self::CloseParenthesis => {
                f.write_str("the parenthesis has no beginning; add a ( or remove it")
            }
            Self::NoOperand(operator) => {
                let example = example(operator);
                write!(f, "{operator} has nothing to apply to; it follows data, like {example}")
            }
            Self::MoveOperand(operator) => write!(
                f,
                "{operator} does not apply to an offset; put it and data in parentheses, like \
                 (@512 0x55){}",
                example(operator).trim_start_matches("0x55")
            ),
            Self::UnsetVariable(name) => {
                write!(f, "${name} is not set; add a parameter like {name}='0x55 0xaa'")
            }
            Self::LongText => write!(
                f,
                "the text with its variables is longer than {MAX_TEXT} bytes; shorten it with \
                 repeats like (0x55 0xaa)*256 or names"
            ),
            Self::Nesting => write!(
                f,
                "parentheses and variables are nested more than {MAX_NESTING} deep; does a \
                 variable contain itself?"
            ),
            Self::UndefinedName(name) => write!(
                f,
                "\\{name} is not defined here; define it before, in the same or an outer \
                 parenthesis: E -> \\{name}"
            ),
            Self::BeforeStart(count, offset) => write!(
                f,
                "@-{count} goes back beyond the start, as the offset is {offset} here; offsets in \
                 parentheses and variables begin at 0"
            ),
            Self::SliceRange(start, end, size) => write!(
                f,
                "[{start}:{end}] is out of range, as the data has {size} bytes; [N:M] needs \
                 N <= M <= {size}"
            ),
            Self::Size => {
                write!(f, "the data ends beyond the largest size, {MAX_SIZE} (2^63-1) bytes")
            }
            Self::Pieces => write!(
                f,
                "the data has more than {MAX_PIECES} pieces; write it as strings, or in base64"
            ),
            Self::Steps => write!(
                f,
                "the expression needs more than {MAX_STEPS} steps; avoid slices of large data and \
                 writing over it"
            ),
            Self::Depth => write!(
                f,
                "data contains data more than {MAX_DEPTH} levels deep; use fewer names and repeats \
                 that consist of other ones"
            ),
            Self::Input(Source::File(name), error) => {
                write!(f, "cannot read the file {name:?}: {error}")
            }
            Self::Input(Source::Script(_), error) => {
                write!(f, "cannot read the output of the script: {error}")
            }
            Self::FileBytes => {
                write!(f, "the files have more than {MAX_FILE_BYTES} bytes; slice them: <FILE[:M]")
            }
        }
    }
}

/// Returns a right use of an operator.
fn example(operator: &str) -> &'static str {
    match operator {
        "*" => "0x55*16",
        "[" => "0x55[0:1]",
        _ => "0x55 -> \\name",
    }
}
