//! The components that are built in, and what is kept of those that were compiled.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use memnbd::component::Engine;
use tempfile::TempDir;

use crate::support::{MEMORY_WASM, PATTERN_WASM, Server, memnbd, probe, run, shell};

#[test]
fn they_import_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let engine = Engine::new(std::time::Duration::from_secs(10));
    for (name, path) in [("memory", MEMORY_WASM), ("pattern", PATTERN_WASM)] {
        let wasm = fs::read(path).unwrap();
        let component = runtime.block_on(engine.load(name, &wasm)).unwrap();
        assert_eq!(component.imports(), [""; 0], "{name}");
        assert_eq!(component.description().name, name);
    }
}

/// Serves a component that is a file of the directory.
fn serve_file(directory: &TempDir) -> Command {
    fs::copy(MEMORY_WASM, directory.path().join("disk.wasm")).unwrap();
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

/// The files that are kept, all of which are ours alone.
fn kept(cache: &Path) -> Vec<std::path::PathBuf> {
    let kept = files(cache);
    for path in &kept {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{}", path.display());
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }
    kept
}

#[test]
fn cache_is_private_whatever_the_umask() {
    let directory = TempDir::new().unwrap();
    fs::copy(MEMORY_WASM, directory.path().join("disk.wasm")).unwrap();
    let script = "umask 0; \"$MEMNBD\" disk.wasm 1M --run true";
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    run(command.env("XDG_CACHE_HOME", directory.path().join("a/b"))).success();
    for made in ["a", "a/b", "a/b/memnbd"] {
        let mode = fs::metadata(directory.path().join(made)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o700, "{made}");
    }
    assert_eq!(kept(&directory.path().join("a")).len(), 1);
}

#[test]
fn damaged_code_is_found_out_and_replaced() {
    let cache = TempDir::new().unwrap();
    serves_with_cache(cache.path());
    let kept = kept(cache.path());
    let [file] = &kept[..] else { panic!("{kept:?}") };
    let good = fs::read(file).unwrap();
    for at in [0, 20, 60, 100, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(file, bytes).unwrap();
        serves_with_cache(cache.path());
        assert!(fs::read(file).unwrap() == good, "it is not replaced");
    }
}

/// Serves with a cache directory that somebody else could have written to: it is not touched.
fn refuses_cache(cache: &Path, words: &str) {
    let before = files(cache);
    let directory = TempDir::new().unwrap();
    let mut command = serve_file(&directory);
    let mut server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache));
    server.expect_log("compiled components are not cached, and none are loaded from ");
    server.expect_log(words);
    assert_eq!(probe(&server).size, 1 << 20);
    assert_eq!(files(cache), before);
}

#[test]
fn cache_that_others_can_write_is_refused() {
    let cache = TempDir::new().unwrap();
    serves_with_cache(cache.path());
    for place in ["", "memnbd"] {
        let place = cache.path().join(place);
        for mode in [0o770, 0o707] {
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).unwrap();
            refuses_cache(cache.path(), &format!("has the mode 0{mode:o}"));
        }
        fs::set_permissions(&place, fs::Permissions::from_mode(0o700)).unwrap();
    }
    serves_with_cache(cache.path());
}

#[test]
fn cache_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped, for only root can give files away");
        return;
    }
    let cache = TempDir::new().unwrap();
    serves_with_cache(cache.path());
    let foreign = |path: &Path, user| chown(path, Some(user), None).unwrap();
    for place in ["", "memnbd"] {
        let place = cache.path().join(place);
        foreign(&place, 12345);
        refuses_cache(cache.path(), "belongs to user 12345");
        foreign(&place, 0);
    }
    // A file of theirs is removed.
    let file = kept(cache.path()).remove(0);
    foreign(&file, 12345);
    let directory = TempDir::new().unwrap();
    let mut command = serve_file(&directory);
    let mut server = Server::spawn(directory, command.env("XDG_CACHE_HOME", cache.path()));
    server.expect_log("it belongs to user 12345");
    assert_eq!(probe(&server).size, 1 << 20);
    assert_eq!(kept(cache.path()), [file]);
}

#[test]
fn processes_share_a_cache() {
    let cache = TempDir::new().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| serves_with_cache(cache.path()));
        }
    });
    assert_eq!(kept(cache.path()).len(), 1);
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
