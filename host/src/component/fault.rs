//! What ends an instance: the component's fault, never a client's.

use std::fmt;
use std::time::Duration;

/// Why an instance is dead. Whoever receives one logs it and calls the instance no more.
#[derive(Debug)]
pub enum Fault {
    /// It could not be started.
    Start(wasmtime::Error),
    /// It was refused memory, and could not be started or go on without.
    OutOfMemory {
        /// What all instances of the disk may have together, in bytes. The system may have less.
        limit: u64,
        /// How it failed then.
        error: wasmtime::Error,
    },
    /// It trapped, or an import of it failed, or what it returned could not be decoded.
    Trap(wasmtime::Error),
    /// A call took longer than this.
    Deadline(Duration),
    /// It returned what the contract forbids.
    Breach {
        /// The function of the contract.
        function: &'static str,
        /// What was wrong with the answer.
        breach: Breach,
    },
}

impl Fault {
    /// True if another instance may fare better: there may be more memory then, or more time.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. } | Self::Deadline(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(error) => write!(f, "the component could not be started: {error:#}"),
            Self::OutOfMemory { limit, error } => write!(
                f,
                "the component needs more memory than there is (--max-memory allows {limit} \
                 bytes): {}",
                error.root_cause()
            ),
            Self::Trap(error) => match error.downcast_ref::<wasmtime::Trap>() {
                Some(trap) => write!(f, "the component trapped: {trap}"),
                None => write!(f, "the component failed: {}", error.root_cause()),
            },
            Self::Deadline(deadline) => {
                write!(f, "the component did not return within its deadline of {deadline:?}")
            }
            Self::Breach { function, breach } => {
                write!(f, "the component broke the contract: {function} returned {breach}")
            }
        }
    }
}

/// How an answer broke the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// `read`: the chunks do not add up to the length asked for.
    ReadLength {
        /// What was asked for.
        wanted: u32,
        /// What came; at least this much, where counting stopped early.
        got: u64,
    },
    /// `read`: more chunks than allowed.
    TooManyChunks(usize),
    /// A chunk or extent of no bytes.
    Empty,
    /// `extents`: none, or more than allowed.
    ExtentCount(usize),
    /// `extents`: beyond the end of the disk.
    ExtentsBeyondEnd,
    /// `extents`: a boundary within a minimum block.
    ExtentUnaligned(u64),
    /// `open`: a size over 2^63-1.
    Size(u64),
    /// `open`: minimum, preferred or maximum sizes against the rules.
    BlockSizes {
        /// `minimum-block`.
        minimum: u32,
        /// `preferred-block`.
        preferred: u32,
        /// `maximum-transfer`.
        maximum: u32,
    },
    /// `open`: stripes against the rules.
    StripeSize(u64),
    /// `page-size`: against the rules.
    PageSize(u32),
    /// `page`: another length than that of a page.
    PageLength {
        /// What it should have been.
        wanted: u64,
        /// What came.
        got: usize,
    },
    /// `open`: another disk than the first instance of the same disk had opened.
    AnotherDisk,
    /// `describe`: more parameters than anybody could want.
    TooManyParameters(usize),
    /// `describe`: a bare parameter that is not among the parameters.
    BareParameter,
    /// `describe`: parameter names that are empty, malformed, too long or not distinct.
    ParameterNames,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadLength { wanted, got } => {
                write!(f, "{got} bytes where {wanted} were asked for")
            }
            Self::TooManyChunks(n) => write!(f, "{n} chunks"),
            Self::Empty => f.write_str("an empty element"),
            Self::ExtentCount(n) => write!(f, "{n} extents"),
            Self::ExtentsBeyondEnd => f.write_str("extents beyond the end of the disk"),
            Self::ExtentUnaligned(length) => {
                write!(f, "an extent of {length} bytes, not a multiple of the minimum block")
            }
            Self::Size(size) => write!(f, "a size of {size} bytes, more than 2^63-1"),
            Self::BlockSizes { minimum, preferred, maximum } => write!(
                f,
                "block sizes against the rules (minimum {minimum}, preferred {preferred}, \
                 maximum transfer {maximum})"
            ),
            Self::StripeSize(stripe) => write!(f, "stripes of {stripe} bytes, against the rules"),
            Self::PageSize(size) => write!(f, "pages of {size} bytes, against the rules"),
            Self::PageLength { wanted, got } => {
                write!(f, "a page of {got} bytes, not of {wanted}")
            }
            Self::AnotherDisk => f.write_str("another disk than it did for the first instance"),
            Self::TooManyParameters(n) => write!(f, "{n} parameters"),
            Self::BareParameter => f.write_str("a bare parameter that it does not have"),
            Self::ParameterNames => f.write_str("parameter names against the rules"),
        }
    }
}
