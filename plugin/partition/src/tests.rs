use memnbd_guest::content::random_at;
use memnbd_guest::{Geometry, Value, crc32, testing};

use super::*;
use crate::table::SECTOR;

/// The number of sectors of the disks here.
const SECTORS: u64 = 2048;

/// A disk beneath.
fn base() -> Lower {
    testing::device(SECTORS * SECTOR, Capabilities::WRITABLE)
}

/// Writes a boot record with entries of a type, a first sector and a number of sectors.
fn boot_record(base: Lower, at: u64, entries: &[(u8, u32, u32)]) {
    let mut sector = [0; SECTOR as usize];
    for ((kind, start, sectors), entry) in entries.iter().zip(sector[446..].chunks_mut(16)) {
        entry[4] = *kind;
        entry[8..12].copy_from_slice(&start.to_le_bytes());
        entry[12..16].copy_from_slice(&sectors.to_le_bytes());
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    base.write(at * SECTOR, &sector, false).unwrap();
}

/// Writes a header and the array after it or, for the last sector, before it.
fn gpt(base: Lower, at: u64, entries: &[(u64, u64, &str)]) {
    let mut array = vec![0; 128 * 128];
    for ((first, last, name), entry) in entries.iter().zip(array.chunks_mut(128)) {
        if *last > 0 {
            entry[..16].fill(7);
        }
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (unit, place) in name.encode_utf16().zip(entry[56..].chunks_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
    }
    let array_at = if at == 1 { 2 } else { at - 32 };
    base.write(array_at * SECTOR, &array, false).unwrap();
    let mut header = [0; SECTOR as usize];
    header[..8].copy_from_slice(b"EFI PART");
    header[12..16].copy_from_slice(&92_u32.to_le_bytes());
    header[24..32].copy_from_slice(&at.to_le_bytes());
    header[72..80].copy_from_slice(&array_at.to_le_bytes());
    header[80..84].copy_from_slice(&128_u32.to_le_bytes());
    header[84..88].copy_from_slice(&128_u32.to_le_bytes());
    header[88..92].copy_from_slice(&crc32(&array).to_le_bytes());
    let checksum = crc32(&header[..92]);
    header[16..20].copy_from_slice(&checksum.to_le_bytes());
    base.write(at * SECTOR, &header, false).unwrap();
}

/// A disk with three primary and two logical partitions.
fn mbr() -> Lower {
    let base = base();
    let entries = [(0x83, 100, 50), (0x05, 500, 1000), (0, 0, 0), (0x07, 200, 1)];
    boot_record(base, 0, &entries);
    boot_record(base, 500, &[(0x83, 1, 9), (0x05, 100, 50)]);
    // Without a partition, and so without a number.
    boot_record(base, 600, &[(0, 0, 0), (0x05, 20, 50)]);
    boot_record(base, 520, &[(0x82, 10, 10), (0, 0, 0)]);
    base
}

fn request(base: Lower, number: Option<i64>, name: &str) -> OpenRequest {
    let request = OpenRequest { export_name: name.into(), ..OpenRequest::default() };
    let request = request.with("base", Value::Device(base));
    match number {
        Some(number) => request.with("partition", Value::Number(number)),
        None => request,
    }
}

/// The first sector of a partition and the number of its sectors, or the message.
fn place(base: Lower, number: i64) -> Result<(u64, u64), String> {
    match Partition::open(&request(base, Some(number), "any")) {
        Ok(partition) => Ok((partition.start / SECTOR, partition.length / SECTOR)),
        Err(error) => Err(error.message.unwrap().into()),
    }
}

fn names(base: Lower) -> Vec<String> {
    let listed = Partition::exports(&request(base, None, "")).unwrap();
    listed.exports.into_iter().map(|export| export.name).collect()
}

#[test]
fn primary_and_logical_partitions_have_the_numbers_of_linux() {
    let base = mbr();
    assert_eq!(names(base), ["1", "4", "5", "6"]);
    let places = [1, 4, 5, 6].map(|number| place(base, number).unwrap());
    assert_eq!(places, [(100, 50), (200, 1), (501, 9), (530, 10)]);
    assert_eq!(
        place(base, 2).unwrap_err(),
        "there is no partition 2 in the MBR, which has 1, 4, 5, 6"
    );
}

#[test]
fn name_of_the_export_is_the_number() {
    let base = mbr();
    let start = |number, name| {
        Partition::open(&request(base, number, name)).map(|opened| opened.start / SECTOR)
    };
    assert_eq!(start(None, "4"), Ok(200));
    assert_eq!(start(None, ""), Ok(100));
    assert_eq!(start(Some(4), ""), Ok(200));
    for name in ["disk", "04", "+4", "4 ", "-1", "99999999999"] {
        let message = start(None, name).unwrap_err().message.unwrap();
        assert!(message.contains("give partition=N"), "{message}");
    }
    assert!(start(None, "0").is_err());
    assert!(start(None, "7").is_err());
}

#[test]
fn list_has_descriptions_and_a_default() {
    let listed = Partition::exports(&request(mbr(), None, "")).unwrap();
    assert_eq!(listed.default.as_deref(), Some("1"));
    let description = &listed.exports[0].description;
    assert_eq!(description, "partition 1 of the MBR, 25600 bytes, type 0x83");
    let listed = Partition::exports(&request(mbr(), Some(5), "")).unwrap();
    assert_eq!(listed.exports.len(), 1);
    assert_eq!(listed.default.as_deref(), Some("5"));
}

#[test]
fn chain_of_boot_records_may_be_in_any_order_but_not_in_a_circle() {
    let base = base();
    boot_record(base, 0, &[(0x0f, 500, 1000)]);
    boot_record(base, 500, &[(0x83, 1, 9), (0x05, 100, 50)]);
    boot_record(base, 600, &[(0x83, 1, 9), (0x05, 50, 50)]);
    boot_record(base, 550, &[(0x83, 1, 9)]);
    assert_eq!([5, 6, 7].map(|number| place(base, number).unwrap().0), [501, 601, 551]);
    boot_record(base, 550, &[(0x83, 1, 9), (0x05, 100, 50)]);
    let message = place(base, 5000).unwrap_err();
    assert!(message.ends_with("has more than 1024 links, or is a circle"), "{message}");
    assert_eq!(place(base, 5), Ok((501, 9)), "those before the circle are intact");
}

#[test]
fn partitions_outside_are_refused_and_not_listed() {
    let base = base();
    let entries = [(0x83, 2000, 49), (0x83, u32::MAX, u32::MAX), (0x05, 100, 100), (0x83, 1, 1)];
    boot_record(base, 0, &entries);
    boot_record(base, 100, &[(0x83, 1, 100), (0x05, 50, 1)]);
    boot_record(base, 150, &[(0x83, 0, 10), (0x05, 100, 1)]);
    assert_eq!(names(base), ["4"]);
    let message = place(base, 1).unwrap_err();
    assert!(message.contains("partition 1 has 49 sectors from sector 2000 on, but"), "{message}");
    assert!(place(base, 5).is_err() && place(base, 6).is_err());
}

#[test]
fn partitions_of_a_gpt_are_found() {
    let base = base();
    gpt(base, 1, &[(40, 40, "boot\n"), (0, 0, ""), (41, 140, "d\u{e4}ta"), (30, 20, "")]);
    assert_eq!(place(base, 1), Ok((40, 1)));
    assert_eq!(place(base, 3), Ok((41, 100)));
    for number in [2, 4, 129, u32::MAX.into()] {
        assert!(place(base, number).is_err());
    }
    let listed = Partition::exports(&request(base, None, "")).unwrap();
    let descriptions = listed.exports.iter().map(|export| export.description.as_str());
    assert_eq!(
        descriptions.collect::<Vec<_>>(),
        [
            "partition 1 of the GPT, 512 bytes, boot\u{fffd}",
            "partition 3 of the GPT, 51200 bytes, d\u{e4}ta"
        ]
    );
}

#[test]
fn copy_of_a_gpt_is_used_if_the_first_is_damaged() {
    let base = base();
    boot_record(base, 0, &[(0xee, 1, 2047)]);
    gpt(base, SECTORS - 1, &[(40, 49, "")]);
    assert_eq!(place(base, 1), Ok((40, 10)));
    gpt(base, 1, &[(50, 51, "")]);
    assert_eq!(place(base, 1), Ok((50, 2)));
    base.write(SECTOR + 81, &[1], false).unwrap();
    assert_eq!(place(base, 1), Ok((40, 10)), "the checksum of the first is wrong");
    base.write((SECTORS - 1) * SECTOR, &[0], false).unwrap();
    let message = place(base, 1).unwrap_err();
    assert!(message.starts_with("neither the header of the GPT"), "{message}");
    gpt(base, 1, &[(50, 51, "")]);
    base.write(3 * SECTOR, &[1], false).unwrap();
    assert!(place(base, 1).unwrap_err().starts_with("the checksum of the partitions"));
}

#[test]
fn disks_without_a_table_are_refused() {
    let base = base();
    assert!(place(base, 1).unwrap_err().contains("neither an MBR nor a GPT"));
    let small = testing::device(1023, Capabilities::NONE);
    assert!(place(small, 1).unwrap_err().contains("at least 1024"));
    boot_record(base, 0, &[]);
    assert_eq!(place(base, 1).unwrap_err(), "there is no partition 1 in the MBR");
    assert!(Partition::open(&request(base, None, "")).is_err());
    assert_eq!(names(base), [""; 0]);
}

/// Random bytes in tables give partitions that lie on the disk, or errors.
#[test]
fn damaged_tables_give_no_partitions_outside() {
    for seed in 0..100 {
        let base = if seed % 2 == 0 { mbr() } else { base() };
        if seed % 2 == 1 {
            gpt(base, 1, &[(40, 40, "a"), (50, 60, "b")]);
        }
        for index in 0..1 + seed % 7 {
            let random = random_at(seed, index);
            let sector = [0, 1, 2, 500, 520, 600][(random % 6) as usize];
            let at = if sector == 1 { 8 + (random >> 16) % 84 } else { 440 + (random >> 16) % 72 };
            base.write(sector * SECTOR + at, &[(random >> 8) as u8], false).unwrap();
        }
        if seed % 2 == 1 {
            // So that it is not the checksum alone that protects.
            let mut header = [0; SECTOR as usize];
            base.read(SECTOR, &mut header).unwrap();
            header[16..20].fill(0);
            let length = u32::from_le_bytes(header[12..16].try_into().unwrap()).min(512);
            let checksum = crc32(&header[..length as usize]);
            header[16..20].copy_from_slice(&checksum.to_le_bytes());
            base.write(SECTOR, &header, false).unwrap();
        }
        for number in 1..10 {
            if let Ok((start, sectors)) = place(base, number) {
                assert!(sectors > 0 && start + sectors <= SECTORS, "{seed}");
            }
        }
        let _ = Partition::exports(&request(base, None, ""));
    }
}

#[test]
fn requests_reach_the_partition() {
    let base = mbr();
    let mut disk = Partition::open(&request(base, Some(5), "")).unwrap();
    assert_eq!(disk.disk().size, 9 * SECTOR);
    assert_eq!(disk.disk().description, "partition 5 of the MBR");
    let mut data = *b"hello";
    testing::serve(&mut disk, &Request::new(Operation::Write, 95, 5), &mut data).unwrap();
    let mut bytes = [0; 7];
    base.read(501 * SECTOR + 94, &mut bytes).unwrap();
    assert_eq!(&bytes, b"\0hello\0");
    for operation in Operation::ALL {
        let stable = disk.stable(operation, 100).unwrap();
        assert_eq!(stable.length, 9 * SECTOR - 100);
        let route = disk.route(&Request::new(operation, 100, 5)).unwrap();
        assert_eq!(Route::new().segment(stable.place, 5), route);
    }
}

#[test]
fn blocks_divide_the_partition() {
    let geometry = Geometry {
        size: SECTORS * SECTOR,
        minimum_block: 4096,
        preferred_block: 65536,
        capabilities: Capabilities::WRITABLE,
    };
    let base = testing::device_with(geometry);
    boot_record(base, 0, &[(0x83, 8, 8), (0x83, 16, 9)]);
    let block =
        |number| Partition::open(&request(base, Some(number), "")).unwrap().disk().minimum_block;
    assert_eq!(block(1), 4096);
    assert_eq!(block(2), 512);
}
