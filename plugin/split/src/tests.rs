use memnbd_guest::content::random_at;
use memnbd_guest::{ErrorCode, Geometry, testing};

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

fn open(files: &[Lower]) -> Result<Split, Error> {
    let request = files
        .iter()
        .fold(OpenRequest::default(), |request, file| request.with("file", Value::Device(*file)));
    Split::open(&request)
}

fn files(sizes: &[u64]) -> Vec<Lower> {
    sizes.iter().map(|size| testing::device(*size, ALL)).collect()
}

fn message(files: &[Lower]) -> String {
    open(files).unwrap_err().message.unwrap().into_owned()
}

#[test]
fn size_is_the_sum_of_the_files() {
    assert_eq!(open(&files(&[10, 0, 7])).unwrap().disk().size, 17);
    assert_eq!(open(&files(&[0, 0])).unwrap().disk().size, 0);
    assert_eq!(open(&files(&[MAX_SIZE, 0])).unwrap().disk().size, MAX_SIZE);
    for sizes in [&[MAX_SIZE, 1, 5][..], &[1, MAX_SIZE]] {
        assert!(message(&files(sizes)).starts_with("the first 2 files together have more than"));
    }
    assert_eq!(message(&[]), "give at least one file");
    let many = vec![testing::device(1, ALL); MAX_PARTS + 1];
    assert_eq!(message(&many), "4097 files are given; a disk has at most 4096");
}

#[test]
fn requests_reach_the_files_in_order() {
    let files = files(&[10, 0, 1, 1000, 0]);
    let mut disk = open(&files).unwrap();
    let mut data = *b"abcdefgh";
    testing::serve(&mut disk, &Request::new(Operation::Write, 8, 8), &mut data).unwrap();
    let read = |file: Lower, offset, length| {
        let mut bytes = vec![0; length];
        file.read(offset, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(read(files[0], 7, 3), b"\0ab");
    assert_eq!(read(files[2], 0, 1), b"c");
    assert_eq!(read(files[3], 0, 6), b"defgh\0");
    let route = disk.route(&Request::new(Operation::Read, 8, 8)).unwrap();
    assert_eq!(route.parts(), 3);
    let whole = disk.route(&Request::new(Operation::Trim, 0, 1011)).unwrap();
    assert_eq!(whole.parts(), 3);
}

/// Random requests on many small files, compared with an array.
#[test]
fn disk_behaves_like_one_array() {
    let sizes: Vec<u64> = (0..70).map(|n| random_at(1, n) % 50).collect();
    let size = sizes.iter().sum();
    let mut disk = open(&files(&sizes)).unwrap();
    assert_eq!(disk.disk().size, size);
    let mut model = vec![0; size as usize];
    for round in 0..2000 {
        let random = |n: u64| random_at(2, round * 4 + n);
        let offset = random(0) % size;
        let length = 1 + random(1) % (size - offset).min(300);
        let range = offset as usize..(offset + length) as usize;
        let mut bytes = vec![random(2) as u8; length as usize];
        let operation = Operation::ALL[random(3) as usize % Operation::ALL.len()];
        let request = Request::new(operation, offset, length);
        testing::serve(&mut disk, &request, &mut bytes).unwrap();
        match operation {
            Operation::Write => model[range].copy_from_slice(&bytes),
            Operation::Zero | Operation::Trim => model[range].fill(0),
            Operation::Read => assert_eq!(bytes, model[range]),
            Operation::Cache | Operation::Extents => {}
        }
    }
}

#[test]
fn stable_routes_are_those_of_requests() {
    let mut disk = open(&files(&[10, 0, 1, 1000, 0])).unwrap();
    for operation in Operation::ALL {
        let mut at = 0;
        let mut lengths = Vec::new();
        while let Some(stable) = disk.stable(operation, at) {
            let route = disk.route(&Request::new(operation, at, stable.length)).unwrap();
            assert_eq!(Route::new().segment(stable.place, stable.length), route);
            at += stable.length;
            lengths.push(stable.length);
        }
        assert_eq!(lengths, [10, 1, 1000]);
        assert_eq!(disk.stable(operation, 5).unwrap().length, 5);
    }
}

#[test]
fn disk_can_do_what_all_files_can_do() {
    let capabilities = |files: &[Lower]| open(files).unwrap().disk().capabilities;
    let all = ALL | Capabilities::INTERCHANGEABLE;
    assert_eq!(capabilities(&files(&[512, 512])), all);
    let read_only = testing::device(512, Capabilities::MULTI_CONN | Capabilities::CACHE);
    let found = capabilities(&[files(&[512])[0], read_only]);
    assert!(found.contains(Capabilities::INTERCHANGEABLE | Capabilities::MULTI_CONN));
    assert!(!found.contains(Capabilities::WRITABLE));
    assert!(!found.contains(Capabilities::TRIM));
    let single = testing::device(512, ALL.without(Capabilities::MULTI_CONN));
    assert!(!capabilities(&[single, files(&[512])[0]]).contains(Capabilities::MULTI_CONN));
}

#[test]
fn blocks_divide_all_files() {
    let device = |size, minimum_block| {
        let (preferred_block, capabilities) = (65536, ALL);
        testing::device_with(Geometry { size, minimum_block, preferred_block, capabilities })
    };
    let block = |files: &[Lower]| open(files).unwrap().disk().minimum_block;
    assert_eq!(block(&[device(8192, 4096), device(8192, 512)]), 4096);
    assert_eq!(block(&[device(512, 1), device(8192, 4096)]), 512);
    assert_eq!(block(&[device(8192, 4096), device(513, 1)]), 1);
}

#[test]
fn failure_of_one_file_is_that_of_the_request() {
    let files = files(&[100, 100]);
    let mut disk = open(&files).unwrap();
    testing::fail(files[1], Some(ErrorCode::Enospc));
    let mut data = [7; 20];
    let write = Request::new(Operation::Write, 90, 20);
    let error = testing::serve(&mut disk, &write, &mut data).unwrap_err();
    assert_eq!(error.code, ErrorCode::Enospc);
    testing::serve(&mut disk, &Request::new(Operation::Write, 80, 20), &mut data).unwrap();
}
