//! Disks whose instances want more memory than there is.

use tracing::Level;

use super::{Client, MIB, open_within};
use crate::block::{ErrorCode, Extent, Status};
use crate::component::Fault;
use crate::component::tests::guest::Guest;
use crate::component::tests::logs::Logs;
use crate::device::guest::OpenError;
use crate::device::tests::Requests;

const STRIPE: u64 = 64 << 10;

/// Enough for two shards.
const BUDGET: u64 = 1 << 30;

/// More than half of that, in pages of 64 KiB.
const MOST: &str = "9600";

fn striped() -> Guest {
    Guest::new().opened(|disk| disk.stripe = STRIPE)
}

/// A stripe of each of the two shards.
fn stripes(disk: &Client) -> [u64; 2] {
    assert_eq!(disk.disk.shards.count(), 2);
    [0, 1].map(|shard| {
        (0..16).map(|n| n * STRIPE).find(|&at| disk.disk.shards.index(at) == shard).unwrap()
    })
}

/// A component may start once within the budget; where the second does not start, for whatever
/// reason it gives.
async fn assert_second_cannot_start(guest: &Guest) {
    let logs = Logs::capture();
    let disk = open_within(guest, BUDGET).await.unwrap();
    let [first, second] = stripes(&disk);
    disk.write(first, &[7; 4096], false).await.unwrap();
    assert_eq!(disk.write(second, &[7; 4096], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(disk.zero(second, 4096).await, Err(ErrorCode::NoSpc));
    assert_eq!(disk.read(second, 4096).await.unwrap(), [0; 4096], "as it is when opened");
    let hole = [Extent { length: 4096, status: Status::HOLE }];
    assert_eq!(disk.extents(second, 4096, 1).await.unwrap(), hole);
    disk.extents(0, MIB, 100).await.unwrap();
    disk.cache(second, 4096).await.unwrap();
    disk.trim(second, 4096).await.unwrap();
    disk.trim(0, MIB).await.unwrap();
    disk.flush().await.unwrap();
    disk.write(first, &[8; 4096], false).await.unwrap();
    assert_eq!(disk.read(first, 4096).await.unwrap(), [8; 4096]);
    assert!(!disk.disk.is_dead());
    assert_eq!(logs.take(Level::ERROR), [""; 0]);
    assert!(disk.disk.memory().used() <= BUDGET);
    drop(disk);
}

#[tokio::test]
async fn instance_for_which_there_is_no_memory_refuses_writes_alone() {
    assert_second_cannot_start(&striped().with("memory", MOST)).await;
    let grow = format!("(i32.eq (memory.grow (i32.const {MOST})) (i32.const -1))");
    let trap = format!("(if {grow} (then (unreachable))) (i32.const 0x200)");
    assert_second_cannot_start(&striped().with("open", trap)).await;
    let refuse =
        format!("(if {grow} (then (return (call $fail (i32.const 0))))) (i32.const 0x200)");
    assert_second_cannot_start(&striped().with("open", refuse)).await;
    let smaller = format!(
        "(if {grow} (then (i64.store (i32.const 0x208) (i64.const 4096)))) (i32.const 0x200)"
    );
    assert_second_cannot_start(&striped().with("open", smaller)).await;
}

/// Grows with its first write.
fn greedy() -> Guest {
    striped().with(
        "write",
        format!(
            "(if (i32.lt_u (memory.size) (i32.const {MOST})) (then
               (if (i32.eq (memory.grow (i32.const {MOST})) (i32.const -1))
                 (then (return (call $fail (i32.const 4)))))))
             (memory.copy (call $address (local.get $offset)) (local.get $data) (local.get $length))
             (call $done)"
        ),
    )
}

#[tokio::test]
async fn trimmed_instance_makes_room_for_another() {
    let disk = open_within(&greedy(), BUDGET).await.unwrap();
    let [first, second] = stripes(&disk);
    for (one, other) in [(first, second), (second, first)] {
        disk.write(one, &[7; 4096], false).await.unwrap();
        assert_eq!(disk.write(other, &[7; 4096], false).await, Err(ErrorCode::NoSpc));
        disk.trim(one, 4096).await.unwrap();
        disk.write(other, &[7; 4096], false).await.unwrap();
        disk.zero(other, 4096).await.unwrap();
    }
}

#[tokio::test]
async fn zero_of_everything_frees_before_it_starts_anything() {
    let disk = open_within(&greedy().with("memory", "4800"), BUDGET).await.unwrap();
    let [first, second] = stripes(&disk);
    disk.write(first, &[7; 4096], false).await.unwrap();
    disk.trim(first, 4096).await.unwrap();
    disk.write(second, &[7; 4096], false).await.unwrap();
    // Now there is no memory to start the first one again.
    assert_eq!(disk.write(first, &[7; 4096], false).await, Err(ErrorCode::NoSpc));
    disk.zero(0, MIB).await.unwrap();
    disk.write(first, &[7; 4096], false).await.unwrap();
    assert_eq!(disk.read(second, 4096).await.unwrap(), [0; 4096]);
}

#[tokio::test]
async fn disk_whose_first_instance_does_not_fit_is_refused_with_the_reason() {
    let error = open_within(&Guest::new(), 1 << 20).await.err().unwrap();
    assert!(matches!(error, OpenError::Fault(Fault::OutOfMemory { .. })), "{error:?}");
    assert!(error.to_string().contains("--max-memory"), "{error}");
}
