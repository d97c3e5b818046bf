//! Streams that are shorter than a record, and files of keys.

mod keys;
mod stream;

use std::path::PathBuf;

use tempfile::TempDir;

/// A file that nobody else can read.
fn secret(text: &str) -> (TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("secret");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    (directory, path)
}
