//! The header of an image: what it says, and whether the image can be read.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_formats::{Header as Fields, Pages};
use memnbd_guest::{Error, MAX_SIZE};

/// The largest table of the first level, as in qemu.
const MAX_L1_BYTES: u64 = 32 << 20;

/// The incompatible features.
const DIRTY: u64 = 1;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN: u64 = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION | EXTENDED_L2;

/// The types of header extensions.
const EXTENSION_END: u32 = 0;
const EXTENSION_FEATURES: u32 = 0x6803_f857;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// The most header extensions that are looked at.
const MAX_EXTENSIONS: usize = 64;

/// How compressed clusters are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Deflate,
    Zstd,
}

/// Where the table of the first level is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstLevel {
    pub(crate) offset: u64,
    pub(crate) entries: u64,
}

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// The size of the disk.
    pub(crate) size: u64,
    pub(crate) first_level: FirstLevel,
    pub(crate) extended: bool,
    pub(crate) compression: Compression,
    /// The name of the backing file.
    pub(crate) backing: Option<String>,
    /// The format of the backing file, if it is there and the image says it.
    pub(crate) backing_format: Option<String>,
    pub(crate) snapshots: u32,
    pub(crate) snapshots_offset: u64,
}

fn refused(message: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::EINVAL.because(message)
}

impl Header {
    /// Reads the header of an image.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` with the reason if this is no image that can be read.
    pub(crate) fn read(image: &mut Pages) -> Result<Self, Error> {
        let mut bytes = [0; 112];
        let length = image.size().min(112) as usize;
        image.read(0, &mut bytes[..length])?;
        let fields = Fields(&bytes);
        if length < 72 || fields.bytes(0) != *b"QFI\xfb" {
            return Err(refused("the device has no qcow2 image: it does not begin with QFI\\xfb"));
        }
        let version = fields.be_u32(4);
        if version != 2 && version != 3 {
            return Err(refused(format!("the image has version {version} of qcow2, not 2 or 3")));
        }
        let cluster_bits = fields.be_u32(20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(refused(format!(
                "clusters of the image have 2^{cluster_bits} bytes, not 2^9 to 2^21"
            )));
        }
        let header_length = if version == 2 { 72 } else { u64::from(fields.be_u32(100)) };
        if version == 3 && (header_length < 104 || header_length > 1 << cluster_bits) {
            return Err(refused(format!(
                "the header of the image has {header_length} bytes, not 104 to a cluster"
            )));
        }
        let extensions = Extensions::read(image, header_length, cluster_bits)?;
        let incompatible = if version == 2 { 0 } else { fields.be_u64(72) };
        check_features(incompatible, &extensions)?;
        match fields.be_u32(32) {
            0 => {}
            1 => return Err(refused("the image is encrypted with AES, which is not supported")),
            2 => return Err(refused("the image is encrypted with LUKS, which is not supported")),
            other => return Err(refused(format!("the image has the unknown encryption {other}"))),
        }
        // A header that is too short for it has no compression type, whatever follows.
        let kind = if header_length > 104 { fields.u8(104) } else { 0 };
        let compression = match (kind, incompatible & COMPRESSION != 0) {
            (0, false) => Compression::Deflate,
            (1, true) => Compression::Zstd,
            (0 | 1, _) => {
                return Err(refused("the compression type of the image contradicts its features"));
            }
            (other, _) => {
                return Err(refused(format!(
                    "the image has the unknown compression type {other}, not 0 (zlib) or 1 (zstd)"
                )));
            }
        };
        let extended = incompatible & EXTENDED_L2 != 0;
        if extended && cluster_bits < 14 {
            return Err(refused("an image with subclusters needs clusters of at least 16 KiB"));
        }
        let size = fields.be_u64(24);
        if size > MAX_SIZE {
            return Err(refused(format!("the disk has {size} bytes, more than 2^63-1")));
        }
        let (backing, backing_format) = backing(image, fields, &extensions)?;
        let header = Self {
            version,
            cluster_bits,
            size,
            first_level: FirstLevel { offset: 0, entries: 0 },
            extended,
            compression,
            backing,
            backing_format,
            snapshots: fields.be_u32(60),
            snapshots_offset: fields.be_u64(64),
        };
        let first_level = header.first_level(fields.be_u64(40), fields.be_u32(36), image.size())?;
        Ok(Self { first_level, ..header })
    }

    /// Checks where a table of the first level is.
    pub(crate) fn first_level(
        &self,
        offset: u64,
        entries: u32,
        image_size: u64,
    ) -> Result<FirstLevel, Error> {
        let entries = u64::from(entries);
        let needed = self.size.div_ceil(self.second_level_covers());
        if entries < needed {
            return Err(refused(format!(
                "the first table of the image has {entries} entries, too few for {} bytes",
                self.size
            )));
        }
        // What is beyond the disk is the state of a virtual machine.
        let entries = needed;
        let bytes = entries * 8;
        let end = offset.checked_add(bytes);
        if bytes > MAX_L1_BYTES || entries > 0 && end.is_none_or(|end| end > image_size) {
            return Err(refused(format!(
                "the first table of the image, {bytes} bytes at {offset}, is too long or ends beyond \
                 the image, which has {image_size}"
            )));
        }
        if !offset.is_multiple_of(1 << self.cluster_bits) {
            return Err(refused(format!("the first table of the image is at {offset}, unaligned")));
        }
        Ok(FirstLevel { offset, entries })
    }

    /// Returns how many bytes of the disk one table of the second level is for.
    pub(crate) const fn second_level_covers(&self) -> u64 {
        let entry_bits = if self.extended { 4 } else { 3 };
        1 << (2 * self.cluster_bits - entry_bits)
    }
}

/// The header extensions that matter.
#[derive(Default)]
struct Extensions {
    /// The type, the bit and the name of each feature.
    features: Vec<(u8, u8, String)>,
    backing_format: Option<String>,
}

impl Extensions {
    fn read(image: &mut Pages, start: u64, cluster_bits: u32) -> Result<Self, Error> {
        let mut extensions = Self::default();
        let mut at = start;
        let end = (1 << cluster_bits).min(image.size());
        for _ in 0..MAX_EXTENSIONS {
            if at + 8 > end {
                break;
            }
            let kind = image.be_u32(at)?;
            let length = u64::from(image.be_u32(at + 4)?);
            at += 8;
            if kind == EXTENSION_END {
                break;
            }
            if length > end - at.min(end) {
                return Err(refused(format!(
                    "a header extension of the image at {at} has {length} bytes, more than follow"
                )));
            }
            if kind == EXTENSION_FEATURES || kind == EXTENSION_BACKING_FORMAT {
                let mut bytes = vec![0; length.min(64 * 48) as usize];
                image.read(at, &mut bytes)?;
                if kind == EXTENSION_FEATURES {
                    extensions.features = bytes.chunks_exact(48).map(feature).collect();
                } else {
                    bytes.truncate(100);
                    extensions.backing_format = Some(text(&bytes));
                }
            }
            at += length.next_multiple_of(8);
        }
        Ok(extensions)
    }
}

fn feature(entry: &[u8]) -> (u8, u8, String) {
    let name = entry[2..].split(|byte| *byte == 0).next().unwrap_or_default();
    (entry[0], entry[1], text(name))
}

/// Returns bytes as text for people.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn check_features(incompatible: u64, extensions: &Extensions) -> Result<(), Error> {
    if incompatible & CORRUPT != 0 {
        return Err(refused("the image is marked as corrupt; `qemu-img check -r all` repairs it"));
    }
    if incompatible & DIRTY != 0 {
        return Err(refused(
            "the image was not closed, or another program has it open; `qemu-img check -r all` \
             completes it",
        ));
    }
    if incompatible & EXTERNAL_DATA != 0 {
        return Err(refused("the data of the image is in another file, which is not supported"));
    }
    let unknown = incompatible & !KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<String> = (0..64)
        .filter(|bit| unknown & 1 << bit != 0)
        .map(|bit| {
            let named =
                extensions.features.iter().find(|feature| feature.0 == 0 && feature.1 == bit);
            match named {
                Some((_, _, name)) => format!("{name:?}"),
                None => format!("number {bit}, without a name"),
            }
        })
        .collect();
    Err(refused(format!("the image has features that are not supported: {}", names.join(", "))))
}

/// Returns the name and the format of the backing file.
fn backing(
    image: &mut Pages,
    fields: Fields<'_>,
    extensions: &Extensions,
) -> Result<(Option<String>, Option<String>), Error> {
    let (offset, length) = (fields.be_u64(8), fields.be_u32(16));
    if offset == 0 {
        return Ok((None, None));
    }
    if length > 1023 {
        return Err(refused(format!(
            "the name of the backing file has {length} bytes, more than 1023"
        )));
    }
    let mut name = vec![0; length as usize];
    image.read(offset, &mut name)?;
    Ok((Some(text(&name)), extensions.backing_format.clone()))
}
