use memnbd_guest::content::random_at;
use memnbd_guest::{Lower, MAX_PARTS, MAX_SIZE, Value, testing};

use super::*;

/// What a file offers that can be written.
const ALL: Capabilities = Capabilities::WRITABLE
    .union(Capabilities::FUA)
    .union(Capabilities::TRIM)
    .union(Capabilities::ZERO)
    .union(Capabilities::FAST_ZERO)
    .union(Capabilities::CACHE)
    .union(Capabilities::EXTENTS)
    .union(Capabilities::MULTI_CONN);

/// What is given for a disk.
struct Given(OpenRequest);

impl Given {
    fn new() -> Self {
        Self(OpenRequest::default())
    }

    fn file(self, size: u64) -> Self {
        self.device(testing::device(size, ALL))
    }

    fn files(self, count: usize, size: u64) -> Self {
        (0..count).fold(self, |given, _| given.file(size))
    }

    fn device(self, device: Lower) -> Self {
        Self(self.0.with("file", Value::Device(device)))
    }

    fn text(self, name: &str, text: &str) -> Self {
        Self(self.0.with(name, Value::Text(text.into())))
    }

    fn alignment(self, size: u64) -> Self {
        Self(self.0.with("alignment", Value::Size(size)))
    }

    fn open(self) -> Partitioning {
        Partitioning::open(&self.0).unwrap()
    }

    fn refusal(self) -> String {
        Partitioning::open(&self.0).unwrap_err().message.unwrap().into_owned()
    }
}

fn read(disk: &mut Partitioning, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xa5; length as usize];
    testing::serve(disk, &Request::new(Operation::Read, offset, length), &mut bytes).unwrap();
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The entries of a boot record: flag, type, first sector, number of sectors.
fn entries(disk: &mut Partitioning, sector: u64) -> Vec<(u8, u8, u64, u64)> {
    let record = read(disk, sector * SECTOR, SECTOR);
    assert_eq!(record[510..], [0x55, 0xaa]);
    let entries = record[446..510].chunks(16).filter(|entry| entry[4] != 0);
    entries.map(|entry| (entry[0], entry[4], number(&entry[8..12]), number(&entry[12..]))).collect()
}

#[test]
fn mbr_describes_up_to_four_files() {
    let mut disk = Given::new()
        .file(1)
        .text("mbr-id", "0x82")
        .alignment(4096)
        .file(1000)
        .text("mbr-id", "default")
        .alignment(512)
        .file(512)
        .file(1 << 20)
        .open();
    let expected =
        [(0x80, 0x83, 2048, 1), (0, 0x82, 2056, 2), (0, 0x83, 2058, 1), (0, 0x83, 2059, 2048)];
    assert_eq!(entries(&mut disk, 0), expected);
    assert_eq!(disk.disk().size, (2059 + 2048) * SECTOR);
}

#[test]
fn further_files_are_logical_partitions() {
    let mut disk = Given::new().text("partition-type", "dos").files(6, 1000).open();
    let expected = [
        (0x80, 0x83, 2048, 2),
        (0, 0x83, 4096, 2),
        (0, 0x83, 6144, 2),
        (0, 0x0f, 6146, 12290 - 6146),
    ];
    assert_eq!(entries(&mut disk, 0), expected);
    // A partition ends in the middle of its last sector, but boot records count sectors.
    assert_eq!(entries(&mut disk, 6146), [(0, 0x83, 2046, 2), (0, 0x0f, 2048, 2048)]);
    assert_eq!(entries(&mut disk, 8194), [(0, 0x83, 2046, 2), (0, 0x0f, 4096, 2048)]);
    assert_eq!(entries(&mut disk, 10242), [(0, 0x83, 2046, 2)]);
    assert_eq!(disk.disk().size, 12290 * SECTOR);
}

#[test]
fn gpt_describes_any_number_of_files() {
    for (count, entries) in [(1, 128), (5, 128), (130, 256)] {
        let mut disk = Given::new().text("partition-type", "gpt").files(count, 1000).open();
        let sectors = disk.disk().size / SECTOR;
        let array = entries * 128 / SECTOR;
        let first = read(&mut disk, 0, (2 + array) * SECTOR);
        let last = read(&mut disk, (sectors - array - 1) * SECTOR, (array + 1) * SECTOR);
        assert_eq!(first[446 + 4], 0xee);
        assert_eq!(number(&first[446 + 12..446 + 16]), sectors - 1);
        let header = &first[512..1024];
        assert_eq!(&header[..8], b"EFI PART");
        let field = |at| number(&header[at..at + 8]);
        assert_eq!([24, 32, 40].map(field), [1, sectors - 1, 2 + array]);
        assert_eq!([48, 72].map(field), [sectors - array - 2, 2]);
        assert_eq!(number(&header[80..84]), entries);
        assert_eq!(first[1024..], last[..(array * SECTOR) as usize], "the arrays are the same");
        for (index, entry) in first[1024..].chunks(128).enumerate() {
            let start = 2048 * (index as u64 + 1);
            let expected = if index < count { (start, start + 1) } else { (0, 0) };
            assert_eq!((number(&entry[32..40]), number(&entry[40..48])), expected);
        }
    }
}

#[test]
fn partitions_of_a_gpt_have_the_names_that_are_given() {
    let mut disk = Given::new()
        .text("partition-type", "gpt")
        .text("partition-name", "boot")
        .file(1000)
        .file(1000)
        .text("partition-name", "not this one")
        .text("partition-name", "root")
        .file(1000)
        .open();
    let names = [0, 1, 2].map(|index| {
        let bytes = read(&mut disk, 2 * SECTOR + index * 128 + 56, 72);
        let units = bytes.chunks(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
        String::from_utf16(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>()).unwrap()
    });
    assert_eq!(names, ["boot", "", "root"]);
    let refusal = Given::new().file(1).text("partition-name", "last").refusal();
    assert!(refusal.contains("partition-name=last must be followed by the file"), "{refusal}");
}

#[test]
fn partitions_of_a_gpt_have_types_and_unique_guids() {
    let mut disk = Given::new()
        .text("partition-type", "gpt")
        .text("type-guid", "{00112233-4455-6677-8899-aabbccddeeff}")
        .file(512)
        .text("type-guid", "default")
        .file(512)
        .open();
    let array = read(&mut disk, 1024, 256);
    assert_eq!(number(&array[..8]), 0x6677_4455_0011_2233);
    assert_eq!(number(&array[128..136]), 0x4772_8483_0fc6_3daf);
    assert_eq!((array[48], array[128 + 48]), (4, 0), "the first one is bootable");
    assert_ne!(array[16..32], array[128 + 16..128 + 32]);
    assert_eq!(read(&mut disk, 1024, 256), array, "they stay the same");
}

#[test]
fn table_is_chosen_by_the_number_and_the_size_of_files() {
    let table = |given: Given| given.open().config.table;
    let limit = 0xffff_ffff * SECTOR - (5 << 20);
    assert_eq!(table(Given::new().files(4, 512)), TableType::Mbr);
    assert_eq!(table(Given::new().files(5, 512)), TableType::Gpt);
    assert_eq!(table(Given::new().file(limit)), TableType::Mbr);
    assert_eq!(table(Given::new().file(limit - 3).files(3, 1)), TableType::Mbr);
    assert_eq!(table(Given::new().file(limit + 1)), TableType::Gpt);
    assert_eq!(table(Given::new().text("partition-type", "gpt").file(1)), TableType::Gpt);
    let refusal = Given::new().text("partition-type", "mbr").file(limit + 1).refusal();
    assert!(refusal.ends_with("use partition-type=gpt"), "{refusal}");
    // The gaps of many partitions are too much.
    let refusal = Given::new().text("partition-type", "mbr").file(limit - 9).files(9, 1).refusal();
    assert!(refusal.contains("too large for an MBR"), "{refusal}");
}

#[test]
fn largest_disk_has_a_table() {
    let disk = Given::new().file(MAX_SIZE - (1 << 20) - 33 * 512 - 511).open().disk();
    assert_eq!(disk.size, MAX_SIZE - 511);
    assert!(Given::new().file(MAX_SIZE).refusal().contains("too large for a disk"));
    assert!(Given::new().files(3, MAX_SIZE).refusal().contains("too large for a disk"));
}

#[test]
fn mistakes_are_refused() {
    assert_eq!(Given::new().refusal(), "give at least one file");
    let refusal = Given::new().file(1).file(0).refusal();
    assert_eq!(refusal, "file 2 is empty; a partition has at least one byte");
    let refusal = Given::new().alignment(1536).refusal();
    assert_eq!(refusal, "alignment=1536 must be a power of two from 512 to 1M");
    let refusal = Given::new().files(1001, 1).refusal();
    assert_eq!(refusal, "1001 files are given; a disk has at most 1000 partitions");
    assert!(Given::new().text("mbr-id", "0x1ff").refusal().starts_with("mbr-id=0x1ff is not"));
    assert!(Given::new().text("type-guid", "x").refusal().starts_with("type-guid=x is not"));
}

/// Random requests, compared with an array in which tables and gaps do not change.
#[test]
fn disk_behaves_like_an_array_with_protected_parts() {
    for table in ["mbr", "gpt"] {
        let mut given = Given::new().text("partition-type", table).alignment(512);
        for n in 0..6 {
            given = given.file(1 + random_at(3, n) % 5000);
        }
        let mut disk = given.open();
        let size = disk.disk().size;
        let mut model = read(&mut disk, 0, size);
        let mut refused = 0;
        for round in 0..3000 {
            let random = |n: u64| random_at(4, round * 5 + n);
            let offset = random(0) % size;
            let length = 1 + random(1) % (size - offset).min(3000);
            let range = offset as usize..(offset + length) as usize;
            let operation = Operation::ALL[random(3) as usize % Operation::ALL.len()];
            let mut request = Request::new(operation, offset, length);
            request.keep_allocated = operation == Operation::Zero && random(4) % 2 == 0;
            let before = model.clone();
            let mut bytes = vec![random(2) as u8; length as usize];
            for (region, start, end) in disk.parts(offset, length) {
                let part = start as usize..end as usize;
                match (&region.content, operation) {
                    (Content::Partition(_), Operation::Write) => {
                        model[part].copy_from_slice(
                            &bytes[(start - offset) as usize..(end - offset) as usize],
                        );
                    }
                    (Content::Partition(_), Operation::Zero | Operation::Trim) => {
                        model[part].fill(0);
                    }
                    _ => {}
                }
            }
            let fits = match operation {
                Operation::Write => model[range.clone()] == bytes,
                Operation::Zero => model[range.clone()].iter().all(|byte| *byte == 0),
                _ => true,
            };
            let result = testing::serve(&mut disk, &request, &mut bytes);
            assert_eq!(result.is_ok(), fits, "{request:?}");
            refused += u32::from(!fits);
            if operation == Operation::Read {
                assert_eq!(bytes, before[range]);
            }
        }
        assert!(refused > 100, "{refused}");
        assert!(read(&mut disk, 0, size) == model);
    }
}

#[test]
fn table_can_be_written_as_it_is() {
    let mut disk = Given::new().file(512).open();
    let mut bytes = read(&mut disk, 0, 4096);
    let write = Request::new(Operation::Write, 0, 4096);
    testing::serve(&mut disk, &write, &mut bytes).unwrap();
    let refusal = |disk: &mut Partitioning, at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        disk.write(0, &bytes, false).unwrap_err().message.unwrap().into_owned()
    };
    assert_eq!(refusal(&mut disk, 0x1fe), "the partition table cannot be changed");
    assert_eq!(refusal(&mut disk, 512), "only zeroes can be written between the partitions");
}

#[test]
fn stable_routes_are_those_of_requests() {
    let mut disk = Given::new().text("partition-type", "mbr").files(5, 1000).open();
    let size = disk.disk().size;
    for operation in Operation::ALL {
        let mut at = 0;
        while let Some(stable) = disk.stable(operation, at) {
            let request = Request::new(operation, at, stable.length);
            let route = disk.route(&request).unwrap();
            testing::check(&route, &request);
            assert_eq!(Route::new().segment(stable.place, stable.length), route);
            at += stable.length;
        }
        assert_eq!(at, size);
    }
}

#[test]
fn request_for_the_whole_disk_has_few_enough_parts() {
    let mut disk = Given::new().text("partition-type", "mbr").files(1000, 1000).open();
    let size = disk.disk().size;
    for operation in Operation::ALL {
        let request = Request::new(operation, 0, size);
        let route = disk.route(&request).unwrap();
        testing::check(&route, &request);
        assert!(route.parts() < MAX_PARTS);
    }
}

#[test]
fn disk_can_do_what_all_files_can_do() {
    let disk = Given::new().files(2, 1024).open().disk();
    assert_eq!(disk.capabilities, ALL | Capabilities::INTERCHANGEABLE);
    assert_eq!(disk.minimum_block, 1);
    // Instances would choose different GUIDs.
    let disk = Given::new().text("partition-type", "gpt").file(1024).open().disk();
    assert_eq!(disk.capabilities, ALL);
    let read_only = testing::device(512, Capabilities::CACHE);
    let disk = Given::new().file(1024).device(read_only).open().disk();
    assert!(!disk.capabilities.contains(Capabilities::WRITABLE));
    let blocks = testing::device_with(memnbd_guest::Geometry {
        size: 1 << 20,
        minimum_block: 4096,
        preferred_block: 4096,
        capabilities: ALL,
    });
    assert_eq!(Given::new().device(blocks).open().disk().minimum_block, 512);
}
