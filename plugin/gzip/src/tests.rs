use memnbd_formats::Crc;
use memnbd_guest::{Capabilities, Value, testing};

use super::*;

/// Returns a member whose content is stored.
fn member(content: &[u8], flags: u8, fields: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, flags, 0, 0, 0, 0, 0, 255];
    bytes.extend(fields);
    for block in content.chunks(60_000) {
        bytes.push(0);
        bytes.extend((block.len() as u16).to_le_bytes());
        bytes.extend((!(block.len() as u16)).to_le_bytes());
        bytes.extend(block);
    }
    bytes.extend([1, 0, 0, 255, 255]);
    let mut crc = Crc::crc32();
    crc.update(content);
    bytes.extend((crc.value() as u32).to_le_bytes());
    bytes.extend((content.len() as u32).to_le_bytes());
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

fn read(disk: &mut Gzip, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer).map(|()| buffer)
}

#[test]
fn members_follow_each_other_with_all_fields_of_headers() {
    let content = content(9_000_000);
    let (first, rest) = content.split_at(5_000_000);
    let (second, third) = rest.split_at(1);
    let file = [
        member(first, 0, &[]),
        member(second, 4 | 8 | 16 | 2, b"\x03\0abcname\0a comment\0\x12\x34"),
        member(&[], 0, &[]),
        member(third, 8, b"\0"),
        b"anything".to_vec(),
    ]
    .concat();
    let mut disk = Gzip::open(&request(&file)).unwrap();
    assert_eq!(disk.disk().size, content.len() as u64);
    assert!(disk.reader.get().points.len() > 5);
    for (offset, length) in
        [(0, 100), (8_999_990, 10), (4_999_000, 3000), (1, 1), (3_000_000, 2 << 20)]
    {
        let bytes = read(&mut disk, offset as u64, length).unwrap();
        assert!(bytes == content[offset..offset + length], "{offset}");
    }
    assert!(read(&mut disk, 0, content.len()).unwrap() == content);
}

#[test]
fn places_to_begin_become_sparser_when_there_are_many() {
    let content = content(24 << 20);
    let request = OpenRequest { memory_limit: 1 << 20, ..request(&member(&content, 0, &[])) };
    let mut disk = Gzip::open(&request).unwrap();
    let points = &disk.reader.get().points;
    assert!(points.len() <= 9, "{}", points.len());
    assert!(points.last().unwrap().0 > 14 << 20);
    let bytes = read(&mut disk, 23_000_000, 100_000).unwrap();
    assert!(bytes == content[23_000_000..23_100_000]);
}

#[test]
fn size_can_be_given() {
    let content = content(300_000);
    let file = member(&content, 0, &[]);
    let mut disk = Gzip::open(&request(&file).with("gzip-size", Value::Size(400_000))).unwrap();
    assert!(read(&mut disk, 200_000, 50_000).unwrap() == content[200_000..250_000]);
    let error = read(&mut disk, 299_000, 2000).unwrap_err();
    assert_eq!(error.code, Error::EIO.code);
}

#[test]
fn damage_is_found_when_the_disk_is_opened() {
    let good = member(&content(1000), 0, &[]);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        Gzip::open(&request(&file)).err().unwrap().message.unwrap().into_owned()
    };
    for (change, words) in [
        ((|file| file[0] = 0) as fn(&mut Vec<u8>), "the device has no gzip file"),
        (|file| file.truncate(3), "the device has no gzip file"),
        (|file| file[2] = 7, "a method or flags"),
        (|file| file[3] = 0x80, "a method or flags"),
        (
            |file| {
                file.truncate(12);
                (file[3], file[10], file[11]) = (8, b'a', b'b');
            },
            "a name without an end",
        ),
        (|file| file[100] ^= 1, "the checksum of a member is another"),
        (|file| *file.last_mut().unwrap() = 1, "the length of a member is another"),
        (|file| file.truncate(500), "ends in the middle of a member"),
        (|file| file.truncate(1020), "ends in the middle of a member"),
        (|file| file[10] = 7, "it cannot be decompressed"),
    ] {
        let message = with(change);
        assert!(message.contains(words), "{words}: {message}");
    }
    let empty = Gzip::open(&request(&member(&[], 0, &[]))).unwrap();
    assert_eq!(empty.disk().size, 0);
}
