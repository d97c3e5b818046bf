//! The components that are built in, and what is kept of those that were compiled.

use std::fs;
use std::path::Path;
use std::process::Command;

use memnbd_host::component::Engine;
use tempfile::TempDir;

use crate::support::{Server, memnbd, probe};

#[test]
fn they_import_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::new(std::time::Duration::from_secs(10));
    for (name, path) in
        [("memory", env!("MEMNBD_COMPONENT_MEMORY")), ("pattern", env!("MEMNBD_COMPONENT_PATTERN"))]
    {
        let wasm = fs::read(path).unwrap();
        let component = runtime.block_on(engine.load(name, &wasm)).unwrap();
        assert_eq!(component.imports(), [""; 0], "{name}");
        assert_eq!(component.description().name, name);
    }
}

/// Serves a component that is a file of the directory.
fn serve_file(directory: &TempDir) -> Command {
    fs::copy(env!("MEMNBD_COMPONENT_MEMORY"), directory.path().join("disk.wasm")).unwrap();
    memnbd(directory.path(), ["-U", "socket", "disk.wasm", "1M"])
}

/// Serves with a cache directory of its own; the disk must be there.
fn serves_with_cache(cache: &Path) {
    let directory = TempDir::new().unwrap();
    let mut command = serve_file(&directory);
    let server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache));
    assert_eq!(probe(&server).size, 1 << 20);
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path)),
            path => found.push(path),
        }
    }
    found
}

#[test]
fn compiled_components_are_kept_and_damaged_ones_replaced() {
    let cache = TempDir::new().unwrap();
    serves_with_cache(cache.path());
    let kept = files(cache.path());
    assert!(!kept.is_empty());
    serves_with_cache(cache.path());
    for file in &kept {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    }
    serves_with_cache(cache.path());
}

#[test]
fn cache_that_cannot_be_written_is_done_without() {
    // Root may write anywhere, but not below a file.
    let file = tempfile::NamedTempFile::new().unwrap();
    serves_with_cache(file.path());
    let directory = TempDir::new().unwrap();
    let mut command = serve_file(&directory);
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    assert_eq!(probe(&Server::spawn(directory, &mut command)).size, 1 << 20);
}

#[test]
fn built_in_components_leave_nothing_behind() {
    let cache = TempDir::new().unwrap();
    let directory = TempDir::new().unwrap();
    let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
    let server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache.path()));
    assert_eq!(probe(&server).size, 1 << 20);
    drop(server);
    assert!(files(cache.path()).is_empty());
}
