//! Block devices: a loop device over a temporary file, where one can be had.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use super::*;

/// A loop device, detached when dropped.
struct Loop(PathBuf);

impl Loop {
    /// Attaches a device to a file; `None` if that is not permitted.
    fn attach(path: &Path, arguments: &[&str]) -> Option<Self> {
        let mut losetup = Process::new("losetup");
        losetup.args(["--find", "--show"]).args(arguments).arg(path);
        let output = losetup.output().ok().filter(|output| output.status.success())?;
        let device = String::from_utf8(output.stdout).unwrap();
        Some(Self(device.trim().into()))
    }

    fn source(&self) -> Source {
        Source::Path(self.0.clone())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Process::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

fn attach(arguments: &[&str]) -> Option<(Loop, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    File::create(&path).unwrap().set_len(MIB).unwrap();
    let device = Loop::attach(&path, arguments);
    if device.is_none() {
        eprintln!("skipped: no loop device can be had");
    }
    Some((device?, directory))
}

#[tokio::test]
async fn block_device_has_its_own_blocks() {
    for minimum in [512, 4096] {
        let Some((device, _directory)) = attach(&["--sector-size", &minimum.to_string()]) else {
            return;
        };
        let client = Client::open(options(device.source())).unwrap();
        let geometry = client.0.geometry();
        assert_eq!((geometry.size, geometry.block_sizes.minimum), (MIB, minimum));
        let mut model = model::Model::new(0..MIB, minimum.into(), Some(minimum.into()));
        for _ in 0..100 {
            model.step(&client).await;
        }
        model.check(&client).await;
    }
}

/// The kernel accepts writes that it cannot store, reports this once, and forgets it.
#[tokio::test]
async fn lost_write_fails_all_later_flushes() {
    for fua in [false, true] {
        let Some(mount) = Mount::tmpfs("size=1m") else {
            return eprintln!("skipped: tmpfs cannot be mounted");
        };
        let path = mount.path().join("disk");
        File::create(&path).unwrap().set_len(4 * MIB).unwrap();
        let Some(device) = Loop::attach(&path, &[]) else {
            return eprintln!("skipped: no loop device can be had");
        };
        let client = Client::open(options(device.source())).unwrap();
        let written = client.write(0, &[1; 2 << 20], fua).await;
        assert_eq!(written.is_ok(), !fua);
        for _ in 0..3 {
            let error = client.flush().await.unwrap_err();
            assert!(matches!(error.code, ErrorCode::Io | ErrorCode::NoSpc), "{error:?}");
        }
    }
}

#[test]
fn read_only_block_device_is_opened_for_reading() {
    let Some((device, _directory)) = attach(&["--read-only"]) else { return };
    let device = FileDevice::open(options(device.source())).unwrap();
    assert!(!device.geometry().capabilities.writable);
    assert!(device.write_refusal().is_some());
}
