//! Links the program so that it starts quickly: some libraries statically, where that is possible, and
//! with packed relocations.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    link_openssl_statically();
    link_libgcc_statically();
    pack_relocations();
}

/// Links OpenSSL statically. With the shared libraries every start takes a millisecond longer,
/// whether TLS is used or not. The crate's own option for static linking does not find the
/// libraries of the system.
///
/// If there are no static libraries, or they need further libraries, the shared ones are used.
fn link_openssl_statically() {
    const KNOWN: [&str; 5] = ["-lssl", "-lcrypto", "-ldl", "-lpthread", "-pthread"];
    let pkg_config = |question| print("pkg-config", &["--static", question, "openssl"]);
    let Some(needed) = pkg_config("--libs-only-l") else { return };
    let Some(directory) = pkg_config("--variable=libdir") else { return };
    if needed.split_whitespace().all(|library| KNOWN.contains(&library)) {
        let library = |name| (Path::new(&directory).join(name), name);
        link_statically("openssl", &["libssl.a", "libcrypto.a"].map(library));
    }
}

/// Statically links the library that unwinds the stack after a panic. As with OpenSSL, this makes
/// every start faster, by a tenth of a millisecond.
fn link_libgcc_statically() {
    if !native_glibc() || env::var("CARGO_CFG_TARGET_ARCH").as_deref() != Ok("x86_64") {
        return;
    }
    if let Some(library) = print("cc", &["-print-file-name=libgcc_eh.a"]) {
        link_statically("libgcc", &[(library.into(), "libgcc_s.a")]);
    }
}

/// Makes the linker use static libraries: before the directories of the system, it searches one
/// that contains only these, under the names that it looks for. Does nothing if one of them is
/// missing.
fn link_statically(directory: &str, libraries: &[(PathBuf, &str)]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join(directory);
    let _ = fs::remove_dir_all(&out);
    for (library, name) in libraries {
        // `cc` prints the name of a library that it does not find without a directory.
        if !library.is_absolute()
            || !library.exists()
            || fs::create_dir_all(&out).is_err()
            || std::os::unix::fs::symlink(library, out.join(name)).is_err()
        {
            return;
        }
    }
    println!("cargo::rustc-link-search=native={}", out.display());
}

/// Packs the relocations that are applied when the program starts. Packed, they take 10 KiB instead
/// of 1.2 MiB, all of which would be read at every start. The dynamic linker supports this since
/// glibc 2.36. The version of the build machine decides, as the program is assumed to run where it
/// is built.
fn pack_relocations() {
    if !native_glibc() {
        return;
    }
    let Some(version) = print("getconf", &["GNU_LIBC_VERSION"]) else { return };
    let minor = version.strip_prefix("glibc 2.").and_then(|minor| minor.parse().ok());
    if minor.is_some_and(|minor: u32| minor >= 36) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// Returns whether the program is built for the build machine's own target, and that is Linux with
/// the GNU C library.
fn native_glibc() -> bool {
    let target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    env::var("HOST") == env::var("TARGET") && target("OS") == "linux" && target("ENV") == "gnu"
}

/// Runs a program and returns what it prints, or `None` if it is missing, fails or prints nothing.
fn print(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}
