//! The memory that transfers through the import `lower` take.

use super::user::{flushing, open_within, passing};
use super::*;

#[tokio::test]
async fn memory_of_a_transfer_is_the_disks() {
    let lower = Native::new(MIB);
    let lowers: [Arc<dyn Device>; 1] = [lower.clone()];
    // The guest has 40 pages.
    let (guest, left) = (40 << 16, 512 << 10);
    let client = open_within(&passing(), LONG, guest + left, &lowers).await;
    let used = || client.0.guest.memory().used();
    assert_eq!(client.read(0, left + 1).await, Err(ErrorCode::NoMem));
    assert_eq!(client.write(0, &vec![1; left as usize + 1], false).await, Err(ErrorCode::NoMem));
    assert!(lower.take_log().is_empty() && !client.is_dead());
    assert_eq!(used(), guest);

    lower.hold();
    let reading = client.spawn(|client| async move { client.read(0, left).await });
    lower.until_under_way(1).await;
    assert_eq!(used(), guest + left);
    lower.release();
    assert_eq!(reading.await.unwrap(), Ok(vec![0; left as usize]));
    assert_eq!(used(), guest);

    lower.hold();
    let data = vec![1; left as usize];
    let writing = client.spawn(|client| async move { client.write(0, &data, false).await });
    lower.until_under_way(1).await;
    assert_eq!(used(), guest + left);
    lower.release();
    writing.await.unwrap().unwrap();
    assert_eq!(used(), guest);
}

#[tokio::test]
async fn transfer_that_is_refused_takes_no_memory() {
    let lower = Native::with(MIB, |offers| offers.writable = false);
    let lowers: [Arc<dyn Device>; 1] = [lower.clone()];
    let data = format!("(i32.const 0x10000) (i32.const {MIB}) (i32.const 0)");
    for (call, code) in [
        (format!("read (i32.const 0) (i64.const 1) (i32.const {MIB})"), ErrorCode::Inval),
        (format!("read (i32.const 0) (i64.const 0) (i32.const {})", MIB + 1), ErrorCode::Inval),
        (format!("write (i32.const 0) (i64.const 1) {data}"), ErrorCode::Inval),
        (format!("write (i32.const 0) (i64.const 0) {data}"), ErrorCode::Perm),
        (format!("read (i32.const 0) (i64.const 0) (i32.const {MIB})"), ErrorCode::NoMem),
    ] {
        let guest = flushing(&format!("call $lower-{call}"));
        // The guest has 40 pages.
        let client = open_within(&guest, LONG, (40 << 16) + (512 << 10), &lowers).await;
        assert_eq!(client.flush().await, Err(code), "{call}");
    }
    assert!(lower.take_log().is_empty());
}
