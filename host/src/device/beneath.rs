//! Replacing a device beneath the filters that stand on it.

use std::fmt;
use std::sync::Arc;

use super::{Device, MAX_DEPTH};

/// A stack of devices, divided into filters and what is beneath them.
pub struct Divided {
    /// The filters, the uppermost first.
    filters: Vec<Arc<dyn Device>>,
    beneath: Arc<dyn Device>,
}

/// Why a device beneath filters was not replaced.
#[derive(Debug, PartialEq, Eq)]
pub enum NotReplacedBeneath {
    /// One of the filters has no base that is its own.
    NoBase,
    /// More than [`MAX_DEPTH`] devices would stand on each other.
    TooDeep,
    /// The other device differs in this way.
    Geometry(&'static str),
}

impl fmt::Display for NotReplacedBeneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBase => f.write_str("a filter keeps the device beneath it to itself"),
            Self::TooDeep => {
                write!(f, "more than {MAX_DEPTH} devices would stand on each other")
            }
            Self::Geometry(what) => write!(f, "the device that would take its place {what}"),
        }
    }
}

impl std::error::Error for NotReplacedBeneath {}

impl Divided {
    /// Divides a stack beneath its first `filters` devices.
    ///
    /// # Errors
    ///
    /// Returns an error if one of them has no base that is its own.
    pub fn of(top: &Arc<dyn Device>, filters: usize) -> Result<Self, NotReplacedBeneath> {
        let mut divided = Self { filters: Vec::new(), beneath: top.clone() };
        for _ in 0..filters {
            let base = divided.beneath.base().ok_or(NotReplacedBeneath::NoBase)?;
            divided.filters.push(std::mem::replace(&mut divided.beneath, base));
        }
        Ok(divided)
    }

    /// Returns the device beneath the filters.
    pub fn beneath(&self) -> &Arc<dyn Device> {
        &self.beneath
    }

    /// Puts the filters on another device, which has the same content, and returns the top of the new stack.
    /// Nobody may use the present one during this call, or after it if it succeeds ([`Device::on_base`]).
    ///
    /// # Errors
    ///
    /// Returns an error, with nothing changed, if the other device does not fit.
    pub fn replace(self, other: Arc<dyn Device>) -> Result<Arc<dyn Device>, NotReplacedBeneath> {
        let Self { mut filters, beneath } = self;
        if let Some(obstacle) = beneath.geometry().obstacle_to(other.geometry()) {
            return Err(NotReplacedBeneath::Geometry(obstacle));
        }
        if filters.len() + other.depth() > MAX_DEPTH {
            return Err(NotReplacedBeneath::TooDeep);
        }
        let mut device = other;
        while let Some(filter) = filters.pop() {
            // It has a base, so it takes the other one.
            device = filter.on_base(device).ok_or(NotReplacedBeneath::NoBase)?;
        }
        Ok(device)
    }
}
