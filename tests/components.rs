//! The components that are built in, and what is kept of those that were compiled.

use std::fs;
use std::path::Path;

use memnbd_host::component::Engine;
use tempfile::TempDir;

use crate::support::{Server, memnbd, probe};

#[test]
fn they_import_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::new(std::time::Duration::from_secs(10)).unwrap();
    for (name, path) in
        [("memory", env!("MEMNBD_COMPONENT_MEMORY")), ("pattern", env!("MEMNBD_COMPONENT_PATTERN"))]
    {
        let wasm = fs::read(path).unwrap();
        let component = runtime.block_on(engine.load(name, &wasm)).unwrap();
        assert_eq!(component.imports(), [""; 0], "{name}");
        assert_eq!(component.description().name, name);
    }
}

/// A server with a cache directory of its own; the disk must be there.
fn serves_with_cache(directory: TempDir, cache: &Path) -> TempDir {
    let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
    let server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache));
    assert_eq!(probe(&server).size, 1 << 20);
    drop(server);
    TempDir::new().unwrap()
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
    let directory = serves_with_cache(TempDir::new().unwrap(), cache.path());
    let kept = files(cache.path());
    assert!(!kept.is_empty());
    let directory = serves_with_cache(directory, cache.path());
    for file in &kept {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    }
    serves_with_cache(directory, cache.path());
}

#[test]
fn cache_that_cannot_be_written_is_done_without() {
    let directory = TempDir::new().unwrap();
    // Root may write anywhere, but not below a file.
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let directory = serves_with_cache(directory, &file);
    let command = &mut memnbd(directory.path(), ["-U", "socket", "1M"]);
    command.env_remove("XDG_CACHE_HOME").env_remove("HOME");
    assert_eq!(probe(&Server::spawn(directory, command)).size, 1 << 20);
}
