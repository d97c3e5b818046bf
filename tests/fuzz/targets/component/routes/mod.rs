//! What `rules`, `route`, `done` and `stable` return, and what the host then does to lower devices.
//!
//! Each answer of the component is a function of the arguments. So a model can tell from its memory
//! what becomes of each request: the bytes of the lower devices, the result, and whether the device
//! fails.

mod expected;
mod guest;
mod model;
mod script;
mod store;

use std::sync::Arc;
use std::time::Duration;

use memnbd::block::{Capabilities, Chunk, Command, ErrorCode, Operation, Span};
use memnbd::component::Component;
use memnbd::device::{Answer, Cancelled, Chunks, Device, Order};

use super::super::Choices;
use super::memory::Memory;
use expected::{Expected, Model, stable};
use guest::{Host, host, lowers, open};
use model::{Answers, OPERATIONS};

/// The size of the disk.
const DISK: u64 = 0x10000;

/// The size of the lower device that has the script. It is the last one.
const SCRIPT: usize = 0x4000;

/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

/// The number of a flush among the operations.
const FLUSHING: usize = OPERATIONS.len();

/// A request of a client.
#[derive(Clone, Copy, Debug)]
struct Request {
    /// Its number in the contract, or [`FLUSHING`].
    number: usize,
    span: Span,
    fua: bool,
    keep_allocated: bool,
    fast: bool,
    /// What a write writes.
    byte: u8,
}

impl Request {
    fn plain(number: usize, span: Span) -> Self {
        Self { number, span, fua: false, keep_allocated: false, fast: false, byte: 0 }
    }

    fn operation(&self) -> Operation {
        OPERATIONS.get(self.number).copied().unwrap_or(Operation::Flush)
    }

    fn changes(&self) -> bool {
        matches!(self.operation(), Operation::Write | Operation::Zero | Operation::Trim)
    }

    fn is_offered(&self, offers: &Capabilities) -> bool {
        match self.operation() {
            Operation::Write | Operation::Zero => offers.writable,
            Operation::Trim => offers.trim,
            Operation::Cache => offers.cache,
            _ => true,
        }
    }

    fn command(&self) -> Command {
        let Self { span, fua, keep_allocated, fast, .. } = *self;
        match self.operation() {
            Operation::Read => Command::Read { span },
            Operation::Write => Command::Write { span, fua },
            Operation::Zero => Command::Zero { span, fua, keep_allocated, fast },
            Operation::Trim => Command::Trim { span, fua },
            Operation::Cache => Command::Cache { span },
            Operation::Extents => Command::Extents { span, limit: 4096 },
            Operation::Flush => Command::Flush,
        }
    }
}

/// The first byte chooses the component, the next the second lower device, the next four what the
/// disk offers. Then there are the requests, up to seven, and the rest is the script.
pub(crate) fn routes(data: &[u8]) {
    let mut choices = Choices(data);
    let withdraws = choices.bool();
    let offers = choices.byte();
    let capabilities = (choices.u32() >> 16) as u16;
    let requests: Vec<Requested> =
        (0..choices.byte() & 7).map(|_| Requested::new(&mut choices)).collect();
    let image = script::image(&mut choices, capabilities);
    let lowers = lowers(offers, &image);
    let answers = Answers { memory: Memory::new(&image), lowers };
    let Host { runtime, components } = host();
    let component = &components[usize::from(withdraws)];
    runtime.block_on(async {
        let run = run(component, capabilities, &answers, &requests);
        tokio::time::timeout(LIMIT, run).await.expect("it ends");
    });
}

/// What the bytes say of a request.
struct Requested {
    number: usize,
    at: u32,
    flags: u8,
}

impl Requested {
    fn new(choices: &mut Choices<'_>) -> Self {
        let number = usize::from(choices.byte()) % (FLUSHING + 1);
        Self { number, at: choices.u32(), flags: choices.byte() }
    }

    /// The request, mostly as long as its route.
    fn request(&self, answers: &Answers, offers: &Capabilities) -> Request {
        let has = |bit: u8| self.flags >> bit & 1 != 0;
        let mut length = u64::from(self.at & 0xffff) + 1;
        if !has(0)
            && self.number < FLUSHING
            && let Some(Ok(plan)) = answers.route(self.number)
        {
            let sum: u128 = plan.segments.iter().map(|(_, length)| u128::from(*length)).sum();
            length = u64::try_from(sum).unwrap_or(DISK).clamp(1, DISK);
        }
        let offset = u64::from(self.at >> 16) % (DISK - length + 1);
        let is_zero = OPERATIONS.get(self.number) == Some(&Operation::Zero);
        Request {
            number: self.number,
            span: Span { offset, length },
            fua: has(1),
            keep_allocated: is_zero && has(2),
            fast: is_zero && has(3) && offers.fast_zero,
            byte: self.flags,
        }
    }
}

async fn run(component: &Component, capabilities: u16, answers: &Answers, requests: &[Requested]) {
    let opened = open(component, &answers.lowers).await;
    for (index, lower) in answers.lowers.iter().enumerate() {
        let is_script = |command: &Command| command.operation() == Operation::Read && index == 2;
        assert!(lower.take_log().iter().all(is_script), "opening touches nothing");
    }
    let stable = stable(answers, capabilities);
    let (device, stable) = match (opened, stable) {
        (Some(device), Some(stable)) => (device, stable),
        (None, None) => return,
        (opened, _) => panic!("opened: {}, against the contract", opened.is_some()),
    };
    let contents = answers.lowers.each_ref().map(|lower| lower.bytes());
    let mut model = Model { answers, capabilities, stable, contents };
    let offers = device.geometry().capabilities;
    let mut dead = false;
    let mut done = Vec::new();
    for requested in requests {
        let request = requested.request(answers, &offers);
        if !request.is_offered(&offers) {
            continue;
        }
        let expected = match dead {
            true => Expected::of(Err(ErrorCode::Io)),
            false => match model.expect(&request) {
                Some(expected) => expected,
                None => continue,
            },
        };
        let got = execute(&device, &request).await;
        expected.check_accesses(answers, &request);
        assert_eq!(got.as_ref().err(), expected.outcome.as_ref().err(), "{request:?}");
        if let (Ok(got), Ok(Some(bytes))) = (got, &expected.outcome) {
            assert!(got == *bytes, "other bytes, for {request:?}");
        }
        for (lower, content) in answers.lowers.iter().zip(&model.contents) {
            assert!(lower.bytes() == *content, "another effect of {request:?}");
        }
        dead |= expected.kills;
        done.push((request, expected));
    }
    if dead {
        // What is beneath it works, and another device over it.
        assert!(open(component, &answers.lowers).await.is_some());
        return;
    }
    at_once(&device, &mut model, done).await;
}

/// Sends all requests once more, together. While a flush has the routes withdrawn, those that have a
/// stable route are routed, too.
async fn at_once(device: &Arc<dyn Device>, model: &mut Model<'_>, done: Vec<(Request, Expected)>) {
    model.stable = Default::default();
    let mut all = Expected::of(Ok(None));
    let mut tasks = Vec::new();
    for (request, expected) in done {
        let Some(routed) = model.expect(&request) else { continue };
        all.allowed.extend(expected.allowed.into_iter().chain(routed.allowed));
        let device = device.clone();
        tasks.push(async move { execute(&device, &request).await.map(drop) });
    }
    for task in tasks.into_iter().map(tokio::spawn).collect::<Vec<_>>() {
        let _ = task.await.expect("no panic");
    }
    for (index, lower) in model.answers.lowers.iter().enumerate() {
        for command in lower.take_log() {
            assert!(all.allows(index, &command), "{command:?} on {index}");
        }
    }
}

/// Executes a request. Returns the bytes of a read.
async fn execute(device: &Arc<dyn Device>, request: &Request) -> Result<Vec<u8>, ErrorCode> {
    let payload = match request.operation() {
        Operation::Write => vec![request.byte; request.span.length as usize],
        _ => Vec::new(),
    };
    let order = Order::new(request.command(), payload.into(), Cancelled::default());
    let mut bytes = Vec::new();
    match device.clone().execute(order, None).await.map_err(|error| error.code)? {
        Answer::Read(content) => {
            for chunk in content.chunks() {
                match chunk {
                    Chunk::Data(data) => bytes.extend_from_slice(data),
                    Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
                }
            }
        }
        Answer::Extents(extents) => {
            let sum: u64 = extents.as_slice().iter().map(|extent| extent.length).sum();
            assert!((1..=request.span.length).contains(&sum), "{sum} bytes of extents");
        }
        Answer::Piped(_) | Answer::Located(_) | Answer::Described(_) => {
            panic!("nobody asked for it")
        }
        Answer::Done => {}
    }
    Ok(bytes)
}
