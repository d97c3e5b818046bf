//! Adding exports to a server and removing them, under connected clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::*;
use super::native::{LEASED, Native};
use super::replace::{BEGUN, LENGTH, SHORT, until_nobody_has, until_used};
use super::*;
use crate::connection::{Context, End};
use crate::exports::{DuplicateName, Export, Exports, NotRemoved, State};

fn served() -> (Arc<Native>, Context, tokio::sync::watch::Sender<crate::connection::Phase>) {
    let device = Native::new();
    let (context, phase) = context_of_exports(vec![Export::of_device("disk", device.clone())]);
    (device, context, phase)
}

/// Waits until the server has disconnected the client, and returns how.
async fn disconnected(mut client: Client) -> End {
    let mut rest = Vec::new();
    let reading = client.stream.read_to_end(&mut rest);
    // Unread requests of the client may be lost with the connection.
    let _ = tokio::time::timeout(PATIENCE, reading).await.expect("the connection ends");
    client.serving.await.unwrap()
}

#[tokio::test]
async fn idle_clients_are_disconnected_and_the_device_is_flushed_and_let_go_of() {
    let (device, context, _phase) = served();
    let mut clients = Vec::new();
    for style in STYLES {
        clients.push(Client::over_socket(&context, style).await);
        clients.push(Client::new(&context, style).await);
    }
    for client in &mut clients {
        assert_eq!(client.call(WRITE, LEASED, 4096).await.error, 0);
    }
    let export = context.exports.find("").expect("the first is the default");
    context.exports.remove("disk", PATIENCE).await.unwrap();
    for client in clients {
        assert!(matches!(disconnected(client).await, End::Removed));
    }
    assert_eq!(device.flushes(), 1);
    until_nobody_has(&device).await;
    assert!(matches!(export.state(), State::Gone) && export.enter().is_none());
    assert!(export.disk().await.err().unwrap().to_string().contains("removed"));
    assert!(context.exports.find("disk").is_none() && context.exports.find("").is_none());
    assert_eq!(context.exports.remove("disk", SHORT).await, Err(NotRemoved::Unknown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_request_under_load_is_answered_or_not_at_all() {
    for _ in 0..20 {
        let (device, context, _phase) = served();
        let mut clients = Vec::new();
        for number in 0..4_u64 {
            let style = STYLES[number as usize % 3];
            let mut client = match number {
                3 => Client::new(&context, style).await,
                _ => Client::over_socket(&context, style).await,
            };
            clients.push(tokio::spawn(async move {
                let mut written = 0;
                loop {
                    // Now with a lease, now without one.
                    let at = (written % 2) * LEASED + (number << 20) + written / 2 * 512;
                    let (mut bytes, _) = client.bytes(WRITE, at, 512);
                    bytes.resize(bytes.len() + 512, 0x77);
                    if client.stream.write_all(&bytes).await.is_err() {
                        break;
                    }
                    let mut reply = [0; 4];
                    if client.stream.read_exact(&mut reply).await.is_err() {
                        break;
                    }
                    let length = match u32::from_be_bytes(reply) {
                        0x6744_6698 => 12,
                        0x668e_33ef => 16,
                        0x6e8a_278c => 28,
                        other => panic!("{other:#x} is no reply"),
                    };
                    let mut rest = vec![0; length];
                    client.stream.read_exact(&mut rest).await.expect("a whole reply");
                    written += 1;
                    if written == 2048 {
                        // Enough to see that nothing was lost.
                        break;
                    }
                }
                (number, written)
            }));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        context.exports.remove("disk", PATIENCE).await.unwrap();
        for client in clients {
            let (number, written) = client.await.unwrap();
            for index in 0..written {
                let at = (index % 2) * LEASED + (number << 20) + index / 2 * 512;
                assert_eq!(device.peek(at as usize), 0x77, "what was answered was written");
            }
        }
    }
}

#[tokio::test]
async fn who_stays_in_the_middle_of_a_request_is_cut_off() {
    for style in STYLES {
        let (device, context, _phase) = served();
        let mut slow = Client::over_socket(&context, style).await;
        let (header, _) = slow.bytes(WRITE, 0, LENGTH);
        slow.stream.write_all(&header).await.unwrap();
        slow.stream.write_all(&[0x77; BEGUN]).await.unwrap();
        until_used(&device).await;
        let start = Instant::now();
        let export = context.exports.find("disk").unwrap();
        let removing = context.exports.remove("disk", SHORT);
        let watching = async {
            tokio::time::sleep(SHORT / 2).await;
            assert!(matches!(export.state(), State::Draining));
            assert!(context.exports.find("disk").is_none() && context.exports.list().is_empty());
            let taken = context.exports.add(Export::of_device("disk", Native::new()));
            assert_eq!(taken, Err(DuplicateName("disk".into())), "it is still to be flushed");
        };
        let (removed, ()) = tokio::join!(removing, watching);
        removed.unwrap();
        assert!(start.elapsed() >= SHORT);
        assert!(matches!(disconnected(slow).await, End::Removed));
        until_nobody_has(&device).await;
        assert_eq!(device.flushes(), 1);
    }
}

#[tokio::test]
async fn who_does_not_read_the_last_replies_is_cut_off() {
    let (device, context, _phase) = served();
    let (stream, server) = tokio::io::duplex(16 << 10);
    let mut client = Client::over(Box::new(stream), Box::new(server), &context, STYLES[0]).await;
    // With a lease and without one: more than the stream takes.
    for index in 0..40 {
        client.send(READ, (index % 2) * LEASED, 4096).await;
    }
    until_used(&device).await;
    context.exports.remove("disk", SHORT).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, &mut client.serving).await;
    assert!(matches!(ended.expect("it ends").unwrap(), End::Removed));
    until_nobody_has(&device).await;
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_answered() {
    for style in STYLES {
        let (device, context, _phase) = served();
        let mut client = Client::over_socket(&context, style).await;
        let (header, _) = client.bytes(WRITE, 0, LENGTH);
        client.stream.write_all(&header).await.unwrap();
        client.stream.write_all(&[0x77; BEGUN]).await.unwrap();
        until_used(&device).await;
        let exports = context.exports.clone();
        let removing = tokio::spawn(async move { exports.remove("disk", PATIENCE).await });
        tokio::time::sleep(SHORT).await;
        assert!(!removing.is_finished());
        client.stream.write_all(&[0x77; LENGTH as usize - BEGUN]).await.unwrap();
        assert!(client.replies(1).await.values().all(|reply| reply.error == 0));
        assert!(matches!(disconnected(client).await, End::Removed));
        removing.await.unwrap().unwrap();
        assert_eq!(device.peek(LENGTH as usize - 1), 0x77);
    }
}

#[tokio::test]
async fn exports_come_and_go_and_nobody_gets_anothers_disk() {
    let exports = Arc::new(Exports::default());
    let add = |name| exports.add(Export::of_device(name, Native::new()));
    assert!(exports.find("").is_none());
    add("a").unwrap();
    add("b").unwrap();
    assert_eq!(add("b"), Err(DuplicateName("b".into())));
    let names = || exports.list().iter().map(|e| e.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(), ["a", "b"]);
    let (first, second) = (exports.find("").unwrap(), exports.find("b").unwrap());
    assert_eq!(first.name(), "a");
    assert_ne!(first.id(), second.id());
    assert_eq!(exports.remove("", SHORT).await, Err(NotRemoved::Unknown), "that is no name");
    exports.remove("a", SHORT).await.unwrap();
    add("c").unwrap();
    assert!(exports.find("").is_none(), "whoever means a must get neither b nor c");
    add("a").unwrap();
    assert_eq!(names(), ["b", "c", "a"]);
    assert_eq!(exports.find("").unwrap().name(), "a");
    assert_ne!(exports.find("a").unwrap().id(), first.id());
    assert_eq!(second.generation(), 0);
    second.replace(Native::new(), SHORT).await.unwrap();
    assert_eq!(second.generation(), 1);
}
