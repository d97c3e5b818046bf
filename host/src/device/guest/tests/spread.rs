//! Disks whose instances are interchangeable.

use std::sync::Arc;
use std::time::Duration;

use super::{AMPLE, Client, open_within};
use crate::block::{Command, ErrorCode, Span};
use crate::component::tests::guest::{Called, Guest, can, take_log};
use crate::component::tests::{LONG, wasi};
use crate::device::Answer;
use crate::device::tests::Requests;

/// It reads as zeroes: whatever one instance has, the others have, too.
fn interchangeable() -> Guest {
    Guest::new().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE)
}

async fn hold(disk: &Client) -> Answer {
    let command = Command::Read { span: Span { offset: 0, length: 4096 } };
    disk.execute(command, Vec::new()).await.unwrap()
}

/// Waits until the instances of a disk use this much memory.
async fn until_used(disk: &Client, memory: u64) {
    let used = async {
        while disk.disk.memory().used() != memory {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(LONG, used).await;
    waited.unwrap_or_else(|_| panic!("{} of {memory} bytes", disk.disk.memory().used()));
}

/// Asserts that a disk starts so many instances for as many requests at the same time, and no more.
async fn assert_grows_to(most: u64, max_memory: u64) {
    let disk = open_within(&interchangeable(), max_memory).await.unwrap();
    let one = disk.disk.memory().used();
    disk.read(0, 4096).await.unwrap();
    disk.read(0, 4096).await.unwrap();
    assert_eq!(disk.disk.memory().used(), one, "one after the other needs one instance");
    let mut held = Vec::new();
    for number in 1..=most {
        held.push(hold(&disk).await);
        assert_eq!(disk.disk.memory().used(), number * one);
    }
    // The next one waits for one of them.
    let waiting = tokio::spawn({
        let disk = disk.clone();
        async move { disk.read(0, 4096).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    assert_eq!(disk.disk.memory().used(), most * one);
    let last = held.pop();
    drop(held);
    waiting.await.unwrap().unwrap();
    // One is in use, and so is not dropped. It serves the others when it is idle again.
    until_used(&disk, one).await;
    drop(last);
    disk.read(0, 4096).await.unwrap();
    let _two = (hold(&disk).await, hold(&disk).await);
    assert_eq!(disk.disk.memory().used(), 2 * one, "and there may be more again");
}

#[tokio::test]
async fn busy_instances_are_joined_by_others_until_they_are_idle() {
    assert_grows_to(128, 8 << 30).await;
}

#[tokio::test]
async fn large_instances_are_joined_by_few() {
    assert_grows_to(16, 64 << 20).await;
}

#[tokio::test]
async fn requests_that_wait_in_an_import_are_in_flight_together() {
    let sleep = "(call $block (call $subscribe-duration (i64.const 30000000000)))
        (unreachable)";
    let guest = wasi::sleeper("(call $done)").with("read", sleep);
    let guest = guest.opened(|disk| disk.capabilities |= can::INTERCHANGEABLE);
    let disk = open_within(&guest, 8 << 30).await.unwrap();
    let one = disk.disk.memory().used();
    let mut sleeping = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let disk = disk.clone();
        sleeping.spawn(async move { disk.read(0, 4096).await });
    }
    until_used(&disk, 64 * one).await;
    disk.flush().await.unwrap();
    assert!(sleeping.try_join_next().is_none(), "all of them sleep");
    assert_eq!(sleeping.len(), 64);
}

#[tokio::test]
async fn one_flush_covers_all_instances() {
    let disk = open_within(&interchangeable(), AMPLE).await.unwrap();
    drop([hold(&disk).await, hold(&disk).await, hold(&disk).await]);
    disk.flush().await.unwrap();
    let shards = &disk.disk.shards;
    let mut locked = [shards.lock(0).await, shards.lock(0).await, shards.lock(0).await];
    let mut flushes = 0;
    for shard in &mut locked {
        let log = take_log(shard.instance_mut()).await;
        flushes += log.iter().filter(|call| call.0 == Called::Flush).count();
    }
    assert_eq!(flushes, 1);
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
