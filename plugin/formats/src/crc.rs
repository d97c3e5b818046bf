//! The checksums of compressed formats.

/// A checksum of 32 or 64 bits, in the reflected form of all such formats.
#[derive(Clone, Copy, Debug)]
pub struct Crc {
    tables: &'static [[u64; 256]; 8],
    state: u64,
    mask: u64,
}

/// For eight bytes at a time.
const fn tables(polynomial: u64) -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 { crc >> 1 } else { crc >> 1 ^ polynomial };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[table - 1][byte];
            tables[table][byte] = crc >> 8 ^ tables[0][(crc & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

static CRC32: [[u64; 256]; 8] = tables(0xedb8_8320);
static CRC64: [[u64; 256]; 8] = tables(0xc96c_5795_d787_0f42);

impl Crc {
    /// Returns the CRC-32 of IEEE 802.3, of no bytes.
    pub const fn crc32() -> Self {
        let mask = u32::MAX as u64;
        Self { tables: &CRC32, state: mask, mask }
    }

    /// Returns the CRC-64 of ECMA-182, of no bytes.
    pub const fn crc64() -> Self {
        Self { tables: &CRC64, state: u64::MAX, mask: u64::MAX }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let (eights, rest) = bytes.as_chunks::<8>();
        let tables = self.tables;
        let mut state = self.state;
        for eight in eights {
            let mixed = (state ^ u64::from_le_bytes(*eight)).to_le_bytes();
            state = mixed
                .iter()
                .zip(tables.iter().rev())
                .fold(0, |state, (byte, table)| state ^ table[usize::from(*byte)]);
        }
        for byte in rest {
            state = state >> 8 ^ tables[0][usize::from(state as u8 ^ byte)];
        }
        self.state = state;
    }

    /// Returns the checksum.
    pub const fn value(&self) -> u64 {
        self.state ^ self.mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        for split in 0..9 {
            let (first, second) = b"123456789".split_at(split);
            let of = |mut crc: Crc| {
                crc.update(first);
                crc.update(second);
                crc.value()
            };
            assert_eq!(of(Crc::crc32()), 0xcbf4_3926);
            assert_eq!(of(Crc::crc64()), 0x995d_c9bb_df19_39fa);
        }
        let long: alloc::vec::Vec<u8> = (0..1000_u32).map(|at| (at * 7) as u8).collect();
        let mut crc = Crc::crc32();
        crc.update(&long);
        assert_eq!(crc.value(), u64::from(memnbd_guest::crc32(&long)));
    }
}
