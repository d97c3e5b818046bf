//! The decision which requests fail.

use alloc::vec::Vec;

use memnbd_guest::{Error, ErrorCode, OpenRequest, Operation, Request, Value, content, random_u64};

use crate::range::Range;

/// The errors that can be injected, under their names.
const CODES: [(&str, ErrorCode); 6] = [
    ("EPERM", ErrorCode::Eperm),
    ("EIO", ErrorCode::Eio),
    ("ENOMEM", ErrorCode::Enomem),
    ("EINVAL", ErrorCode::Einval),
    ("ENOSPC", ErrorCode::Enospc),
    ("ESHUTDOWN", ErrorCode::Eshutdown),
];

/// The parameters of one operation: the error and the rate.
pub(crate) const OPERATIONS: [(Operation, &str, &str); 6] = [
    (Operation::Read, "error-pread", "error-pread-rate"),
    (Operation::Write, "error-pwrite", "error-pwrite-rate"),
    (Operation::Trim, "error-trim", "error-trim-rate"),
    (Operation::Zero, "error-zero", "error-zero-rate"),
    (Operation::Extents, "error-extents", "error-extents-rate"),
    (Operation::Cache, "error-cache", "error-cache-rate"),
];

/// The failures of one operation.
#[derive(Clone, Copy, Debug)]
struct Fault {
    code: ErrorCode,
    rate: f64,
}

/// The settings and the state of the filter.
#[derive(Clone, Debug)]
pub(crate) struct Injector {
    faults: [Fault; Operation::ALL.len()],
    /// Where requests fail; everywhere if there are none.
    ranges: Vec<Range>,
    /// One of this many requests that match fails.
    nth: u64,
    /// There is only one failure.
    once: bool,
    seed: Option<u64>,
    /// The number of requests that matched.
    matched: u64,
    /// The number of random numbers that were drawn from the seed.
    drawn: u64,
    /// The only failure is over.
    spent: bool,
}

impl Injector {
    /// Returns the settings of a request to open a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if a range is wrong.
    pub(crate) fn open(request: &OpenRequest, size: u64) -> Result<Self, Error> {
        let mut faults = [Fault { code: ErrorCode::Eio, rate: 0.0 }; Operation::ALL.len()];
        let mut ranges = Vec::new();
        let mut rated = false;
        for argument in &request.arguments {
            let name = argument.name.as_str();
            match &argument.value {
                Value::Text(text) if name == "error-range" => {
                    ranges.push(Range::parse(text, size)?)
                }
                Value::Text(text) => {
                    let code = CODES.iter().find(|(name, _)| name == text).ok_or(Error::EINVAL)?.1;
                    for (operation, parameter, _) in OPERATIONS {
                        if name == "error" || name == parameter {
                            faults[operation as usize].code = code;
                        }
                    }
                }
                Value::Probability(rate) => {
                    rated = true;
                    for (operation, _, parameter) in OPERATIONS {
                        if name == "error-rate" || name == parameter {
                            faults[operation as usize].rate = *rate;
                        }
                    }
                }
                _ => {}
            }
        }
        let nth = request.number("error-nth");
        let once = request.boolean("error-once").unwrap_or(false);
        if !rated && (nth.is_some() || once || !ranges.is_empty()) {
            for operation in Operation::ALL {
                if operation != Operation::Extents {
                    faults[operation as usize].rate = 1.0;
                }
            }
        }
        Ok(Self {
            faults,
            ranges,
            nth: nth.map_or(1, |nth| nth.max(1) as u64),
            once,
            seed: request.number("error-seed").map(|seed| seed as u64),
            matched: 0,
            drawn: 0,
            spent: false,
        })
    }

    /// Returns the names of the errors.
    pub(crate) const fn codes() -> &'static [&'static str] {
        const NAMES: [&str; CODES.len()] = {
            let mut names = [""; CODES.len()];
            let mut at = 0;
            while at < names.len() {
                names[at] = CODES[at].0;
                at += 1;
            }
            names
        };
        &NAMES
    }

    /// Returns the error of a request that fails.
    pub(crate) fn inject(&mut self, request: &Request) -> Option<ErrorCode> {
        let Fault { code, rate } = self.faults[request.operation as usize];
        if !self.may_fail(request.operation) || !self.touches(request) {
            return None;
        }
        self.matched += 1;
        if !self.matched.is_multiple_of(self.nth) || (rate < 1.0 && self.draw() >= rate) {
            return None;
        }
        self.spent = self.once;
        Some(code)
    }

    /// Returns the number of bytes from `offset` on in which this operation cannot fail, on a disk
    /// of `size` bytes.
    pub(crate) fn safe(&self, operation: Operation, offset: u64, size: u64) -> Option<u64> {
        let end = if !self.may_fail(operation) {
            size
        } else if self.ranges.is_empty() {
            return None;
        } else {
            // The first byte from here on that lies in a range.
            let next =
                self.ranges.iter().filter(|range| range.end > offset).map(|range| range.start);
            next.min().unwrap_or(size)
        };
        end.checked_sub(offset).filter(|length| *length > 0)
    }

    fn may_fail(&self, operation: Operation) -> bool {
        !self.spent && self.faults[operation as usize].rate > 0.0
    }

    fn touches(&self, request: &Request) -> bool {
        self.ranges.is_empty()
            || self
                .ranges
                .iter()
                .any(|range| request.offset < range.end && range.start < request.end())
    }

    /// Returns a random number that is at least 0 and less than 1.
    fn draw(&mut self) -> f64 {
        let random = match self.seed {
            Some(seed) => {
                self.drawn += 1;
                content::random_at(seed, self.drawn - 1)
            }
            None => random_u64(),
        };
        // As many bits as the number has.
        (random >> 11) as f64 / (1_u64 << 53) as f64
    }
}
