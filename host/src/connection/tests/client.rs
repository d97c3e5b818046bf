//! The other end of a connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::decode::{Decoded, Reads, decode_some};
use crate::component::Component;
use crate::connection::{Context, End, Phase, serve};
use crate::device::guest::{Budgets, DiskConfig};
use crate::exports::{Export, Exports};
use crate::nbd::{HandshakeConfig, ReplyStyle};
use crate::transport::{Stream, StreamSocket};

/// Far more than anything here takes, even where other programs keep the machine busy: guests that compute
/// for long do so at the lowest priority.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// A disk of a component without parameters.
pub(super) fn config(name: &str, component: Component) -> DiskConfig {
    DiskConfig {
        component,
        export_name: name.into(),
        read_only: false,
        arguments: Vec::new(),
        budgets: Budgets::alone(256 << 20),
        lowers: Vec::new(),
        client: None,
    }
}

/// A server of these disks, and the end of its life.
pub(super) fn context_of(configs: Vec<DiskConfig>) -> (Context, watch::Sender<Phase>) {
    context_of_exports(configs.into_iter().map(Export::new).collect())
}

/// A server of these exports, and the end of its life.
pub(super) fn context_of_exports(exports: Vec<Arc<Export>>) -> (Context, watch::Sender<Phase>) {
    let (sender, phase) = watch::channel(Phase::Serving);
    let context = Context {
        id: 0,
        peer: "test".into(),
        origin: Default::default(),
        exports: Arc::new(Exports::new(exports).unwrap()),
        handshake: HandshakeConfig::default(),
        tls: None,
        handshake_timeout: Some(PATIENCE),
        in_use: Default::default(),
        threads: Default::default(),
        peers: Default::default(),
        entrance: None,
        phase,
    };
    (context, sender)
}

pub(super) fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    [b"IHAVEOPT", &number.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// The data of INFO and GO.
pub(super) fn info(name: &str, requests: &[u16]) -> Vec<u8> {
    let mut data = (name.len() as u32).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend((requests.len() as u16).to_be_bytes());
    data.extend(requests.iter().flat_map(|request| request.to_be_bytes()));
    data
}

/// What a client sends up to the transmission phase, and how many bytes it gets for it.
pub(super) fn hello(style: ReplyStyle) -> (Vec<u8>, usize) {
    let mut bytes = vec![0, 0, 0, 3];
    let negotiated = match style {
        ReplyStyle::Simple => None,
        ReplyStyle::Structured => Some(option(8, b"")),
        ReplyStyle::Extended => Some(option(11, b"")),
    };
    let replies = negotiated.iter().count() * 20;
    bytes.extend(negotiated.into_iter().flatten());
    bytes.extend(option(7, &info("disk", &[])));
    (bytes, 18 + replies + (20 + 12) + 20)
}

/// The bytes of a request's header. A write over extended headers announces its payload.
pub(super) fn request(
    style: ReplyStyle,
    flags: u16,
    command: u16,
    cookie: u64,
    at: u64,
    length: u64,
) -> Vec<u8> {
    let extended = style == ReplyStyle::Extended;
    let magic: u32 = if extended { 0x21e4_1c71 } else { 0x2560_9513 };
    let flags = if extended && command == WRITE { flags | 0x20 } else { flags };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(at.to_be_bytes());
    match extended {
        true => bytes.extend(length.to_be_bytes()),
        false => bytes.extend((length as u32).to_be_bytes()),
    }
    bytes
}

pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const DISC: u16 = 2;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const CACHE: u16 = 5;
pub(super) const WRITE_ZEROES: u16 = 6;

/// The two ends of a connection.
pub(super) fn sockets() -> (StreamSocket, StreamSocket) {
    let (client, server) = UnixStream::pair().unwrap();
    (client.into(), server.into())
}

/// A client of the export "disk" in its transmission phase.
pub(super) struct Client {
    pub(super) stream: Box<dyn Stream>,
    pub(super) serving: JoinHandle<End>,
    style: ReplyStyle,
    reads: Reads,
    cookie: u64,
    received: Vec<u8>,
}

impl Client {
    pub(super) async fn new(context: &Context, style: ReplyStyle) -> Self {
        let (stream, server) = duplex(64 << 10);
        Self::over(Box::new(stream), Box::new(server), context, style).await
    }

    /// Over a socket, for which the server may have a thread.
    pub(super) async fn over_socket(context: &Context, style: ReplyStyle) -> Self {
        let (stream, server) = sockets();
        Self::over(Box::new(stream), Box::new(server), context, style).await
    }

    pub(super) async fn over(
        mut stream: Box<dyn Stream>,
        server: Box<dyn Stream>,
        context: &Context,
        style: ReplyStyle,
    ) -> Self {
        let serving = tokio::spawn(serve(server, context.clone()));
        let (bytes, answer) = hello(style);
        stream.write_all(&bytes).await.unwrap();
        stream.read_exact(&mut vec![0; answer]).await.unwrap();
        let (reads, received) = (Reads::new(), Vec::new());
        Self { stream, serving, style, reads, cookie: 0, received }
    }

    /// The bytes of a request, and its cookie.
    pub(super) fn bytes(&mut self, command: u16, at: u64, length: u64) -> (Vec<u8>, u64) {
        self.cookie += 1;
        if command == READ {
            self.reads.insert(self.cookie, (at, length as usize));
        }
        (request(self.style, 0, command, self.cookie, at, length), self.cookie)
    }

    /// Sends a request, of a write with `length` bytes of 0x77.
    pub(super) async fn send(&mut self, command: u16, at: u64, length: u64) -> u64 {
        let (mut bytes, cookie) = self.bytes(command, at, length);
        if command == WRITE {
            bytes.resize(bytes.len() + length as usize, 0x77);
        }
        self.stream.write_all(&bytes).await.unwrap();
        cookie
    }

    /// All replies so far, once there are so many that are complete.
    pub(super) async fn replies(&mut self, wanted: usize) -> HashMap<u64, Decoded> {
        let receiving = async {
            loop {
                let (replies, _) = decode_some(&self.received, self.style, &self.reads);
                if replies.values().filter(|reply| reply.done).count() >= wanted {
                    return replies;
                }
                let read = self.stream.read_buf(&mut self.received).await.unwrap();
                assert!(read > 0, "the server hung up");
            }
        };
        tokio::time::timeout(PATIENCE, receiving).await.expect("an answer")
    }

    /// Takes bytes that were received.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Forgets the replies so far.
    pub(super) fn forget(&mut self) {
        self.received.clear();
    }

    /// Sends a request and takes its reply.
    pub(super) async fn call(&mut self, command: u16, at: u64, length: u64) -> Decoded {
        let cookie = self.send(command, at, length).await;
        self.forget();
        self.replies(1).await.remove(&cookie).expect("nothing else waits for a reply")
    }
}
