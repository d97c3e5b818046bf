//! The decision which requests fail.

use memnbd_faults::{Event, Names, Rule, error_code, names};
use memnbd_guest::{Error, ErrorCode, OpenRequest, Operation, Request, Value};

/// The names of the parameters that limit failures.
pub(crate) const NAMES: Names = names!("error");

/// The parameters of one operation: the error and the rate.
pub(crate) const OPERATIONS: [(Operation, &str, &str); 6] = [
    (Operation::Read, "error-pread", "error-pread-rate"),
    (Operation::Write, "error-pwrite", "error-pwrite-rate"),
    (Operation::Trim, "error-trim", "error-trim-rate"),
    (Operation::Zero, "error-zero", "error-zero-rate"),
    (Operation::Extents, "error-extents", "error-extents-rate"),
    (Operation::Cache, "error-cache", "error-cache-rate"),
];

/// The settings and the state of the filter.
#[derive(Clone, Debug)]
pub(crate) struct Injector {
    /// The error of each operation.
    codes: [ErrorCode; Operation::ALL.len()],
    pub(crate) rule: Rule,
}

impl Injector {
    /// Returns the settings of a request to open a disk of `size` bytes.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if a range is wrong.
    pub(crate) fn open(request: &OpenRequest, size: u64) -> Result<Self, Error> {
        let mut codes = [ErrorCode::Eio; Operation::ALL.len()];
        let mut rule = Rule::open(request, &NAMES, size)?;
        let mut rated = false;
        for argument in &request.arguments {
            let name = argument.name.as_str();
            for (operation, error, rate) in OPERATIONS {
                match &argument.value {
                    Value::Text(text) if name == "error" || name == error => {
                        codes[operation as usize] = error_code(text).ok_or(Error::EINVAL)?;
                    }
                    Value::Probability(value) if name == NAMES.rate || name == rate => {
                        rated = true;
                        rule.set_rate(Event::Request(operation), *value);
                    }
                    _ => {}
                }
            }
        }
        if !rated && rule.is_limited() {
            for operation in Operation::ALL {
                if operation != Operation::Extents {
                    rule.set_rate(Event::Request(operation), 1.0);
                }
            }
        }
        Ok(Self { codes, rule })
    }

    /// Returns the error of a request that fails.
    pub(crate) fn inject(&mut self, request: &Request) -> Option<ErrorCode> {
        self.rule.affects(request).then_some(self.codes[request.operation as usize])
    }
}
