//! The outputs of a thread.

use alloc::string::String;
use alloc::vec::Vec;
use std::cell::RefCell;

use crate::{Error, Output};

std::thread_local! {
    static OUTPUTS: RefCell<Vec<(Vec<u8>, usize)>> = const { RefCell::new(Vec::new()) };
}

/// Adds an output to this thread.
pub fn output() -> Output {
    output_of(usize::MAX)
}

/// Adds an output to this thread that takes at most `limit` bytes.
pub fn output_of(limit: usize) -> Output {
    OUTPUTS.with_borrow_mut(|outputs| {
        outputs.push((Vec::new(), limit));
        Output::new(outputs.len() as u32 - 1)
    })
}

/// Returns what was written to an output since this was last asked.
///
/// # Panics
///
/// Panics if that is no text.
pub fn written(output: Output) -> String {
    let bytes = OUTPUTS
        .with_borrow_mut(|outputs| core::mem::take(&mut outputs[output.number() as usize].0));
    String::from_utf8(bytes).expect("it is text")
}

pub(crate) fn append(output: Output, data: &[u8]) -> Result<(), Error> {
    OUTPUTS.with_borrow_mut(|outputs| {
        let (bytes, limit) = &mut outputs[output.number() as usize];
        if bytes.len() + data.len() > *limit {
            return Err(Error::ENOSPC);
        }
        bytes.extend_from_slice(data);
        Ok(())
    })
}
