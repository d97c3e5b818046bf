//! Copies that a route asks for, under the locks of a copy-on-write layer.

use std::sync::atomic::Ordering;

use super::*;
use crate::block::Operation;

/// A copy-on-write layer over device 0, with device 1 for the blocks of 4 KiB that were written, for
/// requests within one block. Its own memory has a byte for each block. Writes lock by `locks`.
pub(super) fn cow(locks: [u8; 5]) -> Guest {
    let layer = "
        (if (i32.load8_u (call $address (i64.shr_u (local.get $offset) (i64.const 12)))) (then
          (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
            (local.get $length))
          (return (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)))))
        (if (i32.or (i32.eqz (local.get $operation))
            (i32.gt_u (local.get $operation) (i32.const 3))) (then
          (call $segment (i32.const 0) (i32.const 0) (i32.const 0) (local.get $offset)
            (local.get $length))
          (return (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)))))
        (call $copy (i32.const 0)
          (i32.const 0) (i64.and (local.get $offset) (i64.const -4096))
          (i32.const 1) (i64.and (local.get $offset) (i64.const -4096)) (i64.const 4096))
        (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
          (local.get $length))
        (call $routed (i32.const 1) (i32.const 1) (i64.const 0)
          (i64.add (i64.const 1) (i64.shr_u (local.get $offset) (i64.const 12))))";
    routing(4096, locks, layer).with(
        "done",
        "(if (i64.eqz (local.get $failed)) (then
           (i32.store8 (call $address (i64.sub (local.get $token) (i64.const 1))) (i32.const 1))))
         (call $finished)",
    )
}

pub(super) const EXCLUSIVE_WRITES: [u8; 5] = [1, 2, 2, 2, 1];

#[tokio::test]
async fn update_within_a_granule_is_not_lost() {
    let (base, overlay) = (Native::new(MIB).numbered(1), Native::new(MIB));
    let client = client(&cow(EXCLUSIVE_WRITES), &[&base, &overlay]).await;
    base.hold();
    let write = |sector: u64| {
        let client = client.clone();
        tokio::spawn(async move { client.write(sector * 512, &[100; 512], false).await })
    };
    let writes = [write(1), write(2), write(8)];
    // Those of different blocks go on, and of each block one.
    base.until_under_way(2).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert_eq!(base.under_way.load(Ordering::Relaxed), 2);
    base.release();
    for write in writes {
        write.await.unwrap().unwrap();
    }
    let block = client.read(0, 4096).await.unwrap();
    let first_bytes: Vec<u8> = block.chunks(512).map(|sector| sector[0]).collect();
    assert_eq!(first_bytes, [1, 100, 100, 4, 5, 6, 7, 8]);
    let next = client.read(4096, 1024).await.unwrap();
    assert_eq!((next[0], next[512]), (100, 10));
}

#[tokio::test]
async fn copies_come_before_segments() {
    let (base, overlay) = (Native::new(MIB).numbered(1), Native::new(MIB));
    let client = client(&cow(EXCLUSIVE_WRITES), &[&base, &overlay]).await;
    client.write(512, &[9; 512], true).await.unwrap();
    let write = |offset, length| Command::Write { span: Span { offset, length }, fua: true };
    assert_eq!(overlay.take_log(), [write(0, 4096), write(512, 512)], "both with FUA");
}

#[tokio::test]
async fn failed_copy_fails_the_request_and_changes_nothing_else() {
    let (base, overlay) = (Native::new(MIB).numbered(1), Native::new(MIB));
    overlay.fail(Operation::Write, 0, ErrorCode::NoSpc);
    let client = client(&cow(EXCLUSIVE_WRITES), &[&base, &overlay]).await;
    assert_eq!(client.write(512, &[9; 512], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(overlay.take_log().len(), 1, "the segment was not attempted");
    assert_eq!(
        client.log().await,
        [(Called::Route(1), 512, 512), (Called::Done(1), 1, 0b1)],
        "and the component knows"
    );
    assert_eq!(client.read(512, 1).await, Ok(vec![2]), "the block is still the base's");
    client.write(4096, &[9], false).await.unwrap();
    assert_eq!(client.read(4096, 1).await, Ok(vec![9]), "and nothing is locked");
}

#[tokio::test]
async fn copy_is_made_in_pieces_and_keeps_holes() {
    let (from, to) = (Guest::new(), Native::new(MIB).numbered(1));
    let from = crate::device::guest::tests_device(load(&from).await).await;
    let route = "
        (call $copy (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1) (i64.const 0)
          (i64.const 0x100000))
        (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
          (local.get $length))
        (call $routed (i32.const 1) (i32.const 1) (i64.const 0) (i64.const 0))";
    let lowers: [Arc<dyn Device>; 2] = [from, to.clone()];
    let client = open(&routing(1, [0; 5], route), &lowers).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![0; 4096]));
    assert!(to.bytes.lock().unwrap().iter().all(|byte| *byte == 0));
    let log = to.take_log();
    assert!(log.iter().all(|command| !matches!(command, Command::Write { .. })), "{log:?}");
}
