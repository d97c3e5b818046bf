//! Option haggling.

use memnbd::block::{BlockSizes, Capabilities, Geometry};
use memnbd::nbd::limits::{MAX_OPTION_DATA, MAX_TEXT};
use memnbd::nbd::{
    Bitmaps, Event, ExportInfo, ExportSummary, Handshake, HandshakeConfig, OpenError,
    ProtocolError, Session, TlsMode,
};

use super::Choices;

/// How a handshake ended.
#[derive(Debug, PartialEq)]
enum End {
    /// More input is needed.
    Open,
    Aborted,
    Violation(ProtocolError),
    Session(Session),
}

/// The first byte chooses what is offered, the second how the rest is cut into segments. However it
/// is cut, the server says the same, and that is well-formed.
pub(crate) fn handshake(data: &[u8]) {
    let mut choices = Choices(data);
    let (offered, segment) = (choices.byte(), choices.byte());
    let config = HandshakeConfig {
        tls: [TlsMode::Off, TlsMode::On, TlsMode::Require, TlsMode::Off][usize::from(offered & 3)],
        structured_replies: offered & 4 == 0,
        meta_contexts: offered & 8 == 0,
        extended_headers: offered & 16 == 0,
        fixed_newstyle: offered & 32 == 0,
        no_zeroes: offered & 64 == 0,
    };
    let whole = run(config, choices.0, usize::MAX);
    // Plain text after STARTTLS is a violation when it comes along with it, else it never arrives.
    if config.tls == TlsMode::Off {
        let pieces = run(config, choices.0, usize::from(segment % 61) + 1);
        assert_eq!(whole.1, pieces.1, "{config:?}");
        assert!(whole.0 == pieces.0, "{config:?}");
    } else {
        run(config, choices.0, usize::from(segment % 61) + 1);
    }
}

/// Feeds a handshake. Returns all that the server said, and the end.
fn run(config: HandshakeConfig, input: &[u8], segment: usize) -> (Vec<u8>, End) {
    let mut handshake = Handshake::new(config);
    let mut said = Vec::new();
    let mut kept = Vec::new();
    for piece in input.chunks(segment.min(input.len().max(1))) {
        kept.extend_from_slice(piece);
        loop {
            let mut output = Vec::new();
            let advanced = handshake.advance(&kept, &mut output);
            check(&output);
            said.extend_from_slice(&output);
            let (taken, event) = match advanced {
                Ok(advanced) => advanced,
                Err(violation) => return (said, End::Violation(violation)),
            };
            kept.drain(..taken);
            let mut output = Vec::new();
            let opened = match event {
                Event::NeedInput => {
                    assert!(kept.len() < MAX_OPTION_DATA, "a bounded buffer is enough");
                    break;
                }
                Event::Abort => return (said, End::Aborted),
                Event::StartTls => {
                    handshake.tls_established();
                    Ok(None)
                }
                Event::List => {
                    let description = "one of two";
                    let exports = ["disk", ""].map(|name| ExportSummary { name, description });
                    for export in &exports {
                        handshake.list(export, &mut output);
                    }
                    handshake.listed(&mut output);
                    Ok(None)
                }
                Event::Open { name, .. } => open(&mut handshake, &name, &mut output),
            };
            match opened {
                Ok(Some(session)) => {
                    said.extend_from_slice(&output);
                    return (said, End::Session(session));
                }
                Ok(None) => check(&output),
                Err(violation) => return (said, End::Violation(violation)),
            }
            said.extend_from_slice(&output);
        }
    }
    (said, End::Open)
}

fn open(
    handshake: &mut Handshake,
    name: &str,
    output: &mut Vec<u8>,
) -> Result<Option<Session>, ProtocolError> {
    assert!(name.len() <= 4096 && !name.contains('\0'));
    let geometry = Geometry {
        size: 1 << 20,
        block_sizes: BlockSizes { minimum: 512, preferred: 4096, maximum: 1 << 20 },
        capabilities: Capabilities { writable: true, ..Capabilities::default() },
        description: String::new(),
    };
    let (name, description) = ("disk", "a disk");
    let info = ExportInfo { name, description, geometry: &geometry, bitmaps: Some(&Some20) };
    let export = match name {
        "" | "disk" => Ok(&info),
        "broken" => Err(OpenError::Failed { text: "it is broken" }),
        "forbidden" => Err(OpenError::Policy { text: "the export is not for this client" }),
        "secret" => Err(OpenError::TlsRequired),
        _ => Err(OpenError::Unknown),
    };
    handshake.opened(export, output)
}

/// Bitmaps of which there are more than can be selected, and fewer than are listed.
struct Some20;

impl Bitmaps for Some20 {
    fn exists(&self, name: &str) -> bool {
        name.parse().is_ok_and(|number: u32| number < 20)
    }

    fn names(&self, most: usize) -> Vec<String> {
        (0..20).map(|number: u32| number.to_string()).take(most).collect()
    }
}

/// Whether the replies to options are whole and in order.
fn check(mut replies: &[u8]) {
    while !replies.is_empty() {
        let (header, rest) = replies.split_first_chunk::<20>().expect("a whole header");
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let (option, kind, length) = (number(8), number(12), number(16) as usize);
        let (data, rest) = rest.split_at_checked(length).expect("all of the data");
        match kind {
            1 => assert!(data.is_empty()),
            2 => assert_eq!(option, 3),
            3 => assert!(option == 6 || option == 7),
            4 => {
                assert!(option == 9 || option == 10);
                let name = &data[4..];
                let bitmap = name.strip_prefix(b"qemu:dirty-bitmap:");
                let is_bitmap =
                    bitmap.is_some_and(|name| Some20.exists(str::from_utf8(name).unwrap()));
                assert!(
                    is_bitmap
                        || [&b"base:allocation"[..], b"qemu:allocation-depth"].contains(&name)
                );
            }
            0x8000_0001..=0x8000_000a => {
                let text = str::from_utf8(data).expect("a text");
                assert!(!text.is_empty() && text.len() <= MAX_TEXT);
            }
            _ => panic!("a reply of type {kind:#x}"),
        }
        replies = rest;
    }
}
