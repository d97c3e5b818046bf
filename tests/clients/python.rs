//! A component from elsewhere: Python code, made a component by componentize-py, which brings the
//! whole interpreter and imports all of WASI.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Server, memnbd, nbdsh, python_component_tool, require, run};

const CODE: &str = include_str!("../python/disk.py");
const CONTRACT: [&str; 4] = [
    include_str!("../../wit/block-store.wit"),
    include_str!("../../wit/log.wit"),
    include_str!("../../wit/types.wit"),
    include_str!("../../wit/world.wit"),
];

/// Makes the component, or takes the one that was made of the same code before: it takes a while.
fn component(tool: &Path) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (CODE, CONTRACT).hash(&mut hasher);
    let name = format!("python-{:016x}.wasm", hasher.finish());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !path.exists() {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::write(directory.path().join("disk.py"), CODE).unwrap();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let command = &mut Command::new(tool);
        command.current_dir(directory.path()).arg("-d").arg(wit);
        command.args(["-w", "backend", "componentize", "-o", "disk.wasm", "disk"]);
        run(command).success();
        fs::rename(directory.path().join("disk.wasm"), &path).unwrap();
    }
    path
}

#[test]
fn disk_in_python_is_served() {
    require!("nbdsh");
    let Some(tool) = python_component_tool() else { return };
    let component = component(&tool);
    let component = component.to_str().unwrap();
    // Once and for all, and without hurry: the compiler of the program under test is not optimised.
    let patient = ["--compile-timeout=3600", "--compile-cpu=3600", "--dump-component", component];
    let compiled = memnbd(Path::new("/"), patient).output().unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut server = Server::start(&["--component", component, "size=8388608"]);
    // What it prints goes to the log, and only there.
    server.expect_log("8388608 bytes, opened");
    server.expect_log("WARN export \"\": python");
    nbdsh(
        &server,
        "
assert h.get_size() == 8 << 20
assert h.pread(4096, 0) == bytes(4096)
data = bytes(range(256)) * 4096
h.pwrite(data, 12345)
assert h.pread(len(data), 12345) == data
assert h.pread(1, 12344) == bytes(1)
# An error is an answer.
try:
    h.pwrite(b'too much', 0)
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOSPC', error
assert h.pread(8, 0) == bytes(8)
# What it lacks is supplied, or not offered.
h.zero(1 << 20, 1 << 20)
assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)
h.pwrite(b'durable', 5 << 20, nbd.CMD_FLAG_FUA)
h.flush()
assert not h.can_trim() and not h.can_cache()
",
    );
    server.expect_log("write(0, 8) failed: no space left on the disk: that is too much");
}
