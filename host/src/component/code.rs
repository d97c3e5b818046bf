//! The two ways by which machine code enters the process. There is no third: who compiles, keeps or
//! finds code is told by safe functions, and this module alone hands it to wasmtime.
//!
//! # Safety
//!
//! wasmtime runs what it is given here as a part of this process, so the bytes must be what
//! `Engine::precompile_component` of this wasmtime returned. That it was this version, with
//! settings and processor features that fit the engine, wasmtime checks itself; that nobody changed
//! the bytes, it cannot. So there are two origins and no more:
//!
//! - The program's own read-only data ([`BuiltInCode`]), filled by the build script.
//! - An [`Artifact`], which only [`super::compiler`] and [`super::cache`] make (a test in this module
//!   holds that): the first from what its own child process wrote to a memory file that nobody else
//!   can open, the second from a file that belongs to this user in a directory that no other user can
//!   change at any level, read once into memory and checked there.
//!
//! Whoever can write as this user, or as root, can already run code as this user.

use std::ptr::NonNull;

use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::component::Component as Compiled;
use wasmtime::{CustomCodeMemory, Engine};

use super::artifact::Artifact;

/// Loads code that was compiled for this process. It is copied.
///
/// # Errors
///
/// When it is not for such an engine or such a machine.
pub(super) fn load(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Compiled> {
    // SAFETY: it is what `precompile_component` returned, see the module's documentation.
    unsafe { Compiled::deserialize(engine, artifact.code()) }
}

/// Bytes that begin with a page of memory, for pages are what can be made executable. Only x86-64
/// has none that are larger.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
pub(super) struct Pages<T: ?Sized>(pub(super) T);

/// Code that is part of the program; empty where the build script could not compile it.
#[derive(Clone, Copy)]
pub(super) struct BuiltInCode(&'static [u8]);

impl BuiltInCode {
    /// What the build script compiled. No other bytes may be given.
    pub(super) const fn new(pages: &'static Pages<[u8]>) -> Self {
        Self(&pages.0)
    }

    /// False where the build script could not compile it.
    pub(super) fn exists(self) -> bool {
        !self.0.is_empty()
    }

    /// Loads it where it is: it is part of the program, of which all processes share the memory. The
    /// engine must have [`InPlace`].
    ///
    /// # Errors
    ///
    /// When it is not for such an engine or such a machine.
    pub(super) fn load(self, engine: &Engine) -> wasmtime::Result<Compiled> {
        // SAFETY: these are the bytes that wasmtime's `Engine::precompile_component` returned to the
        // build script, and nobody has had them since but the compiler of this program: the field
        // is private, and the macro `built_in!` is what fills it. They are there for ever, and never
        // written.
        //
        // What it gains: from the start of a process to its first reply, 3.9 ms instead of 4.9 with
        // a cache of compressed code, and instead of 35 with nothing cached. A copy of the code would
        // take 31 page faults, 0.1 ms.
        unsafe { Compiled::deserialize_raw(engine, NonNull::from(self.0)) }
    }

    /// Code that is not what the build script compiled, to see that it is refused.
    #[cfg(test)]
    pub(super) fn damaged(bytes: &'static [u8]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[cfg(test)]
    pub(super) fn bytes(self) -> &'static [u8] {
        self.0
    }
}

/// Makes code executable where it is, and leaves it so: it may have been loaded twice.
pub(super) struct InPlace;

impl CustomCodeMemory for InPlace {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, start: *const u8, length: usize) -> wasmtime::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: the pages are of a `BuiltInCode`, as only `BuiltInCode::load` brings code to the
        // engine with this. Nobody writes there, before or after.
        unsafe { mprotect(start.cast_mut().cast(), length, flags) }?;
        Ok(())
    }

    fn unpublish_executable(&self, _: *const u8, _: usize) -> wasmtime::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            match entry.unwrap().path() {
                path if path.is_dir() => sources(&path, found),
                path => found.push(path),
            }
        }
    }

    /// The files below `src` whose text has these words, but for this one and those of tests.
    fn having(words: &str) -> Vec<String> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut found = Vec::new();
        sources(&root, &mut found);
        let mut having: Vec<String> = found
            .into_iter()
            .filter(|path| fs::read_to_string(path).unwrap_or_default().contains(words))
            .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
            .filter(|name| name != "component/code.rs" && !name.contains("tests"))
            .collect();
        having.sort();
        having
    }

    #[test]
    fn code_has_no_other_origin() {
        assert_eq!(
            having("Artifact::parse("),
            ["component/artifact.rs", "component/cache.rs", "component/compiler/process.rs",]
        );
        assert_eq!(having("BuiltInCode::new("), ["component/built_in.rs"]);
        assert_eq!(having("::deserialize"), [""; 0]);
    }
}
