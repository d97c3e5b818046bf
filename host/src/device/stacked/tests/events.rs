//! What a component is told beside requests.

use super::*;

/// A guest that routes everything, and is told of flushes and of its end.
fn told() -> Guest {
    routing(4096, [0; 5], PASS).told()
}

async fn close(client: &Client) -> Result<(), ErrorCode> {
    client.0.clone().last_flush().await.map(drop).map_err(|error| error.code)
}

#[tokio::test]
async fn flushes_of_lower_devices_are_told() {
    let lower = Native::new(MIB);
    let client = client(&told(), &[&lower]).await;
    client.flush().await.unwrap();
    let began = (Called::FlushBegan, 0, 0);
    assert_eq!(client.log().await, [began, (Called::FlushEnded(0), 7, 0)]);
    assert_eq!(lower.take_log(), [Command::Flush]);
    lower.fail(crate::block::Operation::Flush, 0, ErrorCode::NoSpc);
    assert_eq!(client.flush().await, Err(ErrorCode::NoSpc));
    // One more than the number of the error, which is the fifth.
    assert_eq!(client.log().await, [began, (Called::FlushEnded(5), 7, 0)]);
}

#[tokio::test]
async fn flush_of_the_component_itself_is_not_told() {
    let client = client(&Guest::new().told(), &[&Native::new(MIB)]).await;
    client.flush().await.unwrap();
    assert_eq!(client.log().await, [(Called::Flush, 0, 0)]);
}

#[tokio::test]
async fn end_is_told_once() {
    let client = client(&told(), &[&Native::new(MIB)]).await;
    assert!(client.0.needs_last_flush());
    for _ in 0..2 {
        close(&client).await.unwrap();
    }
    assert_eq!(client.log().await, [(Called::Closing, 0, 0)]);
    // Clients may not have noticed.
    client.write(0, &[1], false).await.unwrap();
}

#[tokio::test]
async fn failure_at_the_end_is_told_and_leaves_the_lower_device_alone() {
    let lower = Native::new(MIB);
    let client = client(&told().with("closing", "(unreachable)"), &[&lower]).await;
    assert_eq!(close(&client).await, Err(ErrorCode::Io));
    assert!(client.is_dead());
    // Not once more.
    assert_eq!(close(&client).await, Ok(()));
}

#[tokio::test]
async fn disk_with_events_has_one_instance() {
    use crate::component::tests::guest::can;
    let guest = told().opened(|disk| disk.capabilities |= can::INTERCHANGEABLE);
    let lower: Arc<dyn Device> = Native::new(MIB);
    let error = open(&guest, &[lower]).await.err().expect("it breaks the contract");
    assert!(error.to_string().contains("one with events has one instance"), "{error}");
}
