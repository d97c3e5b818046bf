//! Numbers of processors, as people write them.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

/// A number of processors, rounded to thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Processors(NonZeroU32);

impl Processors {
    /// The most.
    const MOST: u32 = 1024;

    /// Returns the number in thousandths.
    pub fn thousandths(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<f64> for Processors {
    type Error = NotProcessors;

    fn try_from(number: f64) -> Result<Self, NotProcessors> {
        let possible = (0.001..=f64::from(Self::MOST)).contains(&number);
        possible
            .then(|| NonZeroU32::new((number * 1000.0).round() as u32))
            .flatten()
            .map(Self)
            .ok_or(NotProcessors)
    }
}

impl FromStr for Processors {
    type Err = NotProcessors;

    fn from_str(text: &str) -> Result<Self, NotProcessors> {
        text.parse::<f64>().map_err(|_| NotProcessors)?.try_into()
    }
}

impl From<Processors> for f64 {
    fn from(processors: Processors) -> Self {
        Self::from(processors.thousandths()) / 1000.0
    }
}

impl fmt::Display for Processors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f64::from(*self).fmt(f)
    }
}

/// This is no number of processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotProcessors;

impl fmt::Display for NotProcessors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = Processors::MOST;
        write!(f, "it is a number of processors from 0.001 to {most}, as 0.5 or 2")
    }
}

impl std::error::Error for NotProcessors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_written_as_numbers() {
        for (text, thousandths) in [("0.5", 500), ("2", 2000), ("1.001", 1001), ("1024", 1_024_000)]
        {
            let processors: Processors = text.parse().unwrap();
            assert_eq!(
                (processors.thousandths(), processors.to_string()),
                (thousandths, text.into())
            );
        }
        assert_eq!("1.0004".parse::<Processors>().unwrap().to_string(), "1");
        for wrong in ["", "0", "-1", "0.0009", "1024.0001", "1025", "nan", "inf", "50%", "1e300"] {
            assert_eq!(wrong.parse::<Processors>(), Err(NotProcessors), "{wrong}");
        }
    }
}
