//! Lower devices that are opened anew.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::open_lowers;
use super::source::Source;
use super::user::{flushing, user};
use super::*;
use crate::block::{Error, Operation};
use crate::component::tests::{LONG, SHORT};
use crate::device::{LowerSource, OwnDisk};

/// Long enough for something that would go wrong to do so.
const MOMENT: Duration = Duration::from_millis(30);

const REOPEN: &str = "call $lower-reopen (i32.const 0)";

/// Opens a guest that stands on what a source opens.
async fn stand_on(guest: &Guest, deadline: Duration, source: Arc<dyn LowerSource>) -> Client {
    let component = Engine::new(deadline).load("guest", &guest.wasm()).await.unwrap();
    let mut config = DiskConfig {
        arguments: vec![device_argument(0)],
        lowers: vec![("device-0".into(), source)],
        ..config(component, 64 << 20)
    };
    let lowers = open_lowers(&mut config).await.unwrap();
    Client(StackedDevice::open(config, lowers).await.unwrap())
}

/// A guest that passes all requests, and whose `flush` opens its device anew.
fn reopening() -> Guest {
    flushing(REOPEN).routing(1, [0; 5], PASS)
}

/// Has the guest open its device anew, and returns its error.
async fn reopen(client: &Client) -> Result<(), Error> {
    let order = Order::new(Command::Flush, Default::default(), Cancelled::default());
    client.0.clone().execute(order, None).await.map(drop)
}

async fn refusal(client: &Client) -> (ErrorCode, String) {
    let error = reopen(client).await.expect_err("it is not opened anew");
    (error.code, error.message.expect("the error says why").into())
}

#[tokio::test]
async fn requests_go_to_the_device_that_was_opened_anew() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let source = Source::new(&[&first, &second]);
    let client = stand_on(&reopening(), LONG, source.clone()).await;
    client.write(0, &[1; 4], false).await.unwrap();
    reopen(&client).await.unwrap();
    assert_eq!(client.read(0, 4).await, Ok(vec![0; 4]));
    client.write(0, &[2; 4], false).await.unwrap();
    assert_eq!((first.bytes.lock().unwrap()[0], second.bytes.lock().unwrap()[0]), (1, 2));
    assert_eq!(first.take_log().last(), Some(&Command::Flush), "before it was closed");
    assert_eq!(source.opened.load(Ordering::Relaxed), 2);
    assert_eq!(Arc::strong_count(&second), 2, "nothing else keeps it");
}

#[tokio::test]
async fn component_that_does_not_reopen_stands_on_the_device_itself() {
    let only = Native::new(MIB);
    let guest = routing(1, [0; 5], PASS);
    let client = stand_on(&guest, LONG, Source::new(&[&only])).await;
    let device: Arc<dyn Device> = only.clone();
    assert!(Arc::ptr_eq(client.0.lowers().device(0), &device));
}

#[tokio::test]
async fn requests_under_way_end_on_the_old_device_and_others_wait() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let guest = reopening().with("stable", STABLE);
    let client = stand_on(&guest, LONG, Source::new(&[&first, &second])).await;
    first.hold();
    let before = client.spawn(|client| async move { client.write(0, &[1], false).await });
    first.until_under_way(1).await;
    let reopening = client.spawn(|client| async move { reopen(&client).await });
    tokio::time::sleep(MOMENT).await;
    let after = client.spawn(|client| async move { client.write(1, &[2], false).await });
    tokio::time::sleep(MOMENT).await;
    assert!(!before.is_finished() && !reopening.is_finished() && !after.is_finished());
    assert_eq!(first.under_way.load(Ordering::Relaxed), 1);
    first.release();
    before.await.unwrap().unwrap();
    reopening.await.unwrap().unwrap();
    after.await.unwrap().unwrap();
    assert_eq!(first.bytes.lock().unwrap()[..2], [1, 0]);
    assert_eq!(second.bytes.lock().unwrap()[..2], [0, 2]);
}

#[tokio::test]
async fn old_device_stays_when_its_requests_do_not_end() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let source = Source::new(&[&first, &second]);
    let guest = reopening().with("stable", STABLE);
    let client = stand_on(&guest, LONG, source.clone()).await;
    first.hold();
    let hanging = client.spawn(|client| async move { client.write(0, &[1], false).await });
    first.until_under_way(1).await;
    let waiting = client.spawn(|client| async move {
        tokio::time::sleep(MOMENT).await;
        client.write(1, &[2], false).await
    });
    let (code, message) = refusal(&client).await;
    assert_eq!((code, &*message), (ErrorCode::Io, "its requests did not end within 4s"));
    first.release();
    hanging.await.unwrap().unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(first.bytes.lock().unwrap()[..2], [1, 2]);
    assert_eq!(source.opened.load(Ordering::Relaxed), 1);
    reopen(&client).await.unwrap();
}

#[tokio::test]
async fn opening_that_takes_too_long_is_given_up_and_not_repeated_meanwhile() {
    let (first, second, third) = (Native::new(MIB), Native::new(MIB), Native::new(MIB));
    let source = Source::new(&[&first, &second, &third]);
    let client = stand_on(&reopening(), LONG, source.clone()).await;
    client.write(0, &[1], false).await.unwrap();
    source.held.forget_permits(1);
    let (code, message) = refusal(&client).await;
    assert_eq!((code, &*message), (ErrorCode::Io, "it could not be opened within 4s"));
    assert_eq!(client.read(0, 1).await, Ok(vec![1]));
    assert_eq!(refusal(&client).await.1, "it is being opened anew already");
    assert_eq!(source.opened.load(Ordering::Relaxed), 2);
    source.held.add_permits(1);
    // What was opened too late is dropped.
    while Arc::strong_count(&second) > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(client.read(0, 1).await, Ok(vec![1]));
    reopen(&client).await.unwrap();
    client.write(0, &[3], false).await.unwrap();
    assert_eq!(third.bytes.lock().unwrap()[0], 3);
}

#[tokio::test]
async fn old_device_stays_when_the_new_one_cannot_take_its_place() {
    let present = Native::new(MIB);
    let linked: Arc<dyn Device> = Native::new(MIB);
    let own = |device: Arc<Native>| Lower { device, link: None };
    let source = Source::of([
        own(present.clone()),
        own(Native::new(MIB + 512)),
        own(Native::with(MIB, |offers| offers.writable = false)),
        own(Native::with(MIB, |offers| offers.trim = false)),
        own(present.clone()),
        Lower { device: linked, link: Some(Arc::new(())) },
    ]);
    let client = stand_on(&reopening(), LONG, source).await;
    client.write(0, &[1], false).await.unwrap();
    // A flush cannot answer ENOTSUP.
    for (code, expected) in [
        (ErrorCode::Io, "what was opened has another size"),
        (ErrorCode::Io, "what was opened is not writable"),
        (ErrorCode::Io, "what was opened has no trim"),
        (ErrorCode::Inval, "it is not this disk's alone, so it cannot be opened anew"),
        (ErrorCode::Inval, "it is not this disk's alone, so it cannot be opened anew"),
        (ErrorCode::Io, "it is gone"),
    ] {
        assert_eq!(refusal(&client).await, (code, expected.into()));
        assert_eq!(client.read(0, 1).await, Ok(vec![1]));
    }
    assert!(!client.is_dead());
}

#[tokio::test]
async fn device_with_other_users_is_not_opened_anew() {
    let shared: Arc<dyn Device> = Native::new(MIB);
    let source = Source::of([Lower { device: shared, link: Some(Arc::new(())) }]);
    let client = stand_on(&reopening(), LONG, source.clone()).await;
    assert_eq!(refusal(&client).await.0, ErrorCode::Inval);
    assert_eq!(source.opened.load(Ordering::Relaxed), 1, "its source is not even asked");
    client.write(0, &[1], false).await.unwrap();
}

/// A disk in memory that fails for good when it is written to at 666.
fn mortal() -> Guest {
    let mortal = "(if (i64.eq (local.get $offset) (i64.const 666)) (then (unreachable)))
        (memory.copy (call $address (local.get $offset)) (local.get $data) (local.get $length))
        (call $done)";
    Guest::new().with("write", mortal)
}

async fn own_disk(guest: &Guest, budgets: Budgets) -> Arc<OwnDisk> {
    Arc::new(OwnDisk(DiskConfig { budgets, ..config(load(guest).await, 0) }))
}

#[tokio::test]
async fn component_that_failed_comes_back() {
    let budgets = Budgets::alone(64 << 20);
    let lower = own_disk(&mortal(), budgets.clone()).await;
    let client = stand_on(&reopening(), LONG, lower).await;
    for _ in 0..3 {
        client.write(4096, &[1], false).await.unwrap();
        assert_eq!(client.write(666, &[1], false).await, Err(ErrorCode::Io));
        assert_eq!(client.read(4096, 1).await, Err(ErrorCode::Io));
        reopen(&client).await.unwrap();
        assert_eq!(client.read(4096, 1).await, Ok(vec![0]), "its content is lost");
    }
    // The memory of those that failed is given back.
    let one = 40 << 16;
    while budgets.memory.used() > one {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!client.is_dead());
}

#[tokio::test]
async fn old_and_new_device_share_the_memory_of_the_disk() {
    let one: u64 = 40 << 16;
    let budgets = Budgets::alone(2 * one - 1);
    let client = stand_on(&reopening(), LONG, own_disk(&mortal(), budgets.clone()).await).await;
    client.write(0, &[1], false).await.unwrap();
    let (code, message) = refusal(&client).await;
    assert_eq!(code, ErrorCode::Io);
    assert!(message.contains("memory"), "{message}");
    assert_eq!(client.read(0, 1).await, Ok(vec![1]));
    // One that failed takes none.
    client.write(666, &[1], false).await.unwrap_err();
    while budgets.memory.used() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reopen(&client).await.unwrap();
    assert_eq!(client.read(0, 1).await, Ok(vec![0]));
}

#[tokio::test]
async fn flush_fails_after_what_was_written_was_lost() {
    let devices = [(); 3].map(|()| Native::new(MIB));
    let [first, second, third] = &devices;
    // The guest has no flush, so that those of clients go to its device; a trim opens it anew.
    let guest = user()
        .routing(1, [0; 5], PASS)
        .with(
            "route",
            format!(
                "(if (i32.eq (local.get $operation) (i32.const 3)) (then
             ({REOPEN} (i32.const 0x100)))) {PASS}"
            ),
        )
        .opened(|disk| disk.capabilities = can::EVERYTHING & !can::FLUSH & !can::FUA);
    let client = stand_on(&guest, LONG, Source::new(&[first, second, third])).await;
    client.write(0, &[1], false).await.unwrap();
    first.fail_flushes();
    client.trim(0, 1).await.unwrap();
    assert_eq!(client.flush().await, Err(ErrorCode::Io), "what was written is lost");
    client.flush().await.unwrap();
    assert_eq!(second.take_log().last(), Some(&Command::Flush));
    // The trim was flushed, and nothing was written since.
    second.fail_flushes();
    client.trim(0, 1).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(third.take_log().len(), 2);
    client.write(0, &[1], false).await.unwrap();
    client.0.clone().last_flush().await.unwrap();
    assert_eq!(third.take_log().last(), Some(&Command::Flush), "before the server stops");
}

#[tokio::test]
async fn failed_request_is_executed_again_on_a_device_that_was_opened_anew() {
    let (first, second) = (Native::new(MIB), Native::new(MIB));
    let again = format!(
        "(if (i64.eqz (local.get $failed)) (then (return (call $finished))))
         ({REOPEN} (i32.const 0x100))
         (call $again (i64.const 1000))"
    );
    let guest = user().routing(1, [0; 5], PASS_AND_TELL).with("done", again);
    let client = stand_on(&guest, LONG, Source::new(&[&first, &second])).await;
    first.fail(Operation::Write, 3, ErrorCode::Io);
    client.write(3, &[5], false).await.unwrap();
    assert_eq!(client.read(3, 1).await, Ok(vec![5]));
    assert_eq!(second.bytes.lock().unwrap()[3], 5);
}

#[tokio::test]
async fn guest_that_reopens_again_and_again_is_killed() {
    let devices: Vec<_> = (0..50).map(|_| Native::new(MIB)).collect();
    let source = Source::new(&devices.iter().collect::<Vec<_>>());
    let body = format!(
        "(loop $again ({REOPEN} (i32.const 0x100))
           (global.set $free (i32.const 0x110000))
           (br $again))
         (unreachable)"
    );
    let guest = user().with("flush", body);
    let client = stand_on(&guest, SHORT, source.clone()).await;
    let killed = tokio::time::timeout(LONG, client.flush()).await;
    assert_eq!(killed.expect("it is killed"), Err(ErrorCode::Io));
    assert!(client.is_dead());
    let opened = source.opened.load(Ordering::Relaxed) as u64;
    assert!((17..17 + LONG.as_secs()).contains(&opened), "{opened}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_is_on_the_device_that_was_open_then() {
    let devices: Vec<_> = (0..11).map(|_| Native::new(MIB)).collect();
    let source = Source::new(&devices.iter().collect::<Vec<_>>());
    let client = stand_on(&reopening().with("stable", STABLE), LONG, source.clone()).await;
    devices.iter().for_each(|device| device.hold());
    let stop = Cancelled::default();
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let stop = stop.clone();
            client.spawn(move |client| async move {
                let mut at = writer << 18;
                while !stop.is_cancelled() {
                    client.write(at, &[1], false).await.unwrap();
                    at += 1;
                }
                at - (writer << 18)
            })
        })
        .collect();
    for pair in devices.windows(2) {
        pair[0].until_under_way(4).await;
        let reopening = client.spawn(|client| async move { reopen(&client).await });
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(pair[1].under_way.load(Ordering::Relaxed), 0);
        pair[0].release();
        reopening.await.unwrap().unwrap();
        assert_eq!(pair[0].under_way.load(Ordering::Relaxed), 0);
    }
    stop.cancel();
    devices[10].release();
    let mut written = [0; 4];
    for (count, writer) in written.iter_mut().zip(writers) {
        *count = writer.await.unwrap();
    }
    let mut sums = vec![0; MIB as usize];
    for device in devices {
        for (sum, byte) in sums.iter_mut().zip(&*device.bytes.lock().unwrap()) {
            *sum += byte;
        }
    }
    for (part, count) in sums.chunks(1 << 18).zip(written) {
        assert!(count >= 10, "each wrote to each device: {count}");
        let (answered, rest) = part.split_at(count as usize);
        assert!(answered.iter().all(|&sum| sum == 1) && rest.iter().all(|&sum| sum == 0));
    }
}

#[tokio::test]
async fn commands_are_for_the_component_that_was_opened_anew() {
    let controlled = Guest::new().controlled(&[("set", 0)], "(unreachable)");
    let lower = own_disk(&controlled, Budgets::alone(64 << 20)).await;
    let client = stand_on(&reopening(), LONG, lower).await;
    let command = || async {
        let [control] = &client.0.clone().controls()[..] else { panic!("one takes commands") };
        control.execute("set", &["value=1".into()]).await
    };
    command().await.unwrap_err();
    assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io), "it failed");
    reopen(&client).await.unwrap();
    client.read(0, 1).await.unwrap();
    command().await.unwrap_err();
    assert_eq!(client.read(0, 1).await, Err(ErrorCode::Io));
}
