//! Exports that get ready in their own time, or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::component::tests::guest::Guest;
use crate::component::tests::opening::refusal;
use crate::component::tests::{LONG, load};
use crate::component::{Component, Fault, LoadError};
use crate::device::guest::DiskConfig;

/// A source that is told when to answer, and what.
#[derive(Clone)]
pub(crate) struct Scripted {
    component: Component,
    /// What the next calls fail with; after that they succeed.
    failures: fn(usize) -> Option<LoadError>,
    calls: Arc<AtomicUsize>,
    pub(crate) go: Arc<Semaphore>,
}

impl Source for Scripted {
    fn load<'a>(&'a self, stage: &'a (dyn Fn(Stage) + Send + Sync)) -> Loading<'a> {
        Box::pin(async move {
            stage(Stage::Compiling);
            self.go.acquire().await.unwrap().forget();
            match (self.failures)(self.calls.fetch_add(1, Ordering::Relaxed)) {
                Some(error) => {
                    Err(Problem::Load { component: "x.wasm".into(), error: Arc::new(error) })
                }
                None => Ok(Supplied::Guest(Box::new(config(self.component.clone())))),
            }
        })
    }

    fn label(&self) -> &str {
        "x.wasm"
    }
}

fn config(component: Component) -> DiskConfig {
    DiskConfig {
        component,
        export_name: "disk".into(),
        read_only: false,
        arguments: Vec::new(),
        budgets: crate::device::guest::Budgets::alone(64 << 20),
        lowers: Vec::new(),
        client: None,
    }
}

/// An export that is called "disk".
pub(crate) async fn scripted(failures: fn(usize) -> Option<LoadError>) -> (Arc<Export>, Scripted) {
    let guest = Guest::new();
    let component = load(&guest, LONG).await.unwrap();
    let source =
        Scripted { component, failures, calls: Arc::default(), go: Arc::new(Semaphore::new(0)) };
    (Export::of_source("disk", Arc::new(source.clone())), source)
}

pub(crate) fn deadline(_: usize) -> LoadError {
    LoadError::Fault(Fault::Deadline(None, Duration::from_secs(1)))
}

#[tokio::test]
async fn who_asks_early_waits() {
    let (export, source) = scripted(|_| None).await;
    assert_eq!(export.description(), "");
    let asking: Vec<_> = (0..3)
        .map(|_| {
            let export = export.clone();
            tokio::spawn(async move { export.disk().await.map(drop) })
        })
        .collect();
    export.settled_or_compiling().await;
    tokio::task::yield_now().await;
    assert!(["compiling", ""].contains(&export.description().as_str()));
    source.go.add_permits(1);
    for asking in asking {
        asking.await.unwrap().unwrap();
    }
    assert_eq!(source.calls.load(Ordering::Relaxed), 1);
    assert_eq!(export.description(), "a guest");
}

#[tokio::test]
async fn first_to_ask_may_go_away() {
    let (export, source) = scripted(|_| None).await;
    let asking = export.clone();
    let impatient = tokio::time::timeout(Duration::from_millis(10), asking.disk());
    assert!(impatient.await.is_err());
    source.go.add_permits(1);
    export.disk().await.unwrap();
}

#[tokio::test]
async fn start_is_claimed_before_anybody_asks() {
    let (export, source) = scripted(|_| None).await;
    let start = export.start(false);
    assert_eq!(export.description(), "loading");
    let asking = tokio::spawn({
        let export = export.clone();
        async move { export.disk().await.map(drop) }
    });
    source.go.add_permits(1);
    start.await.unwrap();
    asking.await.unwrap().unwrap();
    assert_eq!(source.calls.load(Ordering::Relaxed), 1, "the config is kept");
}

#[tokio::test]
async fn what_cannot_change_fails_for_good() {
    let (export, source) = scripted(|_| Some(LoadError::NotWasm)).await;
    source.go.add_permits(9);
    for _ in 0..3 {
        let failed = export.disk().await.err().unwrap();
        assert!(failed.to_string().starts_with("load component x.wasm: not a WebAssembly"));
        assert!(export.description().starts_with("failed: load component x.wasm: not a "));
    }
    assert_eq!(source.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_may_pass_is_tried_again_after_a_pause() {
    let (export, source) = scripted(|call| (call == 0).then(|| deadline(call))).await;
    source.go.add_permits(9);
    assert!(export.start(true).await.is_err());
    for _ in 0..3 {
        let failed = export.disk().await.err().unwrap().to_string();
        assert!(failed.contains("deadline") && failed.contains("next try"), "{failed}");
    }
    assert_eq!(source.calls.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    export.disk().await.unwrap();
    assert_eq!(source.calls.load(Ordering::Relaxed), 2);
    assert_eq!(export.description(), "a guest");
}

#[tokio::test]
async fn panic_is_a_failure() {
    let (export, source) = scripted(|_| panic!("on purpose")).await;
    source.go.add_permits(9);
    let failed = export.disk().await.err().unwrap();
    assert!(matches!(*failed.problem, Problem::Panicked));
    assert!(export.description().starts_with("failed: "));
}

#[tokio::test]
async fn refusal_of_the_component_is_final() {
    let guest = refusal(b'x', 3);
    let export = Export::new(config(load(&guest, LONG).await.unwrap()));
    for _ in 0..2 {
        let failed = export.disk().await.err().unwrap();
        assert_eq!(failed.to_string(), "disk: xxx");
        assert!(!failed.problem.may_pass());
    }
}

#[tokio::test]
async fn first_export_may_answer_to_all_names() {
    let (export, _) = scripted(|_| None).await;
    let exports = Exports::only(export);
    let (_, source) = scripted(|_| None).await;
    exports.add(Export::of_source("other", Arc::new(source))).unwrap();
    assert!(exports.find("third").is_none());
    exports.answer_any_name();
    for (name, found) in [("", "disk"), ("disk", "disk"), ("third", "disk"), ("other", "other")] {
        assert_eq!(exports.find(name).unwrap().name(), found, "{name:?}");
        assert_eq!(exports.request(name).export.unwrap().name(), found, "{name:?}");
    }
    assert_eq!(exports.list().len(), 2, "no names are listed that were made up");
}

#[tokio::test]
async fn observer_is_told_what_happens_to_exports() {
    use std::sync::Mutex;

    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let observed = told.clone();
    let observe = move |export: &Export, change: Change| {
        let on_demand = if export.is_on_demand() { " on demand" } else { "" };
        let line = match change {
            Change::State(state) => format!("{}: {state}", export.name()),
            other => format!("{}: {other:?}{on_demand}", export.name()),
        };
        observed.lock().unwrap().push(line);
    };
    let take = || std::mem::take(&mut *told.lock().unwrap());
    let (export, source) = scripted(|call| (call == 0).then(|| LoadError::NotWasm)).await;
    source.go.add_permits(9);
    let exports = Exports::default();
    exports.observe(Box::new(observe));
    exports.add(export.clone()).unwrap();
    assert!(exports.add(export.clone()).is_err());
    assert_eq!(take(), ["disk: Added"]);
    assert!(export.disk().await.is_err());
    let lines = take();
    assert!(lines.len() == 1 && lines[0].starts_with("disk: failed: load component"), "{lines:?}");
    exports.remove("disk", Duration::ZERO).await.unwrap();
    assert_eq!(take(), ["disk: Removed"]);

    let make = move |name: &str| Export::of_source(name, Arc::new(source.clone()));
    exports.on_demand(1, Box::new(make));
    let first = exports.request("first").export.unwrap();
    assert!(first.disk().await.is_ok());
    assert!(exports.request("second").export.is_some());
    let expected = [
        "first: Added on demand",
        "first: live",
        "first: Removed on demand",
        "second: Added on demand",
    ];
    assert_eq!(take(), expected);
    let start = exports.find("second").unwrap().start(false);
    start.await.unwrap();
    assert_eq!(take(), ["second: closed"]);
}

#[tokio::test]
async fn only_disks_that_nobody_may_have_changed_are_closed() {
    let (export, source) = scripted(|_| None).await;
    source.go.add_permits(9);
    assert!(export.close_unchanged().await.is_none(), "it is not open");
    export.disk_for_clients().await.unwrap();
    let port = export.enter().unwrap();
    assert!(export.close_unchanged().await.is_none(), "a client uses it");
    drop(port);
    assert!(export.close_unchanged().await.is_some());
    assert!(export.enter().is_none() && matches!(export.state(), State::Closed));
    let device = export.disk().await.unwrap();
    drop(device);
    assert!(export.close_unchanged().await.is_none(), "its device was given away");
    let device = export.disk().await.unwrap();
    let fixed = Export::of_device("fixed", device);
    assert!(fixed.close_unchanged().await.is_none(), "it cannot be opened again");
}
