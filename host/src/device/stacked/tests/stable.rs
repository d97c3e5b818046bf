//! Stable routes.

use super::*;
use crate::component::tests::guest::can;
use crate::device::Mode;
use crate::device::guest::tests_device;

#[tokio::test]
async fn stable_route_costs_no_call() {
    let lower = Native::new(MIB);
    let guest = routing(1, [0, 2, 0, 0, 0], "(unreachable)").with("stable", STABLE);
    let client = client(&guest, &[&lower]).await;
    client.write(1, &[5; 10], true).await.unwrap();
    assert_eq!(client.read(0, 3).await, Ok(vec![0, 5, 5]));
    client.zero(0, 2).await.unwrap();
    client.trim(100, 2).await.unwrap();
    client.extents(0, 100, 9).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(client.log().await, []);
    assert_eq!(lower.take_log().len(), 6);
}

#[tokio::test]
async fn filter_gives_leases_of_what_is_beneath_it() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let guest = routing(1, [0; 5], "(unreachable)").with("stable", STABLE);
    let first = open(&guest, &[memory]).await.unwrap();
    let client = open(&guest, &[first.0]).await.unwrap();
    client.write(4096, &[7; 4096], false).await.unwrap();
    client.read(4096, 1).await.unwrap();
    let span = Span { offset: 4196, length: 10 };
    let lease = client.0.try_lease(span, Mode::Read).expect("the page is known");
    assert_eq!(lease.chunk(0), Some(Chunk::Data(&[7; 10])));
    drop(lease);
    let mut lease = client.0.try_lease(span, Mode::Write { fua: false }).unwrap();
    lease.write(&[8; 10]);
    drop(lease);
    assert_eq!(client.read(4195, 12).await.unwrap(), [&[7][..], &[8; 10], &[7]].concat());
}

#[tokio::test]
async fn durable_write_of_a_component_that_flushes_is_no_lease() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    let guest = routing(1, [0; 5], "(unreachable)")
        .with("stable", STABLE)
        .opened(|disk| disk.capabilities = can::EVERYTHING);
    let client = open(&guest, &[memory]).await.unwrap();
    client.write(0, &[7; 4096], false).await.unwrap();
    client.read(0, 1).await.unwrap();
    let span = Span { offset: 0, length: 10 };
    assert!(client.0.try_lease(span, Mode::Write { fua: false }).is_some());
    assert!(client.0.try_lease(span, Mode::Write { fua: true }).is_none());
    client.write(0, &[1], true).await.unwrap();
    assert_eq!(client.log().await, [(Called::Flush, 0, 0)]);
}

#[tokio::test]
async fn dead_filter_gives_nothing() {
    let memory = tests_device(load(&Guest::new().direct()).await).await;
    // Reads are stable.
    let stable = format!(
        "(if (i32.ne (local.get $operation) (i32.const 0)) (then
           (i32.store (i32.const 0x100) (i32.const 0)) (return (i32.const 0x100))))
         {STABLE}"
    );
    let guest = routing(1, [0; 5], "(unreachable)").with("stable", stable);
    let client = open(&guest, &[memory]).await.unwrap();
    assert_eq!(client.read(0, 4096).await, Ok(vec![0; 4096]));
    assert_eq!(client.write(0, &[1; 4096], false).await, Err(ErrorCode::Io));
    assert!(client.0.try_lease(Span { offset: 0, length: 1 }, Mode::Read).is_none());
    assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io));
}

#[tokio::test]
async fn fast_zero_is_not_asked_of_a_device_that_does_not_offer_it() {
    let slow = Native::with(MIB, |offers| offers.fast_zero = false);
    let guest = routing(1, [0; 5], "(unreachable)").with("stable", STABLE);
    let client = client(&guest, &[&slow.numbered(1)]).await;
    assert_eq!(client.zero_fast(0, 512).await, Err(ErrorCode::NotSup));
    assert!(slow.take_log().is_empty());
    client.zero(0, 512).await.unwrap();
    assert_eq!(slow.take_log().len(), 1);
}
