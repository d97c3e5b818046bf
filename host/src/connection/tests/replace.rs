//! Pointing an export at another device, under connected clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::client::*;
use super::native::{LEASED, Native};
use super::*;
use crate::connection::Context;
use crate::device::{Device, InUse};
use crate::exports::{Export, NotReplaced};

pub(super) const SHORT: Duration = Duration::from_millis(50);

/// The length of a write, and how much of it is enough to begin with it.
pub(super) const LENGTH: u64 = 64 << 10;
pub(super) const BEGUN: usize = 40 << 10;

fn served() -> (Arc<Native>, Arc<Export>, Context, watch::Sender<crate::connection::Phase>) {
    let device = Native::new();
    let export = Export::of_device("disk", device.clone());
    let (context, phase) = context_of_exports(vec![export.clone()]);
    (device, export, context, phase)
}

/// Until the device has given a lease or executed something.
pub(super) async fn until_used(device: &Native) {
    let used = async {
        while device.counts() == (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, used).await.expect("the device is used");
}

/// Until only the test has the device.
pub(super) async fn until_nobody_has(device: &Arc<Native>) {
    let alone = async {
        while Arc::strong_count(device) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, alone).await.expect("the old device is let go of");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_under_load_notice_nothing() {
    let (first, export, context, _phase) = served();
    let done = watch::Sender::new(false);
    let rounds: Arc<[AtomicUsize; 4]> = Arc::default();
    let clients: Vec<_> = (0..4_u64)
        .map(|number| {
            let (context, done, rounds) = (context.clone(), done.subscribe(), rounds.clone());
            tokio::spawn(async move {
                let style = STYLES[number as usize % 3];
                let mut client = match number {
                    3 => Client::new(&context, style).await,
                    _ => Client::over_socket(&context, style).await,
                };
                while !*done.borrow() {
                    // Short and long ones, where there are leases, where there are none, and over
                    // the border.
                    for (at, length) in [
                        (number << 20, 4096),
                        (LEASED + (number << 20), 4096),
                        (number << 20, 700_000),
                        (LEASED + (number << 20), 700_000),
                    ] {
                        assert_eq!(client.call(WRITE, at, length).await.error, 0);
                        let read = client.call(READ, at, length).await;
                        assert!(read.data.iter().all(|&byte| byte == 0x77), "what was written");
                        assert_eq!(client.call(TRIM, at, length).await.error, 0);
                        let read = client.call(READ, at, length).await;
                        assert!(read.data.iter().all(|&byte| byte == 0));
                    }
                    rounds[number as usize].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut present = first;
    let mut replaced = 0;
    while replaced < 50 || rounds.iter().any(|rounds| rounds.load(Ordering::Relaxed) < 2) {
        let next = present.same_bytes();
        let old = export.replace(next.clone(), PATIENCE).await.expect("it comes to its turn");
        assert!(Arc::ptr_eq(&old, &(present.clone() as Arc<dyn Device>)));
        drop(old);
        present.counts();
        until_nobody_has(&present).await;
        assert_eq!(present.counts(), (0, 0), "nobody uses it any more");
        present = next;
        replaced += 1;
    }
    done.send_replace(true);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_client_lets_go_of_the_old_device() {
    let (first, export, context, _phase) = served();
    let mut clients = Vec::new();
    for style in STYLES {
        clients.push(Client::over_socket(&context, style).await);
    }
    for client in &mut clients {
        assert_eq!(client.call(WRITE, LEASED, 4096).await.error, 0);
    }
    assert_eq!(export.connections(), 3);
    let second = Native::new();
    drop(export.replace(second.clone(), PATIENCE).await.unwrap());
    until_nobody_has(&first).await;
    for client in &mut clients {
        assert_eq!(client.call(READ, LEASED, 4096).await.data, [0; 4096], "of the new one");
    }
}

/// One device executes all of a request, and the requests of others wait for it no longer than they
/// must.
#[tokio::test]
async fn a_request_under_way_holds_up_the_replacement() {
    for style in STYLES {
        let (first, export, context, _phase) = served();
        let mut slow = Client::over_socket(&context, style).await;
        let mut other = Client::over_socket(&context, style).await;
        let (header, _) = slow.bytes(WRITE, 0, LENGTH);
        slow.stream.write_all(&header).await.unwrap();
        slow.stream.write_all(&[0x77; BEGUN]).await.unwrap();
        until_used(&first).await;
        let second = Native::new();
        let refused = export.replace(second.clone(), SHORT).await.err();
        assert_eq!(refused, Some(NotReplaced::InUse(InUse { connections: 1 })));
        assert_eq!(other.call(READ, 0, 1).await.data, [0x77], "of the first, still");

        let replacing = tokio::spawn({
            let (export, second) = (export.clone(), second.clone());
            async move { export.replace(second, PATIENCE).await.map(drop) }
        });
        tokio::time::sleep(SHORT).await;
        other.forget();
        let waiting = other.send(READ, 0, 1).await;
        tokio::time::sleep(SHORT).await;
        assert!(!replacing.is_finished());
        slow.stream.write_all(&[0x77; LENGTH as usize - BEGUN]).await.unwrap();
        assert!(slow.replies(1).await.values().all(|reply| reply.error == 0));
        replacing.await.unwrap().unwrap();
        assert_eq!(other.replies(1).await[&waiting].data, [0], "of the second");
        assert_eq!(first.peek(LENGTH as usize - 1), 0x77, "all of it was written to the first");
        assert_eq!(slow.call(READ, LENGTH - 1, 1).await.data, [0]);
    }
}

#[tokio::test]
async fn what_clients_were_told_stays_true() {
    let (_, export, context, _phase) = served();
    let mut client = Client::new(&context, ReplyStyle::Simple).await;
    let told = geometry(Native::new().geometry().size);
    let mut offers = [told.clone(), told.clone(), told.clone()];
    offers[0].size += 4096;
    offers[1].capabilities.trim = false;
    offers[2].block_sizes.minimum = 512;
    for (geometry, what) in offers.into_iter().zip([
        "has another size",
        "has no trim",
        "does not accept the same block sizes",
    ]) {
        let refused = export.replace(Native::of(geometry), SHORT).await.err();
        assert_eq!(refused, Some(NotReplaced::Geometry(what)));
    }
    let mut more = told;
    more.block_sizes.maximum *= 2;
    assert!(export.replace(Native::of(more), SHORT).await.is_ok(), "more will do");
    assert_eq!(client.call(READ, 0, 1).await.error, 0);
}

#[tokio::test]
async fn what_is_given_up_changes_nothing() {
    let (first, export, context, _phase) = served();
    let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
    let (header, _) = client.bytes(WRITE, 0, LENGTH);
    client.stream.write_all(&header).await.unwrap();
    client.stream.write_all(&[0x77; BEGUN]).await.unwrap();
    until_used(&first).await;
    let second = Native::new();
    let dropped = tokio::time::timeout(SHORT, export.replace(second.clone(), PATIENCE)).await;
    assert!(dropped.is_err());
    client.stream.write_all(&[0x77; LENGTH as usize - BEGUN]).await.unwrap();
    client.replies(1).await;
    assert_eq!(client.call(READ, 0, 1).await.data, [0x77]);
    assert_eq!(second.counts(), (0, 0));
}
