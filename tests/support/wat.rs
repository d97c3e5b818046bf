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
