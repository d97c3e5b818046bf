//! Stable routes that the component sets while it serves requests.

use super::user::{open_within, user, user_for_good};
use super::*;
use crate::component::tests::guest::can;
use crate::component::tests::logs::Logs;
use crate::device::Mode;
use crate::device::guest::tests_device;

/// The beginning of the granule of `$offset`.
const GRANULE: &str = "(i64.and (local.get $offset) (i64.const -4096))";

/// Sets the route of the granule of `$offset` to device 1, for operations given by their bits.
fn set(operations: u32) -> String {
    format!(
        "(call $lower-set-route (i32.const {operations}) {GRANULE} (i64.const 4096)
           (i32.const 1) (i32.const 1) {GRANULE})"
    )
}

/// Requests are routed to device 0, and from then on all of that granule are for device 1.
fn moving(guest: Guest) -> Guest {
    guest
        .routing(4096, [0; 5], format!("{} {PASS}", set(0x3f)))
        .with("flush", "(call $done)")
        .opened(|disk| disk.capabilities = can::EVERYTHING & !can::FUA)
}

#[tokio::test]
async fn set_route_costs_no_call() {
    for guest in [moving(user()), moving(user_for_good())] {
        let (first, second) = (Native::new(MIB), Native::new(MIB));
        let client = client(&guest, &[&first, &second]).await;
        client.write(5000, &[1], false).await.unwrap();
        let calls = [(Called::Route(1), 5000, 1)];
        assert_eq!(client.log().await, calls);
        client.write(4096, &[2; 4096], false).await.unwrap();
        assert_eq!(client.read(5000, 2).await, Ok(vec![2; 2]));
        client.zero(4096, 9).await.unwrap();
        client.trim(5000, 9).await.unwrap();
        client.extents(4096, 4096, 9).await.unwrap();
        // The log is that of before until there is another call.
        assert_eq!(client.log().await, calls);
        assert_eq!((first.take_log().len(), second.take_log().len()), (1, 5));
        // A part of it is elsewhere.
        client.read(4000, 200).await.unwrap();
        client.read(8191, 2).await.unwrap();
        let calls = [(Called::Route(0), 4000, 200), (Called::Route(0), 8191, 2)];
        assert_eq!(client.log().await, calls);
        // Which was the first of these granules, whose routes are known now.
        client.read(0, 5000).await.unwrap();
        assert_eq!(client.log().await, calls);
        assert!(!client.is_dead());
    }
}

#[tokio::test]
async fn route_is_set_for_the_operations_that_are_named() {
    let (first, second) = (Native::new(MIB), Native::new(MIB).numbered(1));
    // Reads and extents.
    let guest = moving(user_for_good()).with("route", format!("{} {PASS}", set(0x21)));
    let client = client(&guest, &[&first, &second]).await;
    client.write(0, &[9], false).await.unwrap();
    client.write(1, &[9], false).await.unwrap();
    assert_eq!(client.read(0, 2).await, Ok(vec![1; 2]));
    client.trim(0, 2).await.unwrap();
    let calls = [(Called::Route(1), 0, 1), (Called::Route(1), 1, 1), (Called::Route(3), 0, 2)];
    assert_eq!(client.log().await, calls);
}

#[tokio::test]
async fn set_routes_come_before_those_that_hold_from_the_start() {
    let (first, second) = (Native::new(MIB), Native::new(MIB).numbered(1));
    // Reads of everything are for device 0, until a write is routed.
    let stable = format!(
        "(if (i32.ne (local.get $operation) (i32.const 0)) (then
           (i32.store (i32.const 0x100) (i32.const 0)) (return (i32.const 0x100))))
         {STABLE}"
    );
    let guest = moving(user_for_good()).with("stable", stable);
    let client = client(&guest, &[&first, &second]).await;
    assert_eq!(client.read(4096, 2).await, Ok(vec![0; 2]));
    client.write(4097, &[7], false).await.unwrap();
    assert_eq!(client.read(4096, 2).await, Ok(vec![9; 2]), "of device 1");
    assert_eq!(client.read(8192, 2).await, Ok(vec![0; 2]));
    assert_eq!(client.log().await, [(Called::Route(1), 4097, 1)]);
    // One route is not enough for all of these.
    client.read(4000, 200).await.unwrap();
    assert_eq!(client.log().await, [(Called::Route(0), 4000, 200)]);
}

#[tokio::test]
async fn route_is_taken_back() {
    // To nowhere, once there is something at this address.
    let nowhere = format!(
        "(if (i32.load (i32.const 0x2f0)) (then
           (call $lower-set-route (i32.const 0x3f) {GRANULE} (i64.const 4096)
             (i32.const 0) (i32.const 0) (i64.const 0)))
         (else {}))",
        set(0x3f)
    );
    let guest = moving(user_for_good()).with("route", format!("{nowhere} {PASS}")).with(
        "flush",
        "(i32.store (i32.const 0x2f0) (i32.const 1))
             (call $lower-set-route (i32.const 0x3f) (i64.const 0) (i64.const 0x100000)
               (i32.const 0) (i32.const 0) (i64.const 0))
             (call $done)",
    );
    let client = client(&guest, &[&Native::new(MIB), &Native::new(MIB)]).await;
    client.read(0, 1).await.unwrap();
    client.read(0, 1).await.unwrap();
    assert_eq!(client.log().await.len(), 1);
    client.flush().await.unwrap();
    client.log().await;
    client.read(0, 1).await.unwrap();
    client.read(0, 1).await.unwrap();
    assert_eq!(client.log().await.len(), 2);
}

#[tokio::test]
async fn set_routes_are_withdrawn_with_the_others() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let guest = moving(user()).with("flush", "(call $lower-withdraw-routes) (call $done)");
    let client = client(&guest, &[&first, &second]).await;
    client.read(0, 1).await.unwrap();
    second.hold();
    let reading = client.spawn(|client| async move { client.read(0, 1).await });
    second.until_under_way(1).await;
    let flushing = client.spawn(|client| async move { client.flush().await });
    tokio::task::yield_now().await;
    assert!(!flushing.is_finished(), "it waits for the read");
    second.release();
    reading.await.unwrap().unwrap();
    flushing.await.unwrap().unwrap();
    client.log().await;
    client.read(0, 1).await.unwrap();
    assert_eq!(client.log().await, [(Called::Route(0), 0, 1)]);
}

#[tokio::test]
async fn set_routes_give_leases() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let lowers: [Arc<dyn Device>; 2] = [Native::new(MIB), memory];
    let client = open(&moving(user_for_good()), &lowers).await.unwrap();
    let span = Span { offset: 4100, length: 8000 };
    client.read(4096, 1).await.unwrap();
    client.write(4096, &[7; 4096], false).await.unwrap();
    client.read(4096, 1).await.unwrap();
    let lease = client.0.try_lease(span, Mode::Read).expect("the page is known");
    assert_eq!(lease.chunk(0), Some(Chunk::Data(&[7; 4092])), "up to the end of the granule");
    drop(lease);
    let mut lease = client.0.try_lease(span, Mode::Write { fua: false }).unwrap();
    lease.write(&[8; 10]);
    drop(lease);
    assert_eq!(client.read(4099, 12).await.unwrap(), [&[7][..], &[8; 10], &[7]].concat());
}

#[tokio::test]
async fn bad_routes_trap() {
    let call = |operations: u32, offset: &str, length: &str, device: i32, to: &str| {
        format!(
            "(call $lower-set-route (i32.const {operations}) (i64.const {offset})
               (i64.const {length}) (i32.const {}) (i32.const {device}) (i64.const {to}))",
            i32::from(device >= 0)
        )
    };
    for (bad, told) in [
        (call(1, "0", "4096", 2, "0"), "there is no device 2 among its 2"),
        (call(1, "1", "4095", 0, "0"), "whole granules of 4096 bytes"),
        (call(1, "0", "4095", -1, "0"), "whole granules of 4096 bytes"),
        (call(1, "0", "0", 0, "0"), "not within the disk of 1048576 bytes"),
        (call(1, "4096", "0x100000", 0, "0"), "not within the disk of 1048576 bytes"),
        (call(1, "4096", "0xffffffffffffffff", -1, "0"), "not within the disk of 1048576 bytes"),
        (call(1, "0", "4096", 1, "0xff001"), "1044481 there is beyond the device 1"),
        (call(1, "0", "4096", 1, "0xffffffffffffffff"), "beyond the device 1"),
        (call(2, "0", "4096", 1, "0"), "the device 1 is not writable"),
        (call(9, "0", "4096", 1, "0"), "the device 1 is not writable"),
    ] {
        let guest = moving(user_for_good()).with("route", format!("{bad} {PASS}"));
        let read_only = Native::with(MIB, |offers| offers.writable = false);
        let logs = Logs::capture();
        let client = client(&guest, &[&Native::new(MIB), &read_only]).await;
        assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io), "{told}");
        assert!(client.is_dead());
        let errors = logs.take(tracing::Level::ERROR).join(" ");
        assert!(errors.contains(told), "{errors}");
    }
}

#[tokio::test]
async fn routes_for_which_there_is_no_memory_are_asked_for() {
    let lowers = || -> [Arc<dyn Device>; 2] { [Native::new(MIB), Native::new(MIB)] };
    let guest = moving(user_for_good());
    let used = open(&guest, &lowers()).await.unwrap().0.guest.memory().used();
    let mut calls = Vec::new();
    for more in [100, 4 << 10, 8 << 10, 64 << 10] {
        let client = open_within(&guest, LONG, used + more, &lowers()).await;
        for _ in 0..3 {
            for granule in 0..256 {
                client.read(granule * 4096, 1).await.unwrap();
            }
        }
        assert!(!client.is_dead());
        assert!(client.0.guest.memory().used() <= used + more);
        calls.push(client.log().await.len());
    }
    assert_eq!(calls, [768, 768, 768, 256]);
}
