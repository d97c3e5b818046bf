//! The format in which compiled components pass between processes: a frame that contains the code,
//! a checksum of it, and the key of the component it belongs to.
//!
//! The child process that compiles writes a frame, and the cache stores the same bytes. The
//! checksum detects damage, not malice: [`super::cache`] and [`super::compiler`] ensure that the
//! bytes come from a trusted origin. This module does not know how code is loaded.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// Identifies the format. The last byte is its version.
const MAGIC: [u8; 16] = *b"memnbd code\n\0\0\0\x01";

/// The length of the header: the magic, the key, the length of the code, and its checksum.
const HEADER: usize = MAGIC.len() + KEY + 8 + DIGEST;

const KEY: usize = 32;
const DIGEST: usize = 32;

/// The longest code of a component, in bytes. One with an embedded Python interpreter has 80 MiB.
pub(super) const MAX_CODE: u64 = 512 << 20;

/// The longest frame, in bytes.
pub(super) const MAX_FRAME: u64 = MAX_CODE + HEADER as u64;

/// Identifies which component was compiled, by which version of wasmtime, with which settings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key([u8; KEY]);

impl Key {
    /// Returns the key of a component compiled for this engine.
    pub(super) fn of(engine: &wasmtime::Engine, wasm: &[u8]) -> Self {
        let mut hash = Hashing(Sha256::new());
        hash.0.update(MAGIC);
        // The engine's hash covers the version of wasmtime, the tunables and the features. The
        // processor's features are compared when the code is loaded.
        engine.precompile_compatibility_hash().hash(&mut hash);
        env!("CARGO_PKG_VERSION").hash(&mut hash);
        std::env::consts::ARCH.hash(&mut hash);
        hash.0.update(Sha256::digest(wasm));
        Self(hash.0.finalize().into())
    }

    /// Returns the key as 64 hexadecimal digits.
    pub(super) fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses the output of [`Self::hex`].
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; KEY];
        if text.len() != 2 * KEY || !text.is_ascii() {
            return None;
        }
        for (byte, at) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(key))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Feeds hashed values to SHA-256, since the 64 bits of a standard hash are too few for a unique
/// name.
struct Hashing(Sha256);

impl Hasher for Hashing {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        // Never called: the digest is used instead.
        0
    }
}

/// Writes code as a frame.
pub(super) fn write(output: &mut impl Write, key: &Key, code: &[u8]) -> io::Result<()> {
    output.write_all(&MAGIC)?;
    output.write_all(&key.0)?;
    output.write_all(&(code.len() as u64).to_le_bytes())?;
    output.write_all(&Sha256::digest(code))?;
    output.write_all(code)
}

/// A frame that has been checked.
pub(super) struct Artifact {
    frame: Vec<u8>,
}

impl Artifact {
    /// Checks a frame.
    ///
    /// # Errors
    ///
    /// Returns what is wrong with the frame.
    pub(super) fn parse(frame: Vec<u8>, key: &Key) -> Result<Self, Damage> {
        let (header, code) = frame.split_first_chunk::<HEADER>().ok_or(Damage::Short)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        let (found, rest) = rest.split_at(KEY);
        let (length, digest) = rest.split_at(8);
        if magic != MAGIC {
            return Err(Damage::Magic);
        }
        if found != key.0 {
            return Err(Damage::Key);
        }
        if length != (code.len() as u64).to_le_bytes() {
            return Err(Damage::Length);
        }
        if digest != Sha256::digest(code).as_slice() {
            return Err(Damage::Checksum);
        }
        Ok(Self { frame })
    }

    /// The code.
    pub(super) fn code(&self) -> &[u8] {
        &self.frame[HEADER..]
    }

    /// The whole frame.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It ends within its header.
    Short,
    /// It does not begin with the magic, or is of another version.
    Magic,
    /// It is the code of another component, or was compiled with other settings.
    Key,
    /// It has more or fewer bytes than its header states.
    Length,
    /// Its checksum does not match.
    Checksum,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "it is too short",
            Self::Magic => "it does not begin as compiled components do",
            Self::Key => "it belongs to another component or other settings",
            Self::Length => "its length is not the one in its header",
            Self::Checksum => "its checksum is wrong",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key([byte; KEY])
    }

    fn frame(code: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write(&mut frame, &key(7), code).unwrap();
        frame
    }

    #[test]
    fn frame_is_read_as_it_was_written() {
        for code in [&b""[..], b"code"] {
            let artifact = Artifact::parse(frame(code), &key(7)).unwrap();
            assert_eq!(artifact.code(), code);
            assert_eq!(artifact.frame(), frame(code));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_damage() {
        let whole = frame(b"some code");
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Artifact::parse(damaged, &key(7)).is_err(), "bit {bit}");
        }
        for length in 0..whole.len() {
            assert!(Artifact::parse(whole[..length].to_vec(), &key(7)).is_err(), "{length} bytes");
        }
        let damage = |frame: Vec<u8>| Artifact::parse(frame, &key(7)).err().unwrap();
        assert_eq!(damage([&whole[..], b"x"].concat()), Damage::Length);
        assert_eq!(damage(Vec::new()), Damage::Short);
        assert_eq!(Artifact::parse(whole, &key(8)).err().unwrap(), Damage::Key);
    }

    #[test]
    fn key_depends_on_the_component_and_the_settings() {
        let engine = |memory_init_cow| {
            let mut config = wasmtime::Config::new();
            config.memory_init_cow(memory_init_cow);
            wasmtime::Engine::new(&config).unwrap()
        };
        let first = Key::of(&engine(true), b"a");
        assert_eq!(first, Key::of(&engine(true), b"a"));
        assert_ne!(first, Key::of(&engine(true), b"b"));
        assert_ne!(first, Key::of(&engine(false), b"a"));
        assert_eq!(Key::from_hex(&first.hex()), Some(first));
        for bad in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(Key::from_hex(bad), None, "{bad:?}");
        }
    }
}
