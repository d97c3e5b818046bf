//! Disks that are made for a client: private ones, and those that are made on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::*;
use super::native::Native;
use super::replace::SHORT;
use super::*;
use crate::component::Engine;
use crate::component::tests::LONG;
use crate::component::tests::guest::Guest;
use crate::connection::End;
use crate::device::guest::DiskConfig;
use crate::exports::{Export, NotReplaced};

async fn guest() -> DiskConfig {
    config("disk", Engine::new(LONG).load("guest", &Guest::new().wasm()).await.unwrap())
}

#[tokio::test]
async fn each_client_of_a_private_export_has_a_disk_of_its_own() {
    let config = guest().await;
    let memory = config.budgets.memory.clone();
    let (context, _phase) = context_of_exports(vec![Export::new(config).private()]);
    let mut clients = Vec::new();
    for style in STYLES {
        clients.push(Client::new(&context, style).await);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.call(READ, 0, 512).await.data, [0; 512], "nobody else wrote to it");
        assert_eq!(client.call(WRITE, index as u64 * 512, 512).await.error, 0);
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut expected = [[0; 512]; 3];
        expected[index] = [0x77; 512];
        assert_eq!(client.call(READ, 0, 1536).await.data, expected.concat());
    }
    let export = context.exports.find("disk").unwrap();
    assert!(export.is_private());
    assert_eq!(export.connections(), 3);
    let replaced = export.replace(Native::new(), SHORT).await;
    assert!(matches!(replaced, Err(NotReplaced::Private)));
    let requests = export.account().totals();
    assert!(requests.iter().any(|(_, total)| total.requests >= 3), "one account for all");
    // A client that goes away takes its disk with it, and those that stay are disconnected with the export.
    let used = memory.used();
    drop(clients.remove(0));
    let freed = async {
        while memory.used() >= used {
            tokio::time::sleep(SHORT).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.expect("its memory is free");
    drop(export);
    context.exports.remove("disk", SHORT).await.unwrap();
    for client in clients {
        let ended = tokio::time::timeout(PATIENCE, client.serving).await.expect("it ends");
        assert!(matches!(ended.unwrap(), End::Removed));
    }
    assert_eq!(memory.used(), 0);
}

/// The flags of the export are the last two bytes of the first information.
async fn flags(context: &crate::connection::Context, name: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, server) = tokio::io::duplex(4096);
    let serving = tokio::spawn(crate::connection::serve(server, context.clone()));
    let mut bytes = vec![0, 0, 0, 3];
    bytes.extend(option(6, &info(name, &[])));
    stream.write_all(&bytes).await.unwrap();
    let mut answer = [0; 18 + 20 + 12];
    stream.read_exact(&mut answer).await.unwrap();
    drop(stream);
    serving.await.unwrap();
    u16::from_be_bytes(answer[48..].try_into().unwrap())
}

#[tokio::test]
async fn private_disks_do_not_claim_to_be_shared() {
    const MULTI_CONN: u16 = 1 << 8;
    for private in [false, true] {
        let mut config = guest().await;
        config.component = Engine::new(LONG)
            .load("guest", &Guest::new().opened(|disk| disk.capabilities |= 1 << 8).wasm())
            .await
            .unwrap();
        let export = Export::new(config);
        let export = if private { export.private() } else { export };
        let (context, _phase) = context_of_exports(vec![export]);
        assert_eq!(flags(&context, "disk").await & MULTI_CONN != 0, !private);
    }
}

#[tokio::test]
async fn exports_are_made_on_demand_and_the_idle_ones_closed() {
    let (context, _phase) = context_of_exports(Vec::new());
    let made = Arc::new(AtomicUsize::new(0));
    let count = made.clone();
    let make = move |name: &str| {
        count.fetch_add(1, Ordering::Relaxed);
        Export::of_device(name, Native::new())
    };
    context.exports.on_demand(2, Box::new(make));
    assert!(context.exports.find("a").is_none(), "whoever only looks makes nothing");
    let names = || context.exports.list().iter().map(|e| e.name().to_owned()).collect::<Vec<_>>();
    let request = |name: &str| context.exports.request(name);
    assert_eq!(request("a").export.unwrap().name(), "a");
    assert_eq!(request("b").export.unwrap().name(), "b");
    assert_eq!(request("a").export.unwrap().id(), context.exports.find("a").unwrap().id());
    assert_eq!(made.load(Ordering::Relaxed), 2);
    // The one that was asked for the longest time ago makes room.
    let third = request("c");
    assert_eq!((third.export.unwrap().name(), third.closed.as_deref()), ("c", Some("b")));
    assert_eq!(names(), ["a", "c"]);
    // Those that have clients stay.
    let ports = ["a", "c"].map(|name| context.exports.find(name).unwrap().enter().unwrap());
    let fourth = request("d");
    assert!(fourth.export.is_none() && fourth.closed.is_none());
    assert!(request("a").export.is_some());
    drop(ports);
    assert_eq!(request("d").closed.as_deref(), Some("c"));
    context.exports.remove("a", SHORT).await.unwrap();
    assert!(request("e").closed.is_none(), "there is room");
    assert_eq!(names(), ["d", "e"]);
}
