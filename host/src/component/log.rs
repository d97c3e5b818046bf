//! The interface `log`, which components import.

use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

use super::bindings::Level;
use super::state::State;
use super::{CONTRACT_VERSION, LOG};

/// Provides the interface to components.
pub(super) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut log = linker.instance(&format!("{LOG}@{CONTRACT_VERSION}"))?;
    let say = |store: StoreContextMut<'_, State>, (level, message): (Level, String)| {
        store.data().log().line(level.into(), &message);
        Ok(())
    };
    log.func_wrap("log", say)
}
