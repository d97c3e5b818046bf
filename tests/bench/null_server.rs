//! The ceiling of the benchmarks: an NBD server that stores nothing and only moves bytes.
//!
//!     null-server SIZE SOCKET
//!     null-server SIZE - <&LISTENER
//!
//! It listens on a Unix socket, or its standard input is a TCP socket that does; that one may have
//! options that those who are accepted have from it.
//!
//! It reads as many requests as one system call brings and answers them with one more. Reads are
//! answered from one small buffer that stays in the cache, and what is written goes where the next
//! bytes will go. What another server takes longer than this one is what that server does, and
//! what this one takes is the cost of sockets and of the client. Replies to reads are structured for
//! clients that ask for it, as those of the other servers are: clients receive such a reply in more
//! pieces, which costs them time. It knows nothing of the commands that clients can do without.

use std::env;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::thread;

/// The bytes that one system call may bring: a batch of small requests, or part of a large write,
/// and little enough to stay in the cache.
const INPUT: usize = 256 << 10;

/// What reads are answered with, as often as their length asks for it.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The longest payload, in bytes.
const LONGEST: u32 = 32 << 20;

/// Bytes of a request.
const REQUEST: usize = 28;

/// Has flags, flush, more connections than one.
const FLAGS: u16 = 1 | 1 << 2 | 1 << 8;

const EINVAL: u32 = 22;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [size, place] = &arguments[..] else {
        eprintln!("usage: null-server SIZE SOCKET|-");
        return ExitCode::from(2);
    };
    let Ok(size) = size.parse() else {
        eprintln!("null-server: the size {size:?} is not a number of bytes");
        return ExitCode::from(2);
    };
    let Err(error) = listen(size, place);
    eprintln!("null-server: listen on {place}: {error}");
    ExitCode::FAILURE
}

/// Serves for ever on the listening socket that is the standard input, or else on a Unix socket.
fn listen(size: u64, place: &str) -> io::Result<std::convert::Infallible> {
    if place == "-" {
        let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
        loop {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            thread::spawn(move || serve(stream, size));
        }
    }
    let listener = UnixListener::bind(place)?;
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || serve(stream, size));
    }
}

fn serve(mut stream: impl Read + Write, size: u64) {
    let result = haggle(&mut stream, size).and_then(|style| match style {
        Some(style) => transmit(&mut stream, style),
        None => Ok(()),
    });
    if let Err(error) = result
        && !matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
    {
        eprintln!("null-server: {error}");
    }
}

/// How reads are answered.
#[derive(Clone, Copy)]
enum Style {
    Simple,
    Structured,
}

/// The handshake; how reads are answered in the transmission phase, if it follows.
fn haggle(stream: &mut (impl Read + Write), size: u64) -> io::Result<Option<Style>> {
    // Fixed newstyle, and no zeroes at the end.
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03")?;
    let mut client_flags = [0; 4];
    stream.read_exact(&mut client_flags)?;
    let export = [&size.to_be_bytes()[..], &FLAGS.to_be_bytes()].concat();
    let mut style = Style::Simple;
    loop {
        let mut header = [0; 16];
        stream.read_exact(&mut header)?;
        let (option, length) = (u32_at(&header, 8), u32_at(&header, 12));
        if length > 64 << 10 {
            return Err(io::Error::other(format!("an option of {length} bytes")));
        }
        stream.read_exact(&mut vec![0; length as usize])?;
        let reply = |kind: u32, data: &[u8]| {
            let numbers = [option, kind, data.len() as u32].map(u32::to_be_bytes);
            [&0x3e889045565a9_u64.to_be_bytes(), numbers.as_flattened(), data].concat()
        };
        match option {
            // NBD_OPT_EXPORT_NAME
            1 => {
                stream.write_all(&export)?;
                if client_flags[3] & 2 == 0 {
                    stream.write_all(&[0; 124])?;
                }
                return Ok(Some(style));
            }
            // NBD_OPT_ABORT: acknowledged
            2 => return stream.write_all(&reply(1, b"")).map(|()| None),
            // NBD_OPT_INFO and NBD_OPT_GO: NBD_INFO_EXPORT, acknowledged
            6 | 7 => {
                let info = reply(3, &[&[0, 0], &export[..]].concat());
                stream.write_all(&[info, reply(1, b"")].concat())?;
                if option == 7 {
                    return Ok(Some(style));
                }
            }
            // NBD_OPT_STRUCTURED_REPLY: acknowledged
            8 => {
                style = Style::Structured;
                stream.write_all(&reply(1, b""))?;
            }
            // NBD_REP_ERR_UNSUP
            _ => stream.write_all(&reply(1 << 31 | 1, b""))?,
        }
    }
}

/// The transmission phase.
fn transmit(stream: &mut (impl Read + Write), style: Style) -> io::Result<()> {
    let mut input = vec![0; INPUT];
    let mut filled = 0;
    let mut replies = Replies::default();
    // A write whose payload has not come to its end, and what is missing of it.
    let mut write: Option<([u8; 8], usize)> = None;
    loop {
        let count = stream.read(&mut input[filled..])?;
        if count == 0 {
            return Ok(());
        }
        filled += count;
        let mut rest = &input[..filled];
        loop {
            if let Some((cookie, missing)) = write {
                let here = missing.min(rest.len());
                rest = &rest[here..];
                write = Some((cookie, missing - here));
                if here < missing {
                    break;
                }
                replies.push(cookie, 0);
                write = None;
            }
            let Some((header, after)) = rest.split_first_chunk::<REQUEST>() else { break };
            rest = after;
            let [_, _, _, _, _, _, _, command, ..] = *header;
            let cookie = *header[8..].first_chunk().expect("the header is longer");
            let length = u32_at(header, 24);
            if u32_at(header, 0) != 0x25609513 || (command < 2 && length > LONGEST) {
                return Err(io::Error::other(format!("not a request: {header:x?}")));
            }
            match command {
                0 => replies.push_read(style, header, cookie, length),
                1 => write = Some((cookie, length as usize)),
                2 => return replies.send(stream),
                3 => replies.push(cookie, 0),
                _ => replies.push(cookie, EINVAL),
            }
        }
        let left = rest.len();
        input.copy_within(filled - left..filled, 0);
        filled = left;
        replies.send(stream)?;
    }
}

/// The replies to one batch.
#[derive(Default)]
struct Replies {
    headers: Vec<u8>,
    /// Where payloads belong: after so many bytes of the headers, so many.
    payloads: Vec<(usize, usize)>,
}

impl Replies {
    /// A simple reply.
    fn push(&mut self, cookie: [u8; 8], error: u32) {
        self.headers.extend_from_slice(&0x67446698_u32.to_be_bytes());
        self.headers.extend_from_slice(&error.to_be_bytes());
        self.headers.extend_from_slice(&cookie);
    }

    fn push_read(&mut self, style: Style, request: &[u8; REQUEST], cookie: [u8; 8], length: u32) {
        match style {
            Style::Simple => self.push(cookie, 0),
            Style::Structured => {
                // NBD_REPLY_FLAG_DONE, NBD_REPLY_TYPE_OFFSET_DATA, and the offset
                self.headers.extend_from_slice(&0x668e33ef_u32.to_be_bytes());
                self.headers.extend_from_slice(&[0, 1, 0, 1]);
                self.headers.extend_from_slice(&cookie);
                self.headers.extend_from_slice(&(length + 8).to_be_bytes());
                self.headers.extend_from_slice(&request[16..24]);
            }
        }
        if length > 0 {
            self.payloads.push((self.headers.len(), length as usize));
        }
    }

    fn send(&mut self, stream: &mut impl Write) -> io::Result<()> {
        let mut slices = Vec::with_capacity(2 * self.payloads.len() + 1);
        // Headers without payloads between them are one piece.
        let mut from = 0;
        for &(to, payload) in &self.payloads {
            slices.push(IoSlice::new(&self.headers[from..to]));
            from = to;
            for start in (0..payload).step_by(ZEROES.len()) {
                slices.push(IoSlice::new(&ZEROES[..ZEROES.len().min(payload - start)]));
            }
        }
        if from < self.headers.len() {
            slices.push(IoSlice::new(&self.headers[from..]));
        }
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let count = stream.write_vectored(slices)?;
            IoSlice::advance_slices(&mut slices, count);
        }
        self.headers.clear();
        self.payloads.clear();
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(*bytes[at..].first_chunk().expect("headers are longer"))
}
