//! What clients must not send: random bytes, and good conversations that were tampered with.

use super::server::Server;
use super::transcript::bytes;
use super::*;

/// How many of the corpus are options; what follows are requests.
const OPTIONS: usize = 12;

/// Lines that a good client sends, to be mixed and broken.
const CORPUS: [&str; 24] = [
    "'IHAVEOPT' 00000001 ['disk']",
    "'IHAVEOPT' 00000002 00000000",
    "'IHAVEOPT' 00000003 00000000",
    "'IHAVEOPT' 00000005 00000000",
    "'IHAVEOPT' 00000006 [ ['disk'] 0003 0001 0002 0003 ]",
    "'IHAVEOPT' 00000007 [ ['disk'] 0001 0003 ]",
    "'IHAVEOPT' 00000007 [ ['broken'] 0000 ]",
    "'IHAVEOPT' 00000008 00000000",
    "'IHAVEOPT' 00000009 [ ['disk'] 00000001 ['base:'] ]",
    "'IHAVEOPT' 0000000a [ ['disk'] 00000001 ['base:allocation'] ]",
    "'IHAVEOPT' 0000000b 00000000",
    "'IHAVEOPT' 00007e57 ['junk']",
    "25609513 0000 0000 0123456789abcdef 0000000000001000 00002000",
    "25609513 0001 0001 0123456789abcdef 0000000000001000 [0*4096]",
    "25609513 0000 0002 0123456789abcdef 0000000000000000 00000000",
    "25609513 0000 0003 0123456789abcdef 0000000000000000 00000000",
    "25609513 0000 0004 0123456789abcdef 0000000000001000 00001000",
    "25609513 0000 0006 0123456789abcdef 0000000000001000 00001000",
    "25609513 0000 0007 0123456789abcdef 0000000000000000 00020000",
    "21e41c71 0000 0000 0123456789abcdef 0000000000001000 0000000000002000",
    "21e41c71 0020 0001 0123456789abcdef 0000000000001000 {0*4096}",
    "21e41c71 0000 0006 0123456789abcdef 0000000000001000 0000000000001000",
    "21e41c71 0000 0007 0123456789abcdef 0000000000000000 0000000000020000",
    "21e41c71 0020 0007 0123456789abcdef 0000000000000000 {0000000000020000 00000001}",
];

fn server(random: &mut Random) -> Server {
    let tls = [TlsMode::Off, TlsMode::On, TlsMode::Require][random.below(3) as usize];
    let mut geometry = geometry();
    if random.below(4) == 0 {
        geometry.capabilities.writable = false;
    }
    geometry.size = [128 << 10, 128 << 10, 1, 0][random.below(4) as usize];
    Server::new(HandshakeConfig { tls, ..HandshakeConfig::default() }, geometry)
}

/// Feeds a conversation in random segments. The model server's own assertions do the checking:
/// what is kept of the input and written at once is bounded, a connection that ended stays so.
fn feed(random: &mut Random, server: &mut Server, mut input: &[u8]) {
    while !input.is_empty() {
        let segment = 1 + random.below(input.len().min(5000) as u64) as usize;
        server.feed(&input[..segment]);
        input = &input[segment..];
    }
    assert!(server.output.len() <= 64 << 20, "a short conversation has a bounded answer");
}

#[test]
fn random_bytes_are_survived() {
    let mut random = Random::new(1);
    for _ in 0..2_000 {
        let mut server = server(&mut random);
        let mut input = bytes("00000003");
        if random.below(2) == 0 {
            input.extend(bytes("'IHAVEOPT' 00000006"));
        }
        input.extend((0..random.below(200)).map(|_| random.0 as u8 ^ (random.0 >> 20) as u8));
        input.extend((0..random.below(200)).map(|_| random.next() as u8));
        feed(&mut random, &mut server, &input);
    }
}

#[test]
fn mutated_conversations_are_survived() {
    let corpus = CORPUS.map(bytes);
    let mut random = Random::new(2);
    let mut sessions = 0;
    for _ in 0..20_000 {
        let mut server = server(&mut random);
        let mut input = bytes("00000003");
        let (options, commands) = corpus.split_at(OPTIONS);
        let haggling = random.below(6) as usize;
        for index in 0..haggling + 6 {
            let messages = if index < haggling { options } else { commands };
            let mut message = match index == haggling {
                true => bytes("'IHAVEOPT' 00000007 [ [''] 0001 0003 ]"),
                false => messages[random.below(messages.len() as u64) as usize].clone(),
            };
            match random.below(32) {
                0 => {
                    let at = random.below(message.len() as u64) as usize;
                    message[at] = random.next() as u8;
                }
                1 => {
                    let at = random.below(message.len().min(40) as u64) as usize;
                    message[at] ^= 1 << random.below(8);
                }
                2 => {
                    let at = random.below(message.len() as u64) as usize;
                    let extreme = [0, 0xff, 0x7f, 0x80][random.below(4) as usize];
                    message[at..].iter_mut().take(4).for_each(|byte| *byte = extreme);
                }
                3 => message.truncate(random.below(message.len() as u64) as usize),
                _ => {}
            }
            input.extend(message);
        }
        feed(&mut random, &mut server, &input);
        sessions += usize::from(server.session.is_some());
    }
    assert!(sessions > 5000, "many of them reach transmission: {sessions}");
}

#[test]
fn random_requests_are_admitted_within_the_disk_or_refused() {
    use crate::block::{Command, MAX_SIZE};
    let mut random = Random::new(4);
    let extremes = [0, 1, 512, 4096, u64::from(u32::MAX), 1 << 32, MAX_SIZE, 1 << 63, u64::MAX];
    let number = |random: &mut Random| match random.below(3) {
        0 => random.next(),
        1 => random.next() >> random.below(64),
        _ => {
            let extreme = extremes[random.below(extremes.len() as u64) as usize];
            extreme.wrapping_add(random.below(3)).wrapping_sub(1)
        }
    };
    for _ in 0..50_000 {
        let mut geometry = geometry();
        geometry.size = number(&mut random).min(MAX_SIZE);
        geometry.block_sizes.minimum = 1 << random.below(17);
        geometry.block_sizes.maximum = number(&mut random) as u32;
        geometry.capabilities.writable = random.below(2) == 0;
        let style = [ReplyStyle::Simple, ReplyStyle::Structured, ReplyStyle::Extended]
            [random.below(3) as usize];
        let block_sizes = random.below(2) == 0;
        let ids = (1..=17).filter(|_| random.below(8) == 0);
        let contexts = ids.fold(Contexts::default(), Contexts::with);
        let session = Session::new(&geometry, Negotiated { style, block_sizes, contexts });
        let header: Vec<u8> = (0..32).map(|_| random.next() as u8).collect();
        assert!(session.parse(&header).is_err(), "random magic");
        let request = Request {
            flags: (random.next() & random.next() & random.next()) as u16,
            command: codes::CommandCode(random.below(10) as u16),
            cookie: random.next(),
            offset: number(&mut random),
            length: number(&mut random),
        };
        let verdict = match session.admit(&request) {
            Ok(Admission { payload, verdict: Verdict::Filter }) => {
                assert!(payload <= 8 + 4 * 17, "a filter is a few bytes");
                let mut payload: Vec<u8> = (0..payload).map(|_| random.below(2) as u8).collect();
                if let Some(id) = payload.get_mut(11) {
                    *id = random.below(18) as u8;
                }
                session.admit_filter(&request, &payload)
            }
            Ok(Admission { verdict, .. }) => verdict,
            Err(_) => continue,
        };
        let (span, most) = match verdict {
            Verdict::Execute(Command::Read { span } | Command::Write { span, .. }) => {
                (span, u64::from(session.maximum_payload()))
            }
            Verdict::Execute(
                Command::Zero { span, .. }
                | Command::Trim { span, .. }
                | Command::Cache { span }
                | Command::Extents { span, .. },
            ) => (span, u64::MAX),
            Verdict::Describe { span, limit, contexts } => {
                assert!(!contexts.is_empty() && contexts != Contexts::ALLOCATION);
                assert!(limit > 0 && limit * contexts.count() <= limits::MAX_EXTENTS);
                (span, u64::MAX)
            }
            _ => continue,
        };
        assert!(span.length > 0 && span.length <= most);
        assert!(span.offset.checked_add(span.length).is_some_and(|end| end <= geometry.size));
        if block_sizes {
            let minimum = u64::from(geometry.block_sizes.minimum);
            assert_eq!((span.offset % minimum, span.length % minimum), (0, 0));
        }
    }
}
