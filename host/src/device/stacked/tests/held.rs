//! Requests that the component holds, and those that are executed again.

use std::time::Duration;

use super::user::user;
use super::*;
use crate::block::Operation;
use crate::component::tests::logs::Logs;

/// Long enough for something that would go wrong to do so.
const MOMENT: Duration = Duration::from_millis(30);

/// Holds writes under their length, and everything under 9 that is no write.
const HELD: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 0) (local.get $offset) (local.get $length))
    (call $held (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 7))
      (select (local.get $length) (i64.const 9)
        (i32.eq (local.get $operation) (i32.const 1))))";

/// A guest that holds requests, and releases in `flush` those under 1.
fn holding() -> Guest {
    user()
        .routing(1, [0; 5], HELD)
        .with("flush", "(call $lower-release (i64.const 1)) (call $done)")
        .opened(|disk| disk.capabilities = can::EVERYTHING)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("nobody waits for ever")
}

/// Waits until so many requests were routed.
async fn until_routed(client: &Client, count: usize) {
    let mut routed = 0;
    while routed < count {
        routed += client.log().await.len();
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_are_held_until_they_are_released_under_their_number() {
    let lower = Native::new(MIB);
    let client = client(&holding(), &[&lower]).await;
    let first = client.spawn(|client| async move { client.write(0, &[1], false).await });
    let second = client.spawn(|client| async move { client.write(1, &[2], false).await });
    let other = client.spawn(|client| async move { client.write(8, &[3; 2], false).await });
    until_routed(&client, 3).await;
    tokio::time::sleep(MOMENT).await;
    assert!(lower.take_log().is_empty());
    client.flush().await.unwrap();
    within(first).await.unwrap().unwrap();
    within(second).await.unwrap().unwrap();
    assert!(!other.is_finished());
    let late = client.spawn(|client| async move { client.write(2, &[4], false).await });
    tokio::time::sleep(MOMENT).await;
    assert!(!late.is_finished(), "the call was for those that were held");
    client.flush().await.unwrap();
    within(late).await.unwrap().unwrap();
    assert_eq!(lower.bytes.lock().unwrap()[..10], [1, 2, 4, 0, 0, 0, 0, 0, 0, 0]);
}

#[tokio::test]
async fn held_request_whose_client_has_gone_away_is_not_executed() {
    let lower = Native::new(MIB);
    let client = client(&holding(), &[&lower]).await;
    let cancelled = Cancelled::default();
    // As it is for a device beneath another.
    let child = cancelled.child();
    let writing = client.spawn(|client| async move {
        let write = Command::Write { span: Span { offset: 0, length: 1 }, fua: false };
        client.execute_for(write, vec![5], child).await.map(drop)
    });
    tokio::time::sleep(MOMENT).await;
    assert!(!writing.is_finished());
    cancelled.cancel();
    assert_eq!(within(writing).await.unwrap(), Err(ErrorCode::Shutdown));
    assert!(lower.take_log().is_empty());
    assert_eq!(client.log().await, [(Called::Route(1), 0, 1), (Called::Done(0), 7, 1)]);
    assert!(!client.is_dead());
}

#[tokio::test]
async fn many_held_requests_occupy_no_instance() {
    let lower = Native::new(MIB);
    let client = client(&holding(), &[&lower]).await;
    let writes: Vec<_> = (0..64)
        .map(|at| client.spawn(move |client| async move { client.write(at, &[1], false).await }))
        .collect();
    until_routed(&client, 64).await;
    client.flush().await.unwrap();
    for write in writes {
        within(write).await.unwrap().unwrap();
    }
}

/// A guest that asks for a failed request once more, after a time in nanoseconds.
fn repeating(delay: u64) -> Guest {
    let again = format!(
        "(if (i64.eqz (local.get $failed)) (then (return (call $finished))))
         (call $again (i64.const {delay}))"
    );
    routing(1, [0; 5], PASS_AND_TELL).with("done", again)
}

#[tokio::test]
async fn failed_request_is_executed_again_until_it_succeeds() {
    let lower = Native::new(MIB);
    let client = client(&repeating(1_000_000), &[&lower]).await;
    lower.fail(Operation::Write, 3, ErrorCode::Io);
    let writing = client.spawn(|client| async move { client.write(3, &[5], false).await });
    until_routed(&client, 4).await;
    lower.mend();
    within(writing).await.unwrap().unwrap();
    assert_eq!(client.read(3, 1).await, Ok(vec![5]));
    let routed =
        client.log().await.iter().filter(|(called, ..)| *called == Called::Route(1)).count();
    assert_eq!(routed, 0, "it was routed once, at the beginning");
}

#[tokio::test]
async fn request_is_not_executed_again_for_a_client_that_has_gone_away() {
    let lower = Native::new(MIB);
    let client = client(&repeating(0), &[&lower]).await;
    lower.fail(Operation::Write, 3, ErrorCode::NoSpc);
    let cancelled = Cancelled::default();
    cancelled.cancel();
    let write = Command::Write { span: Span { offset: 3, length: 1 }, fua: false };
    let outcome = client.execute_for(write, vec![5], cancelled).await;
    assert_eq!(outcome.map(drop), Err(ErrorCode::NoSpc));
    assert_eq!(client.log().await, [(Called::Route(1), 3, 1), (Called::Done(0), 7, 1)]);
}

#[tokio::test]
async fn request_that_is_to_be_executed_again_for_ever_ends_the_device() {
    let logs = Logs::capture();
    let lower = Native::new(MIB);
    let client = client(&repeating(0), &[&lower]).await;
    lower.fail(Operation::Write, 3, ErrorCode::NoSpc);
    assert_eq!(client.write(3, &[5], false).await, Err(ErrorCode::NoSpc));
    assert_eq!(lower.take_log().len(), 1001);
    assert!(client.is_dead());
    let logged = logs.take(tracing::Level::ERROR).join("");
    assert!(logged.contains("to be executed again more often than 1000 times"), "{logged}");
}

#[tokio::test]
async fn request_that_is_to_be_executed_again_after_too_long_a_time_ends_the_device() {
    let lower = Native::new(MIB);
    let client = client(&repeating(600_000_000_001), &[&lower]).await;
    lower.fail(Operation::Write, 3, ErrorCode::NoSpc);
    assert!(client.write(3, &[5], false).await.is_err());
    assert!(client.is_dead());
}
