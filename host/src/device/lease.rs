//! The bytes of a device where they are, for as long as nobody else may change them.

use super::guest::GuestLease;
use crate::block::{Chunk, Scatter};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading. Others may read as well.
    Read,
    /// Writing, with force unit access or without. Nobody else reads or writes.
    Write {
        /// What is written is durable when the lease ends.
        fua: bool,
    },
}

/// The beginning of a span, at least one byte of it, which can be read or written without executing
/// anything. Whoever has a lease holds others up, so it is not kept while a client is waited for.
pub struct Lease(Kind);

/// The frequent kind is part of the lease, so that it takes no memory of its own.
enum Kind {
    Guest(GuestLease),
    Other(Box<dyn Leased>),
}

/// What a device has to do for its leases.
pub trait Leased: Send + Sync {
    /// How many bytes it covers.
    fn length(&self) -> u64;

    /// The chunk at an index: in order, at least one, none after the last. Together they are
    /// [`Self::length`] bytes long.
    fn chunk(&self, index: usize) -> Option<Chunk<'_>>;

    /// Writes to the beginning.
    ///
    /// # Panics
    ///
    /// When the data is longer than the lease, or the lease is for reading.
    fn write(&mut self, data: &[u8]);

    /// All of it, or the beginning, as memory to receive to, which is written by that. After all of it
    /// comes `behind`, after the beginning alone nothing. None where the device has no such memory, or
    /// the lease is for reading.
    fn scatter<'a>(&'a mut self, behind: &'a mut [u8]) -> Option<Scatter<'a>>;
}

impl Lease {
    /// The lease of a device that is not a guest.
    pub fn new(leased: impl Leased + 'static) -> Self {
        Self(Kind::Other(Box::new(leased)))
    }

    /// [`Leased::length`].
    #[inline]
    pub fn length(&self) -> u64 {
        match &self.0 {
            Kind::Guest(lease) => lease.length(),
            Kind::Other(lease) => lease.length(),
        }
    }

    /// [`Leased::chunk`].
    #[inline]
    pub fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        match &self.0 {
            Kind::Guest(lease) => lease.chunk(index),
            Kind::Other(lease) => lease.chunk(index),
        }
    }

    /// [`Leased::write`].
    #[inline]
    pub fn write(&mut self, data: &[u8]) {
        match &mut self.0 {
            Kind::Guest(lease) => lease.write(data),
            Kind::Other(lease) => lease.write(data),
        }
    }

    /// [`Leased::scatter`].
    #[inline]
    pub fn scatter<'a>(&'a mut self, behind: &'a mut [u8]) -> Option<Scatter<'a>> {
        match &mut self.0 {
            Kind::Guest(lease) => lease.scatter(behind),
            Kind::Other(lease) => lease.scatter(behind),
        }
    }
}

impl From<GuestLease> for Lease {
    fn from(lease: GuestLease) -> Self {
        Self(Kind::Guest(lease))
    }
}
