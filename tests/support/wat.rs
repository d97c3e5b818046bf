//! Components written by hand, in WebAssembly's text format.

use std::path::Path;

/// Writes a module or component to a file.
pub(crate) fn wasm(path: &Path, text: &str) {
    let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    std::fs::write(path, bytes).expect("the test's directory is writable");
}

/// Writes a component that is small and takes very long to compile, and much memory: nested loops, each
/// with all local variables alive in it.
pub(crate) fn bomb(path: &Path, (loops, locals): (u32, u32)) {
    let declared = " i32".repeat(locals as usize);
    let changes: String = (0..locals)
        .map(|local| format!("(local.set {local} (i32.add (local.get {local}) (i32.const 1)))"))
        .collect();
    let ends: String =
        (0..loops).map(|depth| format!("(br_if 0 (local.get {}))end ", depth % locals)).collect();
    let begins = "loop ".repeat(loops as usize);
    wasm(
        path,
        &format!("(component (core module (func (local{declared}) {begins} {changes} {ends})))"),
    );
}
