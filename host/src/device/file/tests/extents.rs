//! Extents, of sparse files and of those of file systems that do not tell.

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::*;
use crate::block::Status;

const ALL: Span = Span { offset: 0, length: MIB };

#[tokio::test]
async fn extents_are_those_of_the_file() {
    let file = file_of(MIB);
    file.write_all_at(&[1; 65536], 65536).unwrap();
    file.write_all_at(&[1; 65536], 4 * 65536).unwrap();
    let client = client_of(&file);
    let extent = |blocks: u64, status| Extent { length: blocks * 65536, status };
    let (hole, data) = (Status::HOLE, Status::DATA);
    let all =
        [extent(1, hole), extent(1, data), extent(2, hole), extent(1, data), extent(11, hole)];
    assert_eq!(client.extents(ALL, 10).await.unwrap(), all);
    assert_eq!(client.extents(ALL, 3).await.unwrap(), all[..3]);
    let within = Span { offset: 65536 + 100, length: 1000 };
    assert_eq!(
        client.extents(within, 10).await.unwrap(),
        [Extent { length: 1000, status: Status::DATA }]
    );
    client.0.file.seek.exclude();
    assert_eq!(client.extents(ALL, 10).await.unwrap(), [extent(16, Status::DATA)]);
}

#[tokio::test]
async fn scattered_files_are_described_in_parts() {
    const BLOCK: u64 = 65536;
    let file = file_of(6000 * BLOCK);
    for block in (1..6000).step_by(2) {
        file.write_all_at(&[1], block * BLOCK).unwrap();
    }
    let client = client_of(&file);
    let span = Span { offset: 0, length: 6000 * BLOCK };
    let extents = client.extents(span, usize::MAX).await.unwrap();
    assert!((1000..6000).contains(&extents.len()), "{}", extents.len());
}

#[tokio::test]
async fn the_largest_hole_is_found_quickly() {
    const SIZE: u64 = 1 << 62;
    // Other file systems may have a lower limit.
    let files =
        ["/dev/shm", "/tmp"].into_iter().filter_map(|path| tempfile::tempfile_in(path).ok());
    let Some(file) = files.into_iter().find(|file| file.set_len(SIZE).is_ok()) else {
        return eprintln!("skipped: no file system has files of {SIZE} bytes");
    };
    file.write_all_at(&[1], SIZE / 2).unwrap();
    let client = client_of(&file);
    let begin = Instant::now();
    let extents = client.extents(Span { offset: 0, length: SIZE }, 10).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(extents.len(), 3);
    assert_eq!(extents[0], Extent { length: SIZE / 2, status: Status::HOLE });
    assert_eq!(client.read(SIZE - 2, 2).await.unwrap(), [0, 0]);
    client.zero(Span { offset: 0, length: SIZE }, false, false, true).await.unwrap();
    assert_eq!(client.read(SIZE / 2, 1).await.unwrap(), [0]);
}
