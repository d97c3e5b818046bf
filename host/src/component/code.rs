//! The two ways by which machine code enters the process. There is no third: the modules that
//! compile, cache and find code use safe functions only, and this module alone passes code to
//! wasmtime.
//!
//! # Safety
//!
//! Wasmtime runs the code that it is given here as part of this process, so the bytes must be what
//! `Engine::precompile_component` of this wasmtime returned. Wasmtime itself checks that they come
//! from this version, with settings and processor features that fit the engine, but it cannot check
//! that nobody changed them. So there are only two origins:
//!
//! - The program's own read-only data ([`BuiltInCode`]), filled by the build script.
//! - An [`Artifact`], which only [`super::compiler`] and [`super::cache`] create (a test in this
//!   module ensures that): the former from what its own child process wrote to a memory file that
//!   nobody else can open, the latter from a file that belongs to this user or root, in a directory
//!   that no other user can change at any level, read once into memory and checked there.
//!
//! Anyone who can write as this user, or as root, can already run code as this user.

use std::ptr::NonNull;

use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::component::Component as Compiled;
use wasmtime::{CustomCodeMemory, Engine};

use super::artifact::Artifact;

/// Loads a copy of code that was compiled for this process.
///
/// # Errors
///
/// Returns an error if the code is not for this engine or this machine.
pub(super) fn load(engine: &Engine, artifact: &Artifact) -> wasmtime::Result<Compiled> {
    // SAFETY: it is what `precompile_component` returned, see the module's documentation.
    unsafe { Compiled::deserialize(engine, artifact.code()) }
}

/// Bytes aligned to a page, the unit in which memory can be made executable. Pages are 4 KiB on
/// x86-64, and may be as large as 64 KiB elsewhere.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
pub(super) struct Pages<T: ?Sized>(pub(super) T);

/// Code that is part of the program. It is empty if the build script could not compile it.
#[derive(Clone, Copy)]
pub(super) struct BuiltInCode(&'static [u8]);

impl BuiltInCode {
    /// Wraps the code that the build script compiled. No other bytes may be passed.
    pub(super) const fn new(pages: &'static Pages<[u8]>) -> Self {
        Self(&pages.0)
    }

    /// Returns false if the build script could not compile the code.
    pub(super) fn exists(self) -> bool {
        !self.0.is_empty()
    }

    /// Loads the code in place, without a copy: as part of the program, its memory is shared by all
    /// processes. The engine must be configured with [`InPlace`].
    ///
    /// # Errors
    ///
    /// Returns an error if the code is not for this engine or this machine.
    pub(super) fn load(self, engine: &Engine) -> wasmtime::Result<Compiled> {
        // SAFETY: these are the bytes that wasmtime's `Engine::precompile_component` returned to
        // the build script, and only the compiler of this program has handled them since: the field
        // is private, and only the macro `built_in!` fills it. They are never freed and never
        // written.
        //
        // The gain: a process sends its first reply 3.9 ms after its start, instead of 4.9 ms with
        // a cache of compressed code and 35 ms with nothing cached. A copy of the code would take
        // 31 page faults, 0.1 ms.
        unsafe { Compiled::deserialize_raw(engine, NonNull::from(self.0)) }
    }

    /// Wraps bytes that the build script did not compile, to test that they are refused.
    #[cfg(test)]
    pub(super) fn damaged(bytes: &'static [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes of the code.
    #[cfg(test)]
    pub(super) fn bytes(self) -> &'static [u8] {
        self.0
    }
}

/// Makes code executable in place, and leaves it executable, because it may have been loaded twice.
pub(super) struct InPlace;

impl CustomCodeMemory for InPlace {
    fn required_alignment(&self) -> usize {
        rustix::param::page_size()
    }

    fn publish_executable(&self, start: *const u8, length: usize) -> wasmtime::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::EXEC;
        // SAFETY: the pages belong to a `BuiltInCode`, because only `BuiltInCode::load` loads code
        // into an engine that is configured with this. Nobody writes to them, before or after.
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

    /// Returns the files below `src` that contain these words, except this file and those of tests.
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
