use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{Capabilities, Value, testing};

use super::*;
use crate::index::crc32;

/// Appends a number of a variable length.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn seal(bytes: &mut Vec<u8>) {
    let crc = crc32(bytes);
    bytes.extend(crc.to_le_bytes());
}

/// Returns a block whose content is stored, with a CRC-32, and its length without padding.
fn block(content: &[u8], header: &[u8]) -> (Vec<u8>, u64) {
    let mut bytes = vec![0, 0];
    bytes.extend(header);
    bytes.resize((bytes.len() + 4).next_multiple_of(4) - 4, 0);
    bytes[0] = (bytes.len() / 4) as u8;
    seal(&mut bytes);
    for (index, chunk) in content.chunks(60_000).enumerate() {
        bytes.push(if index == 0 { 1 } else { 2 });
        bytes.extend((chunk.len() as u16 - 1).to_be_bytes());
        bytes.extend(chunk);
    }
    bytes.push(0);
    let data = bytes.len();
    bytes.resize(data.next_multiple_of(4), 0);
    bytes.extend(crc32(content).to_le_bytes());
    (bytes, data as u64 + 4)
}

const LZMA2: &[u8] = &[0x21, 1, 10];

fn stream(contents: &[&[u8]], header: &[u8]) -> Vec<u8> {
    let mut bytes = b"\xfd7zXZ\0\0\x01".to_vec();
    bytes.extend(crc32(&[0, 1]).to_le_bytes());
    let mut index = vec![0];
    put(&mut index, contents.len() as u64);
    for content in contents {
        let (block, unpadded) = block(content, header);
        bytes.extend(block);
        put(&mut index, unpadded);
        put(&mut index, content.len() as u64);
    }
    index.resize(index.len().next_multiple_of(4), 0);
    seal(&mut index);
    bytes.extend(&index);
    let mut footer = ((index.len() / 4 - 1) as u32).to_le_bytes().to_vec();
    footer.extend([0, 1]);
    bytes.extend(crc32(&footer).to_le_bytes());
    bytes.extend(footer);
    bytes.extend(b"YZ");
    bytes
}

fn request(file: &[u8]) -> OpenRequest {
    let device = testing::device(file.len() as u64, Capabilities::WRITABLE);
    device.write(0, file, false).unwrap();
    let request = OpenRequest { memory_limit: 64 << 20, ..OpenRequest::default() };
    request.with("base", Value::Device(device))
}

fn content(size: usize) -> Vec<u8> {
    (0..size as u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 15) as u8).collect()
}

fn read(disk: &mut Xz, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer).map(|()| buffer)
}

fn refusal(file: &[u8]) -> String {
    Xz::open(&request(file)).err().unwrap().message.unwrap().into_owned()
}

#[test]
fn blocks_and_streams_follow_each_other() {
    let content = content(700_000);
    let parts: Vec<&[u8]> = content.chunks(150_000).collect();
    let file = [
        stream(&parts[..2], LZMA2),
        vec![0; 8],
        stream(&[], LZMA2),
        stream(&[parts[2], &[], parts[3], parts[4]], LZMA2),
        vec![0; 4],
    ]
    .concat();
    let mut disk = Xz::open(&request(&file)).unwrap();
    assert_eq!((disk.disk().size, disk.reader.get().index.blocks.len()), (700_000, 5));
    for (offset, length) in [(699_990, 10), (0, 1), (149_999, 2), (299_000, 200_000), (0, 700_000)]
    {
        let bytes = read(&mut disk, offset as u64, length).unwrap();
        assert!(bytes == content[offset..offset + length], "{offset}");
    }
}

#[test]
fn filters_before_decompression_are_undone() {
    let differences = [1, 1, 1, 1, 2, 2];
    let file = stream(&[&differences], &[3, 1, 1, 0x21, 1, 10]);
    // With two filters the flags say so.
    let mut file = file;
    let header = 12..12 + (usize::from(file[12]) + 1) * 4;
    file[13] = 1;
    let crc = crc32(&file[header.start..header.end - 4]);
    file[header.end - 4..header.end].copy_from_slice(&crc.to_le_bytes());
    let mut disk = Xz::open(&request(&file)).unwrap();
    // The checksum is that of what was stored.
    let error = read(&mut disk, 0, 6).unwrap_err();
    assert!(error.message.is_none() || error.code == Error::EIO.code);
    let at = file.windows(4).rposition(|bytes| bytes == crc32(&differences).to_le_bytes()).unwrap();
    file[at..at + 4].copy_from_slice(&crc32(&[1, 1, 2, 2, 4, 4]).to_le_bytes());
    let mut disk = Xz::open(&request(&file)).unwrap();
    assert_eq!(read(&mut disk, 0, 6).unwrap(), [1, 1, 2, 2, 4, 4]);
}

#[test]
fn blocks_that_are_too_large_are_refused() {
    let file = stream(&[&content(1000), &content(3000)], LZMA2);
    let open = |size| Xz::open(&request(&file).with("xz-max-block", Value::Size(size)));
    assert!(open(3000).is_ok());
    let message = open(2999).err().unwrap().message.unwrap();
    assert!(message.contains("a block of 3000 bytes, more than xz-max-block=2999"), "{message}");
    let header = [0x21, 1, 40];
    let mut disk = Xz::open(&request(&stream(&[&content(5000)], &header))).unwrap();
    assert!(read(&mut disk, 0, 5000).is_ok(), "a dictionary need not be larger than the block");
}

#[test]
fn damaged_indexes_are_refused() {
    let good = stream(&[&content(1000), &content(500)], LZMA2);
    let size = good.len();
    let flipped = |at: usize| {
        let mut file = good.clone();
        file[at] ^= 1;
        refusal(&file)
    };
    for (at, words) in [
        (0, "the device has no xz file"),
        (7, "does not begin where the index says"),
        (size - 1, "footer of a stream"),
        (size - 6, "footer of a stream"),
        (size - 16, "the index is wrong"),
        (size - 22, "the index is wrong"),
    ] {
        let message = flipped(at);
        assert!(message.contains(words), "{at}: {message}");
    }
    assert!(refusal(&good[..size - 4]).contains("footer of a stream"));
    assert!(refusal(&good[..20]).contains("the device has no xz file"));
    let cut = [&good[..12], &good[16..]].concat();
    assert!(refusal(&cut).contains("the index is for more than there is"));
    let padded = [&good[..], &vec![0; 300_000]].concat();
    assert!(refusal(&padded).contains("too much padding"));
    assert!(refusal(&[&good[..], b"garbage!"].concat()).contains("footer of a stream"));
}

#[test]
fn damaged_blocks_fail_the_reads_that_need_them() {
    let parts = [content(1000), content(500)];
    let good = stream(&[&parts[0], &parts[1]], LZMA2);
    for (at, words) in [
        (13, "the checksum of its header is another"),
        (12, "header"),
        (24, "it cannot be decompressed"),
        (500, "the checksum of its content is another"),
    ] {
        let mut file = good.clone();
        file[at] ^= 0x80;
        let mut disk = Xz::open(&request(&file)).unwrap();
        let mut buffer = [0; 10];
        let error = disk.read(0, &mut buffer).unwrap_err();
        assert!(error.message.as_ref().unwrap().contains(words), "{at}: {error:?}");
        assert_eq!(read(&mut disk, 1000, 500).unwrap(), parts[1]);
    }
    let mut disk = Xz::open(&request(&stream(&[&parts[0]], &[0x22, 1, 10]))).unwrap();
    let error = disk.read(0, &mut [0; 1]).unwrap_err();
    assert!(error.message.unwrap().contains("filters that are unknown"));
}
