//! Snapshots of a disk under connected clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::client::*;
use super::*;
use crate::component::tests::LONG;
use crate::component::{BuiltIn, Engine};
use crate::device::guest::{Budgets, DiskConfig};
use crate::device::snapshot::{Layer, LayerContext, Snapshot};
use crate::device::{Device, Divided, LowerSource, OwnDisk, open};
use crate::exports::Export;

const MIB: u64 = 1 << 20;
const MARK: u64 = 60 * MIB;

async fn configured(context: &LayerContext, component: &str, words: &[&str]) -> DiskConfig {
    let built_in = BuiltIn::find(component).unwrap();
    let component = context.engine.load_built_in(built_in).await.unwrap();
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let arguments = component.description().parse_arguments(&words).unwrap();
    let budgets = context.budgets.clone();
    DiskConfig { arguments, budgets, ..config("disk", component) }
}

/// A disk in memory with a filter.
async fn filtered(context: &LayerContext) -> Arc<dyn Device> {
    let memory = configured(context, "memory", &["size=64M"]).await;
    let memory: Arc<dyn LowerSource> = Arc::new(OwnDisk(memory));
    let filter = configured(context, "error", &["base="]).await;
    open(DiskConfig { lowers: vec![("base".into(), memory)], ..filter }).await.unwrap()
}

/// Takes a snapshot of what is beneath the filter, and puts a new layer there.
async fn take(export: &Export, context: &LayerContext, layer: &mut Option<Layer>) -> Snapshot {
    let held = export.hold(PATIENCE).await.expect("it comes to its turn");
    let divided = Divided::of(held.device(), 1).unwrap();
    let snapshot = match layer.as_ref() {
        Some(layer) => layer.freeze().await.unwrap(),
        None => Snapshot::of(divided.beneath().clone()).await.unwrap(),
    };
    let next = snapshot.layer(context).await.unwrap();
    held.replace(divided.replace(next.device().clone()).unwrap()).unwrap();
    *layer = Some(next);
    snapshot
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_under_load_do_not_notice_snapshots_beneath_a_filter() {
    let layers = LayerContext {
        engine: Engine::new(LONG),
        export_name: "disk".into(),
        budgets: Budgets::alone(2 << 30),
    };
    let export = Export::of_device("disk", filtered(&layers).await);
    let (context, _phase) = context_of_exports(vec![export.clone()]);
    let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
    assert_eq!(client.call(WRITE, MARK, 4096).await.error, 0);
    let faults = export.controls().into_iter().find(|one| one.component() == "error").unwrap();
    faults.execute("set", &["error-trim-rate=100%".to_owned()]).await.unwrap();
    let done = watch::Sender::new(false);
    let rounds: Arc<[AtomicUsize; 3]> = Arc::default();
    let loads = (0..3_u64).map(|number| {
        let (context, rounds, done) = (context.clone(), rounds.clone(), done.subscribe());
        tokio::spawn(async move {
            let mut client = Client::over_socket(&context, STYLES[number as usize]).await;
            while !*done.borrow() {
                for (at, length) in [(number * 9 * MIB + 512, 4096), (number * 9 * MIB, 700_000)] {
                    assert_eq!(client.call(WRITE, at, length).await.error, 0);
                    let read = client.call(READ, at, length).await;
                    assert!(read.data.iter().all(|&byte| byte == 0x77), "what was written");
                    assert_eq!(client.call(WRITE_ZEROES, at, length).await.error, 0);
                    let read = client.call(READ, at, length).await;
                    assert!(read.data.iter().all(|&byte| byte == 0), "what was zeroed");
                }
                rounds[number as usize].fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let loads: Vec<_> = loads.collect();
    let mut layer = None;
    let first = take(&export, &layers, &mut layer).await;
    assert_eq!(client.call(WRITE_ZEROES, MARK, 4096).await.error, 0);
    let mut taken = 1;
    while taken < 20 || rounds.iter().any(|rounds| rounds.load(Ordering::Relaxed) < 2) {
        take(&export, &layers, &mut layer).await;
        taken += 1;
    }
    done.send_replace(true);
    for load in loads {
        load.await.unwrap();
    }
    assert_eq!(export.generation(), taken);
    assert_eq!(client.call(READ, MARK, 4096).await.data, [0; 4096]);
    assert_ne!(client.call(TRIM, MARK, 4096).await.error, 0, "the filter is the same");
    let first = Export::of_device("disk", first.read_only(&layers).await.unwrap());
    let (context, _phase) = context_of_exports(vec![first]);
    let mut client = Client::over_socket(&context, ReplyStyle::Structured).await;
    assert_eq!(client.call(READ, MARK, 4096).await.data, [0x77; 4096], "as it was");
}
