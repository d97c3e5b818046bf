//! Filters and chains of disks, with real clients, and beside nbdkit's filters of the same names.

mod access;
mod blocksize;
mod cache;
mod capabilities;
mod chains;
mod commands;
mod connecting;
mod content;
mod corruption;
mod cow;
mod exits;
mod exportname;
mod flushes;
mod layers;
mod limits;
mod links;
mod log;
mod media;
mod moved;
mod nbdkit;
mod notes;
mod partition;
mod programs;
mod retry;
mod scan;
mod silence;
mod space;
mod states;
mod stats;
mod waiting;
mod watching;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::run;

/// A shell script that runs Python code with a connection `h`, and with a function `say` that prints what
/// a call ends with.
fn saying(code: &str) -> String {
    format!(
        r#"
/usr/bin/python3 -c '
import nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
def say(name, call):
    try:
        call()
        print(name, "ok")
    except nbd.Error as error:
        print(name, error.errno)
{code}' "$uri""#
    )
}

/// An example of plugin/guest, as a file. They are built once; `None` where nothing builds for
/// WebAssembly.
fn example(name: &str) -> Option<String> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let finished = run(Command::new(root.join(".ci/components")).arg("examples"));
        if finished.stderr.contains("no compiler here builds") {
            assert!(std::env::var_os("CI").is_none(), "{finished}");
            eprintln!("skipped: {finished}");
            return None;
        }
        Some(finished.success().trim_end().into())
    });
    let path = built.as_ref()?.join(format!("{name}.wasm"));
    Some(path.to_str().unwrap().to_owned())
}
