//! The least a client can be: enough to see that a disk is there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use super::server::Server;

/// A connection that has got as far as the transmission phase.
pub(crate) struct Probe {
    pub(crate) size: u64,
    pub(crate) flags: u16,
    /// Open as long as the probe lives.
    _stream: Box<dyn Stream>,
}

pub(crate) trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// Connects to a server at the socket of its directory, else at the port of its URI.
pub(crate) fn probe(server: &Server) -> Probe {
    match UnixStream::connect(server.socket()) {
        Ok(stream) => Probe::new(stream, ""),
        Err(_) => {
            let stream = TcpStream::connect(("localhost", server.port()));
            Probe::new(stream.expect("it listens"), "")
        }
    }
}

impl Probe {
    /// Chooses an export by NBD_OPT_EXPORT_NAME, the oldest way.
    pub(crate) fn new(mut stream: impl Stream + 'static, export: &str) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a server greets");
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        let mut request = Vec::new();
        // Fixed newstyle, and no zeroes after the reply.
        request.extend_from_slice(&3_u32.to_be_bytes());
        request.extend_from_slice(b"IHAVEOPT");
        request.extend_from_slice(&1_u32.to_be_bytes());
        request.extend_from_slice(&(export.len() as u32).to_be_bytes());
        request.extend_from_slice(export.as_bytes());
        stream.write_all(&request).expect("the server is there");
        let (mut size, mut flags) = ([0; 8], [0; 2]);
        stream.read_exact(&mut size).expect("there is such an export");
        stream.read_exact(&mut flags).expect("there is such an export");
        Self {
            size: u64::from_be_bytes(size),
            flags: u16::from_be_bytes(flags),
            _stream: Box::new(stream),
        }
    }
}
