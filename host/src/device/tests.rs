//! The requests that the tests of all devices make.

use std::fmt;

use super::{Answer, Chunks};
use crate::block::{Chunk, Command, Extent, Span};

/// A client of a device.
pub(in crate::device) trait Requests {
    type Error: fmt::Debug;

    /// Executes any command.
    async fn execute(&self, command: Command, payload: Vec<u8>) -> Result<Answer, Self::Error>;

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, Self::Error> {
        let command = Command::Read { span: Span { offset, length } };
        let Answer::Read(content) = self.execute(command, Vec::new()).await? else {
            panic!("a read answers with content");
        };
        let mut bytes = Vec::new();
        for chunk in content.chunks() {
            assert!(chunk.len() > 0);
            match chunk {
                Chunk::Data(data) => bytes.extend_from_slice(data),
                Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
            }
        }
        assert_eq!(bytes.len() as u64, length);
        Ok(bytes)
    }

    async fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), Self::Error> {
        let span = Span { offset, length: data.len() as u64 };
        self.execute(Command::Write { span, fua }, data.to_vec()).await.map(drop)
    }

    /// Zeroes a range, which need not be durable, allocated or fast.
    async fn zero(&self, offset: u64, length: u64) -> Result<(), Self::Error> {
        let span = Span { offset, length };
        let zero = Command::Zero { span, fua: false, keep_allocated: false, fast: false };
        self.execute(zero, Vec::new()).await.map(drop)
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<(), Self::Error> {
        let span = Span { offset, length };
        self.execute(Command::Trim { span, fua: false }, Vec::new()).await.map(drop)
    }

    async fn cache(&self, offset: u64, length: u64) -> Result<(), Self::Error> {
        let span = Span { offset, length };
        self.execute(Command::Cache { span }, Vec::new()).await.map(drop)
    }

    async fn flush(&self) -> Result<(), Self::Error> {
        self.execute(Command::Flush, Vec::new()).await.map(drop)
    }

    async fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<Extent>, Self::Error> {
        let span = Span { offset, length };
        match self.execute(Command::Extents { span, limit }, Vec::new()).await? {
            Answer::Extents(extents) => Ok(extents.as_slice().to_vec()),
            _ => panic!("extents are answered with extents"),
        }
    }

    /// Makes a request for which the function of `block-store` of this name is called.
    async fn call(&self, function: &str) -> Result<(), Self::Error> {
        match function {
            "read" => self.read(0, 4096).await.map(drop),
            "write" => self.write(0, &[1; 4096], false).await,
            "zero" | "stored" => self.zero(0, 4096).await,
            "trim" => self.trim(0, 4096).await,
            "flush" => self.flush().await,
            "extents" => self.extents(0, 4096, 1).await.map(drop),
            "cache" => self.cache(0, 4096).await,
            _ => unreachable!("{function} is not a function of an open disk"),
        }
    }
}
