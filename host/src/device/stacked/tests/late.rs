//! Routed requests that last: lower devices that are slow or do not answer, and clients that do not wait.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::*;
use crate::block::Operation;
use crate::component::LOWER_LIMIT;
use crate::component::tests::logs::Logs;
use crate::device::guest::tests_device;

/// Locks writes against each other.
const WRITES: [u8; 5] = [0, 2, 0, 0, 0];

/// The body of a `route` of 40 segments of 512 bytes, the last one on device 1, the others on device
/// 0, with the token 7.
const FORTY: &str = "
    (loop $next
      (call $segment (i32.load (i32.const 0x2f0)) (i32.const 0)
        (i32.eq (i32.load (i32.const 0x2f0)) (i32.const 39))
        (i64.mul (i64.load32_u (i32.const 0x2f0)) (i64.const 512)) (i64.const 512))
      (i32.store (i32.const 0x2f0) (i32.add (i32.load (i32.const 0x2f0)) (i32.const 1)))
      (br_if $next (i32.lt_u (i32.load (i32.const 0x2f0)) (i32.const 40))))
    (i32.store (i32.const 0x2f0) (i32.const 0))
    (call $routed (i32.const 40) (i32.const 0) (i64.const 0) (i64.const 7))";

/// A `route` that copies 1 MiB from device 0 to device 1, and passes a request of half that length to
/// device 1, with the token 7.
const COPY_AND_PASS: &str = "
    (call $copy (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 1) (i64.const 0)
      (i64.const 0x100000))
    (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
      (local.get $length))
    (call $routed (i32.const 1) (i32.const 1) (i64.const 0) (i64.const 7))";

/// Waits until a lower device has executed everything.
async fn until_idle(lower: &Native) {
    tokio::time::timeout(LONG, lower.until_under_way(0)).await.expect("it goes on");
}

#[tokio::test]
async fn request_fails_when_its_lower_device_does_not_answer() {
    let logs = Logs::capture();
    let lower = Native::new(MIB);
    let client = client(&routing(4096, WRITES, PASS_AND_TELL), &[&lower]).await;
    lower.hold();
    let begin = Instant::now();
    let writing = client.spawn(|client| async move { client.write(512, &[5; 8], false).await });
    lower.until_under_way(1).await;
    let next = client.spawn(|client| async move { client.write(0, &[6], false).await });
    assert_eq!(writing.await.unwrap(), Err(ErrorCode::Io));
    assert!(begin.elapsed() >= LOWER_LIMIT);
    // Its lock is free.
    lower.until_under_way(2).await;
    assert_eq!(
        client.log().await,
        [(Called::Route(1), 512, 8), (Called::Done(0), 7, 1), (Called::Route(1), 0, 1)]
    );
    assert_eq!(
        logs.take(tracing::Level::WARN),
        ["export \"export\": the lower device 0 (device-0) did not answer write(512, 8) within \
          4s; the request fails with EIO"]
    );
    lower.release();
    next.await.unwrap().unwrap();
    until_idle(&lower).await;
    assert_eq!(lower.bytes.lock().unwrap()[512..520], [5; 8], "the lower device finishes");
    assert_eq!(lower.cancelled.load(Ordering::Relaxed), 1, "the order of the first one");
    assert!(!client.is_dead());
}

#[tokio::test]
async fn device_that_does_not_answer_is_asked_for_no_more_segments() {
    let logs = Logs::capture();
    let (hangs, answers) = (Native::new(MIB), Native::new(MIB));
    let client = client(&routing(1, [0; 5], FORTY), &[&hangs, &answers]).await;
    hangs.hold();
    let begin = Instant::now();
    assert_eq!(client.write(0, &[5; 40 * 512], false).await, Err(ErrorCode::Io));
    assert!(begin.elapsed() < LOWER_LIMIT * 3 / 2, "{:?}", begin.elapsed());
    assert_eq!(answers.take_log().len(), 1, "other devices are");
    assert_eq!(logs.take(tracing::Level::WARN).len(), 1);
    let log = client.log().await;
    assert!(matches!(log[1], (Called::Done(0), 7, _)), "{log:?}");
    hangs.release();
    until_idle(&hangs).await;
    assert!(hangs.take_log().len() < 39);
}

#[tokio::test]
async fn copies_stop_when_a_lower_device_does_not_answer() {
    for held in [0, 1] {
        let devices = [Native::new(MIB).numbered(1), Native::new(MIB)];
        let client =
            client(&routing(4096, WRITES, COPY_AND_PASS), &[&devices[0], &devices[1]]).await;
        devices[held].hold();
        assert_eq!(client.write(0, &[5], false).await, Err(ErrorCode::Io));
        let log = client.log().await;
        assert_eq!(log, [(Called::Route(1), 0, 1), (Called::Done(1), 7, 1)]);
        devices[held].release();
        until_idle(&devices[held]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let logs = devices.map(|device| device.take_log().len());
        assert_eq!(logs, if held == 0 { [1, 0] } else { [1, 1] }, "one piece, and no segment");
    }
}

#[tokio::test]
async fn copies_do_not_queue_for_a_device_that_does_not_answer() {
    let (from, to) = (Native::new(MIB), Native::new(MIB));
    let client = client(&routing(1, [0; 5], COPY_AND_PASS), &[&from, &to]).await;
    from.hold();
    let begin = Instant::now();
    let writes =
        [(); 64].map(|()| client.spawn(|client| async move { client.write(0, &[5], false).await }));
    for write in writes {
        assert_eq!(write.await.unwrap(), Err(ErrorCode::Io));
    }
    // Some get their turn at the last moment.
    assert!(begin.elapsed() < LOWER_LIMIT * 5 / 2, "{:?}", begin.elapsed());
    let log = client.log().await;
    assert_eq!(log.iter().filter(|call| call.0 == Called::Done(1)).count(), 64);
}

#[tokio::test]
async fn zero_that_ends_with_its_client_is_not_told_as_complete() {
    let lower = Native::with(MIB, |offers| offers.zero = false).numbered(1);
    let guest = routing(1, [0; 5], PASS_AND_TELL)
        .opened(|disk| disk.capabilities = can::EVERYTHING & !can::FLUSH & !can::FAST_ZERO);
    let client = client(&guest, &[&lower]).await;
    lower.hold();
    let cancelled = Cancelled::default();
    let zeroing = client.spawn({
        let cancelled = cancelled.clone();
        |client| async move {
            let span = Span { offset: 0, length: MIB };
            let zero = Command::Zero { span, fua: false, keep_allocated: false, fast: false };
            client.execute_for(zero, Vec::new(), cancelled).await.map(drop)
        }
    });
    lower.until_under_way(1).await;
    cancelled.cancel();
    lower.release();
    assert_eq!(zeroing.await.unwrap(), Err(ErrorCode::Shutdown));
    assert_eq!(client.log().await, [(Called::Route(2), 0, MIB), (Called::Done(0), 7, 1)]);
    assert_eq!(lower.take_log().len(), 1, "it ended early");
}

#[tokio::test]
async fn copy_is_complete_although_the_client_has_gone_away() {
    let holes = tests_device(load(&Guest::new()).await).await;
    let to = Native::with(MIB, |offers| offers.zero = false).numbered(1);
    let lowers: [Arc<dyn Device>; 2] = [holes, to.clone()];
    let client = open(&routing(1, [0; 5], COPY_AND_PASS), &lowers).await.unwrap();
    to.hold();
    let cancelled = Cancelled::default();
    let writing = client.spawn({
        let cancelled = cancelled.clone();
        |client| async move {
            let write = Command::Write { span: Span { offset: 0, length: 1 }, fua: false };
            client.execute_for(write, vec![0], cancelled).await.map(drop)
        }
    });
    to.until_under_way(1).await;
    cancelled.cancel();
    to.release();
    writing.await.unwrap().unwrap();
    assert!(to.bytes.lock().unwrap().iter().all(|&byte| byte == 0));
    assert!(to.take_log().iter().all(|command| command.operation() == Operation::Write));
}

#[tokio::test]
async fn done_is_called_although_the_client_has_gone_away() {
    let lower = Native::new(MIB);
    let client = client(&routing(1, [0; 5], PASS_AND_TELL), &[&lower]).await;
    lower.hold();
    let cancelled = Cancelled::default();
    let span = Span { offset: 0, length: 1 };
    let writing = client.spawn({
        let cancelled = cancelled.clone();
        |client| async move {
            let write = Command::Write { span, fua: false };
            client.execute_for(write, vec![5], cancelled).await.map(drop)
        }
    });
    lower.until_under_way(1).await;
    cancelled.cancel();
    lower.release();
    writing.await.unwrap().unwrap();
    assert_eq!(client.log().await, [(Called::Route(1), 0, 1), (Called::Done(0), 7, 0)]);
    assert_eq!(client.read(0, 1).await, Ok(vec![5]));
}

#[tokio::test]
async fn delay_occupies_no_instance() {
    let lower = Native::new(MIB);
    let longest = "(i64.const 600000000000) (i64.const 0))";
    let route = PASS.replace("(i64.const 0) (i64.const 0))", longest);
    let client = client(&routing(1, [0; 5], route), &[&lower]).await;
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let client = client.clone();
        reads.spawn(async move { client.read(0, 1).await });
    }
    let mut routed = 0;
    while routed < 64 {
        routed += client.log().await.len();
        tokio::task::yield_now().await;
    }
    assert!(reads.try_join_next().is_none(), "all of them wait");
    assert!(lower.take_log().is_empty());
}

#[tokio::test]
async fn many_requests_wait_for_a_slow_device_at_once() {
    let lower = Native::new(MIB);
    let client = client(&routing(1, [0; 5], PASS_AND_TELL), &[&lower]).await;
    lower.hold();
    let reads = [(); 64].map(|()| client.spawn(|client| async move { client.read(0, 1).await }));
    lower.until_under_way(64).await;
    lower.release();
    for read in reads {
        read.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn lower_device_finishes_its_work_when_the_upper_one_dies() {
    let lower = Native::new(MIB);
    let route = format!(
        "(if (i64.eq (local.get $offset) (i64.const 4096)) (then (unreachable))) {PASS_AND_TELL}"
    );
    let client = client(&routing(1, [0; 5], route), &[&lower]).await;
    lower.hold();
    let writing = client.spawn(|client| async move { client.write(0, &[5], false).await });
    lower.until_under_way(1).await;
    assert_eq!(client.read(4096, 1).await, Err(ErrorCode::Io));
    assert!(client.is_dead());
    lower.release();
    assert_eq!(writing.await.unwrap(), Err(ErrorCode::Io));
    assert_eq!(lower.bytes.lock().unwrap()[0], 5);
    assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io));
    assert_eq!(client.flush().await, Err(ErrorCode::Io));
    assert_eq!(lower.take_log().len(), 1, "a dead device asks nothing more of it");
}
