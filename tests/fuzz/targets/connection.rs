//! A whole connection: what a client sends, from its flags on, to a server of two disks in memory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use memnbd::block::MAX_SIZE;
use memnbd::component::{BuiltIn, Component, Engine};
use memnbd::connection::{Context, Phase, serve};
use memnbd::device::guest::{Budgets, DiskConfig};
use memnbd::exports::{Export, Exports};
use memnbd::nbd::HandshakeConfig;
use memnbd::parameters::{Argument, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// Whoever was sent so much has seen enough, and hangs up.
const ENOUGH: usize = 1 << 20;

/// How long a connection may take. One that ends takes milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

struct Server {
    runtime: Runtime,
    component: Component,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let engine = Engine::new(LIMIT);
        let memory = BuiltIn::find("memory").unwrap();
        let component = runtime.block_on(engine.load_built_in(memory)).unwrap();
        Server { runtime, component }
    })
}

/// The first byte chooses how much the stream holds at once, the second how long the client reads. The
/// rest is sent. The connection must end when the client is gone, and what the server says begins
/// with its greeting.
pub(crate) fn connection(data: &[u8]) {
    let [window, patience, sent @ ..] = data else { return };
    let Server { runtime, component } = server();
    runtime.block_on(async {
        let config = |export_name: &str, size: u64| DiskConfig {
            component: component.clone(),
            export_name: export_name.into(),
            read_only: false,
            arguments: vec![Argument { name: "size".into(), value: Value::Size(size) }],
            budgets: Budgets::alone(64 << 20),
            lowers: Vec::new(),
            client: None,
        };
        let exports = [config("disk", 1 << 20), config("largest", MAX_SIZE)];
        let exports = exports.into_iter().map(Export::new);
        let (phase, receiver) = watch::channel(Phase::Serving);
        let context = Context {
            id: 0,
            peer: "".into(),
            origin: Default::default(),
            exports: Arc::new(Exports::new(exports).unwrap()),
            handshake: HandshakeConfig::default(),
            tls: None,
            handshake_timeout: None,
            in_use: Default::default(),
            threads: Default::default(),
            peers: Default::default(),
            entrance: None,
            phase: receiver,
        };
        let (client, stream) = duplex(1 << (window % 18));
        let serving = tokio::spawn(serve(stream, context));
        let (mut reader, mut writer) = tokio::io::split(client);
        let enough = ENOUGH >> (patience % 21);
        let mut said = Vec::new();
        let sending = async {
            // The server may hang up at any time.
            let _ = writer.write_all(sent).await;
            let _ = writer.shutdown().await;
            std::future::pending::<()>().await;
        };
        let reading =
            async { while said.len() < enough && reader.read_buf(&mut said).await.unwrap() > 0 {} };
        let talking = async {
            tokio::select! {
                () = sending => {}
                () = reading => {}
            }
        };
        let talked = tokio::time::timeout(LIMIT, talking).await;
        assert!(talked.is_ok(), "the server neither answers nor hangs up");
        assert!(b"NBDMAGICIHAVEOPT\0\x03".starts_with(&said[..said.len().min(18)]));
        drop((reader, writer));
        if window & 128 != 0 {
            let _ = phase.send(Phase::Draining);
        }
        let end = tokio::time::timeout(LIMIT, serving).await;
        assert!(end.is_ok_and(|end| end.is_ok()), "the connection does not end");
    });
}
