//! A lower device in a vector, which logs what it executes, fails where it is told to, and can be held.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::block::{
    BlockSizes, Capabilities, Command, ErrorCode, Extents, Geometry, MAX_TRANSFER, Operation, Span,
    Status,
};
use crate::device::{
    Answer, Buffers, Cancelled, Content, Device, Execution, Lease, Mode, Order, Outcome, Part,
    execution,
};

/// The device.
pub(in crate::device) struct Native {
    geometry: Geometry,
    buffers: Buffers,
    pub(in crate::device) bytes: Mutex<Vec<u8>>,
    log: Mutex<Vec<Command>>,
    fails: Mutex<Vec<(Operation, u64, ErrorCode)>>,
    fails_flushes: AtomicBool,
    /// Each execution takes a permit, and puts it back unless the device is held.
    held: Semaphore,
    pub(in crate::device) under_way: AtomicUsize,
    pub(in crate::device) most_under_way: AtomicUsize,
    /// The number of orders that were cancelled before they were executed.
    pub(in crate::device) cancelled: AtomicUsize,
}

impl Native {
    pub(in crate::device) fn new(size: u64) -> Arc<Self> {
        Self::with(size, |_| ())
    }

    /// A device that lacks something.
    pub(in crate::device) fn with(size: u64, change: impl FnOnce(&mut Capabilities)) -> Arc<Self> {
        let mut capabilities = Capabilities {
            writable: true,
            flush: true,
            fua: true,
            trim: true,
            zero: true,
            fast_zero: true,
            cache: true,
            multi_conn: true,
            rotational: false,
        };
        change(&mut capabilities);
        let block_sizes = BlockSizes { minimum: 1, preferred: 4096, maximum: MAX_TRANSFER };
        let description = String::new();
        Arc::new(Self {
            geometry: Geometry { size, block_sizes, capabilities, description },
            buffers: Buffers::own(64 << 20),
            bytes: Mutex::new(vec![0; size as usize]),
            log: Mutex::default(),
            fails: Mutex::default(),
            fails_flushes: AtomicBool::new(false),
            held: Semaphore::new(1 << 20),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
        })
    }

    /// Fills the device with bytes that tell their places.
    pub(in crate::device) fn numbered(self: &Arc<Self>, seed: u8) -> Arc<Self> {
        let bytes = &mut *self.bytes.lock().unwrap();
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = seed.wrapping_add((index / 512) as u8);
        }
        self.clone()
    }

    /// Has commands of a kind fail that touch this offset. A flush touches all.
    pub(in crate::device) fn fail(&self, operation: Operation, offset: u64, code: ErrorCode) {
        self.fails.lock().unwrap().push((operation, offset, code));
    }

    /// Has flushes fail.
    pub(in crate::device) fn fail_flushes(&self) {
        self.fails_flushes.store(true, Ordering::Relaxed);
    }

    /// Ends the failures.
    pub(in crate::device) fn mend(&self) {
        self.fails.lock().unwrap().clear();
    }

    /// Has all commands wait from now on.
    pub(in crate::device) fn hold(&self) {
        self.held.forget_permits(usize::MAX);
    }

    /// Lets them go on.
    pub(in crate::device) fn release(&self) {
        self.held.add_permits(1 << 20);
    }

    pub(in crate::device) fn take_log(&self) -> Vec<Command> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }

    /// Waits until this many commands are under way.
    pub(in crate::device) async fn until_under_way(&self, count: usize) {
        while self.under_way.load(Ordering::Relaxed) != count {
            tokio::task::yield_now().await;
        }
    }

    async fn run(self: Arc<Self>, order: Order) -> Outcome {
        let Order { command, payload, cancelled, .. } = order;
        let under_way = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::Relaxed);
        drop(self.held.acquire().await.unwrap());
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        self.cancelled.fetch_add(cancelled.is_cancelled().into(), Ordering::Relaxed);
        self.log.lock().unwrap().push(command);
        if command == Command::Flush && self.fails_flushes.load(Ordering::Relaxed) {
            return Err(ErrorCode::Io.into());
        }
        let span = command.span();
        for &(operation, offset, code) in &*self.fails.lock().unwrap() {
            let touches = command == Command::Flush || span.range().contains(&offset);
            if operation == command.operation() && touches {
                return Err(code.into());
            }
        }
        let mut bytes = self.bytes.lock().unwrap();
        let place = span.offset as usize..span.end() as usize;
        match command {
            Command::Read { .. } => {
                let part = Part::Data(bytes[place].to_vec());
                return Ok(Answer::Read(Content::Copied(vec![part])));
            }
            Command::Write { .. } => bytes[place].copy_from_slice(&payload),
            Command::Zero { .. } | Command::Trim { .. } => bytes[place].fill(0),
            Command::Extents { span, limit } => {
                let mut extents = Extents::new(span.length, limit);
                for byte in &bytes[place] {
                    let status = if *byte == 0 { Status::HOLE } else { Status::DATA };
                    if !extents.push(1, status) {
                        break;
                    }
                }
                return Ok(Answer::Extents(extents));
            }
            Command::Flush | Command::Cache { .. } => {}
        }
        Ok(Answer::Done)
    }
}

impl Device for Native {
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
        execution(self.run(order), place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        self.execute(Order::new(Command::Flush, Default::default(), Cancelled::default()), None)
    }
}
