//! The interface `output`, which components import.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, WasmList};

use super::bindings;
use super::contract::MAX_APPENDED;
use super::functions::Answer;
use super::state::State;
use super::{CONTRACT_VERSION, OUTPUT};
use crate::block::{Error, ErrorCode};
use crate::output::Full;

/// Provides the interface to components.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    type Parameters = (u32, WasmList<u8>);
    let append = |store: StoreContextMut<'_, State>, (output, data): Parameters| {
        let outputs = store.data().outputs();
        let Some(found) = outputs.get(output as usize) else {
            let count = outputs.len();
            return Err(wasmtime::format_err!(
                "it used the output {output}, which was not among its arguments; it has {count}"
            ));
        };
        let data = data.as_le_slice(&store);
        let answer: Answer<()> = match data.len() {
            length if length > MAX_APPENDED => Err(bindings::Error {
                code: bindings::ErrorCode::Inval,
                message: Some(format!(
                    "{length} bytes at once; at most {MAX_APPENDED} are possible"
                )),
            }),
            _ => found.append(data).map_err(|Full| Error::from(ErrorCode::NoSpc).into()),
        };
        Ok((answer,))
    };
    linker.instance(&format!("{OUTPUT}@{CONTRACT_VERSION}"))?.func_wrap("append", append)
}
