//! The rules of the interface `routing`, each with what goes wrong without it; copies and locks are in
//! `copies`, requests that last in `late`.

use super::*;
use crate::block::{Operation, Status};

/// The body of a `route` of two segments of half the length each, the first on device 0, the second on
/// device 1, with the token 7.
const HALVES: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 0) (local.get $offset)
      (i64.shr_u (local.get $length) (i64.const 1)))
    (call $segment (i32.const 1) (i32.const 0) (i32.const 1)
      (i64.add (local.get $offset) (i64.shr_u (local.get $length) (i64.const 1)))
      (i64.shr_u (local.get $length) (i64.const 1)))
    (call $routed (i32.const 2) (i32.const 0) (i64.const 0) (i64.const 7))";

#[tokio::test]
async fn request_is_routed_once_however_long_it_is() {
    let lower = Native::new(MIB);
    let guest = routing(1, [0; 5], PASS).opened(|disk| {
        disk.minimum_block = 512;
        disk.maximum_transfer = 4096;
    });
    let client = client(&guest, &[&lower]).await;
    client.write(1, &[5; 100_000], false).await.unwrap();
    assert_eq!(client.log().await, [(Called::Route(1), 1, 100_000)]);
    assert_eq!(client.read(0, 100_002).await.unwrap()[..2], [0, 5]);
    assert_eq!(client.log().await, [(Called::Route(0), 0, 100_002)]);
    let span = Span { offset: 1, length: 100_000 };
    let lengths: Vec<_> = lower.take_log().iter().map(Command::span).collect();
    assert_eq!(lengths, [span, Span { offset: 0, length: 100_002 }]);
}

#[tokio::test]
async fn lease_does_not_route() {
    let client = client(&routing(1, [0; 5], PASS), &[&Native::new(MIB)]).await;
    let span = Span { offset: 0, length: 512 };
    assert!(client.0.try_lease(span, crate::device::Mode::Read).is_none());
    assert!(client.0.clone().make_room(span).is_none());
    assert_eq!(client.0.partial_write_len(span, 100), 0);
    assert_eq!(client.log().await, []);
}

#[tokio::test]
async fn all_segments_are_attempted_and_the_first_error_is_the_answer() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let client = client(&routing(1, [0; 5], HALVES), &[&first, &second]).await;
    second.fail(Operation::Write, 612, ErrorCode::NoSpc);
    assert_eq!(client.write(100, &[7; 1024], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(first.bytes.lock().unwrap()[100..612], [7; 512], "the other one took effect");
    first.fail(Operation::Write, 100, ErrorCode::Perm);
    assert_eq!(client.write(100, &[8; 1024], false).await, Err(ErrorCode::Perm));
    client.read(100, 1024).await.unwrap();
    assert_eq!(
        client.log().await,
        [
            (Called::Route(1), 100, 1024),
            (Called::Done(0), 7, 0b10),
            (Called::Route(1), 100, 1024),
            (Called::Done(0), 7, 0b11),
            (Called::Route(0), 100, 1024),
            (Called::Done(0), 7, 0),
        ],
        "and done is called once for each"
    );
}

#[tokio::test]
async fn segments_are_joined_in_their_order() {
    let (first, second) = (Native::new(MIB).numbered(1), Native::new(MIB).numbered(100));
    let client = client(&routing(1, [0; 5], HALVES), &[&first, &second]).await;
    let bytes = client.read(0, 2048).await.unwrap();
    let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
    assert_eq!(sectors, [1, 2, 102, 103]);
    client.write(0, &bytes.iter().map(|byte| byte + 1).collect::<Vec<_>>(), false).await.unwrap();
    assert_eq!(first.bytes.lock().unwrap()[512..1536], [[3; 512], [3; 512]].concat());
    assert_eq!(second.bytes.lock().unwrap()[1024..2048], [[103; 512], [104; 512]].concat());
}

#[tokio::test]
async fn reply_follows_done() {
    let lower = Native::new(MIB);
    let guest = routing(1, [0; 5], PASS_AND_TELL).with("done", "(call $refuse (i32.const 4))");
    let client = client(&guest, &[&lower]).await;
    assert_eq!(client.write(0, &[1], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(lower.take_log().len(), 1);
    assert!(!client.is_dead());
}

#[tokio::test]
async fn fua_reaches_each_device_and_then_the_component() {
    let (with, without) = (Native::new(MIB), Native::with(MIB, |offers| offers.fua = false));
    let guest =
        routing(1, [0; 5], HALVES).opened(|disk| disk.capabilities = can::EVERYTHING & !can::FUA);
    let client = client(&guest, &[&with, &without]).await;
    client.write(0, &[1; 1024], true).await.unwrap();
    let write = |offset, fua| Command::Write { span: Span { offset, length: 512 }, fua };
    assert_eq!(with.take_log(), [write(0, true)]);
    assert_eq!(without.take_log(), [write(512, false), Command::Flush]);
    assert_eq!(
        client.log().await,
        [(Called::Route(1), 0, 1024), (Called::Done(0), 7, 0), (Called::Flush, 0, 0)]
    );
}

#[tokio::test]
async fn flush_is_the_components_or_reaches_each_writable_device() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let read_only = Native::with(MIB, |offers| offers.writable = false);
    let lowers = [&first, &second, &read_only];
    let own = routing(1, [0; 5], PASS).opened(|disk| disk.capabilities = can::EVERYTHING);
    let owner = client(&own, &lowers).await;
    owner.flush().await.unwrap();
    assert_eq!(owner.log().await, [(Called::Flush, 0, 0)]);
    assert!(first.take_log().is_empty());

    let client = client(&routing(1, [0; 5], PASS), &lowers).await;
    client.flush().await.unwrap();
    assert_eq!(first.take_log(), [Command::Flush]);
    assert_eq!(second.take_log(), [Command::Flush]);
    assert!(read_only.take_log().is_empty());
    assert_eq!(client.log().await, []);
}

#[tokio::test]
async fn last_flush_reaches_what_nobody_else_uses() {
    let lower = Native::new(MIB);
    let client = client(&routing(1, [0; 5], PASS), &[&lower]).await;
    assert!(client.0.needs_last_flush());
    client.0.clone().last_flush().await.unwrap();
    assert_eq!(lower.take_log(), [Command::Flush]);
}

#[tokio::test]
async fn several_connections_are_offered_if_all_devices_or_the_own_flush_allow_them() {
    let single = Native::with(MIB, |offers| offers.multi_conn = false);
    let with = |capabilities: u16| {
        routing(1, [0; 5], PASS).opened(move |disk| disk.capabilities = capabilities | (1 << 8))
    };
    let flushing = client(&with(can::EVERYTHING), &[&single]).await;
    assert!(flushing.0.geometry().capabilities.multi_conn);
    let guest = with(can::EVERYTHING & !can::FLUSH);
    let multi = client(&guest, &[&Native::new(MIB)]).await;
    assert!(multi.0.geometry().capabilities.multi_conn);
    let client = client(&guest, &[&Native::new(MIB), &single]).await;
    assert!(!client.0.geometry().capabilities.multi_conn);
}

#[tokio::test]
async fn fast_zero_that_fails_changes_nothing() {
    let (fast, slow) = (
        Native::new(MIB).numbered(1),
        Native::with(MIB, |offers| {
            offers.fast_zero = false;
        }),
    );
    let client = client(&routing(1, [0; 5], HALVES), &[&fast, &slow]).await;
    assert_eq!(client.zero_fast(0, 1024).await, Err(ErrorCode::NotSup));
    assert!(fast.take_log().is_empty() && slow.take_log().is_empty());
    assert_eq!(client.log().await, [(Called::Route(2), 0, 1024), (Called::Done(0), 7, 0b11)]);
    client.zero(0, 1024).await.unwrap();
    assert_eq!(client.read(0, 512).await, Ok(vec![0; 512]));
}

#[tokio::test]
async fn fast_zero_succeeds_once_something_has_changed() {
    let (first, second) = (Native::new(MIB).numbered(1), Native::new(MIB).numbered(1));
    let client = client(&routing(1, [0; 5], HALVES), &[&first, &second]).await;
    first.fail(Operation::Zero, 0, ErrorCode::NotSup);
    assert_eq!(client.zero_fast(0, 1024).await, Err(ErrorCode::NotSup));
    assert!(second.take_log().is_empty(), "not attempted");
    // The second device fails whenever it is asked: but not for not being fast.
    second.fail(Operation::Zero, 5200, ErrorCode::NotSup);
    assert_eq!(client.zero_fast(4096, 2048).await, Err(ErrorCode::NotSup));
    let fast = |command: &Command| matches!(command, Command::Zero { fast: true, .. });
    let log = second.take_log();
    assert_eq!(log.iter().map(fast).collect::<Vec<_>>(), [true, false], "{log:?}");
    assert_eq!(first.bytes.lock().unwrap()[4096..5120], [0; 1024]);
}

#[tokio::test]
async fn zero_is_written_for_a_component_without() {
    let lower = Native::new(MIB).numbered(1);
    let guest = routing(1, [0; 5], PASS).opened(|disk| {
        disk.capabilities = can::EVERYTHING & !can::ZERO & !can::FAST_ZERO & !can::FLUSH;
    });
    let client = client(&guest, &[&lower]).await;
    client.zero(10, 600_000).await.unwrap();
    assert!(lower.take_log().iter().all(|command| command.operation() == Operation::Write));
    assert_eq!(client.read(0, 600_020).await.unwrap().iter().filter(|&&byte| byte > 0).count(), 20);
}

#[tokio::test]
async fn devices_that_lack_something_are_helped() {
    let plain = Native::with(MIB, |offers| {
        (offers.trim, offers.cache, offers.zero, offers.fast_zero) = (false, false, false, false);
    });
    let client = client(&routing(1, [0; 5], PASS), &[&plain.numbered(1)]).await;
    client.trim(0, 1024).await.unwrap();
    let span = Span { offset: 0, length: 512 };
    client.execute(Command::Cache { span }, Vec::new()).await.unwrap();
    assert!(plain.take_log().is_empty());
    client.zero(0, 512).await.unwrap();
    assert_eq!(plain.take_log(), [Command::Write { span, fua: false }]);
    assert_eq!(client.read(0, 513).await.unwrap()[511..], [0, 2]);
}

#[tokio::test]
async fn extents_are_those_of_the_segments() {
    let (first, second) = (Native::new(MIB), Native::new(MIB).numbered(1));
    let client = client(&routing(1, [0; 5], HALVES), &[&first, &second]).await;
    let (data, hole) = (Status::DATA, Status::HOLE);
    let of = |length, status| Extent { length, status };
    assert_eq!(client.extents(512, 2048, 9).await, Ok(vec![of(1024, hole), of(1024, data)]));
    assert_eq!(client.extents(512, 2048, 1).await, Ok(vec![of(1024, hole)]), "as many as wanted");
    second.fail(Operation::Extents, 1536, ErrorCode::Io);
    assert_eq!(client.extents(512, 2048, 9).await, Ok(vec![of(1024, hole)]), "what is known");
    first.fail(Operation::Extents, 512, ErrorCode::Io);
    assert_eq!(client.extents(512, 2048, 9).await, Err(ErrorCode::Io));
}

#[tokio::test]
async fn own_parts_and_holes_need_no_device() {
    let route = "
        (call $segment (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0)
          (i64.shr_u (local.get $length) (i64.const 1)))
        (call $segment (i32.const 1) (i32.const 2) (i32.const 0) (i64.const 0)
          (i64.shr_u (local.get $length) (i64.const 1)))
        (call $routed (i32.const 2) (i32.const 0) (i64.const 0) (i64.const 0))";
    let writes = format!(
        "(if (i32.eq (local.get $operation) (i32.const 1)) (then
          (call $segment (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0)
            (local.get $length))
          (return (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)))))
         {route}"
    );
    let client = client(&routing(1, [0; 5], writes), &[]).await;
    client.write(0, &[3; 8192], false).await.unwrap();
    let bytes = client.read(0, 16384).await.unwrap();
    assert_eq!(bytes, [[3; 8192], [0; 8192]].concat());
    let of = |length, status| Extent { length, status };
    let expected = vec![of(8192, Status::DATA), of(8192, Status::HOLE)];
    assert_eq!(client.extents(0, 16384, 9).await, Ok(expected));
    client.zero(0, 16384).await.unwrap();
    assert_eq!(client.read(0, 16384).await, Ok(vec![0; 16384]));
}
