use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{Capabilities, Value, testing};

use super::*;

const GRAIN: usize = 64 << 10;

/// Returns a zlib stream whose content is stored.
fn zlib(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x78, 1];
    for block in content.chunks(60_000) {
        bytes.push(0);
        bytes.extend((block.len() as u16).to_le_bytes());
        bytes.extend((!(block.len() as u16)).to_le_bytes());
        bytes.extend(block);
    }
    bytes.extend([1, 0, 0, 255, 255]);
    let add = |(a, b): (u32, u32), byte: &u8| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    };
    let (a, b) = content.iter().fold((1, 0), add);
    bytes.extend((b << 16 | a).to_be_bytes());
    bytes
}

/// The image of a disk that is made for a test, with tables of 4 entries.
struct Image {
    size: u64,
    flags: u32,
    grain: usize,
    text: &'static str,
    /// The directory is at the end.
    at_end: bool,
    /// The bytes of each grain in the image.
    grains: Vec<Option<Vec<u8>>>,
}

const TEXT: &str = "# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType = \"monolithicSparse\"\n\
                    RW 1000 SPARSE \"a.vmdk\"\n";

impl Image {
    fn plain(size: u64, grains: Vec<Option<Vec<u8>>>) -> Self {
        Self { size, flags: 3, grain: GRAIN, text: TEXT, at_end: false, grains }
    }

    /// An image whose grains are compressed, with these contents.
    fn compressed(size: u64, at_end: bool, contents: &[Option<Vec<u8>>]) -> Self {
        let grain = |(number, content): (usize, &Option<Vec<u8>>)| {
            content.as_ref().map(|content| {
                let bytes = zlib(content);
                let sector = (number * GRAIN / 512) as u64;
                [&sector.to_le_bytes()[..], &(bytes.len() as u32).to_le_bytes(), &bytes].concat()
            })
        };
        let grains = contents.iter().enumerate().map(grain).collect();
        Self { flags: 0x30001, at_end, ..Self::plain(size, grains) }
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"KDMV");
        put(4, &1_u32.to_le_bytes());
        put(8, &self.flags.to_le_bytes());
        put(12, &(self.size / 512).to_le_bytes());
        put(20, &(self.grain as u64 / 512).to_le_bytes());
        put(28, &1_u64.to_le_bytes());
        put(36, &2_u64.to_le_bytes());
        put(44, &4_u32.to_le_bytes());
        put(56, &directory.to_le_bytes());
        put(73, b"\n \r\n");
        put(77, &[u8::from(self.flags & 0x10000 != 0), 0]);
        header
    }

    fn bytes(&self) -> Vec<u8> {
        let mut image = self.header(0);
        image.extend(self.text.as_bytes());
        image.resize(3 * 512, 0);
        let mut directory = Vec::new();
        for group in self.grains.chunks(4) {
            let mut table = Vec::new();
            for grain in group {
                let sector = image.len() / 512;
                table.extend((grain.as_ref().map_or(0, |_| sector) as u32).to_le_bytes());
                image.extend(grain.iter().flatten());
                image.resize(image.len().next_multiple_of(512), 0);
            }
            let is_empty = group.iter().all(Option::is_none);
            directory.extend((if is_empty { 0 } else { image.len() / 512 } as u32).to_le_bytes());
            image.extend(table);
            image.resize(image.len().next_multiple_of(512), 0);
        }
        let place = image.len() as u64 / 512;
        image.extend(directory);
        image.resize(image.len().next_multiple_of(512), 0);
        let first = self.header(if self.at_end { u64::MAX } else { place });
        image[..512].copy_from_slice(&first);
        if self.at_end {
            // A marker, the header once more, and the end.
            image.extend([vec![0; 512], self.header(place), vec![0; 512]].concat());
        }
        image
    }
}

fn request(image: &[u8]) -> OpenRequest {
    let device = testing::device(image.len() as u64, Capabilities::WRITABLE);
    device.write(0, image, false).unwrap();
    OpenRequest::default().with("base", Value::Device(device))
}

fn open(image: &Image) -> Vmdk {
    Vmdk::open(&request(&image.bytes())).unwrap()
}

fn refusal(image: &[u8]) -> String {
    Vmdk::open(&request(image)).err().unwrap().message.unwrap().into_owned()
}

fn read(disk: &mut Vmdk, offset: u64, length: usize) -> Result<Vec<u8>, Error> {
    let mut buffer = vec![9; length];
    let request = Request::new(Operation::Read, offset, length as u64);
    testing::serve(disk, &request, &mut buffer)?;
    let mut own = vec![8; length];
    disk.read(offset, &mut own)?;
    assert!(own == buffer, "it reads itself what it routes");
    Ok(buffer)
}

/// Six grains, of which the first, the third and the last, a shorter one, have content.
fn contents() -> (u64, Vec<Option<Vec<u8>>>, Vec<u8>) {
    let grain = |seed: u32, length: usize| -> Vec<u8> {
        (0..length as u32).map(|at| (at.wrapping_mul(seed) >> 9) as u8).collect()
    };
    let size = 5 * GRAIN as u64 + 1024;
    let contents = vec![
        Some(grain(77, GRAIN)),
        None,
        Some(grain(0x9e37_79b9, GRAIN)),
        None,
        None,
        Some(grain(5, GRAIN)),
    ];
    let zeroes = || vec![0; GRAIN];
    let mut expected =
        contents.iter().cloned().flat_map(|one| one.unwrap_or_else(zeroes)).collect::<Vec<_>>();
    expected.truncate(size as usize);
    (size, contents, expected)
}

fn check(disk: &mut Vmdk, expected: &[u8]) {
    assert_eq!(disk.disk().size, expected.len() as u64);
    for (offset, length) in
        [(0, 1), (60_000, 80_000), (GRAIN, GRAIN), (expected.len() - 10, 10), (0, expected.len())]
    {
        let bytes = read(disk, offset as u64, length).unwrap();
        assert!(bytes == expected[offset..offset + length], "{offset}");
    }
}

#[test]
fn grains_are_found() {
    let (size, contents, expected) = contents();
    let mut disk = open(&Image::plain(size, contents));
    check(&mut disk, &expected);
    let hole = StableRoute::new(Place::Hole, 2 * GRAIN as u64);
    assert_eq!(disk.stable(Operation::Read, 3 * GRAIN as u64), Some(hole));
}

#[test]
fn compressed_grains_are_found_by_a_directory_at_either_end() {
    let (size, mut contents, expected) = contents();
    // The last one need not be longer than the disk.
    contents[5].as_mut().unwrap().truncate(1024);
    for at_end in [false, true] {
        check(&mut open(&Image::compressed(size, at_end, &contents)), &expected);
    }
    // Without markers, the end of the compressed bytes is where they say.
    let grains = contents.iter().map(|content| content.as_ref().map(|it| zlib(it)));
    let image = Image { flags: 0x10001, ..Image::plain(size, grains.collect()) };
    check(&mut open(&image), &expected);
}

#[test]
fn grains_can_be_zero_in_a_table() {
    let image = |flags| Image { flags, ..Image::plain(GRAIN as u64, vec![Some(vec![7; GRAIN])]) };
    for (flags, expected) in [(7, 0), (3, b'#')] {
        let mut bytes = image(flags).bytes();
        // The table is before the directory, which is the last sector.
        let table = bytes.len() - 1024;
        bytes[table..table + 4].copy_from_slice(&1_u32.to_le_bytes());
        let mut disk = Vmdk::open(&request(&bytes)).unwrap();
        assert_eq!(read(&mut disk, 0, 1).unwrap(), [expected]);
    }
}

#[test]
fn other_images_are_refused_with_the_reason() {
    let (size, contents, _) = contents();
    let image = Image::plain(size, contents.clone());
    let with_text = |text| refusal(&Image { text, ..Image::plain(size, contents.clone()) }.bytes());
    let message = with_text("parentCID=12345678\nparentFileNameHint=\"be\nlow\"\n");
    assert!(message.contains("the changes of another one, \"be\""), "{message}");
    let message = with_text("createType=\"twoGbMaxExtentSparse\"\n");
    assert!(message.contains("has the type \"twoGbMaxExtentSparse\""), "{message}");
    let flat =
        b"# Disk DescriptorFile\ncreateType=\"monolithicFlat\"\nRW 20480 FLAT \"m-flat.vmdk\" 0\n";
    let message = refusal(flat);
    assert!(message.contains("of the type \"monolithicFlat\""), "{message}");
    assert!(message.contains("such as \"RW 20480 FLAT \\\"m-flat.vmdk\\\" 0\""), "{message}");
    let good = image.bytes();
    for (at, bytes, words) in [
        (0, &b"COWD"[..], "the device has no VMDK image"),
        (4, &[9], "the version 9"),
        (10, &[1], "compressed by the method 0"),
        (19, &[1], "more than 2^63-1 bytes"),
        (20, &[3], "grains of 3 sectors"),
        (24, &[1], "grains of 4294967424 sectors"),
        (28, &[0], "one of several files"),
        (44, &[0], "tables of 0 entries"),
        (45, &[9], "tables of 2308 entries"),
        (60, &[1], "its directory ends beyond the image"),
        (74, b"\n", "its newlines were changed"),
    ] {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        let message = refusal(&image);
        assert!(message.contains(words), "{words}: {message}");
    }
    let mut without_end = Image { at_end: true, ..image }.bytes();
    without_end.truncate(without_end.len() - 512);
    assert!(refusal(&without_end).contains("its directory is to be at the end"));
    assert!(refusal(b"KDMV").contains("the device has no VMDK image"));
}

#[test]
fn damaged_grains_fail_the_reads_that_need_them() {
    let (size, contents, _) = contents();
    let failure = |image: &[u8]| {
        let mut disk = Vmdk::open(&request(image)).unwrap();
        assert!(read(&mut disk, 2 * GRAIN as u64, 10).is_ok());
        disk.read(5, &mut [0; 1]).unwrap_err().message.unwrap()
    };
    let compressed = Image::compressed(size, false, &contents).bytes();
    for (at, value, words) in [
        (3 * 512 + 11, 1, "is too long, or ends beyond the image"),
        (3 * 512 + 12, 0, "cannot be decompressed"),
        (3 * 512 + 40, 0xff, "cannot be decompressed"),
    ] {
        let mut image = compressed.clone();
        image[at] = value;
        let message = failure(&image);
        assert!(message.contains(words), "{at}: {message}");
    }
    let mut plain = Image::plain(size, contents.clone()).bytes();
    let first = 3 + 2 * GRAIN / 512;
    plain[first * 512 + 3] = 0xff;
    let message = failure(&plain);
    assert!(message.contains("the grain for byte 5 of the disk"), "{message}");
}
