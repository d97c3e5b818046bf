//! Lower devices in memory, which log what they execute.

use std::fmt;
use std::sync::{Arc, Mutex};

use memnbd::block::{
    BlockSizes, Capabilities, Command, Extents, Geometry, MAX_TRANSFER, Span, Status,
};
use memnbd::component::{Client, Executing};
use memnbd::device::{
    Answer, Buffers, Content, Device, Execution, Lease, Lower, LowerError, LowerSource, Mode,
    Order, Outcome, Part, execution,
};

/// A device.
pub(super) struct Store {
    geometry: Geometry,
    buffers: Buffers,
    bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<Command>>,
}

impl Store {
    pub(super) fn new(bytes: Vec<u8>, capabilities: Capabilities) -> Arc<Self> {
        let block_sizes = BlockSizes { minimum: 1, preferred: 4096, maximum: MAX_TRANSFER };
        let (size, description) = (bytes.len() as u64, String::new());
        Arc::new(Self {
            geometry: Geometry { size, block_sizes, capabilities, description },
            buffers: Buffers::own(1 << 30),
            bytes: Mutex::new(bytes),
            log: Mutex::default(),
        })
    }

    pub(super) fn offers(&self) -> &Capabilities {
        &self.geometry.capabilities
    }

    pub(super) fn size(&self) -> u64 {
        self.geometry.size
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }

    pub(super) fn take_log(&self) -> Vec<Command> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    fn run(&self, Order { command, payload, .. }: Order) -> Outcome {
        self.log.lock().unwrap().push(command);
        let mut bytes = self.bytes.lock().unwrap();
        let Span { offset, length } = command.span();
        // A panic where it is not within the device.
        let place = &mut bytes[offset as usize..][..length as usize];
        match command {
            Command::Read { .. } => {
                let part = Part::Data(place.to_vec());
                return Ok(Answer::Read(Content::Copied(vec![part])));
            }
            Command::Write { .. } => place.copy_from_slice(&payload),
            Command::Zero { .. } | Command::Trim { .. } => place.fill(0),
            Command::Extents { limit, .. } => {
                let mut extents = Extents::new(length, limit);
                let half = length.div_ceil(2);
                let _ = extents.push(half, Status::DATA)
                    && half < length
                    && extents.push(length - half, Status::HOLE);
                return Ok(Answer::Extents(extents));
            }
            Command::Flush | Command::Cache { .. } => {}
        }
        Ok(Answer::Done)
    }
}

impl Device for Store {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn try_lease(&self, _: Span, _: Mode) -> Option<Lease<'_>> {
        None
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        execution(async move { self.run(order) }, place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        execution(async { Ok(Answer::Done) }, None)
    }
}

/// A source of a device.
pub(super) struct Source(pub(super) Arc<Store>);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device")
    }
}

impl LowerSource for Source {
    fn open<'a>(&'a self, _: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(async { Ok(Lower { device: self.0.clone(), link: None }) })
    }
}
