//! A filter that changes the block sizes of another disk, like nbdkit's filter `blocksize-policy`.
//!
//! `blocksize-minimum` and `blocksize-preferred` are what clients are told; without them, it is what the
//! disk beneath has. `blocksize-maximum` is the longest read or write. Clients are told that of the
//! host, so it has an effect with `blocksize-error-policy=error` only.
//!
//! `blocksize-error-policy` says what happens to requests that do not keep to these sizes. It is for
//! clients that did not ask for the sizes: those that were told the minimum have to keep to it, and get
//! EINVAL from the host otherwise.
//!
//! - `allow`, the default: they pass.
//! - `error` or `strict-error`: they fail with EINVAL. nbdkit's `error` lets the last block of a disk be
//!   a part of one. Here a disk consists of whole blocks, and bytes after the last one are not served.
//!
//! nbdkit's `blocksize-write-disconnect` does not exist here: a component cannot end connections. The
//! host ends those that send too much by itself.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

use alloc::format;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Lower, OpenRequest, Operation,
    Parameter, ParameterType, Request, Route, StableRoute,
};

/// The largest minimum block.
const MAX_MINIMUM: u64 = 64 << 10;

/// The preferred blocks that there can be.
const PREFERRED: core::ops::RangeInclusive<u64> = 512..=32 << 20;

/// The open disk.
#[derive(Clone, Debug)]
pub struct BlockSizePolicy {
    base: Lower,
    minimum: u32,
    preferred: u32,
    /// The longest read or write, if there is a limit.
    maximum: Option<u64>,
    /// Requests that do not keep to the sizes fail.
    is_strict: bool,
}

impl BlockSizePolicy {
    /// Returns what is wrong with a request.
    fn defect(&self, request: &Request) -> Option<Error> {
        let Request { operation, offset, length, .. } = *request;
        let minimum = u64::from(self.minimum);
        let moves = matches!(operation, Operation::Read | Operation::Write);
        let message = if !(offset | length).is_multiple_of(minimum) {
            format!(
                "{length} bytes at {offset} are not whole blocks; offset and length must be \
                 multiples of blocksize-minimum, which is {minimum}"
            )
        } else {
            let maximum = self.maximum.filter(|maximum| moves && length > *maximum)?;
            format!("{length} bytes are more than blocksize-maximum, which is {maximum}")
        };
        Some(Error::EINVAL.because(message))
    }
}

/// Returns a block size that must be a power of two.
fn block(request: &OpenRequest, name: &str, default: u32) -> Result<u32, Error> {
    match request.size(name) {
        Some(block) if !block.is_power_of_two() => {
            Err(Error::EINVAL.because(format!("{name}={block} must be a power of two")))
        }
        // Far below 2^32, see the types of the parameters.
        Some(block) => Ok(block as u32),
        None => Ok(default),
    }
}

impl Backend for BlockSizePolicy {
    fn describe() -> Description {
        let size = |name, summary, minimum, maximum| {
            Parameter::new(name, summary, ParameterType::Size(minimum, maximum))
                .default("that of the device beneath")
        };
        Description::new(
            "blocksize-policy",
            env!("CARGO_PKG_VERSION"),
            "another disk, with other block sizes",
        )
        .parameter(Parameter::device("base", "the device beneath").writes().required())
        .parameter(
            Parameter::choice(
                "blocksize-error-policy",
                "whether requests that do not keep to the sizes pass or fail",
                &["allow", "error", "strict-error"],
            )
            .default("allow"),
        )
        .parameter(size(
            "blocksize-minimum",
            "the unit of offsets and lengths, a power of two",
            1,
            MAX_MINIMUM,
        ))
        .parameter(size(
            "blocksize-preferred",
            "the unit of efficient requests, a power of two",
            *PREFERRED.start(),
            *PREFERRED.end(),
        ))
        .parameter(
            size("blocksize-maximum", "the longest read or write that passes", 1, u32::MAX.into())
                .default("no limit"),
        )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let base = request.device("base").ok_or(Error::EINVAL)?;
        let above = Disk::above(&base.geometry());
        let minimum = block(request, "blocksize-minimum", above.minimum_block)?;
        let preferred = block(request, "blocksize-preferred", above.preferred_block)?;
        let maximum = request.size("blocksize-maximum");
        if minimum > preferred {
            return Err(Error::EINVAL.because(format!(
                "the preferred block, {preferred}, must be at least the minimum block, {minimum}; \
                 give blocksize-preferred"
            )));
        }
        if let Some(maximum) = maximum
            && (maximum < preferred.into()
                || maximum != u32::MAX.into() && !maximum.is_multiple_of(minimum.into()))
        {
            return Err(Error::EINVAL.because(format!(
                "blocksize-maximum={maximum} must be at least the preferred block, {preferred}, \
                 and a multiple of the minimum block, {minimum}"
            )));
        }
        let is_strict =
            matches!(request.text("blocksize-error-policy"), Some("error" | "strict-error"));
        Ok(Self { base, minimum, preferred, maximum, is_strict })
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        Disk {
            minimum_block: self.minimum,
            preferred_block: self.preferred,
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            ..disk
        }
    }
}

impl Filter for BlockSizePolicy {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        match self.defect(request) {
            Some(error) if self.is_strict => Err(error),
            _ => Ok(self.base.pass(request)),
        }
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        if self.is_strict {
            return None;
        }
        self.base.pass_all(offset)
    }
}

memnbd_guest::filter!(BlockSizePolicy);

#[cfg(test)]
mod tests {
    use memnbd_guest::{ErrorCode, Geometry, Value, testing};

    use super::*;

    fn open(policy: &str, sizes: &[(&str, u64)]) -> Result<BlockSizePolicy, Error> {
        let base = testing::device_with(Geometry {
            size: 1 << 20,
            minimum_block: 512,
            preferred_block: 4096,
            capabilities: Capabilities::WRITABLE,
        });
        let request = OpenRequest::default()
            .with("base", Value::Device(base))
            .with("blocksize-error-policy", Value::Text(policy.into()));
        let request = sizes.iter().fold(request, |request, (name, size)| {
            request.with(&format!("blocksize-{name}"), Value::Size(*size))
        });
        BlockSizePolicy::open(&request)
    }

    #[test]
    fn sizes_are_those_of_the_parameters_or_of_the_device_beneath() {
        let blocks = |sizes: &[(&str, u64)]| {
            let disk = open("allow", sizes).unwrap().disk();
            (disk.minimum_block, disk.preferred_block)
        };
        assert_eq!(blocks(&[]), (512, 4096));
        assert_eq!(blocks(&[("minimum", 1)]), (1, 4096));
        assert_eq!(blocks(&[("minimum", 4096)]), (4096, 4096));
        assert_eq!(blocks(&[("preferred", 32 << 20)]), (512, 32 << 20));
        assert_eq!(blocks(&[("minimum", 65536), ("preferred", 65536)]), (65536, 65536));
    }

    #[test]
    fn sizes_that_do_not_fit_each_other_are_refused() {
        for sizes in [
            &[("minimum", 3)][..],
            &[("preferred", 513)],
            &[("minimum", 8192)],
            &[("minimum", 1024), ("preferred", 512)],
            &[("maximum", 2048)],
            &[("maximum", 4097)],
            &[("maximum", u64::from(u32::MAX) - 1)],
        ] {
            assert!(open("allow", sizes).unwrap_err().message.is_some(), "{sizes:?}");
        }
        for maximum in [4096, 1 << 20, u32::MAX.into()] {
            assert!(open("allow", &[("maximum", maximum)]).is_ok());
        }
    }

    #[test]
    fn policy_decides_about_other_requests() {
        let sizes = [("minimum", 1024), ("maximum", 8192)];
        for (policy, strict) in [("allow", false), ("error", true), ("strict-error", true)] {
            let mut disk = open(policy, &sizes).unwrap();
            for operation in Operation::ALL {
                assert_eq!(disk.stable(operation, 0).is_none(), strict);
                let moves = matches!(operation, Operation::Read | Operation::Write);
                for (offset, length, wrong) in [
                    (0, 1024, false),
                    (1024, 8192, false),
                    (0, 512, true),
                    (512, 1024, true),
                    (0, 1536, true),
                    (0, 9216, moves),
                ] {
                    let request = Request::new(operation, offset, length);
                    let route = disk.route(&request).map_err(|error| error.code);
                    let expected = match strict && wrong {
                        true => Err(ErrorCode::Einval),
                        false => Ok(disk.base.pass(&request)),
                    };
                    assert_eq!(route, expected, "{policy} {request:?}");
                }
            }
        }
    }
}
