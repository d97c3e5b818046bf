//! The component whose answers are in a script, and the devices that it stands on.

use std::sync::{Arc, OnceLock};

use memnbd::block::Capabilities;
use memnbd::component::{Component, Engine};
use memnbd::device::guest::{Budgets, DiskConfig};
use memnbd::device::{Device, LowerSource, open as open_device};
use memnbd::parameters::{Argument, Link, Value};
use tokio::runtime::{Builder, Runtime};

use super::LIMIT;
use super::store::{Source, Store};

pub(super) struct Host {
    pub(super) runtime: Runtime,
    /// One that never withdraws its routes, and one that does so whenever it flushes.
    pub(super) components: [Component; 2],
}

pub(super) fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let components = [false, true].map(|withdraws| {
            let wasm = wat::parse_str(text(withdraws)).unwrap();
            runtime.block_on(Engine::new(LIMIT).load("guest", &wasm)).unwrap()
        });
        Host { runtime, components }
    })
}

/// The text of the component.
fn text(withdraws: bool) -> String {
    let import = r#"(import "memnbd:block/lower@0.2.0" (instance $lower
      (type $k' (variant (case "data" (list u8)) (case "hole" u32)))
      (export "chunk" (type $k (eq $k')))
      (type $n' (enum "eperm" "eio" "enomem" "einval" "enospc" "eoverflow" "enotsup" "eshutdown"))
      (export "error-code" (type $n (eq $n')))
      (type $e' (record (field "code" $n) (field "message" (option string))))
      (export "error" (type $e (eq $e')))
      (export "read" (func (param "device" u32) (param "offset" u64) (param "length" u32)
        (result (result (list $k) (error $e)))))
      (export "cache" (func (param "device" u32) (param "offset" u64) (param "length" u64)
        (result (result (error $e)))))
      {{import-withdraw}}))"#;
    let parts = [
        ("{{import-withdraw}}", r#"(export "withdraw-routes" (func))"#),
        ("{{core-import}}", r#"(import "lower" "withdraw-routes" (func $withdraw))"#),
        ("{{lowered}}", r#"(core func $withdraw (canon lower (func $lower "withdraw-routes")))"#),
        ("{{with}}", r#"(export "withdraw-routes" (func $withdraw))"#),
        ("{{withdraw}}", "(call $withdraw)"),
    ];
    let text = include_str!("../../../routing.wat").replace("{{import}}", import);
    parts
        .iter()
        .fold(text, |text, (part, with)| text.replace(part, if withdraws { with } else { "" }))
}

/// Two devices with bytes that tell their places, and the script.
pub(super) fn lowers(offers: u8, image: &[u8]) -> [Arc<Store>; 3] {
    let has = |bit: u8| offers >> bit & 1 == 0;
    let everything = Capabilities {
        writable: true,
        flush: true,
        fua: true,
        trim: true,
        zero: true,
        fast_zero: true,
        cache: true,
        multi_conn: true,
        rotational: false,
    };
    let some = Capabilities {
        writable: has(0),
        fua: has(1),
        trim: has(2),
        zero: has(3),
        fast_zero: has(3),
        cache: has(4),
        ..everything
    };
    let numbered = |size: u32, seed: u32| (0..size).map(|at| ((at >> 6) + seed) as u8).collect();
    [
        Store::new(numbered(0xc000, 1), everything),
        Store::new(numbered(0x8000, 100), some),
        Store::new(image.to_vec(), Capabilities { writable: false, ..everything }),
    ]
}

pub(super) async fn open(
    component: &Component,
    lowers: &[Arc<Store>; 3],
) -> Option<Arc<dyn Device>> {
    let source = |lower: &Arc<Store>| {
        ("lower".to_owned(), Arc::new(Source(lower.clone())) as Arc<dyn LowerSource>)
    };
    let link = Link { writes: true, ..Link::default() };
    let argument = || Argument { name: "lower".into(), value: Value::Device("x".into(), link) };
    let config = DiskConfig {
        component: component.clone(),
        export_name: "export".into(),
        read_only: false,
        arguments: (0..lowers.len()).map(|_| argument()).collect(),
        budgets: Budgets::alone(64 << 20),
        lowers: lowers.iter().map(source).collect(),
        client: None,
    };
    open_device(config).await.ok()
}
