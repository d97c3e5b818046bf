//! The whole way that a person goes: a file system into the disk and out of it again.

use std::path::Path;

use crate::support::{require, run, shell};

#[test]
fn file_system_comes_back_intact() {
    require!("qemu-img", "nbdcopy", "nbdsh", "mke2fs", "e2fsck");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/real-run");
    let server = env!("CARGO_BIN_EXE_memnbd-host");
    let arguments = [script.as_ref(), server.as_ref(), "32M".as_ref()];
    let printed = run(&mut shell(Path::new("/"), &arguments)).success();
    assert!(printed.ends_with("All as it should be.\n"), "{printed}");
}
