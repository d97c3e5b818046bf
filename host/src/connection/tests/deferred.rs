//! Requests that wait for their guest's share of the processors.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::client::*;
use super::native::{LEASED, Native};
use super::*;
use crate::connection::{Context, End, Phase};
use crate::device::guest::GuestTime;
use crate::exports::Export;

/// A share of which nothing is left for ten hours.
fn exhausted() -> GuestTime {
    let time = GuestTime::default();
    time.set(Some("0.001".parse().unwrap()));
    time.charge(Duration::from_secs(36));
    time
}

fn served(time: &GuestTime) -> (Arc<Native>, Arc<Export>, Context, watch::Sender<Phase>) {
    let device = Native::charging(time);
    let export = Export::of_device("disk", device.clone());
    let (context, phase) = context_of_exports(vec![export.clone()]);
    (device, export, context, phase)
}

/// Requests without a lease, of all kinds and lengths.
const CALLS: [(u16, u64, u64); 9] = [
    (WRITE, LEASED, 4096),
    (READ, LEASED, 4096),
    // They are collected, and read in pieces.
    (WRITE, LEASED + 8192, 700_000),
    (READ, LEASED - 4096, LEASED - 4096),
    (WRITE, LEASED + 1_000_000, 4096),
    (WRITE_ZEROES, LEASED + 4096, 4096),
    (TRIM, LEASED, 10),
    (CACHE, LEASED, 10),
    (FLUSH, 0, 0),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_and_those_that_need_no_guest_go_on() {
    for style in STYLES {
        for over_socket in [false, true] {
            let time = exhausted();
            let (device, export, context, _phase) = served(&time);
            let mut client = match over_socket {
                true => Client::over_socket(&context, style).await,
                false => Client::new(&context, style).await,
            };
            for (command, at, length) in CALLS {
                client.send(command, at, length).await;
            }
            for _ in 0..3 {
                let read = client.send(READ, 0, 4096).await;
                let replies = client.replies(1).await;
                assert!(replies.len() == 1 && replies.contains_key(&read), "{style:?}");
                client.forget();
            }
            assert_eq!(device.counts().1, 0, "nothing was executed");
            // They are nothing of the device, which can be replaced.
            let next = device.same_bytes();
            export.replace(next.clone(), PATIENCE).await.unwrap();
            time.set(None);
            let replies = client.replies(CALLS.len()).await;
            assert!(replies.values().all(|reply| reply.error == 0), "{style:?}");
            assert_eq!((device.counts().1, next.counts().1 >= CALLS.len()), (0, true));
        }
    }
}

/// Nothing but the share wakes the connection.
#[tokio::test]
async fn deferred_request_is_woken_by_the_share_alone() {
    for (command, at, length) in CALLS {
        let time = exhausted();
        let (_device, _export, context, _phase) = served(&time);
        let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
        client.send(command, at, length).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        time.set(None);
        assert_eq!(client.replies(1).await.len(), 1);
        assert!(time.held_back() > Duration::ZERO);
    }
}

#[tokio::test]
async fn what_was_sent_before_a_disconnect_takes_effect() {
    let time = exhausted();
    let (device, _export, context, _phase) = served(&time);
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    for (command, at, length) in CALLS.into_iter().take(5) {
        client.send(command, at, length).await;
    }
    client.send(DISC, 0, 0).await;
    let Client { stream, serving, .. } = client;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!((device.counts().1, serving.is_finished()), (0, false));
    time.set(None);
    tokio::time::timeout(PATIENCE, serving).await.expect("it comes to its end").unwrap();
    assert_eq!(device.peek(LEASED as usize), 0x77);
    assert_eq!(device.peek(LEASED as usize + 8192 + 699_999), 0x77);
    assert_eq!(device.peek(LEASED as usize + 1_000_000), 0x77);
}

#[tokio::test]
async fn connections_take_turns_and_who_is_kept_from_it_gives_it_up() {
    let time = exhausted();
    let (_device, export, context, _phase) = served(&time);
    let other_export = Export::of_device("disk", Native::charging(&time));
    let (other_context, _other_phase) = context_of_exports(vec![other_export]);
    let mut first = Client::new(&context, ReplyStyle::Simple).await;
    let mut other = Client::new(&other_context, ReplyStyle::Simple).await;
    first.send(WRITE, LEASED, 4096).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    other.send(WRITE, LEASED, 4096).await;
    // The first one has the turn, and its disk is being replaced by somebody who does not come to the end.
    let drained = export.replacing().await.drain(PATIENCE).await.unwrap();
    time.set(Some("1024".parse().unwrap()));
    time.set(None);
    assert_eq!(other.replies(1).await.len(), 1);
    drop(drained);
    assert_eq!(first.replies(1).await.len(), 1);
}

#[tokio::test]
async fn who_is_removed_does_not_wait() {
    let time = exhausted();
    let (device, _export, context, phase) = served(&time);
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    client.send(WRITE, LEASED, 4096).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    phase.send(Phase::Closing).unwrap();
    let end = tokio::time::timeout(PATIENCE, client.serving).await.expect("at once").unwrap();
    assert!(matches!(end, End::Stopped), "{end}");
    assert_eq!(device.counts().1, 0);
}
