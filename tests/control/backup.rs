//! Incremental backups by dirty bitmaps.

use std::fs;
use std::path::Path;

use super::bitmaps::{changes, sh};
use super::{control, controlled, http};
use crate::support::require;

const SNAPSHOTS: &str = "/v1/tenants/default/snapshots";

#[test]
fn incremental_backup_by_qemu_has_the_content_of_the_snapshot() {
    require!("qemu-io", "qemu-img", "nbdinfo");
    let server = controlled(&["1M"]);
    let mut random = fastrand::Rng::with_seed(11);
    let (first, second) = (changes(&mut random, false), changes(&mut random, false));
    let copied = sh(
        &server,
        &format!(
            r#"$memnbd create db 64M
            qemu-io -f raw {first} $(uri db)
            $memnbd snapshot db monday
            $memnbd clone monday monday --read-only
            qemu-img convert -f raw -O raw $(uri monday) backup.raw
            qemu-io -f raw {second} -c 'discard -q 0 8M' $(uri db)
            $memnbd snapshot db tuesday
            $memnbd clone tuesday tuesday --read-only
            qemu-io -f raw -c 'write -q -P 9 0 64M' $(uri db)
            opened=driver=nbd,server.type=unix,server.path=socket,export=tuesday
            qemu-img map --output=json --image-opts $opened,x-dirty-bitmap=qemu:dirty-bitmap:monday |
                python3 -c 'import json, sys
for one in json.load(sys.stdin):
    if not one["data"]:
        print(one["start"], one["length"])' >dirty
            ! qemu-img compare -f raw -F raw $(uri tuesday) backup.raw >&2
            while read start length; do
                part=driver=raw,offset=$start,size=$length
                qemu-img convert -n --image-opts --target-image-opts \
                    $part,file.driver=nbd,file.server.type=unix,file.server.path=socket,file.export=tuesday \
                    $part,file.driver=file,file.filename=backup.raw
            done <dirty
            qemu-img compare -f raw -F raw $(uri tuesday) backup.raw >&2
            cat dirty"#
        ),
    );
    let lengths =
        copied.lines().map(|line| line.split_once(' ').unwrap().1.parse::<u64>().unwrap());
    let sum: u64 = lengths.sum();
    assert!((1..16 << 20).contains(&sum), "only what was written: {copied}");
}

#[test]
fn example_of_an_incremental_backup_copies_what_was_written() {
    require!("qemu-io", "qemu-img", "nbdinfo", "python3");
    let server = controlled(&["64M"]);
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/incremental-backup");
    let backup = || {
        let example = example.display();
        sh(&server, &format!("{example} --memnbd $memnbd --check socket disk 'back,up'"))
    };
    let write = |commands: &str| sh(&server, &format!("qemu-io -f raw {commands} $(uri disk)"));
    write("-c 'write -q -P 1 0 30M'");
    assert_eq!(backup(), "copied everything\n");
    write("-c 'write -q -P 2 64k 64k' -c 'write -q -z 1M 128k' -c 'write -q -P 3 40M 100'");
    assert_eq!(backup(), "copied 262144 bytes in 3 extents\n");
    assert_eq!(backup(), "copied 0 bytes in 0 extents\n");
    let last = fs::read_to_string(server.path("back,up.snapshot")).unwrap();
    let listed = http(&server, "GET", SNAPSHOTS, None).json();
    assert_eq!(listed.as_array().unwrap().len(), 1, "earlier ones are deleted");
    assert_eq!(listed[0]["name"], last.as_str());
    control(&server, &["rm", "--snapshot", &last]).success();
    write("-c 'write -q -P 4 0 1'");
    assert_eq!(backup(), "copied everything\n", "its snapshot is gone");
    write("-c 'write -q -P 5 0 1'");
    assert_eq!(backup(), "copied 65536 bytes in 1 extents\n");
}
