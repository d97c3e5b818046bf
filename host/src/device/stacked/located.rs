//! Where the parts of a disk are, as layers of a chain.

use super::StackedDevice;
use crate::block::MAX_SIZE;
use crate::component::{BASE, Segment};
use crate::device::{Located, LowerLayer};

/// The parameter of the device that has what was changed (`cow`).
const OVERLAY: &str = "overlay";

/// The parameter of the devices between that and the base, from the lowest on (`cow`).
const LAYER: &str = "layer";

/// The parameter of the device with what the base does not have (`qcow2`).
const BACKING: &str = "backing";

impl StackedDevice {
    /// Returns the segments of a route, with what their devices are.
    pub(super) fn located(&self, segments: Vec<Segment>) -> Located {
        let names = || self.parameters.iter().map(String::as_str).enumerate();
        let named = |name: &'static str| {
            names().filter(move |&(_, other)| other == name).map(|(number, _)| number)
        };
        // Above a snapshot that is only read there is an empty one, which the host has made.
        let is_layer = |number: &usize| {
            self.geometry.capabilities.writable
                || self.lowers().geometries()[*number].size < MAX_SIZE
        };
        let mut layers: Vec<usize> = named(OVERLAY).filter(is_layer).collect();
        layers.extend(named(LAYER).collect::<Vec<_>>().into_iter().rev());
        layers.extend(named(BASE));
        layers.extend(named(BACKING));
        let mut lowers: Vec<LowerLayer> = (self.lowers().list().iter())
            .map(|lower| LowerLayer { device: lower.device.clone(), level: 1, hides: false })
            .collect();
        for (level, &number) in layers.iter().enumerate() {
            if let Some(lower) = lowers.get_mut(number) {
                lower.level = level as u32 + 1;
                lower.hides = level + 1 < layers.len();
            }
        }
        Located { lowers, segments }
    }
}
