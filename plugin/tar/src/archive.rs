//! The members of an archive.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use memnbd_formats::{Header, Pages};
use memnbd_guest::Error;

/// The length of a header, and what the content of a member is rounded up to.
const BLOCK: u64 = 512;

/// The longest name of a member.
const MAX_NAME: u64 = 4096;

/// The longest record of extended attributes that is read.
const MAX_ATTRIBUTES: u64 = 1 << 20;

/// The memory for pages of headers.
const MEMORY: usize = 128 << 10;

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    /// Where its content begins in the archive.
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// A file whose holes are left out.
    Sparse,
    Other,
}

/// Reads the members of an archive one after the other.
pub(crate) struct Members {
    archive: Pages,
    at: u64,
    /// Where the search ends.
    limit: u64,
}

/// What the records before a member say of it.
#[derive(Default)]
struct Attributes {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

fn broken(at: u64, what: impl Into<Cow<'static, str>>) -> Error {
    let what = what.into();
    Error::EINVAL.because(format!("the tar archive is damaged at byte {at}: {what}"))
}

impl Members {
    /// Looks for members whose headers begin in the first `limit` bytes.
    pub(crate) fn new(device: memnbd_guest::Lower, limit: u64) -> Self {
        let archive = Pages::new(device, MEMORY);
        let limit = limit.min(archive.size());
        Self { archive, at: 0, limit }
    }

    /// Returns the next member, or `None` at the end of the archive.
    ///
    /// # Errors
    ///
    /// Returns `EINVAL` if the archive is damaged, and the errors of the device.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut attributes = Attributes::default();
        loop {
            let at = self.at;
            if at == 0 && self.archive.size() < BLOCK {
                return Err(broken(at, "this is no tar archive"));
            }
            if at >= self.limit || self.archive.size() - at < BLOCK {
                return Ok(None);
            }
            let mut block = [0; BLOCK as usize];
            self.archive.read(at, &mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            if !has_checksum(&block) {
                let what = if at == 0 { "this is no tar archive" } else { "no header of a member" };
                return Err(broken(at, what));
            }
            let header = Header(&block);
            let kind = header.u8(156);
            let size = match (kind, attributes.size) {
                // A link has no content, whatever its size says.
                (b'1', _) => 0,
                (_, Some(size)) => size,
                _ => number(&block[124..136]).ok_or_else(|| broken(at, "no size of a member"))?,
            };
            let mut offset = at + BLOCK;
            let padded = size.checked_next_multiple_of(BLOCK);
            let next = padded.and_then(|padded| offset.checked_add(padded));
            let end = offset.checked_add(size);
            if end.is_none_or(|end| end > self.archive.size()) {
                return Err(broken(
                    at,
                    format!("a member has {size} bytes, which ends beyond the archive"),
                ));
            }
            // The last one need not be padded.
            self.at = next.unwrap_or(u64::MAX);
            match kind {
                b'x' => attributes.read(&self.content(offset, size, MAX_ATTRIBUTES)?, at)?,
                b'L' => {
                    let mut name = self.content(offset, size, MAX_NAME)?;
                    name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(name.len()));
                    attributes.name = Some(name);
                }
                // What is for all members, and the target of a link.
                b'g' | b'K' => {}
                b'S' => {
                    // Maps of holes that are too long for the header follow it, one in each block.
                    let mut extended = block[482] != 0;
                    while extended {
                        let mut block = [0; BLOCK as usize];
                        self.archive.read(offset, &mut block)?;
                        offset += BLOCK;
                        extended = block[504] != 0;
                    }
                    let skipped = offset - (at + BLOCK);
                    self.at = self.at.saturating_add(skipped);
                    return Ok(Some(member(attributes, header, Kind::Sparse, offset, size)));
                }
                0 | b'0' | b'7' if attributes.sparse => {
                    return Ok(Some(member(attributes, header, Kind::Sparse, offset, size)));
                }
                0 | b'0' | b'7' => {
                    let member = member(attributes, header, Kind::File, offset, size);
                    // Before there was a type for directories, their names ended so.
                    let is_directory = member.name.ends_with(b"/");
                    let kind = if is_directory { Kind::Other } else { Kind::File };
                    return Ok(Some(Member { kind, ..member }));
                }
                _ => return Ok(Some(member(attributes, header, Kind::Other, offset, size))),
            }
        }
    }

    fn content(&mut self, offset: u64, size: u64, limit: u64) -> Result<Vec<u8>, Error> {
        if size > limit {
            return Err(broken(
                offset,
                format!("a name or attributes with {size} bytes, more than {limit}"),
            ));
        }
        let mut content = vec![0; size as usize];
        self.archive.read(offset, &mut content)?;
        Ok(content)
    }
}

fn member(
    attributes: Attributes,
    header: Header<'_>,
    kind: Kind,
    offset: u64,
    size: u64,
) -> Member {
    let name = attributes.name.unwrap_or_else(|| name(header.0));
    Member { name, kind, offset, size }
}

/// Returns the name in a header.
fn name(block: &[u8]) -> Vec<u8> {
    let field = |range: core::ops::Range<usize>| {
        block[range].split(|byte| *byte == 0).next().unwrap_or_default()
    };
    // Archives of GNU tar have something else in the place of the prefix.
    let prefix = if &block[257..263] == b"ustar\0" { field(345..500) } else { &[] };
    let separator: &[u8] = if prefix.is_empty() { b"" } else { b"/" };
    [prefix, separator, field(0..100)].concat()
}

fn has_checksum(block: &[u8; BLOCK as usize]) -> bool {
    let bytes = || {
        let of = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { b' ' } else { *byte };
        block.iter().enumerate().map(of)
    };
    let unsigned: u64 = bytes().map(u64::from).sum();
    // Some old programs added signed bytes.
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    let expected = number(&block[148..156]);
    expected.is_some_and(|expected| expected == unsigned || i64::try_from(expected) == Ok(signed))
}

/// Parses a number: octal digits between blanks, or a binary number after a byte of 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, rest @ ..] = field {
        return rest.iter().try_fold(0_u64, |number, byte| {
            number.checked_mul(256).map(|number| number | u64::from(*byte))
        });
    }
    let field = field.split(|byte| *byte == 0).next()?;
    let text = core::str::from_utf8(field).ok()?.trim_matches(' ');
    match text.is_empty() {
        true => Some(0),
        false if text.starts_with('+') => None,
        false => u64::from_str_radix(text, 8).ok(),
    }
}

impl Attributes {
    /// Reads records of the form `LENGTH KEY=VALUE\n`.
    fn read(&mut self, content: &[u8], at: u64) -> Result<(), Error> {
        let mut rest = content;
        while rest.first().is_some_and(|byte| *byte != 0) {
            let (key, value, after) =
                record(rest).ok_or_else(|| broken(at, "an extended attribute"))?;
            rest = after;
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => {
                    let size = core::str::from_utf8(value).ok().filter(|it| !it.starts_with('+'));
                    let size = size.and_then(|size| size.parse().ok());
                    self.size = Some(size.ok_or_else(|| broken(at, "the size of a member"))?);
                }
                b"GNU.sparse.name" => {
                    self.sparse = true;
                    self.name = Some(value.to_vec());
                }
                _ if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
            if self.name.as_ref().is_some_and(|name| name.len() as u64 > MAX_NAME) {
                return Err(broken(at, format!("a name is longer than {MAX_NAME} bytes")));
            }
        }
        Ok(())
    }
}

/// Returns the key and the value of the first record, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = core::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, after) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], after))
}

/// Returns the name of a member as text.
pub(crate) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
