use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{Capabilities, Value, testing};
use zstd_rs::{CompressionConfig, Compressor, xxh64};

use super::*;

const MIB: usize = 1 << 20;

fn compress(content: &[u8], config: CompressionConfig) -> Vec<u8> {
    let mut frame = Vec::new();
    Compressor::new(config).unwrap().compress(content, None, &mut frame).unwrap();
    frame
}

/// A frame that tells its size, with a checksum.
fn frame(content: &[u8]) -> Vec<u8> {
    compress(content, CompressionConfig { checksum: true, ..CompressionConfig::FAST })
}

/// A frame that does not tell its size.
fn stream(content: &[u8]) -> Vec<u8> {
    compress(content, CompressionConfig { content_size: false, ..CompressionConfig::FAST })
}

fn skippable(magic: u32, content: &[u8]) -> Vec<u8> {
    [&magic.to_le_bytes(), &(content.len() as u32).to_le_bytes(), content].concat()
}

/// The seek table of frames with these contents.
fn table(parts: &[(&[u8], &[u8])], checksums: bool) -> Vec<u8> {
    let mut table = Vec::new();
    for (frame, content) in parts {
        table.extend((frame.len() as u32).to_le_bytes());
        table.extend((content.len() as u32).to_le_bytes());
        if checksums {
            table.extend((xxh64(content, 0) as u32).to_le_bytes());
        }
    }
    table.extend((parts.len() as u32).to_le_bytes());
    table.push(if checksums { 0x80 } else { 0 });
    table.extend(0x8f92_eab1_u32.to_le_bytes());
    skippable(0x184d_2a5e, &table)
}

fn request(file: &[u8]) -> OpenRequest {
    let device = testing::device(file.len() as u64, Capabilities::WRITABLE);
    device.write(0, file, false).unwrap();
    let request = OpenRequest { memory_limit: 64 << 20, ..OpenRequest::default() };
    request.with("base", Value::Device(device))
}

/// Text that can be compressed, and differs everywhere.
fn content(size: usize) -> Vec<u8> {
    let words =
        (0_u32..).flat_map(|at| (at.wrapping_mul(0x9e37_79b9) >> 12).to_string().into_bytes());
    words.take(size).collect()
}

fn read(disk: &mut Zstd, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![0; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer).map(|()| buffer)
}

/// Returns the message of a read that fails.
fn failure(disk: &mut Zstd, offset: u64) -> String {
    let error = disk.read(offset, &mut [0; 1]).unwrap_err();
    assert_eq!(error.code, Error::EIO.code);
    error.message.unwrap().into_owned()
}

fn refusal(request: &OpenRequest) -> String {
    Zstd::open(request).err().unwrap().message.unwrap().into_owned()
}

#[test]
fn frames_follow_each_other() {
    let content = content(3 * MIB);
    let (first, rest) = content.split_at(2 * MIB);
    let (second, third) = rest.split_at(1);
    let file = [
        skippable(0x184d_2a50, b"anything"),
        frame(first),
        skippable(0x184d_2a5f, &[]),
        stream(second),
        frame(&[]),
        stream(third),
        vec![0; 5000],
    ]
    .concat();
    let mut disk = Zstd::open(&request(&file)).unwrap();
    assert_eq!(disk.disk().size, content.len() as u64);
    assert_eq!(disk.reader.get().index.frames.len(), 3);
    for (offset, length) in [(3 * MIB - 10, 10), (0, 1), (2 * MIB - 1, 3), (MIB, 2 * MIB)] {
        let bytes = read(&mut disk, offset as u64, length).unwrap();
        assert!(bytes == content[offset..offset + length], "{offset}");
    }
    assert!(read(&mut disk, 0, content.len()).unwrap() == content);
}

#[test]
fn seek_table_tells_where_frames_are() {
    let content = content(MIB);
    let parts: Vec<&[u8]> = content.chunks(100_000).collect();
    let frames: Vec<Vec<u8>> = parts.iter().map(|part| stream(part)).collect();
    let listed: Vec<_> = frames.iter().map(|frame| &frame[..]).zip(parts.iter().copied()).collect();
    for checksums in [false, true] {
        let file = [frames.concat(), table(&listed, checksums)].concat();
        let mut disk = Zstd::open(&request(&file)).unwrap();
        assert_eq!(disk.disk().size, content.len() as u64);
        assert_eq!(disk.reader.get().index.frames.len(), parts.len());
        assert!(read(&mut disk, 499_000, 2000).unwrap() == content[499_000..501_000]);
        assert!(read(&mut disk, 0, content.len()).unwrap() == content);
    }
}

#[test]
fn entries_of_a_seek_table_can_have_several_frames() {
    let content = content(200_000);
    let several = [stream(&content[..70_000]), frame(&content[70_000..150_000])].concat();
    let last = frame(&content[150_000..]);
    let listed = [(&several[..], &content[..150_000]), (&last, &content[150_000..])];
    let file = [several.clone(), last.clone(), table(&listed, false)].concat();
    let mut disk = Zstd::open(&request(&file)).unwrap();
    assert!(read(&mut disk, 60_000, 100_000).unwrap() == content[60_000..160_000]);
}

#[test]
fn wrong_seek_tables_are_refused() {
    let content = content(1000);
    let only = frame(&content);
    let good = [only.clone(), table(&[(&only, &content)], false)].concat();
    let size = good.len();
    for (at, words) in [
        (0, "does not begin with a frame"),
        (size - 5, "has flags that are unknown"),
        (size - 9, "is not in a frame of its length"),
        (size - 7, "frames, and at most"),
        (size - 8, "is longer than the file"),
        (size - 17, "is for more or less than there is before it"),
        (size - 21, "is not in a frame of its length"),
    ] {
        let mut file = good.clone();
        file[at] ^= 4;
        let message = refusal(&request(&file));
        assert!(message.contains(words), "{at}: {message}");
    }
    // What does not end with a table is a file without.
    let mut file = good.clone();
    file[size - 1] ^= 1;
    assert_eq!(read(&mut Zstd::open(&request(&file)).unwrap(), 0, 1000).unwrap(), content);
}

#[test]
fn wrong_checksums_fail_the_reads_that_need_them() {
    let content = content(1000);
    let (first, second) = (stream(&content[..600]), frame(&content[600..]));
    let listed = [(&first[..], &content[..600]), (&second, &content[600..])];
    let table = table(&listed, true);
    let good = [first.clone(), second.clone(), table.clone()].concat();
    // One byte of each checksum: in the table, and at the end of a frame.
    let ends = first.len() + second.len();
    for (at, bad, fine) in [(ends + 8 + 8, 0, 600), (ends - 1, 600, 0)] {
        let mut file = good.clone();
        file[at] ^= 1;
        let mut disk = Zstd::open(&request(&file)).unwrap();
        let message = failure(&mut disk, bad);
        assert!(message.contains("the checksum of the content is another"), "{message}");
        let expected = &content[fine as usize..fine as usize + 400];
        assert_eq!(read(&mut disk, fine, 400).unwrap(), expected);
    }
}

#[test]
fn size_can_be_given() {
    let content = content(300_000);
    let file = [frame(&content[..100_000]), stream(&content[100_000..])].concat();
    let open = |size| request(&file).with("zstd-size", Value::Size(size));
    let mut disk = Zstd::open(&open(300_000)).unwrap();
    assert!(read(&mut disk, 0, 300_000).unwrap() == content);
    for (size, words) in [(300_001, "ends before the size"), (299_999, "more content than")] {
        let mut disk = Zstd::open(&open(size)).unwrap();
        assert!(read(&mut disk, 150_000, 1000).unwrap() == content[150_000..151_000]);
        let message = failure(&mut disk, size - 1);
        assert!(message.contains(words), "{message}");
    }
    assert!(refusal(&open(99_999)).contains("zstd-size=99999 is too small"));
    let whole = request(&frame(&content)).with("zstd-size", Value::Size(1));
    assert!(refusal(&whole).contains("zstd-size=1 is wrong: the file has a disk of 300000 bytes"));
}

#[test]
fn damaged_files_are_refused() {
    let good = frame(&content(10_000));
    let with = |change: fn(&mut Vec<u8>)| {
        let mut file = good.clone();
        change(&mut file);
        refusal(&request(&file))
    };
    for (change, words) in [
        ((|file| file.truncate(3)) as fn(&mut Vec<u8>), "the device has no zstd file"),
        (|file| file[3] = 0, "the device has no zstd file"),
        (|file| file.truncate(4), "ends in the middle of a frame"),
        (|file| file.truncate(file.len() - 1), "ends in the middle of a frame"),
        (|file| file.truncate(file.len() - 5), "ends in the middle of a frame"),
        (|file| file.extend(b"abcd"), "no frame begins there"),
        (|file| file.extend(skippable(SKIPPABLE, &[0; 9])[..16].to_vec()), "middle of a frame"),
        (|file| file.extend(&SKIPPABLE.to_le_bytes()), "middle of a frame"),
        (|file| file[7] |= 6, "a block has an unknown type"),
    ] {
        let message = with(change);
        assert!(message.contains(words), "{words}: {message}");
    }
    assert_eq!(Zstd::open(&request(&frame(&[]))).unwrap().disk().size, 0);
}

const SKIPPABLE: u32 = 0x184d_2a50;

#[test]
fn damaged_frames_fail_the_reads_that_need_them() {
    let content = content(10_000);
    let mut file = [frame(&content), frame(&content)].concat();
    file[40] ^= 0x10;
    let mut disk = Zstd::open(&request(&file)).unwrap();
    failure(&mut disk, 0);
    assert!(read(&mut disk, 10_000, 10_000).unwrap() == content);
}

#[test]
fn windows_and_sizes_that_a_header_demands_cost_nothing() {
    // A byte that is repeated 1000 times, in a frame with a window of 2 GiB, or of one segment.
    let block = [0x43, 0x1f, 0, b'x'];
    let window = [&[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3][..], &block].concat();
    let message = refusal(&request(&window));
    assert!(message.contains("a window of 2147483648 bytes, and at most 8388608"), "{message}");
    let size = 1_u64 << 62;
    let single = [&[0x28, 0xb5, 0x2f, 0xfd, 0xe0], &size.to_le_bytes()[..], &block].concat();
    let mut disk = Zstd::open(&request(&single)).unwrap();
    assert_eq!(disk.disk().size, size);
    assert!(failure(&mut disk, 0).contains("needs a window of"));
    // A dictionary is not there.
    let dictionary = [&[0x28, 0xb5, 0x2f, 0xfd, 1, 0, 7][..], &block].concat();
    assert!(refusal(&request(&dictionary)).contains("needs the dictionary 7"));
}

#[test]
fn frames_beyond_the_memory_are_refused() {
    let file = frame(b"x").repeat(1000);
    let limited = |memory_limit| OpenRequest { memory_limit, ..request(&file) };
    assert_eq!(Zstd::open(&limited(2 << 20)).unwrap().disk().size, 1000);
    let message = refusal(&limited(1 << 19));
    assert!(message.contains("there are more than 455 frames"), "{message}");
}
