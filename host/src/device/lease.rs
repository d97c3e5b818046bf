//! Access to the bytes of a device in place.

use super::Chunks;
use super::guest::GuestLease;
use crate::block::{Chunk, Scatter};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reading. Others may read at the same time.
    Read,
    /// Writing. Nobody else reads or writes at the same time.
    Write {
        /// Force unit access: what is written is durable when the lease ends.
        fua: bool,
    },
}

/// Access to the first bytes of a span, one at least, without executing a command.
///
/// A lease keeps others from the same bytes, so it must not be held while waiting for a client.
pub struct Lease<'a>(Kind<'a>);

/// Leases of guests are taken for most requests, so they are stored inline.
enum Kind<'a> {
    Guest(GuestLease<'a>),
    Other(Box<dyn Leased + 'a>),
}

/// What a lease does, as implemented by a device.
pub trait Leased: Send + Sync {
    /// The number of bytes that are covered.
    fn length(&self) -> u64;

    /// The chunk at an index; `None` after the last one. Together, the chunks have [`Self::length`]
    /// bytes.
    fn chunk(&self, index: usize) -> Option<Chunk<'_>>;

    /// Writes `data` to the first bytes.
    ///
    /// # Panics
    ///
    /// Panics if `data` is longer than the lease, or the lease is for reading.
    fn write(&mut self, data: &[u8]);

    /// Memory to receive data into, which thereby is written: that of the whole lease followed by
    /// `behind`, or of the first bytes of the lease alone. `None` if the device has no such memory,
    /// or the lease is for reading.
    fn scatter<'a>(&'a mut self, behind: &'a mut [u8]) -> Option<Scatter<'a>>;
}

impl<'a> Lease<'a> {
    /// A lease of a native device.
    pub fn new(leased: impl Leased + 'a) -> Self {
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
    pub fn scatter<'b>(&'b mut self, behind: &'b mut [u8]) -> Option<Scatter<'b>> {
        match &mut self.0 {
            Kind::Guest(lease) => lease.scatter(behind),
            Kind::Other(lease) => lease.scatter(behind),
        }
    }
}

impl Chunks for Lease<'_> {
    /// [`Leased::chunk`].
    #[inline]
    fn chunk(&self, index: usize) -> Option<Chunk<'_>> {
        match &self.0 {
            Kind::Guest(lease) => lease.chunk(index),
            Kind::Other(lease) => lease.chunk(index),
        }
    }
}

impl<'a> From<GuestLease<'a>> for Lease<'a> {
    #[inline]
    fn from(lease: GuestLease<'a>) -> Self {
        Self(Kind::Guest(lease))
    }
}
