//! Numbers in the headers of on-disk formats.

/// A header, from which numbers are read. Bytes beyond its end are zero, as in formats whose older
/// versions have shorter headers.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a>(pub &'a [u8]);

impl Header<'_> {
    /// Returns `N` bytes.
    pub fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        let found = self.0.get(at..).unwrap_or_default();
        bytes.iter_mut().zip(found).for_each(|(byte, found)| *byte = *found);
        bytes
    }

    /// Returns a byte.
    pub fn u8(self, at: usize) -> u8 {
        self.bytes::<1>(at)[0]
    }

    /// Returns a big-endian number.
    pub fn be_u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    /// Returns a big-endian number.
    pub fn be_u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    /// Returns a big-endian number.
    pub fn be_u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }

    /// Returns a little-endian number.
    pub fn le_u16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    /// Returns a little-endian number.
    pub fn le_u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    /// Returns a little-endian number.
    pub fn le_u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_end_are_zero() {
        let header = Header(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(header.be_u64(1), 0x0203_0405_0607_0809);
        assert_eq!(header.le_u32(0), 0x0403_0201);
        assert_eq!(header.be_u32(7), 0x0809_0000);
        assert_eq!((header.be_u16(8), header.le_u16(8), header.u8(9)), (0x0900, 9, 0));
        assert_eq!(header.le_u64(usize::MAX), 0);
    }
}
