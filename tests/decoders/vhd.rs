//! Images of VHD, as qemu makes and converts them.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use super::{content, read_at_random, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, require};

/// Compares what is served with qemu's own conversion, to `raw`, in size and content.
const COMPARE: &str =
    r#"test "$(nbdinfo --size "$uri")" = "$(stat -c %s raw)" && nbdcopy "$uri" - | cmp - raw"#;

#[test]
fn disk_is_what_qemu_converts_an_image_to() {
    require!("qemu-img", "nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    // With a sparse end, and a size that is not that of a geometry.
    let mut disk = content(9 << 20, &mut Rng::with_seed(1));
    disk.resize((20 << 20) + 512, 0);
    fs::write(path.join("disk"), disk).unwrap();
    for options in [
        "subformat=dynamic",
        "subformat=dynamic,force_size=on",
        "subformat=fixed",
        "subformat=fixed,force_size=on",
    ] {
        shell_in(
            path,
            &format!(
                "qemu-img convert -f raw -O vpc -o {options} disk disk.vhd
                 qemu-img convert -f vpc -O raw disk.vhd raw"
            ),
        );
        served("memnbd", path, &["--filter=vhd", "file", "disk.vhd"], COMPARE);
    }
}

#[test]
fn blocks_that_qemu_writes_at_random_places_are_found() {
    require!("qemu-img", "qemu-io", "nbdsh", "nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(2);
    let mut script =
        String::from("qemu-img create -q -f vpc disk.vhd 300M\nqemu-io -f vpc disk.vhd");
    for _ in 0..40 {
        let (offset, length) = (rng.u64(..290 << 20) & !511, rng.u64(1..200) * 512);
        script += &format!(" -c 'write -q -P {} {offset} {length}'", rng.u8(1..));
    }
    script += "\nqemu-img convert -f vpc -O raw disk.vhd raw";
    shell_in(path, &script);
    served("memnbd", path, &["--filter=vhd", "file", "disk.vhd"], COMPARE);
    let image = path.join("disk.vhd");
    let server = Server::start(&["--filter=vhd", "file", image.to_str().unwrap()]);
    read_at_random(&server, (&path.join("raw"), 1), 300, 5_000_000);
}

#[test]
fn what_is_no_image_or_damaged_is_refused() {
    require!("qemu-img");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    shell_in(
        path,
        "qemu-img create -q -f vpc good.vhd 10M; truncate -s 1M disk
         head -c 1000 good.vhd >short.vhd",
    );
    for (file, words) in [
        ("disk", "the device has no VHD image"),
        ("short.vhd", "the image ends before its metadata"),
    ] {
        let error = complaint(path, 1, &["--filter=vhd", "file", file]);
        assert!(error.contains(words), "{error}");
    }
}
