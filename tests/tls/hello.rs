//! The first message of a client, by hand: it can offer what no library would.

use std::io::Write;

use crate::support::Server;
use crate::wire::haggle::Haggle;
use crate::wire::numbers::opt;

/// The most that a record holds, in bytes.
const RECORD: usize = 1 << 14;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const SERVER_HELLO: u8 = 2;

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It goes on with a suite, by its number.
    Hello(u16),
    /// It hangs up, with this alert.
    Alert(u8),
}

/// Offers suites, by their numbers, in TLS 1.2 or 1.3 and no other version.
pub(super) fn offer(server: &Server, is_tls_13: bool, suites: &[u16]) -> Answer {
    let mut haggle = Haggle::new(server);
    haggle.accept(opt::STARTTLS, b"");
    let hello = client_hello(is_tls_13, suites);
    for fragment in hello.chunks(RECORD) {
        let header = [&[HANDSHAKE, 3, 1][..], &(fragment.len() as u16).to_be_bytes()].concat();
        // The server may have heard enough.
        let _ = haggle.stream.write_all(&[&header, fragment].concat());
    }
    let [kind, _, _, high, low] = haggle.stream.take();
    let record = haggle.stream.take_vec(usize::from(u16::from_be_bytes([high, low])));
    match (kind, record.as_slice()) {
        (ALERT, &[_, description]) => Answer::Alert(description),
        (HANDSHAKE, [SERVER_HELLO, rest @ ..]) => {
            // The length, the version, 32 random bytes, the session and its length, the suite.
            let session = usize::from(rest[37]);
            Answer::Hello(u16::from_be_bytes([rest[38 + session], rest[39 + session]]))
        }
        _ => panic!("a record of type {kind}: {record:02x?}"),
    }
}

/// The message ClientHello (RFC 8446, "Client Hello").
fn client_hello(is_tls_13: bool, suites: &[u16]) -> Vec<u8> {
    let mut extensions = vec![
        // Groups: x25519 and P-256. Points are not compressed.
        extension(10, &with_length(&[0, 29, 0, 23])),
        extension(11, &[1, 0]),
        // Signatures: ECDSA of P-256, RSA in both forms, each with SHA-256.
        extension(13, &with_length(&[4, 3, 8, 4, 4, 1])),
    ];
    if is_tls_13 {
        extensions.push(extension(43, &[2, 3, 4]));
        let share = [&[0, 29][..], &with_length(&[9; 32])].concat();
        extensions.push(extension(51, &with_length(&share)));
    }
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let body = [
        &[3, 3][..],
        &[0x5a; 32],
        // No session; no compression.
        &[0],
        &with_length(&suites),
        &[1, 0],
        &with_length(&extensions.concat()),
    ]
    .concat();
    let [_, length @ ..] = (body.len() as u32).to_be_bytes();
    [&[1][..], &length, &body].concat()
}

fn extension(number: u16, data: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &with_length(data)].concat()
}

fn with_length(data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("it fits");
    [&length.to_be_bytes()[..], data].concat()
}
