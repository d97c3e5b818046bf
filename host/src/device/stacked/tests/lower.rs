//! The import `lower`, through which a component uses its lower devices by itself.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::user::{flushing, open_within, passing, passing_at_once, user};
use super::*;
use crate::block::{Error, MAX_SIZE, Operation, Status};
use crate::component::tests::SHORT;
use crate::component::tests::guest::FUNCTIONS;
use crate::component::tests::logs::Logs;
use crate::device::guest::tests_device;
use crate::device::{LowerSource, ScratchDisk};

/// Much longer than the deadline [`SHORT`].
const LONGER: Duration = Duration::from_millis(400);

const fn span(offset: u64, length: u64) -> Span {
    Span { offset, length }
}

/// Returns the whole error of a flush.
async fn flush_error(client: &Client) -> Error {
    let order = Order::new(Command::Flush, Default::default(), Cancelled::default());
    client.0.clone().execute(order, None).await.err().expect("it fails")
}

#[tokio::test]
async fn data_goes_there_and_back() {
    let lower = Native::new(MIB);
    let client = client(&passing(), &[&lower]).await;
    let data: Vec<u8> = (0..1000_u32).map(|number| number as u8).collect();
    client.write(100, &data, true).await.unwrap();
    assert_eq!(client.read(100, 1000).await.as_ref(), Ok(&data));
    assert_eq!(lower.bytes.lock().unwrap()[100..1100], data);
    let zero = Command::Zero { span: span(200, 50), fua: true, keep_allocated: true, fast: true };
    client.execute(zero, Vec::new()).await.unwrap();
    client.trim(300, 50).await.unwrap();
    client.flush().await.unwrap();
    let of = |length, status| Extent { length, status };
    let expected = [of(50, Status::DATA), of(50, Status::HOLE), of(1, Status::DATA)];
    assert_eq!(client.extents(250, 101, 9).await, Ok(expected.to_vec()));
    client.execute(Command::Cache { span: span(0, 512) }, Vec::new()).await.unwrap();
    assert_eq!(
        lower.take_log(),
        [
            Command::Write { span: span(100, 1000), fua: true },
            Command::Read { span: span(100, 1000) },
            zero,
            Command::Trim { span: span(300, 50), fua: false },
            Command::Flush,
            Command::Extents { span: span(250, 101), limit: 4096 },
            Command::Cache { span: span(0, 512) },
        ]
    );
}

#[tokio::test]
async fn holes_of_a_lower_device_stay_holes() {
    let memory = tests_device(load(&Guest::new()).await).await;
    let client = open(&passing(), &[memory]).await.unwrap();
    client.write(8192, &[1], false).await.unwrap();
    let command = Command::Read { span: span(4096, 8192) };
    let Answer::Read(content) = client.execute(command, Vec::new()).await.unwrap() else {
        panic!("a read answers with content");
    };
    let lengths: Vec<usize> = content.chunks().map(|chunk| chunk.len()).collect();
    assert_eq!(lengths, [4096, 4096]);
    assert!(matches!(content.chunks().next(), Some(Chunk::Hole(4096))));
}

#[tokio::test]
async fn geometry_is_that_of_the_lower_device() {
    // The offset of a read is the number of the device.
    let describe = "
        (call $lower-describe (i32.wrap_i64 (local.get $offset)) (i32.const 0x1000))
        (call $data (i32.const 0x2000) (i32.const 0x1000) (local.get $length))
        (call $list (i32.const 0x2000) (i32.const 1))";
    let guest = user().with("read", describe);
    let plain = Native::with(12345, |offers| {
        *offers = crate::block::Capabilities::default();
        offers.rotational = true;
    });
    let client = client(&guest, &[&Native::new(MIB), &plain]).await;
    let mut described = Vec::new();
    for device in 0..2 {
        let record = client.read(device, 18).await.unwrap();
        let size = u64::from_le_bytes(record[..8].try_into().unwrap());
        let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().unwrap());
        described.push((size, word(8), word(12), u16::from_le_bytes([record[16], record[17]])));
    }
    // Flush, FUA and extents are always there.
    assert_eq!(described, [(MIB, 1, 4096, 0b1_1111_1111), (12345, 1, 4096, 0b10_1000_0110)]);
}

#[tokio::test]
async fn foreign_number_kills_this_device_alone() {
    let range = "(i64.const 0) (i64.const 1)";
    let calls = [
        ("describe", String::new()),
        ("read", "(i64.const 0) (i32.const 1)".into()),
        ("write", "(i64.const 0) (i32.const 0) (i32.const 1) (i32.const 0)".into()),
        ("zero", format!("{range} (i32.const 0)")),
        ("trim", format!("{range} (i32.const 0)")),
        ("flush", String::new()),
        ("extents", range.into()),
        ("cache", range.into()),
        ("reopen", String::new()),
    ];
    let lower = Native::new(MIB);
    let neighbour = client(&passing(), &[&lower]).await;
    for (name, arguments) in calls {
        for number in [1, u32::MAX] {
            let logs = Logs::capture();
            let call = format!("call $lower-{name} (i32.const {number}) {arguments}");
            let client = client(&flushing(&call), &[&lower]).await;
            assert_eq!(client.flush().await, Err(ErrorCode::Io), "{name}");
            assert!(client.is_dead(), "{name}");
            let told = logs.take(tracing::Level::ERROR).concat();
            let words =
                format!("used the lower device {number}, which was not among its arguments");
            assert!(told.contains(&words) && told.contains("it has 1"), "{told}");
        }
    }
    assert!(lower.take_log().is_empty());
    neighbour.write(0, &[1], false).await.unwrap();
    assert_eq!(neighbour.read(0, 1).await, Ok(vec![1]));
}

#[tokio::test]
async fn range_that_is_empty_or_beyond_the_end_or_too_long_reaches_nothing() {
    let lower = Native::new(2 * MIB);
    let end = 2 * MIB;
    let data = "(i32.const 0x10000)";
    let mut calls = vec![
        format!("read (i32.const 0) (i64.const 0) (i32.const {})", MIB + 1),
        format!("write (i32.const 0) (i64.const 0) {data} (i32.const {}) (i32.const 0)", MIB + 1),
    ];
    let ends: [(u64, u64); 5] = [(0, 0), (end, 0), (end, 1), (end - 1, 2), (u64::MAX, 1)];
    for (offset, length) in ends {
        let at = format!("(i32.const 0) (i64.const {offset})");
        let range = format!("{at} (i64.const {length})");
        calls.extend([
            format!("read {at} (i32.const {length})"),
            format!("write {at} {data} (i32.const {length}) (i32.const 0)"),
            format!("zero {range} (i32.const 0)"),
            format!("trim {range} (i32.const 0)"),
            format!("extents {range}"),
            format!("cache {range}"),
        ]);
    }
    let whole = "(i32.const 0) (i64.const 0) (i64.const -1)";
    calls.extend([format!("zero {whole} (i32.const 0)"), format!("extents {whole}")]);
    for call in calls {
        let client = client(&flushing(&format!("call $lower-{call}")), &[&lower]).await;
        let error = flush_error(&client).await;
        assert_eq!(error.code, ErrorCode::Inval, "{call}");
        let message = error.message.expect("it says why");
        assert!(
            message.contains("not within the lower device, which has 2097152 bytes")
                || message.contains("1048577 bytes at once; at most 1048576 are possible"),
            "{call}: {message}"
        );
        assert!(!client.is_dead());
    }
    assert!(lower.take_log().is_empty());
}

#[tokio::test]
async fn longest_transfers_and_longer_zeroes_are_possible() {
    let lower = Native::new(2 * MIB).numbered(1);
    let client = client(&passing(), &[&lower]).await;
    let data = client.read(0, MIB).await.unwrap();
    client.write(0, &data, false).await.unwrap();
    let zero = "call $lower-zero (i32.const 0) (i64.const 0) (i64.const 0x200000) (i32.const 0)";
    super::client(&flushing(zero), &[&lower]).await.flush().await.unwrap();
    let zero =
        Command::Zero { span: span(0, 2 * MIB), fua: false, keep_allocated: false, fast: false };
    let whole = span(0, MIB);
    let expected =
        [Command::Read { span: whole }, Command::Write { span: whole, fua: false }, zero];
    assert_eq!(lower.take_log(), expected);
}

#[tokio::test]
async fn device_that_is_not_writable_is_not_changed() {
    let lower = Native::with(MIB, |offers| offers.writable = false).numbered(1);
    let client = client(&passing(), &[&lower]).await;
    assert_eq!(client.write(0, &[1], false).await, Err(ErrorCode::Perm));
    assert_eq!(client.zero(0, 1).await, Err(ErrorCode::Perm));
    assert_eq!(client.trim(0, 1).await, Err(ErrorCode::Perm));
    assert!(lower.take_log().is_empty());
    assert_eq!(client.read(511, 2).await, Ok(vec![1, 2]));
    client.flush().await.unwrap();
}

#[tokio::test]
async fn error_of_a_lower_device_arrives_with_its_message() {
    // The address of the description, "a guest".
    let failing = "
        (i32.store (i32.const 0x100) (i32.const 1))
        (i32.store8 (i32.const 0x104) (i32.const 4))
        (i32.store (i32.const 0x108) (i32.const 1))
        (i32.store (i32.const 0x10c) (i32.const 0x300))
        (i32.store (i32.const 0x110) (i32.const 7))
        (i32.const 0x100)";
    let memory = tests_device(load(&Guest::new().with("flush", failing)).await).await;
    let client = open(&passing(), &[memory]).await.unwrap();
    let error = flush_error(&client).await;
    assert_eq!(error, Error { code: ErrorCode::NoSpc, message: Some("a guest".into()) });

    let lower = Native::new(MIB);
    let client = super::client(&passing(), &[&lower]).await;
    for code in [ErrorCode::Io, ErrorCode::NoSpc, ErrorCode::Shutdown, ErrorCode::NoMem] {
        let offset = code as u64;
        lower.fail(Operation::Read, offset, code);
        assert_eq!(client.read(offset, 1).await, Err(code));
    }
    assert!(!client.is_dead());
}

#[tokio::test]
async fn time_of_a_lower_device_does_not_count() {
    let lower = Native::new(MIB);
    let lowers: [Arc<dyn Device>; 1] = [lower.clone()];
    let client = open_within(&passing(), SHORT, 64 << 20, &lowers).await;
    for function in FUNCTIONS.into_iter().filter(|&name| name != "stored") {
        lower.hold();
        let calling = client.spawn(|client| async move { client.call(function).await });
        lower.until_under_way(1).await;
        tokio::time::sleep(LONGER).await;
        assert!(!calling.is_finished());
        lower.release();
        calling.await.unwrap().unwrap();
    }
    assert!(!client.is_dead());
}

#[tokio::test]
async fn guest_that_loops_is_killed_although_it_uses_lower_devices() {
    let lower = Native::new(MIB);
    let memory = tests_device(load(&Guest::new()).await).await;
    let flush = "(call $lower-flush (i32.const 0) (i32.const 0x100))";
    let loops = [
        // Once it has an answer.
        format!("{flush} (loop $again (br $again)) (unreachable)"),
        // It asks again and again.
        format!("(loop $again {flush} (br $again)) (unreachable)"),
        "(loop $again (call $lower-describe (i32.const 0) (i32.const 0x1000)) (br $again))
         (unreachable)"
            .into(),
        "(loop $again (call $lower-withdraw-routes) (br $again)) (unreachable)".into(),
        // What it asks for is refused.
        "(loop $again
           (call $lower-read (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0x100))
           (global.set $free (i32.const 0x110000))
           (br $again))
         (unreachable)"
            .into(),
    ];
    for body in loops {
        // One answers at once, the other in a task.
        for device in [lower.clone() as Arc<dyn Device>, memory.clone()] {
            let guest = user().with("flush", body.as_str());
            let client = open_within(&guest, SHORT, 64 << 20, std::slice::from_ref(&device)).await;
            let flushed = tokio::time::timeout(LONG, client.flush()).await;
            assert_eq!(flushed.expect("it is killed"), Err(ErrorCode::Io));
            assert!(client.is_dead());
        }
    }
    let client = open(&passing(), &[memory]).await.unwrap();
    client.read(0, 1).await.unwrap();
}

#[tokio::test]
async fn instances_wait_at_the_same_time() {
    let lower = Native::new(MIB);
    let several = client(&passing_at_once(), &[&lower]).await;
    lower.hold();
    let reads: Vec<_> =
        (0..8).map(|_| several.spawn(|client| async move { client.read(0, 1).await })).collect();
    lower.until_under_way(8).await;
    lower.release();
    for read in reads {
        read.await.unwrap().unwrap();
    }

    let lower = Native::new(MIB);
    let one = client(&passing(), &[&lower]).await;
    lower.hold();
    let reads = [(); 2].map(|()| one.spawn(|client| async move { client.read(0, 1).await }));
    lower.until_under_way(1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    lower.release();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert_eq!(
        lower.most_under_way.load(Ordering::Relaxed),
        1,
        "one instance makes one call at a time"
    );
}

#[tokio::test]
async fn lower_device_executes_what_a_guest_that_dies_has_asked_for() {
    let lower = Native::new(MIB);
    let guest = passing_at_once().with("trim", "(unreachable)");
    let client = client(&guest, &[&lower]).await;
    lower.hold();
    let writing = client.spawn(|client| async move { client.write(0, &[5; 10], false).await });
    lower.until_under_way(1).await;
    assert_eq!(client.trim(0, 1).await, Err(ErrorCode::Io));
    assert!(client.is_dead());
    lower.release();
    // Its own instance still lives.
    writing.await.unwrap().unwrap();
    assert_eq!(lower.bytes.lock().unwrap()[..11], [5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 0]);
    assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io));
    assert_eq!(lower.take_log().len(), 1, "a dead device asks nothing more of it");
}

#[tokio::test]
async fn lower_device_executes_what_is_under_way_for_a_client_that_goes_away() {
    let lower = Native::new(MIB);
    let client = client(&passing(), &[&lower]).await;
    lower.hold();
    let cancelled = Cancelled::default();
    let writing = client.spawn({
        let cancelled = cancelled.clone();
        |client| async move {
            let write = Command::Write { span: span(0, 1), fua: false };
            client.execute_for(write, vec![5], cancelled).await.map(drop)
        }
    });
    lower.until_under_way(1).await;
    cancelled.cancel();
    lower.release();
    writing.await.unwrap().unwrap();
    assert_eq!(client.read(0, 1).await, Ok(vec![5]));
}

#[tokio::test]
async fn lower_device_that_does_not_answer_in_time_finishes_nevertheless() {
    let lower = Native::with(MIB, |offers| offers.zero = false).numbered(1);
    let client = client(&passing(), &[&lower]).await;
    lower.hold();
    // It is written in several pieces.
    let zero = Command::Zero { span: span(0, MIB), fua: false, keep_allocated: false, fast: false };
    let order = Order::new(zero, Default::default(), Cancelled::default());
    let error = client.0.clone().execute(order, None).await.err().expect("it is late");
    assert_eq!(error.code, ErrorCode::Io);
    let message = error.message.expect("it says why");
    assert!(message.contains("did not answer within"), "{message}");
    assert!(!client.is_dead());
    lower.release();
    let zeroed = async {
        while lower.bytes.lock().unwrap().iter().any(|&byte| byte != 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, zeroed).await.expect("the lower device finishes");
}

#[tokio::test]
async fn scratch_disk_is_empty_and_as_large_as_can_be_and_counts_against_its_user() {
    let budgets = Budgets::alone(16 << 20);
    let engine = Engine::new(LONG);
    let scratch = ScratchDisk { engine, export_name: "export".into(), budgets: budgets.clone() };
    let opened = scratch.open(None).await.unwrap();
    assert_eq!(opened.device.geometry().size, MAX_SIZE);
    let lowers: [Arc<dyn Device>; 1] = [opened.device];
    let guest = routing(1, [0; 5], PASS).opened(|disk| disk.size = MAX_SIZE);
    let component = load(&guest).await;
    let client = open_component(component, 16 << 20, &lowers).await.unwrap();
    let before = budgets.memory.used();
    client.write(MAX_SIZE - 3, &[1, 2, 3], false).await.unwrap();
    assert_eq!(client.read(MAX_SIZE - 4, 4).await, Ok(vec![0, 1, 2, 3]));
    assert!(budgets.memory.used() > before);
    assert_eq!(client.read(0, 4).await, Ok(vec![0; 4]));
}
