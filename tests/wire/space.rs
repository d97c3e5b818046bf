//! Disks that are full, and disks side by side.

use super::haggle::*;
use super::numbers::*;
use super::ranges::walk;
use crate::support::Server;

const MIB: u64 = 1 << 20;

#[test]
fn what_is_allocated_can_be_written_on_a_full_disk() {
    let server = Server::start(&["--max-memory", "64M", "1G"]);
    let mut session = Haggle::new(&server).extended("").go("");
    session.zero(with::NO_HOLE, 0, 4 * MIB);
    let data = vec![0x55; MIB as usize];
    let mut at = 8 * MIB;
    let error = loop {
        match session.call(0, cmd::WRITE, at, MIB, &data).error {
            0 => at += MIB,
            error => break error,
        }
        assert!(at < 80 * MIB, "it holds more than there is");
    };
    assert_eq!(error, errno::ENOSPC);
    assert!(at > 16 * MIB, "it is full after {at}");
    // Where it is not a hole, and only there, writing goes on.
    let mut allocated = 0;
    for (at, length, state) in walk(&mut session, 1 << 30) {
        if state & u64::from(state::HOLE) == 0 {
            for at in (at..at + length).step_by(MIB as usize) {
                session.write(at, &data[..4096]);
            }
            session.zero(with::NO_HOLE, at, length);
            session.write(at, &data[..1]);
            allocated += length;
        }
    }
    assert!(allocated >= at - 4 * MIB);
    let full = session.call(0, cmd::WRITE, 512 * MIB, 32 * MIB, &data.repeat(32)).error;
    assert_eq!(full, errno::ENOSPC);
    // What is given back can be used again.
    assert_eq!(session.ask(0, cmd::TRIM, 0, 1 << 30), 0);
    session.write(512 * MIB, &data);
    assert!(session.read(512 * MIB, MIB) == data);
}

#[test]
fn disks_side_by_side_are_told_apart() {
    let server = Server::start(&[
        "--export",
        "one=memory,1M",
        "--export",
        "two=memory,2M",
        "--export",
        "the pattern=pattern,4M",
    ]);
    let mut haggle = Haggle::new(&server);
    haggle.accept(opt::STRUCTURED_REPLY, b"");
    let exports = haggle.accept(opt::LIST, b"").exports();
    let names: Vec<&str> = exports.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["one", "two", "the pattern"]);
    for (name, description) in &exports {
        let infos = haggle.accept(opt::INFO, &info(name, &[0, 1, 2, 3])).infos();
        assert_eq!(infos.name.as_ref(), Some(name));
        assert_eq!(infos.description.as_ref(), Some(description));
        let answer = haggle.accept(opt::LIST_META_CONTEXT, &meta(name, &[]));
        assert_eq!(answer.contexts(), [(0, "base:allocation".to_owned())]);
    }
    for name in ["One", "one ", "three", "one\u{301}"] {
        assert_eq!(haggle.option(opt::INFO, &info(name, &[])).end, rep::ERR_UNKNOWN);
    }
    assert_eq!(haggle.accept(opt::INFO, &info("", &[])).infos().size, MIB);
    // A selection for one is none for another.
    haggle.accept(opt::SET_META_CONTEXT, &meta("one", &["base:allocation"]));
    let mut two = haggle.go("two");
    assert_eq!(two.ask(0, cmd::BLOCK_STATUS, 0, 4096), errno::EINVAL);
    two.write(0, &[2; 4096]);
    let mut one = Haggle::new(&server).structured("one").go("one");
    assert_eq!(one.status(0, 0, MIB), [(MIB, 3)]);
    assert_eq!(one.read(0, 4096), [0; 4096]);
    let mut pattern = Haggle::new(&server).go("the pattern");
    assert_eq!(pattern.read(8, 8), 8_u64.to_be_bytes());
    two.expect_in_sync();
}
