//! The exports of the contract, implemented with generated bindings. A simple backend needs no more
//! than this.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use exports::memnbd::block::block_store::{
    Capabilities, Chunk, Description, Disk, ErrorCode, Extent, Guest, Parameter, Sharing, Status,
    ZeroOptions,
};
use memnbd_guest::parse_size;

wit_bindgen::generate!({ path: "wit", world: "backend" });

/// The result of a read is built in the component's memory, which grows to fit the longest read and
/// never shrinks.
const MAXIMUM_TRANSFER: u32 = 1 << 20;

struct Pattern;

impl Guest for Pattern {
    fn describe() -> Description {
        Description {
            name: "pattern".to_string(),
            version: env!("CARGO_PKG_VERSION").to_string(),
            summary: "a disk whose every 8 bytes hold their own offset, big-endian".to_string(),
            parameters: vec![Parameter {
                name: "size".to_string(),
                summary: "the size of the disk in bytes, or with a suffix (b k m g t p e s): \
                    from 0 to 2^63-1"
                    .to_string(),
                required: true,
                default: None,
            }],
            bare_parameter: Some("size".to_string()),
        }
    }

    fn open(_: String, _: bool, parameters: Vec<(String, String)>) -> Result<Disk, String> {
        let size = parameters
            .iter()
            .find_map(|(name, value)| (name == "size").then_some(value))
            .ok_or("size is missing: give the size of the disk, like size=2G")?;
        Ok(Disk {
            size: parse_size(size).map_err(|error| format!("size: {error}"))?,
            minimum_block: 1,
            preferred_block: 4096,
            maximum_transfer: MAXIMUM_TRANSFER,
            capabilities: Capabilities::WRITABLE | Capabilities::CACHE | Capabilities::MULTI_CONN,
            sharing: Sharing::Interchangeable,
            description: String::new(),
        })
    }

    fn read(offset: u64, length: u32) -> Result<Vec<Chunk>, ErrorCode> {
        let mut bytes = vec![0; length as usize];
        crate::fill(&mut bytes, offset);
        Ok(vec![Chunk::Data(bytes)])
    }

    fn write(offset: u64, data: Vec<u8>, _fua: bool) -> Result<(), ErrorCode> {
        if crate::matches(&data, offset) { Ok(()) } else { Err(ErrorCode::Eio) }
    }

    fn cache(_offset: u64, _length: u64) -> Result<(), ErrorCode> {
        Ok(())
    }

    // The host never calls `zero`, `trim`, `flush` or `extents`, whose capabilities the disk lacks,
    // nor `stored`, as the disk is not striped.

    fn zero(_: u64, _: u64, _: ZeroOptions) -> Result<(), ErrorCode> {
        Err(ErrorCode::Enotsup)
    }

    fn trim(_: u64, _: u64, _: bool) -> Result<(), ErrorCode> {
        Err(ErrorCode::Enotsup)
    }

    fn flush() -> Result<(), ErrorCode> {
        Ok(())
    }

    fn extents(_: u64, length: u64) -> Result<Vec<Extent>, ErrorCode> {
        Ok(vec![Extent { length, status: Status::empty() }])
    }

    fn stored() -> u64 {
        0
    }
}

export!(Pattern);
memnbd_guest::export_realloc!();
