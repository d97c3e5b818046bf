//! Components written by hand, in WebAssembly's text format.

use std::path::Path;

const GUEST: &str = include_str!("guest.wat");

/// Never returns, but lets the host interrupt it.
pub(crate) const LOOP: &str = "(loop (br 0))";

/// Code that the host cannot interrupt for far longer than a server may take to stop: it looks for
/// the end of its time in loops and at calls, and here are none.
pub(crate) fn uninterruptible() -> String {
    "(memory.fill (i32.const 0x10000) (i32.const 1) (i32.const 0x8000000))".repeat(4000)
}

/// Writes a module or component to a file.
pub(crate) fn wasm(path: &Path, text: &str) {
    let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    std::fs::write(path, bytes).expect("the test's directory is writable");
}

/// Writes a component whose functions of these names begin with this code: `open`, `write` or `flush`.
pub(crate) fn guest(path: &Path, code: &[(&str, &str)]) {
    let mut text = GUEST.to_owned();
    for function in ["open", "write", "flush"] {
        let code = code.iter().find(|(name, _)| *name == function).map_or("", |(_, code)| code);
        text = text.replace(&format!("{{{{{function}}}}}"), code);
    }
    wasm(path, &text);
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
