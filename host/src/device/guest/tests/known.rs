//! Disks of whose pages the host knows: who may use them together, and in which order.

use super::{Client, open};
use crate::block::Span;
use crate::component::tests::guest::Guest;
use crate::device::tests::Requests;
use crate::device::{Chunks, Lease};

const BLOCK: u64 = 4096;

/// A disk whose first two pages are known, and hold ones.
async fn known() -> Client {
    let disk = open(&Guest::new().direct()).await;
    for _ in 0..2 {
        disk.write(0, &[1; 2 * BLOCK as usize], false).await.unwrap();
    }
    disk
}

/// What can be read at once.
fn read_now(disk: &Client, offset: u64, length: u64) -> Option<Lease<'_>> {
    disk.gate.try_read(Span { offset, length })
}

fn write_now(disk: &Client, offset: u64, data: &[u8]) -> bool {
    let span = Span { offset, length: data.len() as u64 };
    disk.gate.try_write(span, data, false)
}

#[tokio::test]
async fn reads_hold_up_writes_but_not_each_other() {
    let disk = known().await;
    let first = read_now(&disk, 0, BLOCK).unwrap();
    let second = read_now(&disk, 100, BLOCK).expect("it reaches two pages that are known");
    assert!(!write_now(&disk, 0, &[2]), "it would change what is being sent");
    drop(first);
    assert!(!write_now(&disk, 0, &[2]));
    assert_eq!(second.chunks().map(|chunk| chunk.len()).collect::<Vec<_>>(), [3996, 100]);
    drop(second);
    assert!(write_now(&disk, 0, &[2]));
    assert_eq!(disk.read(0, 3).await.unwrap(), [2, 1, 1]);
    assert!(read_now(&disk, BLOCK, 2 * BLOCK).is_none(), "the third page is not known");
}

/// One after the other has them, however many wait: a read that comes after a write sees it.
#[tokio::test]
async fn those_who_wait_go_in_the_order_in_which_they_came() {
    let disk = known().await;
    let held = read_now(&disk, 0, 1).unwrap();
    let mut waiting = Vec::new();
    for byte in 2..100 {
        for write in [true, false] {
            let client = disk.clone();
            waiting.push(tokio::spawn(async move {
                match write {
                    true => client.write(10, &[byte; 20], false).await.unwrap(),
                    false => assert_eq!(client.read(10, 20).await.unwrap(), [byte; 20]),
                }
            }));
            tokio::task::yield_now().await;
            assert!(read_now(&disk, 0, 1).is_none(), "they were first");
        }
    }
    assert!(waiting.iter().all(|task| !task.is_finished()));
    drop(held);
    for task in waiting {
        task.await.unwrap();
    }
    assert!(write_now(&disk, 10, &[100; 20]), "nobody waits any more");
}
