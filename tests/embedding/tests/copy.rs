//! The project's tests: disks of built-in components, and one of its own with a bad sector.

use std::sync::Arc;

use memnbd::Server;
use memnbd::block::{
    BlockSizes, Capabilities, Command, ErrorCode, Extents, Geometry, Operation, Span, Status,
};
use memnbd::device::{
    Answer, Buffers, Content, Device, Execution, Lease, Mode, Order, Outcome, Part, execution,
};
use memnbd_embedding::{are_equal, copy};

const SIZE: u64 = 1 << 20;

/// A disk of the letter A, of which one sector cannot be read.
struct Letters {
    geometry: Geometry,
    buffers: Buffers,
    bad: Option<u64>,
}

impl Letters {
    fn new(bad: Option<u64>) -> Arc<Self> {
        let geometry = Geometry {
            size: SIZE,
            block_sizes: BlockSizes { minimum: 1, preferred: 4096, maximum: 1 << 20 },
            capabilities: Capabilities::default(),
            description: "the letter A".into(),
        };
        Arc::new(Self { geometry, buffers: Buffers::own(SIZE), bad })
    }

    fn run(&self, command: Command) -> Outcome {
        match command {
            Command::Read { span } => match self.bad {
                Some(bad) if span.offset < bad + 512 && bad < span.end() => {
                    Err(ErrorCode::Io.into())
                }
                _ => {
                    let letters = vec![b'A'; span.length as usize];
                    Ok(Answer::Read(Content::Copied(vec![Part::Data(letters)])))
                }
            },
            Command::Extents { span, limit } => {
                let mut extents = Extents::new(span.length, limit);
                extents.push(span.length, Status::DATA);
                Ok(Answer::Extents(extents))
            }
            // Nothing else is offered.
            _ => Err(ErrorCode::Inval.into()),
        }
    }
}

impl Device for Letters {
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
        execution(async move { self.run(order.command) }, place)
    }

    fn last_flush(self: Arc<Self>) -> Execution {
        execution(async { Ok(Answer::Done) }, None)
    }
}

#[test]
fn a_disk_is_copied_to_another() {
    let server = Server::builder()
        .component("from", "pattern", &[("size", "1M")])
        .component("to", "memory", &[("size", "1M")])
        .unix_private()
        .start()
        .unwrap();
    let (from, to) = (server.uri_of("from"), server.uri_of("to"));
    assert!(!are_equal(&from, &to));
    copy(&from, &to).unwrap();
    assert!(are_equal(&from, &to));

    let totals = server.handle().export("to").unwrap().account().totals();
    assert_eq!(totals.of(Operation::Write).bytes, SIZE);
    assert_eq!(totals.of(Operation::Write).errors, 0);
}

#[test]
fn a_bad_sector_is_not_copied_over() {
    let server = Server::builder()
        .device("good", Letters::new(None))
        .device("bad", Letters::new(Some(SIZE / 2)))
        .memory("1M")
        .start()
        .unwrap();
    let to = server.uri_of("memory");
    copy(&server.uri_of("good"), &to).unwrap();
    let error = copy(&server.uri_of("bad"), &to).unwrap_err();
    assert!(error.contains("Input/output error"), "{error}");
    server.stop().unwrap();
}

#[test]
fn every_test_may_have_servers_of_its_own() {
    let start = || Server::builder().memory("1M").start().unwrap();
    let servers: Vec<_> = (0..20).map(|_| start()).collect();
    let written = Server::builder().device("letters", Letters::new(None)).start().unwrap();
    copy(&written.uri(), &servers[7].uri()).unwrap();
    assert!(are_equal(&written.uri(), &servers[7].uri()));
    assert!(are_equal(&servers[0].uri(), &servers[19].uri()), "both are still empty");
}
