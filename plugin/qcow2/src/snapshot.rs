//! The internal snapshots of an image.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_formats::{Header as Fields, Pages};
use memnbd_guest::Error;

use crate::header::{FirstLevel, Header, text};

/// The most snapshots, as in qemu.
const MAX_SNAPSHOTS: u32 = 65536;

/// The most names in a message.
const MAX_NAMES: usize = 16;

/// Returns the table of the first level and the size of the disk in the snapshot with this name or
/// identifier.
///
/// # Errors
///
/// Returns `EINVAL` if there is none, with the names that there are.
pub(crate) fn find(
    image: &mut Pages,
    header: &Header,
    wanted: &str,
) -> Result<(FirstLevel, u64), Error> {
    let mut names = Vec::new();
    let mut at = header.snapshots_offset;
    for _ in 0..header.snapshots.min(MAX_SNAPSHOTS) {
        let mut bytes = [0; 40];
        image.read(at, &mut bytes)?;
        let fields = Fields(&bytes);
        let extra = u64::from(fields.be_u32(36));
        let id_length = u64::from(fields.be_u16(12));
        let name_length = u64::from(fields.be_u16(14));
        let mut text_of = |offset: u64, length: u64| {
            let mut bytes = vec![0; length as usize];
            image.read(offset, &mut bytes).map(|()| text(&bytes))
        };
        let id_at = at.saturating_add(40 + extra);
        let id = text_of(id_at, id_length)?;
        let name = text_of(id_at.saturating_add(id_length), name_length)?;
        if wanted == id || wanted == name {
            // Images of version 2 need not say how large the disk was.
            let size = if extra >= 16 { image.be_u64(at + 48)? } else { header.size };
            let resized = Header { size, ..header.clone() };
            let size_of_image = image.size();
            let table = resized.first_level(fields.be_u64(0), fields.be_u32(8), size_of_image)?;
            return Ok((table, size));
        }
        if names.len() < MAX_NAMES {
            names.push(format!("{name:?} ({id})"));
        }
        let end = id_at.saturating_add(id_length + name_length);
        at = end.checked_next_multiple_of(8).ok_or(Error::EIO)?;
    }
    let known = if names.is_empty() { "none".into() } else { names.join(", ") };
    Err(Error::EINVAL.because(format!(
        "the image has no snapshot {wanted:?}, by name or identifier; it has {known}"
    )))
}
