//! Builds the host's built-in components, and compiles them for the target processor. It sets
//! `MEMNBD_COMPONENT_<NAME>` to the path of each component, and `MEMNBD_CODE_<NAME>` to the path of
//! its machine code.
//!
//! The components are built for wasm32-wasip2 by a separate cargo process, in a separate target
//! directory. The libraries of that target come from rustup, or else are built from Debian's
//! sources with Debian's compiler; both ways produce the same components.
//!
//! Where possible, it also links some libraries statically, and packs the relocations of the
//! program.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[path = "src/component/settings.rs"]
mod settings;

const TARGET: &str = "wasm32-wasip2";
const COMPONENTS: [&str; 2] = ["memory", "pattern"];

/// The profile of the components, whatever the host's own profile is: small and fast, without debug
/// information, which nobody could read in a sandbox.
const PROFILE: [&str; 7] = [
    "opt-level=3",
    "lto=true",
    "codegen-units=1",
    "panic='abort'",
    "strip=true",
    "debug=false",
    "debug-assertions=false",
];

const NO_COMPILER: &str = "no Rust compiler here can build components (target wasm32-wasip2). \
    There are two ways to get one: with rustup, `rustup target add wasm32-wasip2`; on Debian, \
    `apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src`";

const NO_LINKER: &str = "Debian's compiler is here, but not the linker wasm-component-ld, which \
    Debian does not have. It comes with every toolchain of rustup; without one, \
    `apt-get install -y lld && cargo install wasm-component-ld` and put it into the PATH";

fn main() {
    link_openssl_statically();
    link_libgcc_statically();
    pack_relocations();
    if let Err(error) = build() {
        println!("cargo::error={error}");
        std::process::exit(1);
    }
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

fn build() -> Result<(), String> {
    let root = PathBuf::from("..").canonicalize().map_err(|error| format!("..: {error}"))?;
    for input in ["Cargo.toml", "Cargo.lock", "wit", "plugin/guest/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("components");
    let mut cargo = compiler()?;
    cargo.current_dir(&root).args(["build", "--locked", "--release", "--target", TARGET]);
    cargo.arg("--target-dir").arg(&out);
    // Link neither a C library nor its start-up objects.
    cargo.env("RUSTFLAGS", "-Clink-self-contained=no");
    for setting in PROFILE {
        cargo.arg("--config").arg(format!("profile.release.{setting}"));
    }
    for name in COMPONENTS {
        cargo.arg("--package").arg(format!("memnbd-{name}"));
    }
    let status = cargo.status().map_err(|error| format!("{cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!("the components could not be built, see below ({status})"));
    }
    for name in COMPONENTS {
        let wasm = out.join(TARGET).join("release").join(name).with_extension("wasm");
        println!("cargo::rerun-if-changed={}/plugin/{name}/Cargo.toml", root.display());
        for input in dependencies(&wasm.with_extension("d"))? {
            println!("cargo::rerun-if-changed={input}");
        }
        let code = wasm.with_extension("cwasm");
        let compiled = compile(&wasm).unwrap_or_else(|error| {
            println!("cargo::warning={name} will be compiled at each start: {error:#}");
            Vec::new()
        });
        fs::write(&code, compiled).map_err(|error| format!("{}: {error}", code.display()))?;
        let name = name.to_uppercase();
        println!("cargo::rustc-env=MEMNBD_COMPONENT_{name}={}", wasm.display());
        println!("cargo::rustc-env=MEMNBD_CODE_{name}={}", code.display());
    }
    Ok(())
}

/// Compiles a component to machine code that the host can load without further processing. The code
/// uses only features that all processors of the target have.
fn compile(wasm: &Path) -> wasmtime::Result<Vec<u8>> {
    let mut config = wasmtime::Config::new();
    settings::of_code(&mut config);
    settings::of_mapped_memories(&mut config);
    config.target(&env::var("TARGET").expect("cargo sets it"))?;
    wasmtime::Engine::new(&config)?.precompile_component(&fs::read(wasm)?)
}

/// Returns a command that runs cargo with a compiler that supports the components' target.
///
/// # Errors
///
/// Returns an error if there is no such compiler, or no linker for it.
fn compiler() -> Result<Command, String> {
    let rustc = PathBuf::from(env::var_os("RUSTC").expect("cargo sets it"));
    let libraries = print(&rustc, &["--print", "target-libdir", "--target", TARGET]);
    let files = libraries.and_then(|path| fs::read_dir(path).ok()).into_iter().flatten().flatten();
    if files.map(|file| file.file_name()).any(|name| name.to_string_lossy().starts_with("libcore-"))
    {
        let mut cargo = clean(env::var_os("CARGO").expect("cargo sets it"));
        cargo.env("RUSTC", rustc);
        return Ok(cargo);
    }

    let debian = Path::new("/usr/bin/rustc");
    let sources = print(debian, &["--print", "sysroot"])
        .map(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core"));
    if !sources.is_some_and(|path| path.exists()) || !Path::new("/usr/bin/cargo").exists() {
        return Err(NO_COMPILER.into());
    }
    let host = env::var("HOST").expect("cargo sets it");
    let tools = print(&rustc, &["--print", "sysroot"])
        .map(|sysroot| Path::new(&sysroot).join("lib/rustlib").join(host).join("bin"));
    let mut places: Vec<PathBuf> = tools.into_iter().collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let place = places.iter().find(|place| place.join("wasm-component-ld").exists());
    let place = place.ok_or(NO_LINKER)?.clone();
    let linker = place.join("wasm-component-ld");
    // The linker calls wasm-ld, which rustup installs in this directory.
    places.insert(0, place.join("gcc-ld"));

    let mut cargo = clean("/usr/bin/cargo".into());
    cargo.args(["-Zbuild-std=core,alloc"]);
    // Building the libraries from source is an unstable feature, but Debian's compiler is a stable
    // release.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", debian);
    cargo.env("CARGO_TARGET_WASM32_WASIP2_LINKER", linker);
    cargo.env("PATH", env::join_paths(places).map_err(|error| format!("PATH: {error}"))?);
    // Cargo has set this to the libraries of the other compiler.
    cargo.env_remove("LD_LIBRARY_PATH");
    Ok(cargo)
}

/// Returns a command that runs cargo without the environment of the build that runs this script,
/// except for the settings of where crates come from and how many jobs may run.
fn clean(cargo: OsString) -> Command {
    let kept = ["HOME", "HTTP_", "MAKEFLAGS", "NET_", "REGISTR", "SOURCE_", "TERM_"];
    let mut command = Command::new(cargo);
    command.stdin(Stdio::null());
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let of_cargo = name.strip_prefix("CARGO_");
        let of_cargo = of_cargo.is_some_and(|rest| !kept.iter().any(|it| rest.starts_with(it)));
        let of_rustc = ["RUSTC", "RUSTDOC", "RUSTFLAGS"].iter().any(|it| name.starts_with(it));
        if of_cargo || of_rustc {
            command.env_remove(&key);
        }
    }
    command
}

/// Runs a program and returns what it prints, or `None` if it is missing, fails or prints nothing.
fn print(program: impl AsRef<OsStr>, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok())??;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// Returns the files that a dependency file in make syntax lists. Spaces in names are escaped
/// there.
fn dependencies(path: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut inputs = Vec::new();
    for (_, names) in text.lines().filter_map(|line| line.split_once(": ")) {
        let names = names.replace("\\ ", "\0");
        inputs.extend(names.split(' ').map(|name| name.replace('\0', " ")));
    }
    Ok(inputs)
}
