//! Assembles hostile components from a well-behaved disk and the blocks that an attack replaces.
//!
//! The end-to-end tests and the benchmarks load these components. This crate knows neither the host
//! nor the attacks: it replaces text between comments and encodes the result.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The directory of the base and of the attacks' overlays.
const COMPONENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../components");

const BEGIN: &str = ";; begin ";
const END: &str = ";; end ";

/// Reads the overlay of this name, `fill` for `components/fill.wat`.
///
/// # Errors
///
/// When the file cannot be read; the text names it.
pub fn overlay(name: &str) -> Result<String, String> {
    read(&Path::new(COMPONENTS).join(name).with_extension("wat"))
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Assembles the base with the blocks of `overlays`; where two have the same block, the last one
/// counts.
///
/// # Errors
///
/// When an overlay is not a sequence of blocks, when the base lacks one of them, or when the result
/// is not WebAssembly text.
pub fn assemble<T: AsRef<str>>(overlays: &[T]) -> Result<Vec<u8>, String> {
    let mut blocks = HashMap::new();
    for overlay in overlays {
        blocks.extend(blocks_of(overlay.as_ref())?);
    }
    let text = replace(&overlay("base")?, &blocks)?;
    wat::parse_str(&text).map_err(|error| error.to_string())
}

/// Replaces the blocks of `base`; a block that occurs twice is replaced twice.
fn replace(base: &str, blocks: &HashMap<&str, String>) -> Result<String, String> {
    let mut text = String::new();
    let mut unused: Vec<&str> = blocks.keys().copied().collect();
    let mut replaced = false;
    for line in base.lines() {
        let comment = line.trim();
        if let Some(block) = comment.strip_prefix(BEGIN).and_then(|name| blocks.get_key_value(name))
        {
            text.push_str(block.1);
            unused.retain(|name| name != block.0);
            replaced = true;
        } else if comment.starts_with(END) {
            replaced = false;
        } else if !replaced && !comment.starts_with(BEGIN) {
            text.push_str(line);
            text.push('\n');
        }
    }
    match unused.first() {
        Some(name) => Err(format!("the base has no block {name:?}")),
        None => Ok(text),
    }
}

/// Takes an overlay apart into its blocks by name. Outside of blocks there are comments only.
fn blocks_of(overlay: &str) -> Result<HashMap<&str, String>, String> {
    let mut blocks = HashMap::new();
    let mut open: Option<(&str, String)> = None;
    for line in overlay.lines() {
        let comment = line.trim();
        match (&mut open, comment.strip_prefix(BEGIN), comment.strip_prefix(END)) {
            (None, Some(name), _) => open = Some((name, String::new())),
            (Some((name, _)), None, Some(end)) if *name == end => blocks.extend(open.take()),
            (Some((_, text)), None, None) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None, None) if comment.is_empty() || comment.starts_with(";;") => {}
            _ => return Err(format!("out of place in an overlay: {line:?}")),
        }
    }
    match open {
        Some((name, _)) => Err(format!("the block {name:?} has no end")),
        None => Ok(blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "one\n;; begin a\ntwo\n;; end a\nthree\n  ;; begin a\n;; end a\n";

    fn replaced(overlay: &str) -> Result<String, String> {
        replace(BASE, &blocks_of(overlay)?)
    }

    #[test]
    fn blocks_are_replaced_wherever_they_occur() {
        assert_eq!(replaced("").unwrap(), "one\ntwo\nthree\n");
        let overlay = ";; why\n\n;; begin a\nA\n;; end a\n";
        assert_eq!(replaced(overlay).unwrap(), "one\nA\nthree\nA\n");
    }

    #[test]
    fn mistakes_in_overlays_are_told() {
        for (overlay, said) in [
            (";; begin b\n;; end b", "no block \"b\""),
            (";; begin a\n", "\"a\" has no end"),
            (";; begin a\n;; end b", "out of place"),
            ("(module)", "out of place"),
        ] {
            let error = replaced(overlay).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn every_overlay_makes_a_component() {
        for entry in fs::read_dir(COMPONENTS).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|name| name != "base") {
                let overlay = read(&path).unwrap();
                assemble(&[&overlay]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
        }
    }
}
