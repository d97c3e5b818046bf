//! Connections to a device that is not a guest: they know nothing else of one than its trait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::client::*;
use super::dedicated::make_busy;
use super::*;
use crate::block::{Chunk, Command, ErrorCode, Extents, Scatter, Span, Status};
use crate::device::guest::GuestTime;
use crate::device::{
    Answer, Buffers, Chunks, Content, Device, Execution, Lease, Leased, Mode, Order, Outcome, Part,
    execution,
};
use crate::exports::Export;

const SIZE: usize = 8 << 20;

/// Behind this offset there are no leases.
pub(super) const LEASED: u64 = SIZE as u64 / 2;

/// A disk in a vector.
pub(super) struct Native {
    geometry: Geometry,
    buffers: Buffers,
    bytes: Arc<RwLock<Vec<u8>>>,
    /// Where there are no leases any more, unless it makes room for them.
    border: AtomicU64,
    room: Room,
    /// What its commands are charged to.
    time: GuestTime,
    leases: AtomicUsize,
    executed: AtomicUsize,
    flushes: AtomicUsize,
}

/// How it makes room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    None,
    AtOnce,
    Later,
}

/// A part of the vector.
struct Slice {
    guard: Guard,
    span: Span,
}

enum Guard {
    Read(OwnedRwLockReadGuard<Vec<u8>>),
    Write(OwnedRwLockWriteGuard<Vec<u8>>),
}

fn range(span: Span) -> Range<usize> {
    span.offset as usize..span.end() as usize
}

impl Slice {
    fn bytes(&self) -> &[u8] {
        let bytes: &[u8] = match &self.guard {
            Guard::Read(bytes) => bytes,
            Guard::Write(bytes) => bytes,
        };
        &bytes[range(self.span)]
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.guard {
            Guard::Read(_) => None,
            Guard::Write(bytes) => Some(&mut bytes[range(self.span)]),
        }
    }
}

impl Leased for Slice {
    fn length(&self) -> u64 {
        self.span.length
    }

    fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        (index == 0).then(|| Chunk::Data(self.bytes()))
    }

    fn write(&mut self, data: &[u8]) {
        let bytes = self.bytes_mut().expect("a lease for writing");
        bytes[..data.len()].copy_from_slice(data);
    }

    fn scatter<'a>(&'a mut self, behind: &'a mut [u8]) -> Option<Scatter<'a>> {
        let mut scatter = Scatter::default();
        scatter.push(self.bytes_mut()?);
        scatter.push(behind);
        Some(scatter)
    }
}

impl Native {
    pub(super) fn new() -> Arc<Self> {
        Self::of(geometry(SIZE as u64))
    }

    pub(super) fn of(geometry: Geometry) -> Arc<Self> {
        let bytes = vec![0; geometry.size as usize];
        Self::of_bytes(geometry, Arc::new(RwLock::new(bytes)))
    }

    /// One whose commands wait for a share of the processors.
    pub(super) fn charging(time: &GuestTime) -> Arc<Self> {
        let bytes = Arc::new(RwLock::new(vec![0; SIZE]));
        Arc::new(Self { time: time.clone(), ..Self::plain(geometry(SIZE as u64), bytes) })
    }

    /// Another device that has the same bytes.
    pub(super) fn same_bytes(&self) -> Arc<Self> {
        let plain = Self::plain(self.geometry.clone(), self.bytes.clone());
        Arc::new(Self { time: self.time.clone(), ..plain })
    }

    /// One that makes room for leases up to its end.
    fn roomy(room: Room) -> Arc<Self> {
        let bytes = Arc::new(RwLock::new(vec![0; SIZE]));
        let native = Self { room, ..Self::plain(geometry(SIZE as u64), bytes) };
        Arc::new(native)
    }

    fn of_bytes(geometry: Geometry, bytes: Arc<RwLock<Vec<u8>>>) -> Arc<Self> {
        Arc::new(Self::plain(geometry, bytes))
    }

    fn plain(geometry: Geometry, bytes: Arc<RwLock<Vec<u8>>>) -> Self {
        Self {
            geometry,
            buffers: Buffers::own(SIZE as u64),
            bytes,
            border: AtomicU64::new(LEASED),
            room: Room::None,
            time: GuestTime::default(),
            leases: AtomicUsize::new(0),
            executed: AtomicUsize::new(0),
            flushes: AtomicUsize::new(0),
        }
    }

    /// How many leases were given and how many commands executed since this was last asked.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.leases.swap(0, Ordering::Relaxed), self.executed.swap(0, Ordering::Relaxed))
    }

    /// A byte of it, which nobody is at work on.
    pub(super) fn peek(&self, offset: usize) -> u8 {
        self.bytes.try_read().unwrap()[offset]
    }

    /// How often it was flushed.
    pub(super) fn flushes(&self) -> usize {
        self.flushes.load(Ordering::Relaxed)
    }

    async fn run(&self, Order { command, payload, .. }: Order) -> Outcome {
        self.executed.fetch_add(1, Ordering::Relaxed);
        // Nothing here is ready at once.
        tokio::task::yield_now().await;
        let mut bytes = self.bytes.write().await;
        match command {
            Command::Read { span } => {
                let parts = vec![Part::Data(bytes[range(span)].to_vec())];
                return Ok(Answer::Read(Content::Copied(parts)));
            }
            Command::Write { span, .. } => bytes[range(span)].copy_from_slice(&payload),
            Command::Zero { fast: true, .. } => return Err(ErrorCode::NotSup.into()),
            Command::Zero { span, .. } | Command::Trim { span, .. } => {
                bytes[range(span)].fill(0);
            }
            Command::Flush => drop(self.flushes.fetch_add(1, Ordering::Relaxed)),
            Command::Cache { .. } => {}
            Command::Extents { span, limit } => {
                let mut extents = Extents::new(span.length, limit);
                extents.push(span.length, Status::DATA);
                return Ok(Answer::Extents(extents));
            }
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

    /// A lease ends at the border.
    fn try_lease(&self, span: Span, mode: Mode) -> Option<Lease<'_>> {
        let border = self.border.load(Ordering::Relaxed);
        let length = span.length.min(border.checked_sub(span.offset)?);
        let span = Span { length, ..span };
        if length == 0 {
            return None;
        }
        let bytes = self.bytes.clone();
        let guard = match mode {
            Mode::Read => Guard::Read(bytes.try_read_owned().ok()?),
            Mode::Write { .. } => Guard::Write(bytes.try_write_owned().ok()?),
        };
        self.leases.fetch_add(1, Ordering::Relaxed);
        Some(Lease::new(Slice { guard, span }))
    }

    fn make_room(self: Arc<Self>, span: Span) -> Option<Execution> {
        let room = self.room;
        let making = async move {
            if room == Room::Later {
                tokio::task::yield_now().await;
            }
            self.border.fetch_max(span.end(), Ordering::Relaxed);
            Ok(Answer::Done)
        };
        (room != Room::None).then(|| execution(making, None))
    }

    /// As a device in memory does, so that long writes are not collected.
    fn partial_write_len(&self, _: Span, here: u64) -> u64 {
        if self.room == Room::None { 0 } else { here }
    }

    fn limited_time(&self, _: Command) -> Option<GuestTime> {
        Some(self.time.clone()).filter(GuestTime::is_limited)
    }

    fn execute(self: Arc<Self>, order: Order, place: Option<Execution>) -> Execution {
        execution(async move { self.run(order).await }, place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        execution(async { Ok(Answer::Done) }, None)
    }
}

#[tokio::test]
async fn a_native_device_is_served_as_a_guest_is() {
    for style in STYLES {
        let device = Native::new();
        let (context, _phase) = context_of_exports(vec![Export::of_device("disk", device.clone())]);
        let mut client = Client::over_socket(&context, style).await;
        let at = |offset: i64| LEASED.checked_add_signed(offset).unwrap();

        assert_eq!(client.call(WRITE, at(-8192), 4096).await.error, 0);
        assert_eq!(client.call(READ, at(-8193), 4098).await.data[..2], [0, 0x77]);
        assert_eq!(device.counts(), (2, 0), "where there are leases, nothing is executed");

        assert_eq!(client.call(WRITE, at(0), 4096).await.error, 0);
        assert_eq!(client.call(READ, at(0), 4096).await.data, [0x77; 4096]);
        assert_eq!(device.counts(), (0, 2), "where there are none, everything is");

        // Over the border a lease is too short, and is given back.
        assert_eq!(
            client.call(READ, at(-4096), 8192).await.data,
            [[0; 4096], [0x77; 4096]].concat()
        );
        assert_eq!(device.counts(), (1, 1));

        // Long writes are received to where there is a lease, and executed behind that.
        assert_eq!(client.call(WRITE, at(-100_000), 300_000).await.error, 0);
        let (_, executed) = device.counts();
        assert!(executed > 0);
        let read = client.call(READ, at(-100_001), 300_002).await.data;
        assert_eq!(read[1..300_001], [0x77; 300_000]);
        assert_eq!((read[0], read[300_001]), (0, 0));

        for (command, zeroed) in [(WRITE_ZEROES, at(-4096)), (TRIM, at(4096))] {
            assert_eq!(client.call(command, zeroed, 4096).await.error, 0);
            assert_eq!(
                client.call(READ, zeroed, 4097).await.data,
                [[0; 4096].as_slice(), &[0x77]].concat()
            );
        }
        assert_eq!(client.call(CACHE, 0, 4096).await.error, 0);
        assert_eq!(client.call(FLUSH, 0, 0).await.error, 0);
        assert_eq!(device.flushes(), 1);
    }
}

/// Where there is no lease, the device is asked to make room, and the data is received there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_writes_are_received_where_room_was_made() {
    for (style, room) in STYLES.into_iter().flat_map(|s| [(s, Room::AtOnce), (s, Room::Later)]) {
        let device = Native::roomy(room);
        let (context, _phase) = context_of_exports(vec![Export::of_device("disk", device.clone())]);
        let mut client = Client::over_socket(&context, style).await;
        make_busy(&mut client, &context).await;
        device.counts();
        let mut executed = 0;
        for index in 0..8 {
            let at = LEASED + index * (300 << 10);
            assert_eq!(client.call(WRITE, at, 256 << 10).await.error, 0);
            executed += device.counts().1;
            let read = client.call(READ, at - 1, (256 << 10) + 2).await.data;
            assert!(read[1..=256 << 10].iter().all(|&byte| byte == 0x77));
            assert_eq!((read[0], read[(256 << 10) + 1]), (0, 0));
            device.counts();
        }
        // Rather than waiting for room, a write is collected, for others might wait for the same.
        let expected = if room == Room::AtOnce { 0 } else { 8 };
        assert_eq!(executed, expected, "of 8 writes");
    }
}

/// The reply is longer than what the stream and the output buffer hold, and nothing else follows
/// that could wake the connection.
#[tokio::test]
async fn a_long_reply_is_completed_after_a_disconnect() {
    for style in STYLES {
        let (context, _phase) = context_of_exports(vec![Export::of_device("disk", Native::new())]);
        let (stream, server) = tokio::io::duplex(600 << 10);
        let mut client = Client::over(Box::new(stream), Box::new(server), &context, style).await;
        let read = client.send(READ, LEASED, LEASED).await;
        client.send(DISC, 0, 0).await;
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let replies = client.replies(1).await;
        assert!(replies[&read].data == [0; LEASED as usize]);
    }
}

/// The bytes are held for as long as they are sent.
#[tokio::test]
async fn what_is_leased_is_not_changed() {
    let device = Native::new();
    let span = Span { offset: 0, length: 4096 };
    let lease = device.try_lease(span, Mode::Read).unwrap();
    assert!(device.try_lease(span, Mode::Read).is_some());
    assert!(device.try_lease(span, Mode::Write { fua: false }).is_none());
    drop(lease);
    let mut lease = device.try_lease(span, Mode::Write { fua: false }).unwrap();
    assert!(device.try_lease(span, Mode::Read).is_none());
    lease.write(&[1; 10]);
    assert_eq!(lease.chunk(0).map(|chunk| chunk.len()), Some(4096));
}
