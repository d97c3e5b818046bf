//! Tests of the disk. Those of the arrangement of its data are in `layout`.

use memnbd_guest::{ErrorCode, MAX_SIZE, Value};

use super::*;

fn request(size: u64) -> OpenRequest {
    OpenRequest::default().with("size", Value::Size(size)).with("seed", Value::Number(42))
}

/// Returns a disk half of which is data, in runs of about 8 blocks.
fn disk(size: u64, random_content: bool) -> SparseRandom {
    let request = request(size)
        .with("percent", Value::Text("50".into()))
        .with("runlength", Value::Size(8 * BLOCK_SIZE))
        .with("random-content", Value::Boolean(random_content));
    SparseRandom::open(&request).unwrap()
}

fn read(disk: &mut SparseRandom, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xa5; length as usize];
    disk.read(offset, &mut bytes).unwrap();
    bytes
}

fn bytes_of(chunks: Vec<Chunk>) -> Vec<u8> {
    let bytes = chunks.into_iter().map(|chunk| match chunk {
        Chunk::Data(bytes) => bytes,
        Chunk::Hole(length) => vec![0; length as usize],
    });
    bytes.flatten().collect()
}

/// Returns the first offset from `offset` on that is in data, or in a hole, with the end of its run.
fn find(disk: &SparseRandom, data: bool, offset: u64) -> (u64, u64) {
    let mut runs = disk.runs(offset, MAX_SIZE - offset);
    let (start, run) = runs.find(|(_, run)| run.data == data).unwrap();
    (start, run.end)
}

#[test]
fn parts_are_the_bytes_of_the_whole() {
    for random_content in [false, true] {
        let mut disk = disk(MAX_SIZE, random_content);
        let length = 300_000;
        for start in [0, (1 << 40) + 77, MAX_SIZE - length] {
            let whole = read(&mut disk, start, length);
            for from in [0, 1, 4095, 4096, 5000, 8191, 131_071] {
                for part in [1, 7, 513, 4096, 40_001] {
                    let expected = &whole[from as usize..][..part as usize];
                    assert_eq!(read(&mut disk, start + from, part), expected, "{from} {part}");
                    let chunks = disk.read_chunks(start + from, part as u32).unwrap();
                    assert_eq!(bytes_of(chunks), expected, "{from} {part}");
                }
            }
        }
    }
}

#[test]
fn extents_tell_which_blocks_are_zero() {
    for random_content in [false, true] {
        let mut disk = disk(1 << 22, random_content);
        let extents = disk.extents(0, 1 << 22).unwrap();
        assert!(extents.len() > 10);
        let mut offset = 0;
        for extent in extents {
            for block in read(&mut disk, offset, extent.length).chunks(BLOCK_SIZE as usize) {
                assert_eq!(block.iter().all(|byte| *byte == 0), extent.status.zero);
                let repeats = block.iter().all(|byte| *byte == block[0]);
                assert_eq!(repeats, extent.status.zero || !random_content);
            }
            offset += extent.length;
        }
        assert_eq!(offset, 1 << 22);
    }
}

#[test]
fn extents_of_the_largest_disk_end_early() {
    let extents = disk(MAX_SIZE, false).extents(1, MAX_SIZE - 1).unwrap();
    assert_eq!(extents.len(), MAX_EXTENTS);
    let last = disk(MAX_SIZE, false).extents(MAX_SIZE - 1, 1).unwrap();
    assert_eq!(last.iter().map(|extent| extent.length).collect::<Vec<_>>(), [1]);
}

#[test]
fn only_the_content_can_be_written() {
    for random_content in [false, true] {
        let mut disk = disk(1 << 30, random_content);
        let mut bytes = read(&mut disk, 4093, 100_000);
        assert_eq!(disk.write(4093, &bytes, false), Ok(()));
        for at in [0, 50_000, 99_999] {
            bytes[at] ^= 1;
            assert_eq!(disk.write(4093, &bytes, false).unwrap_err().code, ErrorCode::Eio);
            bytes[at] ^= 1;
        }
    }
}

#[test]
fn only_holes_can_be_zeroed_and_trimmed() {
    let mut disk = disk(MAX_SIZE, false);
    let (hole, end) = find(&disk, false, 1 << 50);
    assert_eq!(disk.zero(hole, end - hole, ZeroOptions::default()), Ok(()));
    assert_eq!(disk.trim(hole, end - hole, false), Ok(()));
    let (data, _) = find(&disk, true, hole);
    let zeroed = disk.zero(hole, data + 1 - hole, ZeroOptions::default());
    assert_eq!(zeroed.unwrap_err().code, ErrorCode::Eio);
    assert_eq!(disk.trim(0, MAX_SIZE, false).unwrap_err().code, ErrorCode::Eio);
}

#[test]
fn seed_determines_the_disk() {
    let mut disks = [disk(1 << 20, true), disk(1 << 20, true)];
    let [first, second] = disks.each_mut().map(|disk| read(disk, 0, 1 << 20));
    assert_eq!(first, second);
    let other = OpenRequest::default()
        .with("size", Value::Size(1 << 20))
        .with("seed", Value::Number(43))
        .with("percent", Value::Text("50".into()))
        .with("runlength", Value::Size(8 * BLOCK_SIZE));
    let mut other = SparseRandom::open(&other).unwrap();
    assert_ne!(read(&mut other, 0, 1 << 20), first);
}

#[test]
fn percent_is_a_number_from_0_to_100() {
    let open = |percent: &str| {
        SparseRandom::open(&request(1 << 20).with("percent", Value::Text(percent.into())))
    };
    for (percent, status) in [("0", Status::HOLE), ("100", Status::DATA), ("100.0%", Status::DATA)]
    {
        let extents = open(percent).unwrap().extents(5, 1000).unwrap();
        assert_eq!(extents, [Extent { length: 1000, status }], "{percent}");
    }
    assert!(open("0.001").is_ok());
    for percent in ["-1", "100.1", "nan", "", "ten"] {
        assert_eq!(open(percent).unwrap_err().code, ErrorCode::Einval, "{percent}");
    }
}

#[test]
fn disk_without_a_seed_has_one_instance() {
    let capabilities = |disk: SparseRandom| disk.disk().capabilities;
    assert!(capabilities(disk(0, false)).contains(Capabilities::INTERCHANGEABLE));
    let unseeded = OpenRequest::default().with("size", Value::Size(0));
    let unseeded = SparseRandom::open(&unseeded).unwrap();
    assert!(!capabilities(unseeded).contains(Capabilities::INTERCHANGEABLE));
}
