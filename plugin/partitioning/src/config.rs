//! The partitions that the arguments describe.

use alloc::format;
use alloc::vec::Vec;

use memnbd_guest::{Error, Lower, OpenRequest, Value, random_u64};

use crate::guid::{self, Guid};
use crate::layout::{MAX_ALIGNMENT, MAX_MBR_SIZE};

/// The largest number of partitions. A request for the whole disk has up to four parts for each,
/// and a route has at most [`MAX_PARTS`](memnbd_guest::MAX_PARTS).
pub(crate) const MAX_PARTITIONS: usize = 1000;

/// The largest number of files for which the table is an MBR unless another one is chosen.
pub(crate) const PRIMARY: usize = 4;

const DEFAULT_MBR_ID: u8 = 0x83;

/// 0FC63DAF-8483-4772-8E79-3D69D8477DE4.
const DEFAULT_TYPE: Guid = [
    0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4,
];

/// The name of a partition of a GPT as it is stored: 36 units of UTF-16, with zeroes at the end.
pub(crate) type Name = [u8; 72];

/// A type of partition table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableType {
    Mbr,
    Gpt,
}

/// A partition that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partition {
    pub(crate) device: Lower,
    /// The size of the file, which need not be a multiple of a sector.
    pub(crate) size: u64,
    /// A power of two, at least a sector.
    pub(crate) alignment: u64,
    pub(crate) mbr_id: u8,
    pub(crate) type_guid: Guid,
    /// The GUID that this partition alone has, which is random.
    pub(crate) unique_guid: Guid,
    pub(crate) name: Name,
}

/// The disk that was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) table: TableType,
    pub(crate) partitions: Vec<Partition>,
}

impl Config {
    /// Returns the disk that the arguments describe, in their order.
    ///
    /// # Errors
    ///
    /// Returns an error if an argument is not valid, or the table cannot describe the partitions.
    pub(crate) fn from_request(request: &OpenRequest) -> Result<Self, Error> {
        let mut partitions = Vec::new();
        let mut table = None;
        let mut alignment = MAX_ALIGNMENT;
        let mut mbr_id = DEFAULT_MBR_ID;
        let mut type_guid = DEFAULT_TYPE;
        let mut name = None;
        for argument in &request.arguments {
            match (argument.name.as_str(), &argument.value) {
                ("partition-type", Value::Text(text)) => {
                    table = Some(if text == "gpt" { TableType::Gpt } else { TableType::Mbr });
                }
                ("alignment", Value::Size(size)) => alignment = power_of_two(*size)?,
                ("mbr-id", Value::Text(text)) => mbr_id = parse_mbr_id(text)?,
                ("type-guid", Value::Text(text)) => type_guid = parse_type(text)?,
                ("partition-name", Value::Text(text)) => name = Some((text, parse_name(text)?)),
                ("file", Value::Device(device)) => {
                    let size = device.geometry().size;
                    if size == 0 {
                        let number = partitions.len() + 1;
                        return Err(Error::EINVAL.because(format!(
                            "file {number} is empty; a partition has at least one byte"
                        )));
                    }
                    let unique_guid = guid::random(random_u64);
                    partitions.push(Partition {
                        device: *device,
                        size,
                        alignment,
                        mbr_id,
                        type_guid,
                        unique_guid,
                        name: name.take().map_or([0; 72], |(_, name)| name),
                    });
                }
                _ => return Err(Error::EINVAL),
            }
        }
        if let Some((text, _)) = name {
            return Err(Error::EINVAL.because(format!(
                "partition-name={text} must be followed by the file that gets this name"
            )));
        }
        let table = choose_table(table, &partitions)?;
        Ok(Self { table, partitions })
    }
}

/// Returns the table that was chosen, or else one that fits the partitions.
fn choose_table(table: Option<TableType>, partitions: &[Partition]) -> Result<TableType, Error> {
    let count = partitions.len();
    if count == 0 {
        return Err(Error::EINVAL.because("give at least one file"));
    }
    if count > MAX_PARTITIONS {
        return Err(Error::EINVAL.because(format!(
            "{count} files are given; a disk has at most {MAX_PARTITIONS} partitions"
        )));
    }
    // Each is below 2^63, so there is no overflow.
    let total: u128 = partitions.iter().map(|partition| u128::from(partition.size)).sum();
    let fits_mbr = total <= u128::from(MAX_MBR_SIZE);
    match table {
        Some(TableType::Mbr) if !fits_mbr => Err(Error::EINVAL.because(format!(
            "the files have {total} bytes; partitions of an MBR have at most {MAX_MBR_SIZE}: use \
             partition-type=gpt"
        ))),
        Some(table) => Ok(table),
        None if fits_mbr && count <= PRIMARY => Ok(TableType::Mbr),
        None => Ok(TableType::Gpt),
    }
}

/// Returns an alignment. The host has checked its range.
fn power_of_two(alignment: u64) -> Result<u64, Error> {
    if !alignment.is_power_of_two() {
        return Err(Error::EINVAL
            .because(format!("alignment={alignment} must be a power of two from 512 to 1M")));
    }
    Ok(alignment)
}

/// Parses a type byte: a number, in decimal or in hexadecimal with 0x.
fn parse_mbr_id(text: &str) -> Result<u8, Error> {
    if text.eq_ignore_ascii_case("default") {
        return Ok(DEFAULT_MBR_ID);
    }
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (radix, digits) = hexadecimal.map_or((10, text), |digits| (16, digits));
    // nbdkit takes a decimal number with a leading zero for octal.
    let octal = radix == 10 && digits.len() > 1 && digits.starts_with('0');
    u8::from_str_radix(digits, radix)
        .ok()
        .filter(|_| !octal && !digits.starts_with('+'))
        .ok_or_else(|| {
            Error::EINVAL.because(format!(
                "mbr-id={text} is not a type byte; give default, or a number from 0 to 255, in \
                 hexadecimal with 0x"
            ))
        })
}

/// Parses the GUID of a type.
fn parse_type(text: &str) -> Result<Guid, Error> {
    if text.eq_ignore_ascii_case("default") {
        return Ok(DEFAULT_TYPE);
    }
    guid::parse(text).ok_or_else(|| {
        Error::EINVAL.because(format!(
            "type-guid={text} is not a GUID; give default, or one like \
             0FC63DAF-8483-4772-8E79-3D69D8477DE4"
        ))
    })
}

/// Returns the name of a partition as it is stored.
fn parse_name(text: &str) -> Result<Name, Error> {
    let mut name = [0; 72];
    let (units, _) = name.as_chunks_mut::<2>();
    let mut stored = units.iter_mut();
    for unit in text.encode_utf16() {
        let place = stored.next().ok_or_else(|| {
            Error::EINVAL.because(format!(
                "partition-name={text} is too long; a name has at most 36 characters, of which rare ones \
                 count twice"
            ))
        })?;
        *place = unit.to_le_bytes();
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_bytes_are_decimal_or_hexadecimal() {
        for (text, byte) in [
            ("default", 0x83),
            ("Default", 0x83),
            ("0x82", 0x82),
            ("0XfF", 255),
            ("7", 7),
            ("0", 0),
        ] {
            assert_eq!(parse_mbr_id(text), Ok(byte), "{text}");
        }
        for text in ["", "0x", "256", "0x100", "-1", "+1", "0x+1", "1 ", "82h", "083", "Defaults"] {
            assert!(parse_mbr_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_have_up_to_36_units_of_utf_16() {
        let name = parse_name("a\u{e9}\u{1f4be}").unwrap();
        assert_eq!(name[..10], [b'a', 0, 0xe9, 0, 0x3d, 0xd8, 0xbe, 0xdc, 0, 0]);
        assert_eq!(name[10..], [0; 62]);
        assert!(parse_name(&"x".repeat(36)).is_ok());
        for long in ["x".repeat(37), "\u{1f4be}".repeat(19)] {
            let message = parse_name(&long).unwrap_err().message.unwrap();
            assert!(message.contains("is too long; a name has at most 36 characters"), "{message}");
        }
    }

    #[test]
    fn default_type_is_that_of_a_linux_file_system() {
        assert_eq!(guid::parse("0FC63DAF-8483-4772-8E79-3D69D8477DE4"), Some(DEFAULT_TYPE));
        assert_eq!(parse_type("DEFAULT"), Ok(DEFAULT_TYPE));
        let message = parse_type("0FC63DAF").unwrap_err().message.unwrap();
        assert!(
            message.starts_with("type-guid=0FC63DAF is not a GUID; give default, or one like ")
        );
    }
}
