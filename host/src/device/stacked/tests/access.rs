//! Devices that the component above does not write to.

use super::user::passing;
use super::*;

async fn reader(guest: &Guest, below: &Arc<Native>) -> Client {
    let config = config(load(guest).await, 64 << 20);
    let lower = Lower { device: below.clone(), link: None };
    StackedDevice::open(config, Lowers::new(vec![(lower, Link::default())]))
        .await
        .map(Client)
        .unwrap()
}

#[tokio::test]
async fn route_that_writes_without_the_right_is_a_breach() {
    let below = Native::new(MIB).numbered(1);
    let client = reader(&Guest::new().routing(1, [0; 5], PASS), &below).await;
    assert_eq!(client.read(512, 512).await, Ok(vec![2; 512]));
    assert_eq!(client.write(0, &[9; 512], false).await, Err(ErrorCode::Io));
    assert_eq!(client.read(512, 512).await, Err(ErrorCode::Io), "it is dead");
    assert!(below.take_log().iter().all(|command| matches!(command, Command::Read { .. })));
}

#[tokio::test]
async fn calls_that_write_without_the_right_are_refused() {
    let below = Native::new(MIB).numbered(1);
    let client = reader(&passing(), &below).await;
    assert_eq!(client.write(0, &[9; 512], false).await, Err(ErrorCode::Perm));
    assert_eq!(client.zero(0, 512).await, Err(ErrorCode::Perm));
    assert_eq!(client.trim(0, 512).await, Err(ErrorCode::Perm));
    assert_eq!(client.read(0, 512).await, Ok(vec![1; 512]));
}

/// What it does not write to is not flushed for it.
#[tokio::test]
async fn flush_leaves_alone_what_is_only_read() {
    let below = Native::new(MIB);
    let guest = Guest::new().routing(1, [0; 5], PASS).opened(|disk| {
        disk.capabilities &= !can::FLUSH;
    });
    let client = reader(&guest, &below).await;
    client.flush().await.unwrap();
    assert_eq!(below.take_log(), []);
}
