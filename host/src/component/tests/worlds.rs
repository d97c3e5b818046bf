//! Files that are no backend of this contract.

use super::LONG;
use super::guest::Guest;
use crate::component::{Component, Engine, Fault, LoadError, MemoryBudget};

async fn load(wasm: &[u8]) -> Result<Component, LoadError> {
    Engine::new(LONG).load("guest", wasm).await
}

async fn load_text(wat: &str) -> Result<Component, LoadError> {
    load(&wat::parse_str(wat).unwrap()).await
}

#[tokio::test]
async fn what_is_not_webassembly_is_told() {
    for bytes in [b"".as_slice(), b"\0", b"\0asm", b"\0asm\x01\0", b"(component)", b"#!/bin/sh\n"] {
        let error = load(bytes).await.unwrap_err();
        assert!(matches!(error, LoadError::NotWasm), "{bytes:?}: {error:?}");
    }
    let error = load_text("(module)").await.unwrap_err();
    assert!(matches!(error, LoadError::CoreModule), "{error:?}");
    let wasm = Guest::new().wasm();
    let error = load(&wasm[..wasm.len() / 2]).await.unwrap_err();
    assert!(matches!(error, LoadError::Invalid(_)), "{error:?}");
}

#[tokio::test]
async fn other_worlds_are_told() {
    let error = load_text("(component)").await.unwrap_err();
    assert!(matches!(&error, LoadError::World(exports) if exports.is_empty()), "{error:?}");
    let error = load_text(
        r#"(component (component $c) (instance $i (instantiate $c))
            (export "wasi:cli/run@0.2.0" (instance $i)))"#,
    );
    let error = error.await.unwrap_err();
    let LoadError::World(exports) = &error else { panic!("{error:?}") };
    assert_eq!(exports[..], ["wasi:cli/run@0.2.0"]);
    // The name alone does not make it a backend.
    let error = load_text(
        r#"(component (component $c) (instance $i (instantiate $c))
            (export "memnbd:block/block-store@0.2.0" (instance $i)))"#,
    );
    let error = error.await.unwrap_err();
    assert!(matches!(error, LoadError::Fault(Fault::Start(_))), "{error:?}");
}

#[tokio::test]
async fn long_lists_of_exports_are_cut() {
    let exports: String =
        (0..500).map(|n| format!(r#"(export "test:test/test{n}" (instance $i))"#)).collect();
    let wat = format!("(component (component $c) (instance $i (instantiate $c)) {exports})");
    let error = load_text(&wat).await.unwrap_err();
    assert!(matches!(error, LoadError::World(_)), "{error:?}");
    assert!(error.to_string().len() < 500, "{error}");
}

/// A patch release changes nothing that was there, so each side may be the newer one.
#[tokio::test]
async fn patch_releases_of_the_contract_are_served() {
    for version in ["0.2.0", "0.2.1", "0.2.99"] {
        let interface = format!("memnbd:block/block-store@{version}");
        let component = load(&Guest::new().with("interface", interface).wasm()).await.unwrap();
        let mut instance = component.start(MemoryBudget::new(1 << 30)).await.unwrap();
        instance.open("", false, &[]).await.unwrap().unwrap();
        instance.read(0, 4096).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn other_versions_of_the_contract_are_told() {
    for version in ["0.1.0", "1.0.0", "0.0.1", "0.2.0-rc.1", "0.20.0"] {
        let interface = format!("memnbd:block/block-store@{version}");
        let error = load(&Guest::new().with("interface", interface).wasm()).await.unwrap_err();
        assert!(matches!(&error, LoadError::Version(v) if v == version), "{error:?}");
        let changes = error.to_string().contains("what changed since 0.1: ");
        assert_eq!(changes, version == "0.1.0", "{error}");
    }
    let guest = Guest::new().with("interface", "memnbd:block/block-store");
    let error = load(&guest.wasm()).await.unwrap_err();
    assert!(matches!(error, LoadError::Version(_)), "{error:?}");
    let guest = Guest::new().with("interface", "memnbd:block/block-stores@0.2.0");
    let error = load(&guest.wasm()).await.unwrap_err();
    assert!(matches!(error, LoadError::World(_)), "{error:?}");
}

#[tokio::test]
async fn functions_of_other_types_are_told() {
    let guests =
        [Guest::new().with("length-type", "s32"), Guest::new().with("stored-name", "storedd")];
    for (guest, function) in guests.into_iter().zip(["read", "stored"]) {
        let error = load(&guest.wasm()).await.unwrap_err();
        assert!(matches!(error, LoadError::Fault(Fault::Start(_))), "{error:?}");
        assert!(error.to_string().contains(function), "{error}");
    }
}

#[tokio::test]
async fn unknown_imports_are_told() {
    let guest = Guest::new()
        .with(
            "imports",
            r#"(import "test:test/thing@1.0.0" (instance $thing (export "f" (func))))"#,
        )
        .with("pass", r#"(with "test:test/thing@1.0.0" (instance $thing))"#);
    let error = load(&guest.wasm()).await.unwrap_err();
    let LoadError::Imports { imports, .. } = &error else { panic!("{error:?}") };
    assert_eq!(imports[..], ["test:test/thing@1.0.0"]);
}
