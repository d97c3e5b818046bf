//! A device of a few bytes that can only be read.

use std::sync::Arc;

use bytes::Bytes;

use super::{Answer, Buffers, Content, Device, Execution, Order, Part, execution};
use crate::block::{BlockSizes, Capabilities, Command, ErrorCode, Extents, Geometry, Status};

/// The least size of the device, in bytes: that of a sector.
const SECTOR: usize = 512;

/// A device that has a text.
pub struct Text {
    bytes: Bytes,
    geometry: Geometry,
    buffers: Buffers,
}

impl Text {
    /// Creates a device of 512 bytes that begins with the text and is filled with zeroes. What is beyond
    /// them of a longer text is left out.
    pub fn sector(text: &str) -> Arc<Self> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(SECTOR, 0);
        let block_sizes = BlockSizes { minimum: 1, preferred: 4096, maximum: 32 << 20 };
        let geometry = Geometry {
            size: SECTOR as u64,
            block_sizes,
            capabilities: Capabilities::default(),
            description: String::new(),
        };
        Arc::new(Self { bytes: bytes.into(), geometry, buffers: Buffers::own(1 << 20) })
    }
}

impl Device for Text {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        let answer = async move {
            match order.command {
                Command::Read { span } => {
                    let (from, to) = (span.offset as usize, span.end() as usize);
                    let part = Part::Shared(self.bytes.slice(from..to));
                    Ok(Answer::Read(Content::Copied(vec![part])))
                }
                Command::Extents { span, limit } => {
                    let mut extents = Extents::new(span.length, limit);
                    extents.push(span.length, Status::DATA);
                    Ok(Answer::Extents(extents))
                }
                // Nothing else is offered.
                _ => Err(ErrorCode::Inval.into()),
            }
        };
        execution(answer, place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        execution(async { Ok(Answer::Done) }, None)
    }
}
