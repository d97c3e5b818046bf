//! Images of VMDK, as qemu makes and converts them.

use std::fs;

use fastrand::Rng;
use tempfile::TempDir;

use super::{compare, content, read_at_random, shell_in};
use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, nbdsh, require};

#[test]
fn disk_is_what_qemu_converts_an_image_to() {
    require!("qemu-img", "nbdinfo", "nbdcopy");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    // The last grain is shorter.
    let mut disk = content((9 << 20) + 512 * 7, &mut Rng::with_seed(1));
    for end in [0, (60 << 20) + 512] {
        disk.resize(disk.len() + end, 0);
        fs::write(path.join("disk"), &disk).unwrap();
        for options in [
            "subformat=monolithicSparse",
            "subformat=monolithicSparse,zeroed_grain=on",
            "subformat=streamOptimized",
        ] {
            shell_in(
                path,
                &format!(
                    "qemu-img convert -f raw -O vmdk -o {options} disk disk.vmdk
                     qemu-img convert -f vmdk -O raw disk.vmdk raw"
                ),
            );
            let script = r#"test "$(nbdinfo --size "$uri")" = "$(stat -c %s raw)" &&
                            nbdcopy "$uri" - | cmp - raw"#;
            served("memnbd", path, &["--filter=vmdk", "file", "disk.vmdk"], script);
        }
    }
}

#[test]
fn reads_at_random_places_are_right() {
    require!("qemu-img", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(2);
    let mut disk = content(6 << 20, &mut rng);
    disk.resize(70 << 20, 0);
    disk.extend(content(6 << 20, &mut rng));
    fs::write(path.join("disk"), disk).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized"] {
        shell_in(
            path,
            &format!("qemu-img convert -f raw -O vmdk -o subformat={subformat} disk disk.vmdk"),
        );
        let image = path.join("disk.vmdk");
        let server = Server::start(&["--filter=vmdk", "file", image.to_str().unwrap()]);
        compare(&server, &path.join("disk"));
        read_at_random(&server, (&path.join("disk"), 1), 300, 1_000_000);
    }
}

#[test]
fn images_in_several_files_and_with_parents_are_refused_with_the_reason() {
    require!("qemu-img");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    shell_in(
        path,
        "qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 10M
         qemu-img create -q -f vmdk -o subformat=twoGbMaxExtentSparse two.vmdk 10M
         qemu-img create -q -f vmdk below.vmdk 10M
         qemu-img create -q -f vmdk -b below.vmdk -F vmdk above.vmdk
         truncate -s 1M disk",
    );
    for (file, words) in [
        (
            "flat.vmdk",
            r#"such as "RW 20480 FLAT \"flat-flat.vmdk\" 0"; serve a FLAT file as it is"#,
        ),
        ("two.vmdk", "of the type \"twoGbMaxExtentSparse\""),
        ("two-s001.vmdk", "is one of several files of a disk"),
        ("above.vmdk", "the changes of another one, \"below.vmdk\""),
        ("disk", "the device has no VMDK image"),
    ] {
        let error = complaint(path, 1, &["--filter=vmdk", "file", file]);
        assert!(error.contains(words), "{error}");
    }
}

/// A hostile image costs its own disk at most.
#[test]
fn damaged_images_neither_end_the_server_nor_stop_other_disks() {
    require!("qemu-img", "nbdsh");
    let directory = TempDir::new().unwrap();
    let path = directory.path();
    let mut rng = Rng::with_seed(6);
    fs::write(path.join("raw"), content(600 << 10, &mut rng)).unwrap();
    fs::create_dir(path.join("images")).unwrap();
    let mut count = 0;
    for (filter, format) in
        [("vmdk", "vmdk -o subformat=streamOptimized"), ("vmdk", "vmdk"), ("vhd", "vpc")]
    {
        shell_in(path, &format!("qemu-img convert -f raw -O {format} raw image"));
        let image = fs::read(path.join("image")).unwrap();
        fs::create_dir_all(path.join("images").join(filter)).unwrap();
        for _ in 0..40 {
            let mut damaged = image.clone();
            for _ in 0..rng.usize(1..20) {
                // Mostly in the header and the tables, which are at the beginning.
                let limit = [100, 20_000, damaged.len()][rng.usize(..3)].min(damaged.len());
                damaged[rng.usize(4..limit)] ^= 1 << rng.u8(..8);
            }
            fs::write(path.join("images").join(filter).join(count.to_string()), damaged).unwrap();
            count += 1;
        }
    }
    for filter in ["vmdk", "vhd"] {
        let images = path.join("images").join(filter);
        let served = format!("*=file,filter={filter},dir={}", images.display());
        let mut server = Server::start(&["--export", &served, "--export", "good=memory,1M"]);
        server.allow_log("");
        nbdsh(
            &server,
            &format!(
                "
import os
for name in os.listdir('{}'):
    c = nbd.NBD()
    c.set_export_name(name)
    try:
        c.connect_unix('socket')
        for offset in range(0, min(c.get_size(), 1 << 20), 64 << 10):
            try:
                c.pread(min(64 << 10, c.get_size() - offset), offset)
            except nbd.Error:
                pass
    except nbd.Error:
        pass
g = nbd.NBD()
g.set_export_name('good')
g.connect_unix('socket')
g.pwrite(b'x' * 4096, 4096)
assert g.pread(4096, 4096) == b'x' * 4096
",
                images.display()
            ),
        );
        // No image made its component break the contract, or trap.
        let log = server.log();
        let died = log.iter().any(|line| line.contains("trapped") || line.contains("contract"));
        assert!(!died, "{log:#?}");
    }
}
