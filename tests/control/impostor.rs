//! Servers that answer `memnbd` with nonsense over the upgraded connection.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use crate::support::{Finished, LIMIT, run};

const SIZE: u64 = 64 << 20;

/// The address space of the client, in KiB: less than what a server might make it allocate.
const SPACE: u64 = 3 << 20;

fn reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let numbers = [option, kind, data.len() as u32].map(u32::to_be_bytes);
    [&0x0003_e889_0455_65a9_u64.to_be_bytes(), numbers.as_flattened(), data].concat()
}

/// The greeting, and the replies to the options of a client.
fn handshake(size: u64) -> Vec<u8> {
    let context = [&[0, 0, 0, 1], &b"base:allocation"[..]].concat();
    let export = [&[0, 0], &size.to_be_bytes()[..], &[0, 0x45]].concat();
    [
        b"NBDMAGICIHAVEOPT\0\x03".to_vec(),
        reply(8, 1, &[]),
        [reply(10, 4, &context), reply(10, 1, &[])].concat(),
        [reply(7, 3, &export), reply(7, 1, &[])].concat(),
    ]
    .concat()
}

/// A chunk of a reply to the request of this number.
fn chunk(kind: u16, cookie: u64, length: u32, payload: &[u8]) -> Vec<u8> {
    let head = [&[0x66, 0x8e, 0x33, 0xef, 0, 1][..], &kind.to_be_bytes(), &cookie.to_be_bytes()];
    [&head.concat()[..], &length.to_be_bytes(), payload].concat()
}

/// Answers requests to the API with a disk, and an upgraded connection with `greeting`. Each request there
/// gets the next one of `replies`, the last one over and over.
fn impostor(directory: &Path, greeting: Vec<u8>, replies: Vec<Vec<u8>>) {
    let listener = UnixListener::bind(directory.join("control")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            // The client may have gone.
            let _ = answer(&mut stream, &greeting, &replies);
        }
    });
}

fn answer(stream: &mut UnixStream, greeting: &[u8], replies: &[Vec<u8>]) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !String::from_utf8_lossy(&head).contains("/nbd HTTP") {
        let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        return stream.write_all(answer);
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: nbd\r\n\r\n";
    stream.write_all(switch.as_bytes())?;
    stream.write_all(greeting)?;
    let mut received = [0; 4096];
    for reply in replies {
        loop {
            let length = stream.read(&mut received)?;
            let has_request =
                received[..length].windows(4).any(|bytes| bytes == b"\x25\x60\x95\x13");
            if length == 0 || has_request {
                break;
            }
        }
        stream.write_all(reply)?;
    }
    if let Some(last) = replies.last() {
        for _ in 0..100_000 {
            stream.write_all(last)?;
        }
    }
    // A socket that is closed with something unread loses what was sent.
    stream.read_to_end(&mut Vec::new()).map(drop)
}

/// Runs `memnbd` with little room in a directory.
fn memnbd(directory: &Path, arguments: &str) -> Finished {
    let memnbd = env!("CARGO_BIN_EXE_memnbd");
    let script = format!("ulimit -v {SPACE}; exec {memnbd} --host unix:control {arguments}");
    run(Command::new("sh").args(["-ec", &script]).current_dir(directory))
}

#[test]
fn nonsense_ends_the_program_with_a_reason_and_costs_little() {
    let extents = |length: u32| {
        chunk(5, 0, 12, &[&[0, 0, 0, 1], &length.to_be_bytes()[..], &[0; 4]].concat())
    };
    // An answer to the first request, and a wrong one to those that read.
    let then = |wrong: Vec<u8>| vec![extents(SIZE as u32), wrong];
    let usual = handshake(SIZE);
    let cases = [
        (b"HTTP/1.1 what\r\n\r\n and so on".to_vec(), vec![], "violated"),
        (handshake(u64::MAX), vec![], "has 18446744073709551615 bytes"),
        (usual.clone(), vec![vec![0xff; 4096]], "begins with 0xffffffff"),
        (usual.clone(), vec![chunk(5, 9, 12, &[0; 12])], "the request 9"),
        (usual.clone(), vec![chunk(5, 0, u32::MAX, &[])], "has 4294967295 bytes"),
        (usual.clone(), vec![chunk(0x8001, 0, u32::MAX, &[])], "has 4294967295 bytes"),
        (usual.clone(), then(chunk(1, 1, u32::MAX, &[0; 64])), "not within"),
        (usual.clone(), then(chunk(1, 1, 8, &[0; 8])), "has 8 bytes"),
        (usual.clone(), then(chunk(2, 1, 12, &[0xff; 12])), "not within"),
        (usual, vec![chunk(0x8001, 0, 14, b"\0\0\0\x05\0\x08\x1b[2Jboom")], "?[2Jboom"),
    ];
    for (greeting, nonsense, words) in cases {
        for command in ["save disk saved", "save disk saved --format qcow2", "copy image disk"] {
            let directory = TempDir::new().unwrap();
            fs::write(directory.path().join("image"), [7; 4096]).unwrap();
            impostor(directory.path(), greeting.clone(), nonsense.clone());
            let error = memnbd(directory.path(), command).failure(1);
            // A copy reads nothing, so that the answer is another wrong one.
            let words = match command.starts_with("copy") && nonsense.len() == 2 {
                true => "does not belong there",
                false => words,
            };
            assert!(error.contains(words), "{command}: {words}: {error}");
            assert!(!error.contains('\x1b'), "{error:?}");
            assert!(!directory.path().join("saved").exists());
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "{command}");
        }
    }
}

#[test]
fn sizes_that_no_file_can_have_are_refused() {
    let replies = vec![vec![0xff; 64]];
    let directory = TempDir::new().unwrap();
    impostor(directory.path(), handshake(1 << 62), replies);
    let error = memnbd(directory.path(), "save disk saved --format qcow2").failure(1);
    assert!(error.contains("at most 2251799813685248"), "{error}");
    let error = memnbd(directory.path(), "save disk saved").failure(1);
    // It depends on the file system what is wrong first.
    assert!(error.contains("too large") || error.contains("begins with 0xffffffff"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
