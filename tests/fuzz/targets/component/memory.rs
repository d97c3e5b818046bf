//! What a guest's memory means, by the Canonical ABI: an implementation as simple as can be, which
//! the host's is compared with. None stands for what cannot be lifted.

/// How long the guest's memory is, and what of it can be written.
const SIZE: usize = 4 << 16;
const WRITABLE: usize = 0x18000;

/// The memory of a guest after a write.
pub(super) struct Memory {
    bytes: Vec<u8>,
    /// How much was written.
    written: usize,
}

/// A list: where its elements begin, and how many there are.
#[derive(Clone, Copy)]
pub(super) struct List {
    pub(super) at: u32,
    pub(super) length: u32,
}

impl Memory {
    /// How long it is.
    pub(super) const LENGTH: u64 = SIZE as u64;

    pub(super) fn new(image: &[u8]) -> Self {
        let written = image.len().min(WRITABLE);
        let mut bytes = vec![0; SIZE];
        bytes[..written].copy_from_slice(&image[..written]);
        Self { bytes, written }
    }

    /// What is to be written to the guest.
    pub(super) fn image(&self) -> &[u8] {
        &self.bytes[..self.written]
    }

    /// The address of an answer of this size and alignment.
    pub(super) fn answer(&self, size: u32, align: u32) -> Option<u32> {
        let at = self.u32(0)?;
        self.aligned(List { at, length: 1 }, size, align).map(|list| list.at)
    }

    /// The list whose address and length are at an address.
    pub(super) fn list(&self, at: u32, size: u32, align: u32) -> Option<List> {
        let list = List { at: self.u32(at)?, length: self.u32(at + 4)? };
        self.aligned(list, size, align)
    }

    fn aligned(&self, list: List, size: u32, align: u32) -> Option<List> {
        let end = u64::from(list.at) + u64::from(list.length) * u64::from(size);
        (list.at.is_multiple_of(align) && end <= SIZE as u64).then_some(list)
    }

    pub(super) fn bytes(&self, list: List) -> &[u8] {
        &self.bytes[list.at as usize..][..list.length as usize]
    }

    pub(super) fn string(&self, at: u32) -> Option<&str> {
        str::from_utf8(self.bytes(self.list(at, 1, 1)?)).ok()
    }

    pub(super) fn option(&self, at: u32) -> Option<Option<&str>> {
        match self.u8(at) {
            0 => Some(None),
            1 => self.string(at + 4).map(Some),
            _ => None,
        }
    }

    /// The message of an `error`.
    pub(super) fn error(&self, at: u32) -> Option<Option<&str>> {
        if self.u8(at) < 8 { self.option(at + 4) } else { None }
    }

    /// A discriminant or flags, at an address that was found to be within the memory.
    pub(super) fn u8(&self, at: u32) -> u8 {
        self.bytes[at as usize]
    }

    pub(super) fn u16(&self, at: u32) -> u16 {
        u16::from_le_bytes([self.u8(at), self.u8(at + 1)])
    }

    pub(super) fn u32(&self, at: u32) -> Option<u32> {
        let bytes = self.bytes.get(at as usize..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&self, at: u32) -> Option<u64> {
        let bytes = self.bytes.get(at as usize..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }
}
