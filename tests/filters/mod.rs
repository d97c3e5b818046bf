//! Filters and chains of disks, with real clients, and beside nbdkit's filters of the same names.

mod chains;
mod layers;
mod links;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::run;

/// The example of a copy-on-write layer, built once; `None` where nothing builds for WebAssembly.
fn cow() -> Option<&'static Path> {
    static COW: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = COW.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let finished = run(Command::new(root.join(".ci/components")).arg("examples"));
        if finished.stderr.contains("no compiler here builds") {
            assert!(std::env::var_os("CI").is_none(), "{finished}");
            eprintln!("skipped: {finished}");
            return None;
        }
        Some(Path::new(finished.success().trim_end()).join("cow.wasm"))
    });
    built.as_deref()
}
