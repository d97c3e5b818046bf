//! Components that answer with routes that break the contract.

use super::*;
use crate::component::tests::logs::Logs;

/// A segment in the order of the arguments of `$segment`.
fn segment(index: u32, kind: u32, device: u32, offset: u64, length: u64) -> String {
    format!(
        "(call $segment (i32.const {index}) (i32.const {kind}) (i32.const {device})
           (i64.const {offset}) (i64.const {length}))"
    )
}

fn copy(from: (u32, u64), to: (u32, u64), length: u64) -> String {
    copy_at(0, from, to, length)
}

fn copy_at(index: u32, from: (u32, u64), to: (u32, u64), length: u64) -> String {
    format!(
        "(call $copy (i32.const {index}) (i32.const {}) (i64.const {}) (i32.const {})
           (i64.const {}) (i64.const {length}))",
        from.0, from.1, to.0, to.1
    )
}

fn routed(segments: u32, copies: u32, delay: u64) -> String {
    format!(
        "(call $routed (i32.const {segments}) (i32.const {copies}) (i64.const {delay})
           (i64.const 0))"
    )
}

/// Returns what is logged when a write of 4096 bytes at 0 is routed like this, over a device of 8192
/// bytes and one that is not writable.
async fn fault(parts: &[String]) -> String {
    let logs = Logs::capture();
    let lowers = [&Native::new(8192), &Native::with(8192, |offers| offers.writable = false)];
    let client = client(&routing(1, [0; 5], parts.concat()), &lowers).await;
    assert_eq!(client.write(0, &[1; 4096], false).await, Err(ErrorCode::Io));
    assert!(client.is_dead());
    assert!(lowers.iter().all(|lower| lower.take_log().is_empty()), "nothing was executed");
    logs.take(tracing::Level::ERROR).concat()
}

#[tokio::test]
async fn bad_route_kills_its_own_device_and_nothing_is_executed() {
    let good = segment(0, 0, 0, 0, 4096);
    let end = u64::MAX;
    for (parts, words) in [
        (vec![routed(0, 0, 0)], "a route of no segments"),
        (
            // In the memory of the disk, where there is room for them.
            vec![
                "(drop (call $routed (i32.const 4097) (i32.const 0) (i64.const 0) (i64.const 0)))
                 (i32.store (i32.const 0x110) (i32.const 0x10000)) (i32.const 0x100)"
                    .to_owned(),
            ],
            "4097 copies and segments; at most 4096",
        ),
        (vec![good.clone(), routed(1, 0, 600_000_000_001)], "a delay of 600.000000001s"),
        (vec![segment(0, 0, 0, 0, 0), routed(1, 0, 0)], "segment 0 (counted from 0) of no bytes"),
        (vec![segment(0, 0, 0, 0, 4095), routed(1, 0, 0)], "segments of 4095 bytes in all for a"),
        (vec![segment(0, 0, 0, 0, 4097), routed(1, 0, 0)], "segments of 4097 bytes in all for a"),
        (
            vec![segment(0, 0, 0, 0, 2), segment(1, 0, 0, 2, end), routed(2, 0, 0)],
            "segments of 18446744073709551617 bytes in all",
        ),
        (
            vec![segment(0, 0, 2, 0, 4096), routed(1, 0, 0)],
            "segment 0 (counted from 0) on the lower device 2, which was not among its arguments; \
             it has 2",
        ),
        (vec![segment(0, 0, u32::MAX, 0, 4096), routed(1, 0, 0)], "on the lower device 4294967295"),
        (
            vec![segment(0, 0, 0, 4097, 4096), routed(1, 0, 0)],
            "of 4096 bytes at 4097 on the lower device 0, which has 8192 bytes",
        ),
        (vec![segment(0, 0, 0, end, 4096), routed(1, 0, 0)], "at 18446744073709551615 on the"),
        (
            vec![segment(0, 0, 1, 0, 4096), routed(1, 0, 0)],
            "that writes to the lower device 1, which is not writable",
        ),
        (vec![segment(0, 2, 0, 0, 4096), routed(1, 0, 0)], "that is a hole, for a write"),
        (
            vec![segment(0, 0, 0, 0, 2048), segment(1, 0, 0, 2047, 2048), routed(2, 0, 0)],
            "two segments that write to the same byte, at 2047 on the lower device 0",
        ),
        (
            vec![good.clone(), copy((0, 0), (0, 0), 0), routed(1, 1, 0)],
            "copy 0 (counted from 0) of 0",
        ),
        (
            vec![good.clone(), copy((0, 0), (0, 0), (64 << 20) + 1), routed(1, 1, 0)],
            "of 67108865 bytes; each has 1 to 67108864",
        ),
        (vec![good.clone(), copy((1, 0), (1, 0), 1), routed(1, 1, 0)], "which is not writable"),
        (vec![good.clone(), copy((3, 0), (0, 0), 1), routed(1, 1, 0)], "on the lower device 3"),
        (
            vec![
                good.clone(),
                copy_at(0, (1, 0), (0, 0), 512),
                copy_at(1, (1, 0), (0, 511), 512),
                routed(1, 2, 0),
            ],
            "two copies that write to the same byte, at 511",
        ),
    ] {
        let told = fault(&parts).await;
        assert!(told.contains("route(write, 0, 4096) returned "), "{told}");
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
}

#[tokio::test]
async fn trap_in_a_routing_function_is_told_with_its_arguments() {
    let logs = Logs::capture();
    let guest = routing(1, [0; 5], PASS_AND_TELL).with("done", "(unreachable)");
    let client = client(&guest, &[&Native::new(MIB)]).await;
    assert_eq!(client.read(512, 512).await, Err(ErrorCode::Io));
    let told = logs.take(tracing::Level::ERROR).concat();
    assert!(told.contains("done(7) trapped"), "{told}");
}

#[tokio::test]
async fn rules_and_stable_routes_are_checked_at_the_start() {
    let refused = async |guest: Guest| {
        let lowers: [Arc<dyn Device>; 1] = [Native::new(MIB)];
        open(&guest, &lowers).await.map(drop).unwrap_err().to_string()
    };
    let granules = refused(routing(3, [0; 5], PASS)).await;
    assert!(granules.contains("granules of 3 bytes"), "{granules}");
    let granules = refused(routing(1 << 31, [0; 5], PASS)).await;
    assert!(granules.contains("a power of two from 1 to 1073741824"), "{granules}");
    let striped = refused(routing(1, [0; 5], PASS).opened(|disk| disk.stripe = 1 << 16)).await;
    assert!(striped.contains("routes its requests"), "{striped}");

    for (length, words) in [(0, "a stable route for 0 bytes"), (MIB + 1, "1048576 are left")] {
        let stable = format!("(call $passed (i32.const 0) (i64.const 0) (i64.const {length}))");
        let told = refused(routing(1, [0; 5], PASS).with("stable", stable)).await;
        assert!(told.contains(words) && told.contains("stable(read, 0)"), "{told}");
    }
    let beyond = "(call $passed (i32.const 0) (i64.const 1) (i64.const 0x100000))";
    let told = refused(routing(1, [0; 5], PASS).with("stable", beyond)).await;
    assert!(told.contains("stable route 0 (counted from 0) of 1048576 bytes at 1 on"), "{told}");
}

#[tokio::test]
async fn error_of_a_route_is_an_answer() {
    let lower = Native::new(MIB);
    let client = client(&routing(1, [0; 5], "(call $refuse (i32.const 4))"), &[&lower]).await;
    assert_eq!(client.write(0, &[1], false).await, Err(ErrorCode::NoSpc));
    assert!(lower.take_log().is_empty() && !client.is_dead());
    let not_supported = routing(1, [0; 5], "(call $refuse (i32.const 6))");
    let client = super::client(&not_supported, &[&lower]).await;
    assert_eq!(client.zero_fast(0, 512).await, Err(ErrorCode::NotSup));
    assert_eq!(client.read(0, 512).await, Err(ErrorCode::Inval), "that is for zero alone");
}

/// The memory of a guest, in bytes.
const GUEST: u64 = 40 << 16;

#[tokio::test]
async fn memory_of_long_routes_is_the_disks() {
    // 4000 segments of one byte each, in the memory of the disk.
    let route = "
        (local.set $length (i64.const 0))
        (loop $next
          (i64.store
            (i32.add (i32.const 0x10018) (i32.mul (i32.wrap_i64 (local.get $length)) (i32.const 32)))
            (i64.const 1))
          (local.set $length (i64.add (local.get $length) (i64.const 1)))
          (br_if $next (i64.lt_u (local.get $length) (i64.const 4000))))
        (drop (call $routed (i32.const 4000) (i32.const 0) (i64.const 0) (i64.const 7)))
        (i32.store (i32.const 0x110) (i32.const 0x10000))
        (i32.const 0x100)";
    let component = load(&routing(1, [0; 5], route)).await;
    let lower: Arc<dyn Device> = Native::new(MIB).numbered(9);
    let poor = open_component(component.clone(), GUEST + (100 << 10), std::slice::from_ref(&lower));
    let poor = poor.await.unwrap();
    assert_eq!(poor.read(0, 4000).await, Err(ErrorCode::NoMem));
    assert!(!poor.is_dead());
    let log = poor.log().await;
    assert!(matches!(log[..], [(Called::Route(0), 0, 4000), (Called::Done(0), 7, _)]), "{log:?}");
    let rich = open_component(component, GUEST + (300 << 10), &[lower]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(rich.read(0, 4000).await, Ok(vec![9; 4000]), "it is given back");
    }
}
