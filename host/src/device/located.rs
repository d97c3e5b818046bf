//! Where the bytes of a device are that stands on others.

use std::sync::Arc;

use super::Device;
use crate::component::Segment;

/// Where the first bytes of a span are.
pub struct Located {
    /// The devices on which the device stands, in the order of the numbers that segments have.
    pub lowers: Vec<LowerLayer>,
    /// The parts of the span in order, from its beginning. They may end before the span does.
    pub segments: Vec<Segment>,
}

/// A device on which another one stands, as a layer of a chain: what is not in a layer is in the next one.
pub struct LowerLayer {
    /// The device.
    pub device: Arc<dyn Device>,
    /// The number of the layer: 1 is the uppermost. All devices that are no layers have it, too.
    pub level: u32,
    /// There are layers beneath this one in the chain. What is here hides what is there, even if it is a
    /// hole.
    pub hides: bool,
}
