//! Disks whose instances are interchangeable.

use std::sync::Arc;

use super::{AMPLE, Client, open_within};
use crate::block::{Command, ErrorCode, Span};
use crate::component::tests::guest::{Guest, can};
use crate::device::Answer;

/// It reads as zeroes: whatever one instance has, the others have, too.
fn interchangeable() -> Guest {
    Guest::new().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE)
}

async fn hold(disk: &Client) -> Answer {
    let command = Command::Read { span: Span { offset: 0, length: 4096 } };
    disk.execute(command, Vec::new()).await.unwrap()
}

#[tokio::test]
async fn busy_instances_are_joined_by_others() {
    let disk = open_within(&interchangeable(), AMPLE).await.unwrap();
    let one = disk.disk.memory().used();
    disk.read(0, 4096).await.unwrap();
    disk.read(0, 4096).await.unwrap();
    assert_eq!(disk.disk.memory().used(), one, "one after the other needs one instance");
    let mut held = Vec::new();
    for number in 1..=16 {
        held.push(hold(&disk).await);
        assert_eq!(disk.disk.memory().used(), number * one);
    }
    // The seventeenth waits for one of them.
    let waiting = tokio::spawn({
        let disk = disk.clone();
        async move { disk.read(0, 4096).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    held.clear();
    waiting.await.unwrap().unwrap();
    assert_eq!(disk.disk.memory().used(), 16 * one);
}

#[tokio::test]
async fn without_memory_for_another_the_first_serves_all() {
    let disk = open_within(&interchangeable(), 3 << 20).await.unwrap();
    let held = hold(&disk).await;
    let requests = ["read", "write", "zero", "trim", "cache", "extents"];
    let mut waiting = tokio::task::JoinSet::new();
    for request in requests {
        let disk = disk.clone();
        waiting.spawn(async move { disk.call(request).await });
    }
    tokio::task::yield_now().await;
    assert!(waiting.try_join_next().is_none());
    drop(held);
    while let Some(answer) = waiting.join_next().await {
        answer.unwrap().unwrap();
    }
    assert!(!disk.disk.is_dead());
}

/// A request that waits while the disk dies is answered.
#[tokio::test]
async fn requests_that_wait_learn_of_the_death() {
    let guest = interchangeable().with("flush", "(unreachable)");
    let disk = open_within(&guest, 3 << 20).await.unwrap();
    let held = hold(&disk).await;
    let mut waiting = tokio::task::JoinSet::new();
    for request in ["flush", "read", "write"] {
        let disk = disk.clone();
        waiting.spawn(async move { disk.call(request).await });
    }
    tokio::task::yield_now().await;
    drop(held);
    let mut failed = 0;
    while let Some(answer) = waiting.join_next().await {
        match answer.unwrap() {
            Ok(()) => {}
            Err(code) => {
                assert_eq!(code, ErrorCode::Io);
                failed += 1;
            }
        }
    }
    assert!(failed >= 1);
    assert!(disk.disk.is_dead());
    assert_eq!(disk.disk.memory().used(), 0);
    // The test has it, its gate, and the port of that.
    assert_eq!(Arc::strong_count(&disk.disk), 3, "nothing is left that waits");
}
