//! The same conversation with other servers: where they have a feature, the results are the same.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::commands::pattern;
use super::haggle::*;
use super::numbers::*;
use super::ranges::walk;
use super::session::{Session, Style};
use super::stream::Stream;
use crate::support::{Server, require};

const SIZE: u64 = 8 << 20;

/// Another server of a disk of [`SIZE`] bytes.
struct Other {
    child: Child,
    directory: TempDir,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Other {
    /// SOCKET among the arguments is where it is to listen.
    fn start(program: &str, arguments: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let disk = std::fs::File::create(directory.path().join("disk")).unwrap();
        disk.set_len(SIZE).unwrap();
        let mut command = Command::new(program);
        command.current_dir(directory.path()).stdin(Stdio::null());
        for argument in arguments {
            match *argument {
                "SOCKET" => command.arg(directory.path().join("socket")),
                argument => command.arg(argument),
            };
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }
}

/// A client that forgives what is only recommended.
fn connect(socket: &Path) -> Haggle {
    let mut haggle = Haggle::greeted(Stream::connect_unix(socket));
    haggle.stream.put(&FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes());
    haggle.lenient = true;
    haggle
}

/// What options come to: the type of the last reply, and whether others came before it. Servers may
/// tell more than they are asked for.
fn haggle(socket: &Path) -> Vec<(u32, bool)> {
    let mut haggle = connect(socket);
    let options: [(u32, Vec<u8>); 15] = [
        (opt::UNKNOWN, b"junk".to_vec()),
        (opt::PEEK_EXPORT, string("")),
        (opt::LIST, Vec::new()),
        (opt::INFO, info("", &[])),
        (opt::INFO, info("", &[0x7777, 0xffff])),
        (opt::INFO, Vec::new()),
        (opt::INFO, [&string("")[..], &[0, 5, 0, 1]].concat()),
        (opt::GO, [&[0xff; 4][..], &[0; 2]].concat()),
        (opt::GO, info([b'n'; 5000], &[])),
        (opt::SET_META_CONTEXT, meta("", &["base:allocation"])),
        (opt::STRUCTURED_REPLY, Vec::new()),
        (opt::LIST_META_CONTEXT, meta("", &[])),
        (opt::LIST_META_CONTEXT, meta("", &["x-nobody:knows", "base:"])),
        (opt::SET_META_CONTEXT, meta("", &["base:", "base:allocation", "nocolon"])),
        (opt::ABORT, Vec::new()),
    ];
    let result = |(number, data): &(u32, Vec<u8>)| {
        let answer = haggle.option(*number, data);
        (answer.end, !answer.interim.is_empty())
    };
    options.iter().map(result).collect()
}

/// What requests come to, one after the other: errors and what was read.
fn converse(session: &mut Session) -> Vec<(u32, Vec<u8>)> {
    let kib64 = pattern(65536);
    let script: [(u16, u16, u64, u64, &[u8]); 30] = [
        (cmd::READ, 0, 0, SIZE, b""),
        (cmd::WRITE, 0, 65536, 65536, &kib64),
        (cmd::READ, 0, 65530, 65550, b""),
        (cmd::WRITE, with::FUA, 1 << 20, 4096, &kib64[..4096]),
        (cmd::WRITE, 0, (1 << 20) + 511, 1, b"x"),
        (cmd::WRITE, 0, (1 << 20) + 4095, 2, b"yz"),
        (cmd::READ, 0, (1 << 20) + 1, 9998, b""),
        (cmd::FLUSH, 0, 0, 0, b""),
        (cmd::WRITE_ZEROES, 0, 70_000, 1000, b""),
        (cmd::WRITE_ZEROES, with::NO_HOLE, 80_000, 1000, b""),
        (cmd::WRITE_ZEROES, with::FUA, 90_000, 1, b""),
        (cmd::READ, 0, 65536, 65536, b""),
        (cmd::WRITE, 0, SIZE - 4096, 4096, &kib64[..4096]),
        (cmd::READ, 0, SIZE - 5000, 5000, b""),
        (cmd::READ, 0, SIZE - 4096, 8192, b""),
        (cmd::READ, 0, SIZE, 4096, b""),
        (cmd::READ, 0, 1 << 63, 4096, b""),
        (cmd::READ, 0, u64::MAX - 4095, 8192, b""),
        (cmd::TRIM, 0, SIZE - 4096, 8192, b""),
        (cmd::TRIM, 0, SIZE, 4096, b""),
        (cmd::READ, with::UNKNOWN, 0, 4096, b""),
        (cmd::READ, with::NO_HOLE, 0, 4096, b""),
        (cmd::WRITE, with::UNKNOWN, 0, 4096, &kib64[..4096]),
        (cmd::WRITE, with::DF, 0, 4096, &kib64[..4096]),
        (cmd::WRITE_ZEROES, with::DF, 0, 4096, b""),
        (cmd::TRIM, with::UNKNOWN, 0, 4096, b""),
        (0xff, 0, 0, 4096, b""),
        (0x101, 0, 0, 4096, b""),
        (cmd::TRIM, 0, 4 << 20, 65536, b""),
        (cmd::READ, 0, 0, SIZE, b""),
    ];
    let mut results = Vec::new();
    for (command, flags, at, length, payload) in script {
        let outcome = session.call(flags, command, at, length, payload);
        results.push((outcome.error, outcome.data));
    }
    if session.style != Style::Simple {
        results.push((0, session.call(with::DF, cmd::READ, 60_000, 65536, b"").success().data));
        results.push((session.ask(0, cmd::BLOCK_STATUS, SIZE, 4096), Vec::new()));
        // Where it is zero: what was written fills units of 64 KiB, or leaves them alone.
        session.zero(0, 0, SIZE);
        session.write(2 << 20, &kib64);
        session.write(5 << 20, &pattern(1 << 20));
        let extents = walk(session, SIZE);
        let zero = |(at, length, state): &(u64, u64, u64)| {
            (*at..at + length).step_by(65536).map(|_| (*state as u8) & 2).collect::<Vec<_>>()
        };
        results.push((0, extents.iter().flat_map(zero).collect()));
    }
    results
}

/// Holds all conversations that the other server is up to with both, and compares.
fn compare(other: &Other, styles: &[Style]) {
    for &style in styles {
        // Each begins with a disk of zeroes.
        let server = Server::start(&["8M"]);
        let results = [server.socket(), other.socket()].map(|socket| {
            let haggle = connect(&socket);
            let haggle = match style {
                Style::Simple => haggle,
                Style::Structured => haggle.structured(""),
                Style::Extended => haggle.extended(""),
            };
            let mut session = haggle.go("");
            session.zero(0, 0, SIZE);
            converse(&mut session)
        });
        for (index, (ours, theirs)) in results[0].iter().zip(&results[1]).enumerate() {
            assert_eq!(ours.0, theirs.0, "error of request {index} in style {style:?}");
            assert!(ours.1 == theirs.1, "content of request {index} in style {style:?}");
        }
    }
    let server = Server::start(&["8M"]);
    assert_eq!(haggle(&server.socket()), haggle(&other.socket()));
}

#[test]
fn nbdkit_answers_the_same() {
    require!("nbdkit");
    let other = Other::start("nbdkit", &["-f", "-U", "SOCKET", "memory", "8M"]);
    compare(&other, &[Style::Simple, Style::Structured]);
}

#[test]
fn qemu_nbd_answers_the_same() {
    require!("qemu-nbd");
    let arguments = ["-f", "raw", "-k", "SOCKET", "-t", "-e", "4", "--discard=unmap", "disk"];
    let other = Other::start("qemu-nbd", &arguments);
    compare(&other, &[Style::Simple, Style::Structured, Style::Extended]);
}
