//! Exports that are other names of a disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::client::*;
use super::native::{LEASED, Native};
use super::replace::{BEGUN, LENGTH, SHORT, until_nobody_has};
use super::*;
use crate::connection::Context;
use crate::device::LowerSource;
use crate::exports::{Export, KnownExports, LowerExport, NotRemoved, NotReplaced, State};
use crate::parameters::Link;

const PERM: u32 = 1;

/// A context whose clients find this export and no other.
fn only(context: &Context, export: &Arc<Export>) -> Context {
    let exports = context.exports.narrowed(export.clone());
    // The clients of these tests ask for "disk".
    exports.answer_any_name();
    Context { exports: Arc::new(exports), ..context.clone() }
}

#[tokio::test]
async fn clients_of_all_names_share_the_device_and_follow_when_it_is_replaced() {
    let first = Native::new();
    let main = Export::of_device("disk", first.clone());
    let other = main.by_another_name("other", false).expect("it is not private");
    let reading = other.by_another_name("reading", true).expect("it is of the same disk");
    let (context, _phase) = context_of_exports(vec![main.clone(), other.clone(), reading.clone()]);
    assert!(Arc::ptr_eq(reading.main().unwrap(), &main));
    for style in STYLES {
        let mut clients = Vec::new();
        for export in [&main, &other, &reading] {
            clients.push(Client::over_socket(&only(&context, export), style).await);
        }
        assert_eq!([&main, &other, &reading].map(|export| export.connections()), [3, 1, 1]);
        let before = main.generation();
        for at in [0, LEASED] {
            for writer in 0..2 {
                assert_eq!(clients[writer].call(WRITE, at, 4096).await.error, 0);
                for reader in &mut clients {
                    assert_eq!(reader.call(READ, at, 4096).await.data, [0x77; 4096]);
                }
                assert_eq!(clients[writer].call(TRIM, at, 4096).await.error, 0);
            }
            assert_eq!(clients[2].call(WRITE, at, 512).await.error, PERM);
        }
        assert_eq!(clients[1].call(WRITE, 0, 4096).await.error, 0);
        // By whichever name.
        let second = Native::new();
        drop(reading.replace(second.clone(), PATIENCE).await.unwrap());
        for client in &mut clients {
            assert_eq!(client.call(READ, 0, 512).await.data, [0; 512], "of the new device");
        }
        assert_eq!((main.generation(), other.generation()), (before + 1, before + 1));
        drop(clients);
        while main.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    until_nobody_has(&first).await;
}

#[tokio::test]
async fn a_request_by_another_name_is_waited_for() {
    let main = Export::of_device("disk", Native::new());
    let other = main.by_another_name("other", false).unwrap();
    let (context, _phase) = context_of_exports(vec![main.clone(), other.clone()]);
    let mut client = Client::over_socket(&only(&context, &other), ReplyStyle::Simple).await;
    // A part of a write into leased memory: the client is inside.
    let (mut bytes, _) = client.bytes(WRITE, 0, LENGTH);
    bytes.resize(BEGUN, 0x77);
    client.stream.write_all(&bytes).await.unwrap();
    let replaced = async {
        loop {
            match main.replace(Native::new(), SHORT).await {
                Err(NotReplaced::InUse(in_use)) => break in_use.connections,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, replaced).await.expect("it has begun"), 1);
}

#[tokio::test]
async fn removal_of_a_name_leaves_the_disk_and_its_other_clients() {
    let device = Native::new();
    let main = Export::of_device("disk", device.clone());
    let other = main.by_another_name("other", false).unwrap();
    let (context, _phase) = context_of_exports(vec![main.clone(), other.clone()]);
    let mut stays = Client::new(&context, ReplyStyle::Structured).await;
    let mut goes = Client::new(&only(&context, &other), ReplyStyle::Structured).await;
    assert_eq!(goes.call(WRITE, LEASED, 4096).await.error, 0);
    assert_eq!(context.exports.remove("disk", SHORT).await, Err(NotRemoved::HasOtherNames));
    context.exports.remove("other", PATIENCE).await.unwrap();
    assert!(matches!(goes.serving.await.unwrap(), crate::connection::End::Removed));
    assert!(matches!(other.state(), State::Gone) && other.enter().is_none());
    assert!(other.disk().await.err().unwrap().to_string().contains("removed"));
    assert!(context.exports.find("other").is_none());
    assert_eq!(stays.call(READ, LEASED, 4096).await.data, [0x77; 4096]);
    assert_eq!(device.flushes(), 0, "the disk stays open");
    // The same name may be given again, though the old one is still referred to.
    let again = main.by_another_name("other", false).unwrap();
    context.exports.add(again).unwrap();
    context.exports.remove("other", PATIENCE).await.unwrap();
    context.exports.remove("disk", PATIENCE).await.unwrap();
    assert_eq!(device.flushes(), 1);
    assert!(other.enter().is_none());
}

#[tokio::test]
async fn names_that_were_never_added_do_not_count() {
    let main = Export::of_device("disk", Native::new());
    let other = main.by_another_name("other", false).unwrap();
    assert!(main.has_other_names());
    drop(other);
    assert!(!main.has_other_names(), "it was never added");
    let private = Export::of_device("p", Native::new()).private();
    assert!(private.by_another_name("q", false).is_none());
}

#[tokio::test]
async fn disks_stand_on_disks_by_their_own_names() {
    let main = Export::of_device("disk", Native::new());
    let other = main.by_another_name("other", false).unwrap();
    let (context, _phase) = context_of_exports(vec![main, other]);
    let exports = KnownExports::default();
    exports.set(Arc::downgrade(&context.exports)).unwrap();
    let (upper, name) = ("top".into(), "other".into());
    let lower = LowerExport { exports, upper, name, link: Link::default() };
    let error = lower.open(None).await.map(drop).unwrap_err();
    assert!(!error.may_pass && error.message.contains("another name of the disk \"disk\""));
}
