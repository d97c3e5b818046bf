//! Breaches of the contract, with messages that quote the rule and the offending values.

use std::fmt;
use std::time::Duration;

use super::contract::{
    MAX_CHUNKS, MAX_COMMANDS, MAX_CONTROL_TEXT, MAX_COPY, MAX_DELAY, MAX_EXTENTS, MAX_GRANULE,
    MAX_LISTED, MAX_LISTED_TEXT, MAX_MINIMUM_BLOCK, MAX_PARAMETERS, MAX_PARTS, MAX_REPEATS,
    MAX_TEXT, MIN_STRIPE, PREFERRED_BLOCKS,
};
use super::route::PlaceError;

/// How an answer broke the contract. The message contains the offending values and the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Breach {
    /// `read`: the chunks do not add up to the length asked for.
    ReadLength {
        /// The length asked for.
        wanted: u32,
        /// The length returned.
        got: u64,
    },
    /// `read`: more chunks than allowed.
    TooManyChunks(usize),
    /// `read`: a chunk of no bytes.
    EmptyChunk {
        /// The index of the chunk, counted from 0.
        index: usize,
    },
    /// `extents`: no extents, or more than allowed.
    ExtentCount(usize),
    /// `extents`: an extent of no bytes.
    EmptyExtent {
        /// The index of the extent, counted from 0.
        index: usize,
    },
    /// `extents`: an extent goes beyond the end of the disk.
    ExtentBeyondEnd {
        /// The index of the first extent that does, counted from 0.
        index: usize,
        /// Its length.
        length: u64,
        /// The number of bytes from its start to the end of the disk.
        rest: u64,
    },
    /// `extents`: an extent's length is not a multiple of the minimum block.
    ExtentUnaligned {
        /// The index of the extent, counted from 0.
        index: usize,
        /// Its length.
        length: u64,
        /// The minimum block size.
        minimum: u32,
    },
    /// `open`: a size over 2^63-1.
    Size(u64),
    /// `open`: the minimum, preferred or maximum size breaks the rules.
    BlockSizes {
        /// `minimum-block`.
        minimum: u32,
        /// `preferred-block`.
        preferred: u32,
        /// `maximum-transfer`.
        maximum: u32,
    },
    /// `stripe-size`: the stripe size breaks the rules.
    StripeSize(u64),
    /// `stripe-size`: stripes of this size on a disk that is interchangeable, too.
    StripesInterchangeable(u64),
    /// `page-size`: the page size breaks the rules.
    PageSize(u32),
    /// `page`: the list does not have the length of the page.
    PageLength {
        /// The expected length.
        wanted: u64,
        /// The length returned.
        got: usize,
    },
    /// `open`: not the same disk as the one that the first instance opened.
    AnotherDisk,
    /// `stripe-size`: stripes of this size on a disk that routes its requests.
    StripesRouted(u64),
    /// `commands`: there are too many.
    TooManyCommands(usize),
    /// `commands`: the texts together are too long.
    CommandTexts(usize),
    /// `commands`: a name breaks the rules.
    CommandName(String),
    /// `commands`: two have this name.
    CommandTwice(String),
    /// `commands`: a parameter is a device, a file, a secret or an output.
    CommandParameter {
        /// The name of the command.
        command: String,
        /// The name of the parameter.
        parameter: String,
    },
    /// `commands`: the disk has several instances.
    CommandsShared,
    /// It exports `events`, and the disk has several instances.
    EventsShared,
    /// `execute`: the answer is too long.
    CommandAnswer(usize),
    /// `exports`: there are too many.
    TooManyListed(usize),
    /// `exports`: the texts together are too long.
    ListedTexts(usize),
    /// `exports`: a name is too long, or has a NUL.
    ListedName(String),
    /// `exports`: two have this name.
    ListedTwice(String),
    /// `rules`: the length of a granule breaks the rules.
    Granule(u64),
    /// `route`: no segments, or more copies and segments than allowed.
    PartCount {
        /// The number of segments.
        segments: usize,
        /// The number of copies and segments.
        parts: usize,
    },
    /// `route` or `done`: too long a delay.
    Delay(Duration),
    /// `done`: the route is to be executed again too often.
    Repeats,
    /// `route`: a copy of no bytes, or too long a one.
    CopyLength {
        /// The index of the copy, counted from 0.
        index: usize,
        /// Its length.
        length: u64,
    },
    /// `route`: a segment of no bytes.
    EmptySegment {
        /// The index of the segment, counted from 0.
        index: usize,
    },
    /// `route`: the segments do not add up to the length of the request.
    RouteLength {
        /// The length of the request.
        wanted: u64,
        /// The length of the segments.
        got: u128,
    },
    /// `route` or `stable`: a place that cannot be used.
    Place {
        /// The kind of part.
        part: &'static str,
        /// The index of the part, counted from 0.
        index: usize,
        /// What is wrong with it.
        error: PlaceError,
    },
    /// `route`: two parts write to the same byte.
    TargetTwice {
        /// The kind of parts.
        parts: &'static str,
        /// The number of the lower device.
        device: usize,
        /// The offset on it at which the second one begins.
        offset: u64,
    },
    /// `stable`: a range of no bytes, or one that goes beyond the end of the disk.
    StableLength {
        /// The length of the range.
        length: u64,
        /// The number of bytes from its start to the end of the disk.
        left: u64,
    },
    /// `describe`: more parameters than allowed.
    TooManyParameters(usize),
    /// `describe`: the bare parameter, with this name, is not among the parameters.
    BareParameter(String),
    /// `describe`: this parameter name is empty, malformed or too long.
    ParameterName(String),
    /// `describe`: two parameters have this name.
    ParameterTwice(String),
    /// `describe`: an output is appended to if a parameter says so that is no boolean.
    AppendParameter {
        /// The name of the parameter.
        name: String,
        /// The name of the parameter that is no boolean.
        append: String,
    },
    /// `describe`: a choice without words, or with more than allowed.
    ChoiceCount {
        /// The name of the parameter.
        name: String,
        /// The number of words.
        count: usize,
    },
    /// `describe`: a range that nothing is in.
    EmptyRange {
        /// The name of the parameter.
        name: String,
        /// The least value.
        minimum: i128,
        /// The greatest value.
        maximum: i128,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadLength { wanted, got } => {
                write!(f, "{got} bytes where {wanted} were asked for")
            }
            Self::TooManyChunks(n) => write!(f, "{n} chunks; at most {MAX_CHUNKS} are allowed"),
            Self::EmptyChunk { index } => {
                write!(f, "chunk {index} (counted from 0) of no bytes; each has at least one")
            }
            Self::ExtentCount(n) => {
                write!(f, "{n} extents; there must be 1 to {MAX_EXTENTS}")
            }
            Self::EmptyExtent { index } => {
                write!(f, "extent {index} (counted from 0) of no bytes; each has at least one")
            }
            Self::ExtentBeyondEnd { index, length, rest } => write!(
                f,
                "extent {index} (counted from 0) of {length} bytes, which begins {rest} bytes \
                 before the end of the disk"
            ),
            Self::ExtentUnaligned { index, length, minimum } => write!(
                f,
                "extent {index} (counted from 0) of {length} bytes, not a multiple of the minimum \
                 block of {minimum}"
            ),
            Self::Size(size) => write!(f, "a size of {size} bytes, more than 2^63-1"),
            Self::BlockSizes { minimum, preferred, maximum } => write!(
                f,
                "minimum-block {minimum}, preferred-block {preferred}, maximum-transfer {maximum}; \
                 the minimum must be a power of two from 1 to {MAX_MINIMUM_BLOCK}, the preferred a \
                 power of two from {} to {} and at least the minimum, the maximum 0 or a multiple \
                 of the minimum and at least the preferred",
                PREFERRED_BLOCKS.start(),
                PREFERRED_BLOCKS.end()
            ),
            Self::StripeSize(stripe) => write!(
                f,
                "stripes of {stripe} bytes; a stripe must be a power of two, at least {MIN_STRIPE}"
            ),
            Self::StripesInterchangeable(stripe) => write!(
                f,
                "stripes of {stripe} bytes on an interchangeable disk; it can be one or the other"
            ),
            Self::PageSize(size) => write!(
                f,
                "pages of {size} bytes; a page must be a power of two from 4096 to 2097152, and no \
                 longer than a stripe"
            ),
            Self::PageLength { wanted, got } => {
                write!(f, "a page of {got} bytes, not of {wanted}")
            }
            Self::AnotherDisk => f.write_str("another disk than it did for the first instance"),
            Self::StripesRouted(stripe) => write!(
                f,
                "stripes of {stripe} bytes on a disk that routes its requests; it can do one or the \
                 other"
            ),
            Self::TooManyCommands(n) => {
                write!(f, "{n} commands; at most {MAX_COMMANDS} are allowed")
            }
            Self::CommandTexts(length) => write!(
                f,
                "{length} bytes of text about its commands; at most {MAX_CONTROL_TEXT} are allowed"
            ),
            Self::CommandName(name) => write!(
                f,
                "a command of the name {name:?}; a name begins with an ASCII letter, has no others than \
                 ASCII letters, digits, - and _, and at most {MAX_TEXT} bytes"
            ),
            Self::CommandTwice(name) => {
                write!(f, "two commands of the name {name:?}; names must be distinct")
            }
            Self::CommandParameter { command, parameter } => write!(
                f,
                "the parameter {parameter:?} of the command {command:?}, which is a device, a file, a \
                 secret or an output; a disk gets those when it is opened"
            ),
            Self::CommandsShared => f.write_str(
                "commands, but the disk is interchangeable or has stripes; one with commands has one \
                 instance",
            ),
            Self::EventsShared => f.write_str(
                "that the disk is interchangeable or has stripes, but it exports events; one with \
                 events has one instance",
            ),
            Self::CommandAnswer(length) => write!(
                f,
                "an answer of {length} bytes to a command; at most {MAX_CONTROL_TEXT} are allowed"
            ),
            Self::TooManyListed(n) => {
                write!(f, "{n} exports; at most {MAX_LISTED} are allowed")
            }
            Self::ListedTexts(length) => write!(
                f,
                "{length} bytes of text about its exports; at most {MAX_LISTED_TEXT} are allowed"
            ),
            Self::ListedName(name) => write!(
                f,
                "an export of the name {name:?}; a name has at most {MAX_TEXT} bytes, and no NUL"
            ),
            Self::ListedTwice(name) => {
                write!(f, "two exports of the name {name:?}; names must be distinct")
            }
            Self::Granule(granule) => write!(
                f,
                "granules of {granule} bytes; a granule must be a power of two from 1 to \
                 {MAX_GRANULE}"
            ),
            Self::PartCount { segments: 0, .. } => {
                f.write_str("a route of no segments; there must be at least one")
            }
            Self::PartCount { parts, .. } => {
                write!(f, "a route of {parts} copies and segments; at most {MAX_PARTS} are allowed")
            }
            Self::Delay(delay) => {
                write!(f, "a delay of {delay:?}; at most {MAX_DELAY:?} are allowed")
            }
            Self::Repeats => {
                write!(f, "a route to be executed again more often than {MAX_REPEATS} times")
            }
            Self::CopyLength { index, length } => write!(
                f,
                "copy {index} (counted from 0) of {length} bytes; each has 1 to {MAX_COPY}"
            ),
            Self::EmptySegment { index } => {
                write!(f, "segment {index} (counted from 0) of no bytes; each has at least one")
            }
            Self::RouteLength { wanted, got } => {
                write!(f, "segments of {got} bytes in all for a request of {wanted}")
            }
            Self::Place { part, index, error } => {
                write!(f, "{part} {index} (counted from 0) {error}")
            }
            Self::TargetTwice { parts, device, offset } => write!(
                f,
                "two {parts} that write to the same byte, at {offset} on the lower device {device}"
            ),
            Self::StableLength { length, left } => write!(
                f,
                "a stable route for {length} bytes; it must be for at least one, and {left} are left \
                 on the disk"
            ),
            Self::TooManyParameters(n) => {
                write!(f, "{n} parameters; at most {MAX_PARAMETERS} are allowed")
            }
            Self::BareParameter(name) => {
                write!(f, "the bare parameter {name:?}, which is not among its parameters")
            }
            Self::ParameterName(name) => write!(
                f,
                "a parameter of the name {name:?}; a name begins with an ASCII letter, has no \
                 others than ASCII letters, digits, - and _, and at most {MAX_TEXT} bytes"
            ),
            Self::ParameterTwice(name) => {
                write!(f, "two parameters of the name {name:?}; names must be distinct")
            }
            Self::AppendParameter { name, append } => write!(
                f,
                "the parameter {name:?}, to which is appended if {append:?} says so; that must be a \
                 boolean parameter"
            ),
            Self::ChoiceCount { name, count } => write!(
                f,
                "{count} words to choose from for the parameter {name:?}; there must be 1 to \
                 {MAX_PARAMETERS}"
            ),
            Self::EmptyRange { name, minimum, maximum } => write!(
                f,
                "the range {minimum} to {maximum} for the parameter {name:?}; the minimum must not \
                 be more than the maximum"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Breach;

    #[test]
    fn breaches_have_the_value_and_the_rule() {
        for (breach, words) in [
            (Breach::TooManyChunks(5001), ["5001", "at most 4096"]),
            (Breach::EmptyChunk { index: 7 }, ["chunk 7", "at least one"]),
            (Breach::ExtentCount(10_000), ["10000", "1 to 4096"]),
            (Breach::EmptyExtent { index: 3 }, ["extent 3", "at least one"]),
            (
                Breach::ExtentBeyondEnd { index: 2, length: 8192, rest: 4096 },
                ["extent 2 (counted from 0) of 8192 bytes", "4096 bytes before the end"],
            ),
            (
                Breach::ExtentUnaligned { index: 1, length: 100, minimum: 512 },
                ["of 100 bytes", "minimum block of 512"],
            ),
            (
                Breach::BlockSizes { minimum: 3, preferred: 4096, maximum: 0 },
                ["minimum-block 3, preferred-block 4096", "power of two from 1 to 65536"],
            ),
            (Breach::StripeSize(1000), ["1000", "a power of two, at least 65536"]),
            (Breach::PageSize(1), ["pages of 1 bytes", "from 4096 to 2097152"]),
            (Breach::TooManyCommands(65), ["65", "at most 64"]),
            (Breach::CommandName("a b".into()), ["\"a b\"", "begins with an ASCII letter"]),
            (Breach::CommandTwice("set".into()), ["\"set\"", "distinct"]),
            (
                Breach::CommandParameter { command: "set".into(), parameter: "file".into() },
                ["\"file\" of the command \"set\"", "when it is opened"],
            ),
            (Breach::CommandsShared, ["interchangeable or has stripes", "one instance"]),
            (Breach::EventsShared, ["interchangeable or has stripes", "one instance"]),
            (
                Breach::AppendParameter { name: "log".into(), append: "add".into() },
                ["\"log\", to which", "must be a boolean"],
            ),
            (Breach::CommandTexts(70_000), ["70000", "at most 65536"]),
            (Breach::ListedTexts(2_000_000), ["2000000", "at most 1048576"]),
            (Breach::TooManyListed(10_001), ["10001", "at most 10000"]),
            (Breach::ListedName("a\0".into()), ["\"a\\0\"", "no NUL"]),
            (Breach::ListedTwice("a".into()), ["\"a\"", "distinct"]),
            (Breach::CommandAnswer(70_000), ["70000", "at most 65536"]),
            (Breach::TooManyParameters(300), ["300", "at most 256"]),
            (Breach::ParameterName("a b".into()), ["\"a b\"", "begins with an ASCII letter"]),
            (Breach::ParameterTwice("size".into()), ["\"size\"", "distinct"]),
            (Breach::BareParameter("sise".into()), ["\"sise\"", "not among its parameters"]),
            (
                Breach::ChoiceCount { name: "mode".into(), count: 0 },
                ["0 words to choose from for the parameter \"mode\"", "1 to 256"],
            ),
            (
                Breach::EmptyRange { name: "n".into(), minimum: 3, maximum: -1 },
                ["range 3 to -1 for the parameter \"n\"", "not be more"],
            ),
            (Breach::StripesInterchangeable(1 << 16), ["65536", "one or the other"]),
        ] {
            let text = breach.to_string();
            for word in words {
                assert!(text.contains(word), "{word:?} is not in {text}");
            }
        }
    }
}
