//! Components written by hand, in WebAssembly's text format.

use std::path::Path;

/// Writes a module or component to a file.
pub(crate) fn wasm(path: &Path, text: &str) {
    let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    std::fs::write(path, bytes).expect("the test's directory is writable");
}
