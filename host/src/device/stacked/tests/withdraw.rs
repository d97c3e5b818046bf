//! Stable routes that the component withdraws.

use std::time::Duration;

use super::user::{open_within, user};
use super::*;
use crate::block::Operation;
use crate::component::LOWER_LIMIT;
use crate::component::tests::SHORT;
use crate::component::tests::guest::can;
use crate::device::Mode;
use crate::device::guest::tests_device;

/// Long enough for something that would go wrong to do so.
const MOMENT: Duration = Duration::from_millis(30);

/// The body of a `stable` that gives everything to lower device 0, and to lower device 1 once the
/// guest has withdrawn that.
const MOVED: &str = "
    (call $passed (i32.load (i32.const 0x2f0)) (local.get $offset)
      (i64.sub (i64.const 0x100000) (local.get $offset)))";

/// Withdraws the routes. Afterwards [`MOVED`] gives others.
const WITHDRAW: &str = "
    (call $lower-withdraw-routes)
    (i32.store (i32.const 0x2f0) (i32.const 1))";

/// The body of a `route` that passes everything to lower device 1.
const ROUTED: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 1) (local.get $offset)
      (local.get $length))
    (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0))";

/// A guest with stable routes, which it withdraws in `flush`.
fn moving() -> Guest {
    user()
        .routing(4096, [0, 2, 2, 2, 0], ROUTED)
        .with("stable", MOVED)
        .with("flush", format!("{WITHDRAW} (call $done)"))
        .opened(|disk| disk.capabilities = can::EVERYTHING & !can::FUA)
}

fn write(offset: u64) -> Command {
    Command::Write { span: Span { offset, length: 1 }, fua: false }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("nobody waits for ever")
}

#[tokio::test]
async fn requests_under_way_are_waited_for_and_later_ones_go_elsewhere() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let lowers: [Arc<dyn Device>; 2] = [first.clone(), second.clone()];
    // The time in which it waits for them does not count.
    let client = open_within(&moving(), SHORT, 64 << 20, &lowers).await;
    client.write(0, &[1], false).await.unwrap();
    assert_eq!(first.take_log(), [write(0)]);
    first.hold();
    let writing = client.spawn(|client| async move { client.write(1, &[1], false).await });
    first.until_under_way(1).await;
    let reading = client.spawn(|client| async move { client.read(2, 1).await });
    first.until_under_way(2).await;
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::time::sleep(10 * MOMENT).await;
    assert!(!flushing.is_finished());
    let late = client.spawn(|client| async move { client.write(3, &[1], false).await });
    tokio::time::sleep(MOMENT).await;
    assert_eq!(first.under_way.load(std::sync::atomic::Ordering::Relaxed), 2, "it is routed");
    first.release();
    within(writing).await.unwrap().unwrap();
    within(reading).await.unwrap().unwrap();
    within(flushing).await.unwrap().unwrap();
    within(late).await.unwrap().unwrap();
    assert_eq!(first.take_log().len(), 2);
    assert_eq!(second.take_log(), [write(3)]);
    client.write(4, &[1], false).await.unwrap();
    assert_eq!(second.take_log(), [write(4)]);
    assert!(first.take_log().is_empty());
    assert_eq!(client.log().await, [(Called::Route(1), 3, 1)], "the new routes are stable, too");
    assert!(!client.is_dead());
}

#[tokio::test]
async fn leases_are_waited_for() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let second = Native::new(MIB).numbered(1);
    let client = open(&moving(), &[memory, second.clone()]).await.unwrap();
    client.write(0, &[7; 4096], false).await.unwrap();
    client.read(0, 1).await.unwrap();
    let span = Span { offset: 0, length: 10 };
    let lease = client.0.try_lease(span, Mode::Read).expect("the page is known");
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::time::sleep(MOMENT).await;
    assert!(!flushing.is_finished());
    assert!(client.0.try_lease(span, Mode::Read).is_none(), "there are no more of them");
    assert_eq!(lease.chunk(0), Some(Chunk::Data(&[7; 10])));
    drop(lease);
    within(flushing).await.unwrap().unwrap();
    assert_eq!(client.read(0, 1).await, Ok(vec![1]));
    assert!(client.0.try_lease(span, Mode::Read).is_none());
}

#[tokio::test]
async fn answers_that_a_client_has_not_got_yet_are_waited_for() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let client = open(&moving(), &[memory, Native::new(MIB)]).await.unwrap();
    client.write(0, &[7; 4096], false).await.unwrap();
    let command = Command::Read { span: Span { offset: 0, length: 10 } };
    let order = Order::new(command, Default::default(), Cancelled::default());
    let answer = client.0.clone().execute(order, None).await.unwrap();
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::time::sleep(MOMENT).await;
    assert!(!flushing.is_finished());
    drop(answer);
    within(flushing).await.unwrap().unwrap();
}

#[tokio::test]
async fn leases_through_two_filters_are_waited_for() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let middle = open(&moving(), &[memory, Native::new(MIB)]).await.unwrap();
    let above = routing(1, [0; 5], "(unreachable)").with("stable", STABLE);
    let client = open(&above, &[middle.0.clone() as Arc<dyn Device>]).await.unwrap();
    client.write(0, &[7; 4096], false).await.unwrap();
    client.read(0, 1).await.unwrap();
    let span = Span { offset: 0, length: 10 };
    let lease = client.0.try_lease(span, Mode::Write { fua: false }).expect("the page is known");
    let flushing = middle.spawn(|middle| async move { middle.flush().await });
    tokio::time::sleep(MOMENT).await;
    assert!(!flushing.is_finished());
    drop(lease);
    within(flushing).await.unwrap().unwrap();
    assert_eq!(client.read(0, 1).await, Ok(vec![0]), "which is of the other device now");
}

/// The body of a `stable` by which everything is the component's own until it has withdrawn that.
const OWN: &str = "
    (if (i32.eqz (i32.load (i32.const 0x2f0))) (then
      (drop (call $passed (i32.const 0) (local.get $offset)
        (i64.sub (i64.const 0x100000) (local.get $offset))))
      (i32.store (i32.const 0x110) (i32.const 1))
      (return (i32.const 0x100))))
    (call $passed (i32.const 1) (local.get $offset)
      (i64.sub (i64.const 0x100000) (local.get $offset)))";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn component_withdraws_routes_to_itself_while_it_executes_one() {
    let lowers = [&Native::new(MIB), &Native::new(MIB)];
    for function in ["write", "read", "zero", "trim", "cache", "extents"] {
        let body = match function {
            "read" => {
                "(call $hole (i32.const 0x1000) (local.get $length))
                 (call $list (i32.const 0x1000) (i32.const 1))"
            }
            "extents" => {
                "(call $extent (i32.const 0x2000) (local.get $length) (i32.const 0))
                 (call $list (i32.const 0x2000) (i32.const 1))"
            }
            _ => "(call $done)",
        };
        let guest = moving().with("stable", OWN).with(function, format!("{WITHDRAW} {body}"));
        let client = client(&guest, &lowers).await;
        let calls = [(); 8]
            .map(|()| client.spawn(move |client| async move { client.call(function).await }));
        for call in calls {
            within(call).await.unwrap().unwrap();
        }
        client.call(function).await.unwrap();
        assert!(lowers[0].take_log().is_empty());
        assert!(!lowers[1].take_log().is_empty(), "{function}");
        assert!(!client.is_dead());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn durable_writes_and_withdrawals_do_not_wait_for_each_other() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let second = Native::new(MIB);
    let client = open(&moving(), &[memory, second.clone()]).await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            client.spawn(move |client| async move {
                for round in 0..20 {
                    let offset = number * 4096 + round;
                    // FUA has the component flush, which withdraws.
                    client.write(offset, &[1 + number as u8], true).await.unwrap();
                    let _ = client.read(offset, 1).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    for number in 0..8 {
        let offset = number * 4096 + 19;
        assert_eq!(client.read(offset, 1).await, Ok(vec![1 + number as u8]));
    }
    assert!(!client.is_dead());
}

#[tokio::test]
async fn durable_write_under_way_does_not_keep_a_withdrawal_waiting_for_itself() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let client = client(&moving(), &[&first, &second]).await;
    first.hold();
    let writing = client.spawn(|client| async move { client.write(0, &[1], true).await });
    first.until_under_way(1).await;
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::time::sleep(MOMENT).await;
    first.release();
    within(writing).await.unwrap().unwrap();
    within(flushing).await.unwrap().unwrap();
}

/// Returns from `stable` with nothing.
const NOTHING: &str = "(i32.store (i32.const 0x100) (i32.const 0)) (return (i32.const 0x100))";

/// The body of a `stable` that passes all but writes.
fn but_writes() -> String {
    format!("(if (i32.eq (local.get $operation) (i32.const 1)) (then {NOTHING})) {MOVED}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn routes_are_withdrawn_within_any_call() {
    let good = moving().with("flush", "(call $done)").with("stable", but_writes());
    let withdraws_in = |part, body: &str| good.clone().with(part, format!("{WITHDRAW} {body}"));
    for guest in [
        withdraws_in("route", ROUTED),
        withdraws_in("done", "(call $finished)").with("route", PASS_AND_TELL),
        withdraws_in("stable", &but_writes()),
    ] {
        let client = client(&guest, &[&Native::new(MIB), &Native::new(MIB)]).await;
        let tasks: Vec<_> = (0..8)
            .map(|number| {
                client.spawn(move |client| async move {
                    for _ in 0..10 {
                        client.write(0, &[number], number % 2 == 0).await.unwrap();
                        client.read(0, 1).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            within(task).await.unwrap();
        }
        assert!(!client.is_dead());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_instances_withdraw_at_once() {
    let lower = Native::new(MIB);
    // What is to be cached is the component's own.
    let own = "
        (if (i32.eq (local.get $operation) (i32.const 4)) (then
          (call $segment (i32.const 0) (i32.const 1) (i32.const 0) (i64.const 0)
            (local.get $length))
          (return (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0)))))";
    let stable =
        format!("(if (i32.eq (local.get $operation) (i32.const 4)) (then {NOTHING})) {STABLE}");
    let guest = user()
        .routing(4096, [0; 5], format!("{own} {PASS}"))
        .with("stable", stable)
        .with("cache", "(call $lower-withdraw-routes) (call $done)")
        .opened(|disk| disk.capabilities = can::EVERYTHING | can::INTERCHANGEABLE);
    let client = client(&guest, &[&lower]).await;
    lower.hold();
    let writing = client.spawn(|client| async move { client.write(0, &[1], false).await });
    lower.until_under_way(1).await;
    let caching =
        [(); 4].map(|()| client.spawn(|client| async move { client.call("cache").await }));
    tokio::time::sleep(MOMENT).await;
    assert!(caching.iter().all(|caching| !caching.is_finished()));
    lower.release();
    within(writing).await.unwrap().unwrap();
    for caching in caching {
        within(caching).await.unwrap().unwrap();
    }
    client.write(1, &[1], false).await.unwrap();
    assert!(client.0.routes().whole(Operation::Write, write(1).span()).is_some());
    assert!(!client.is_dead());
}

#[tokio::test]
async fn withdrawal_waits_for_requests_that_an_earlier_one_let_in() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let client = open(&moving(), &[memory, Native::new(MIB)]).await.unwrap();
    client.write(0, &[7; 4096], false).await.unwrap();
    client.read(0, 1).await.unwrap();
    let span = Span { offset: 0, length: 10 };
    let lease = client.0.try_lease(span, Mode::Read).expect("the page is known");
    let (routes, lowers) = (client.0.routes(), client.0.lowers());
    let mut first = Box::pin(routes.withdraw(lowers));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let mut second = Box::pin(routes.withdraw(lowers));
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(lease);
    first.await;
    client.0.ask_again().await.unwrap();
    let (_, under_way) = routes.whole(Operation::Read, span).expect("it has been asked again");
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    drop(under_way);
    second.await;
    assert!(routes.whole(Operation::Read, span).is_none());
}

#[tokio::test]
async fn withdrawal_waits_for_as_long_as_it_takes() {
    let first = Native::new(MIB);
    let client = client(&moving(), &[&first, &Native::new(MIB)]).await;
    first.hold();
    let writing = client.spawn(|client| async move { client.write(0, &[1], false).await });
    first.until_under_way(1).await;
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::time::sleep(LOWER_LIMIT + 10 * MOMENT).await;
    assert!(!flushing.is_finished());
    first.release();
    within(writing).await.unwrap().unwrap();
    within(flushing).await.unwrap().unwrap();
}

#[tokio::test]
async fn routes_that_were_withdrawn_while_the_component_was_asked_are_not_used() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    // It gives device 0 and withdraws that at once, the first time it is asked for anything.
    let stable = format!(
        "(if (i32.eqz (i32.load (i32.const 0x2f0))) (then
           (call $lower-withdraw-routes)
           (i32.store (i32.const 0x2f0) (i32.const 1))
           (return (call $passed (i32.const 0) (local.get $offset)
             (i64.sub (i64.const 0x100000) (local.get $offset))))))
         {MOVED}"
    );
    let client = client(&moving().with("stable", stable), &[&first, &second]).await;
    client.read(0, 1).await.unwrap();
    assert!(first.take_log().is_empty());
    assert_eq!(second.take_log().len(), 1);
    assert_eq!(client.log().await, [], "it has been asked again");
}
