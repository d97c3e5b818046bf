//! The answers of a component: any bytes in the memory of a real guest, lifted by wasmtime and
//! checked by the host.
//!
//! Each target decodes the same bytes by itself, by the rules of the Canonical ABI and of the
//! contract in `wit/`, and the host must come to the same result: the same chunks, extents, disk,
//! description or effect of a route, the same kind of refusal, or a fault.

mod chunks;
mod description;
mod disk;
mod extents;
mod guest;
mod memory;
mod routes;

pub(crate) use chunks::chunks;
pub(crate) use description::description;
pub(crate) use disk::disk;
pub(crate) use extents::extents;
pub(crate) use routes::routes;

/// The longest text that the host takes from a component, in bytes.
const MAX_TEXT: usize = 4096;

/// A text as the host may show it.
fn check_text(text: &str) {
    assert!(text.len() <= MAX_TEXT, "{} bytes of text", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// Whether a character would do harm where it is shown.
fn is_replaced(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Checks that the host shows the text that the component has.
fn check_shown(shown: &str, said: &str) {
    check_shown_up_to(shown, said, MAX_TEXT);
}

/// As [`check_shown`], for texts that are cut after so many bytes.
fn check_shown_up_to(shown: &str, said: &str, most: usize) {
    check_text(shown);
    let mut said = said.chars();
    for c in shown.chars() {
        let said = said.next().expect("the host adds nothing");
        assert!(
            if is_replaced(said) { c == ' ' } else { c == said },
            "{c:?} is shown for {said:?}"
        );
    }
    let next = said.next().map_or(0, |c| if is_replaced(c) { 1 } else { c.len_utf8() });
    assert!(next == 0 || shown.len() + next > most, "a text is cut early");
}
