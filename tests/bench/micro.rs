//! What the parts of a request's way cost, one by one: `cargo bench --bench micro`.
//!
//! Guest reads and writes go through an instance of the memory component alone, without locks,
//! shards or sockets. Each reads or overwrites what is stored, at offsets that go around a stretch
//! of 64 MiB, so that the bytes come from memory rather than from the processor's cache.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use memnbd::block::{BlockSizes, Capabilities, Geometry, Span};
use memnbd::component::{BuiltIn, Engine, Instance, MemoryBudget};
use memnbd::nbd::{Negotiated, Piece, ReplyStyle, Request, Session};
use memnbd::parameters::{Argument, Value};
use tokio::runtime::Runtime;

const KIB: u64 = 1 << 10;

/// The stretch of the disk that is used.
const STRETCH: u64 = 64 << 20;

/// A call of the component is for at most so many bytes.
const STRIPE: u64 = 2 << 20;

const SIZES: [u64; 6] = [4 * KIB, 32 * KIB, 128 * KIB, 256 * KIB, 1024 * KIB, STRIPE];

const STYLES: [ReplyStyle; 3] = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended];

fn session(style: ReplyStyle) -> Session {
    let geometry = Geometry {
        size: STRETCH,
        block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: 32 << 20 },
        capabilities: Capabilities { writable: true, ..Capabilities::default() },
        description: String::new(),
    };
    Session::new(&geometry, Negotiated { style, ..Negotiated::default() })
}

/// The header of a read of 4 KiB.
fn header(style: ReplyStyle) -> Vec<u8> {
    let extended = style == ReplyStyle::Extended;
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend([0; 4]); // flags, NBD_CMD_READ
    bytes.extend(7_u64.to_be_bytes()); // cookie
    bytes.extend((12 * KIB).to_be_bytes()); // offset
    match extended {
        true => bytes.extend((4 * KIB).to_be_bytes()),
        false => bytes.extend(4096_u32.to_be_bytes()),
    }
    bytes
}

fn request(session: &Session, header: &[u8]) -> Request {
    session.parse(header).expect("the header is in order")
}

fn protocol(criterion: &mut Criterion) {
    for style in STYLES {
        let session = session(style);
        let header = header(style);
        let request = request(&session, &header);
        let span = Span { offset: request.offset, length: request.length };
        let mut group = criterion.benchmark_group(format!("protocol/{style}"));
        group.bench_function("parse", |bencher| bencher.iter(|| session.parse(black_box(&header))));
        group.bench_function("admit", |bencher| {
            bencher.iter(|| session.admit(black_box(&request)));
        });
        let mut out = Vec::with_capacity(1 << 10);
        group.bench_function("encode a success", |bencher| {
            bencher.iter(|| {
                out.clear();
                session.reply_to(black_box(&request)).success(&mut out);
            });
        });
        group.bench_function("encode the header of a read", |bencher| {
            bencher.iter(|| {
                out.clear();
                let reply = session.reply_to(black_box(&request));
                for run in reply.runs(span, [Piece::Data(span.length)]) {
                    reply.run(&run, &mut out);
                }
            });
        });
        group.finish();
    }
}

/// An instance of the memory component whose stretch is filled.
fn memory(runtime: &Runtime) -> Instance {
    runtime.block_on(async {
        let engine = Engine::new(Duration::from_secs(60));
        let memory = BuiltIn::find("memory").expect("it is built in");
        let component = engine.load_built_in(memory).await.expect("it is a component");
        let budget = MemoryBudget::new(1 << 30);
        let mut instance = component.start(budget).await.expect("it starts");
        let size = Argument { name: "size".to_owned(), value: Value::Size(STRETCH) };
        let opened = instance.open("", false, &[size]).await;
        opened.expect("it returns").expect("the size is good");
        let bytes = vec![0x5a; STRIPE as usize];
        // The second time, its pages become known.
        let stripes = || (0..STRETCH).step_by(STRIPE as usize);
        for offset in stripes().chain(stripes()) {
            let written = instance.write(offset, &bytes, false).await;
            written.expect("it returns").expect("there is memory");
        }
        instance
    })
}

/// Polls a call until it is ready, as nearly all are at once.
fn drive<T>(call: impl Future<Output = T>) -> T {
    let mut call = pin!(call);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
            return result;
        }
    }
}

fn guest(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a thread needs nothing");
    let mut instance = memory(&runtime);
    // A call that is not ready at once makes a timer.
    let _entered = runtime.enter();
    let mut offset = 0;
    let mut next = |length: u64| {
        // Aligned, for what ends where the disk does.
        offset = (offset / length + 1) * length % STRETCH;
        offset
    };

    let mut group = criterion.benchmark_group("guest/read");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let read = drive(instance.read(next(size), size as u32));
                read.expect("it returns").expect("it reads");
                black_box(instance.chunk(0));
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("guest/read resident pages");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let span = Span { offset: next(size), length: size };
                let resident = instance.resident(span).expect("all of its pages are known");
                black_box(instance.resident_chunk(resident, 0));
            });
        });
    }
    group.finish();

    let bytes = vec![0xa5; STRIPE as usize];
    let mut group = criterion.benchmark_group("guest/write");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            bencher.iter(|| {
                let data = &bytes[..size as usize];
                let written = drive(instance.write(next(size), data, false));
                written.expect("it returns").expect("it writes");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, protocol, guest);
criterion_main!(benches);
