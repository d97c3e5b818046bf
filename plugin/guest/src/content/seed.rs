//! The parameter `seed` of disks with random content.

use alloc::format;

use super::random_at;
use crate::{Capabilities, Level, OpenRequest, Parameter, log, random_u64};

/// The seed of random content: the same seed gives the same content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    number: u32,
    given: bool,
}

impl Seed {
    /// The declaration of the parameter.
    pub const PARAMETER: Parameter =
        Parameter::number("seed", "the seed; the same gives the same disk", 0, u32::MAX as i64)
            .default("a random one, which is logged");

    /// Returns the seed that was given, or else chooses one and logs it.
    pub fn from_request(request: &OpenRequest) -> Self {
        if let Some(number) = request.number("seed") {
            return Self { number: number as u32, given: true };
        }
        let number = random_u64() as u32;
        log(Level::Info, &format!("chose a seed; seed={number} gives the same disk again"));
        Self { number, given: false }
    }

    /// Returns the capabilities that depend on the seed. Instances are interchangeable only if the
    /// seed was given, for each would choose another one.
    pub const fn capabilities(self) -> Capabilities {
        if self.given { Capabilities::INTERCHANGEABLE } else { Capabilities::NONE }
    }

    /// Returns the seed of one of several independent streams for [`random_at`].
    pub const fn stream(self, index: u64) -> u64 {
        random_at(self.number as u64, index)
    }
}
