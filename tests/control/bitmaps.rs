//! Dirty bitmaps and the allocation depth, as clients see them.

use std::process::Command;

use serde_json::{Value, json};

use super::{OPEN, control, controlled};
use crate::support::{Server, nbdsh, require, run};

/// The unit in which changes are recorded.
pub(super) const BLOCK: u64 = 64 << 10;

/// Runs a script in the directory of a server: `$memnbd` controls it, `uri X` is the URI of its disk X.
pub(super) fn sh(server: &Server, script: &str) -> String {
    let functions = "uri() { echo \"nbd+unix:///$1?socket=socket\"; }\n";
    let mut command = Command::new("sh");
    command.args(["-ec", &format!("{functions}{script}")]).current_dir(server.path("."));
    command.env("memnbd", env!("CARGO_BIN_EXE_memnbd")).env("MEMNBD_HOST", "unix:control");
    run(&mut command).success()
}

/// Returns what nbdinfo tells of a context.
pub(super) fn map(server: &Server, disk: &str, context: &str) -> Value {
    let told = sh(server, &format!("nbdinfo --json --map='{context}' \"$(uri {disk})\""));
    serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// Returns the offsets and lengths of the extents that have one of these types.
pub(super) fn extents(map: &Value, types: &[u64]) -> Vec<(u64, u64)> {
    let number = |extent: &Value, key: &str| extent[key].as_u64().unwrap();
    let list = map.as_array().unwrap().iter();
    let of_type = list.filter(|extent| types.contains(&number(extent, "type")));
    of_type.map(|extent| (number(extent, "offset"), number(extent, "length"))).collect()
}

/// A golden disk of 64 MiB with three blocks of data, of which the snapshot `one` was taken, and which was
/// changed then.
pub(super) fn changed() -> Server {
    let server = controlled(&["1M"]);
    sh(
        &server,
        "$memnbd create golden 64M
        qemu-io -f raw -c 'write -q -P 1 0 192k' $(uri golden)
        $memnbd snapshot golden one
        qemu-io -f raw -c 'write -q -P 2 64k 64k' -c 'write -q -z 1M 128k' -c 'write -q -P 3 10M 100' \
            $(uri golden)",
    );
    server
}

/// What was changed since the snapshot `one`.
pub(super) const SINCE_ONE: [(u64, u64); 3] =
    [(BLOCK, BLOCK), (1 << 20, 2 * BLOCK), (10 << 20, BLOCK)];

#[test]
fn disks_offer_a_bitmap_for_each_snapshot_from_which_they_descend() {
    require!("nbdinfo", "qemu-io");
    let server = changed();
    let contexts = |disk: &str| {
        let told = sh(&server, &format!("nbdinfo --json \"$(uri {disk})\""));
        let told: Value = serde_json::from_str(&told).unwrap();
        told["exports"][0]["contexts"].clone()
    };
    let (base, depth) = ("base:allocation", "qemu:allocation-depth");
    let bitmap = |name: &str| format!("qemu:dirty-bitmap:{name}");
    assert_eq!(contexts("disk"), json!([base, depth]));
    assert_eq!(contexts("golden"), json!([base, depth, bitmap("one")]));
    sh(
        &server,
        "$memnbd snapshot golden two
        $memnbd snapshot disk other
        $memnbd clone one first
        $memnbd clone two second --read-only
        $memnbd snapshot first 'with : and,'",
    );
    let both = json!([base, depth, bitmap("two"), bitmap("one")]);
    assert_eq!(contexts("golden"), both, "the last one comes first");
    assert_eq!(contexts("second"), both);
    assert_eq!(contexts("first"), json!([base, depth, bitmap("with : and,"), bitmap("one")]));
    assert_eq!(extents(&map(&server, "golden", &bitmap("one")), &[1]), SINCE_ONE);
    assert_eq!(extents(&map(&server, "second", &bitmap("one")), &[1]), SINCE_ONE);
    for (disk, name) in [("golden", "two"), ("second", "two"), ("first", "one"), ("disk", "other")]
    {
        let size = if disk == "disk" { 1 << 20 } else { 64 << 20 };
        assert_eq!(extents(&map(&server, disk, &bitmap(name)), &[0]), [(0, size)], "{disk}");
    }
    // It is not there for others, and not after the snapshot was deleted.
    let absent = |disk: &str, name: &str| {
        let context = bitmap(name);
        let script = format!("! nbdinfo --map='{context}' \"$(uri {disk})\" 2>&1");
        let told = sh(&server, &script);
        assert!(told.contains("not"), "{told}");
    };
    absent("first", "two");
    absent("disk", "one");
    control(&server, &["rm", "--snapshot", "one"]).success();
    absent("golden", "one");
    assert_eq!(contexts("golden"), json!([base, depth, bitmap("two")]));
}

#[test]
fn qemu_reads_bitmap_and_depth() {
    require!("nbdinfo", "qemu-io", "qemu-img");
    let server = changed();
    let map = |context: &str| -> Value {
        let told = sh(
            &server,
            &format!(
                "qemu-img map --output=json --image-opts driver=nbd,server.type=unix,\
                 server.path=socket,export=golden,x-dirty-bitmap={context}"
            ),
        );
        serde_json::from_str(&told).unwrap()
    };
    // It takes the first bit for that of base:allocation which says that there is a hole.
    let told = map("qemu:dirty-bitmap:one");
    let dirty = told.as_array().unwrap().iter().filter(|extent| extent["data"] == false);
    let dirty: Vec<(u64, u64)> = dirty
        .map(|extent| (extent["start"].as_u64().unwrap(), extent["length"].as_u64().unwrap()))
        .collect();
    assert_eq!(dirty, SINCE_ONE);
    let depths = self::map(&server, "golden", "qemu:allocation-depth");
    assert_eq!(extents(&depths, &[1]), SINCE_ONE);
    assert_eq!(extents(&depths, &[2]), [(0, BLOCK), (2 * BLOCK, BLOCK)]);
    let told = map("qemu:allocation-depth");
    let top = told.as_array().unwrap().iter().filter(|extent| extent["data"] == false);
    assert_eq!(top.count(), 3, "1 has the first bit: {told}");
}

/// Commands of qemu-io: changes at random places, of whole blocks or of parts of them.
pub(super) fn changes(random: &mut fastrand::Rng, whole: bool) -> String {
    let mut commands = String::new();
    for _ in 0..20 {
        let (mut offset, mut length) = (random.u64(0..1000) * BLOCK, random.u64(1..5) * BLOCK);
        if !whole && random.bool() {
            (offset, length) = (offset + random.u64(0..64) * 1024, random.u64(1..200) * 512);
        }
        let pattern = if random.u8(0..4) == 0 && !whole { "-z" } else { "-P 7" };
        commands += &format!(" -c 'write -q {pattern} {offset} {length}'");
    }
    commands
}

#[test]
fn answers_are_those_of_qemu_nbd_for_the_same_writes() {
    require!("nbdinfo", "qemu-io", "qemu-img", "qemu-nbd");
    let server = controlled(&["1M"]);
    let mut random = fastrand::Rng::with_seed(3);
    let steps: Vec<String> = (0..4).map(|step| changes(&mut random, step == 0)).collect();
    sh(
        &server,
        &format!(
            "$memnbd create disk1 64M
            qemu-io -f raw {0} $(uri disk1)
            $memnbd snapshot disk1 s1
            qemu-io -f raw {1} $(uri disk1)
            $memnbd snapshot disk1 s2
            qemu-io -f raw {2} $(uri disk1)
            $memnbd snapshot disk1 s3
            qemu-io -f raw {3} $(uri disk1)

            new() {{ qemu-img create -q -f qcow2 -o cluster_size=64k \"$@\"; }}
            new a.qcow2 64M
            qemu-io -f qcow2 {0} a.qcow2
            new -b a.qcow2 -F qcow2 b.qcow2
            qemu-io -f qcow2 {1} b.qcow2
            new -b b.qcow2 -F qcow2 c.qcow2
            qemu-io -f qcow2 {2} c.qcow2
            new -b c.qcow2 -F qcow2 d.qcow2
            qemu-io -f qcow2 {3} d.qcow2

            new flat.qcow2 64M
            qemu-io -f qcow2 {0} flat.qcow2
            qemu-img bitmap --add -g 64k flat.qcow2 s1
            qemu-io -f qcow2 {1} flat.qcow2
            qemu-img bitmap --add -g 64k flat.qcow2 s2
            qemu-io -f qcow2 {2} flat.qcow2
            qemu-img bitmap --add -g 64k flat.qcow2 s3
            qemu-io -f qcow2 {3} flat.qcow2
            qemu-img compare -f raw -F qcow2 $(uri disk1) d.qcow2
            qemu-img compare -f raw -F qcow2 $(uri disk1) flat.qcow2",
            steps[0], steps[1], steps[2], steps[3],
        ),
    );
    let theirs = |image: &str, options: &str, context: &str| -> Value {
        let told = sh(
            &server,
            &format!(
                "socket=$PWD/qemu.$$ # The last one may still be about to remove its own.
                qemu-nbd --fork --pid-file=$$.pid -t -r -f qcow2 -k \"$socket\" {options} {image}
                trap 'kill $(cat $$.pid)' EXIT
                nbdinfo --json --map={context} \"nbd+unix:///?socket=$socket\""
            ),
        );
        serde_json::from_str(&told).unwrap()
    };
    let depth = "qemu:allocation-depth";
    let ours = map(&server, "disk1", depth);
    assert!(extents(&ours, &[4]).len() > 5, "{ours}");
    let strip = |map: &Value| {
        let list = map.as_array().unwrap().iter();
        let one = |one: &Value| (one["offset"].clone(), one["length"].clone(), one["type"].clone());
        list.map(one).collect::<Vec<_>>()
    };
    assert_eq!(strip(&ours), strip(&theirs("d.qcow2", "-A", depth)));
    for name in ["s1", "s2", "s3"] {
        let context = format!("qemu:dirty-bitmap:{name}");
        let ours = map(&server, "disk1", &context);
        assert!(extents(&ours, &[1]).len() > 5, "{ours}");
        assert_eq!(strip(&ours), strip(&theirs("flat.qcow2", &format!("-B {name}"), &context)));
    }
}

/// Asks for several contexts in one request; `ask` returns the extents of each by its name.
const ASK: &str = "
import subprocess
def opened(name, *contexts):
    c = nbd.NBD()
    c.set_export_name(name)
    for context in contexts:
        c.add_meta_context(context)
    c.connect_unix('socket')
    return c
def ask(c, length=None, offset=0, flags=0):
    told = {}
    def extent(context, at, entries, error):
        assert context not in told and at == offset
        told[context] = list(zip(entries[::2], entries[1::2]))
    c.block_status(length or c.get_size() - offset, offset, extent, flags)
    return told
def refused(c):
    try:
        ask(c)
    except nbd.Error as error:
        return error.errnum
def memnbd(*words):
    subprocess.run(['PROGRAM', '--host', 'unix:control', *words], check=True)
base, depth, one = 'base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:one'
";

pub(super) fn script(server: &Server, text: &str) {
    let ask = ASK.replace("PROGRAM", env!("CARGO_BIN_EXE_memnbd"));
    nbdsh(server, &format!("{OPEN}{ask}{text}"));
}

#[test]
fn several_contexts_are_told_in_one_reply() {
    require!("nbdsh", "qemu-io", "nbdinfo");
    let server = changed();
    script(
        &server,
        "
block = 65536
both = opened('golden', one, depth, base, 'qemu:dirty-bitmap:none')
assert not both.can_meta_context('qemu:dirty-bitmap:none')
told = ask(both, 3 * block)
assert told == {
    base: [(3 * block, 0)],
    depth: [(block, 2), (block, 1), (block, 2)],
    one: [(block, 0), (block, 1), (block, 0)],
}, told
told = ask(both, 2 * block, 1000)
assert told[one] == [(block - 1000, 0), (block, 1), (1000, 0)], told
assert told[depth] == [(block - 1000, 2), (block, 1), (1000, 2)], told
told = ask(both, None, 1000, nbd.CMD_FLAG_REQ_ONE)
assert told[depth] == [(block - 1000, 2)] and told[one] == [(block - 1000, 0)], told
# One of them alone, which is not base:allocation.
assert ask(opened('golden', one), 2 * block) == {one: [(block, 0), (block, 1)]}
# Writes are seen at once.
both.pwrite(b'x', 5 * block)
assert ask(both, 2 * block, 4 * block)[one] == [(block, 0), (block, 1)]
# At most 16 besides base:allocation.
for i in range(17):
    memnbd('snapshot', 'golden', f'm{i}')
many = [f'qemu:dirty-bitmap:m{i}' for i in range(16)]
told = ask(opened('golden', base, *many))
assert len(told) == 17 and all(len(told[name]) == 1 for name in many), told
none = opened('golden', base, *many, depth)
assert not none.can_meta_context(base)
",
    );
}

#[test]
fn many_requests_at_once_are_answered() {
    require!("nbdsh", "qemu-io", "nbdinfo");
    let server = changed();
    script(
        &server,
        "
for i in range(15):
    memnbd('snapshot', 'golden', f'm{i}')
contexts = [base, depth, one, *(f'qemu:dirty-bitmap:m{i}' for i in range(13))]
def begin(c, counts):
    def extent(context, at, entries, error):
        counts[context] = counts.get(context, 0) + len(entries)
    return c.aio_block_status(c.get_size(), 0, extent)
c, told = opened('golden', *contexts), []
for _ in range(500):
    told.append({})
    begin(c, told[-1])
    c.poll(0)
while c.aio_in_flight():
    c.poll(-1)
assert len(told[0]) == 16 and told[0][one] == 14 and all(one == told[0] for one in told)
# Some do not wait for the answers.
for _ in range(20):
    gone = opened('golden', *contexts)
    for _ in range(100):
        begin(gone, {})
        gone.poll(0)
assert ask(c) and c.pread(1, 0) == b'\\1'
",
    );
}

#[test]
fn bitmaps_of_connected_clients_stay_right() {
    require!("nbdsh", "qemu-io", "nbdinfo");
    let server = changed();
    script(
        &server,
        "
import errno
block = 65536
dirty = lambda c, name=one: [
    at for at, bits in zip(range(0, 320, 1), flat(ask(c, 320 * block)[name])) if bits]
def flat(extents):
    return [bits for length, bits in extents for _ in range(length // block)]
since_one = [1, 16, 17, 160]
c = opened('golden', one, depth)
assert dirty(c) == since_one
# Another snapshot, which puts another layer on top.
memnbd('snapshot', 'golden', 'two')
assert dirty(c) == since_one
assert flat(ask(c)[depth])[1] == 2
two = 'qemu:dirty-bitmap:two'
d = opened('golden', two)
c.pwrite(b'x' * 100, 3 * block)
assert dirty(c) == sorted([3, *since_one]) and dirty(d, two) == [3]
# A deleted one.
memnbd('rm', '--snapshot', 'one')
assert dirty(c) == sorted([3, *since_one])
assert opened('golden', one).can_meta_context(one) is False
# After a reset to a later snapshot, the disk still descends from the first one.
memnbd('reset', 'golden', '--to', 'two')
assert dirty(c) == since_one and dirty(d, two) == []
# After a reset to an earlier one, a bitmap of what is not beneath any more is refused.
memnbd('clone', 'two', 'clone')
memnbd('snapshot', 'clone', 'three')
e = opened('clone', 'qemu:dirty-bitmap:three')
assert dirty(e, 'qemu:dirty-bitmap:three') == []
memnbd('reset', 'clone', '--to', 'two')
assert dirty(opened('clone', two), two) == []
e.pwrite(b'x', 0)
memnbd('snapshot', 'clone', 'four')
assert refused(e) == errno.EINVAL, 'it does not descend from three'
assert e.pread(1, 0) == b'x', 'the connection goes on'
",
    );
}

#[test]
fn bitmaps_are_told_through_filters() {
    require!("nbdsh", "nbdinfo", "qemu-io");
    let server = changed();
    sh(
        &server,
        "$memnbd snapshot golden two
        $memnbd clone two moved --filter=offset offset=$((32 << 10)) --filter=error error-rate=0 \
            --read-only
        $memnbd clone two silent --filter=noextents",
    );
    let one = "qemu:dirty-bitmap:one";
    let moved: Vec<(u64, u64)> =
        SINCE_ONE.iter().map(|(at, length)| (at - BLOCK / 2, *length)).collect();
    assert_eq!(extents(&map(&server, "moved", one), &[1]), moved);
    assert_eq!(extents(&map(&server, "moved", "qemu:allocation-depth"), &[1]), moved);
    // What cannot be known may be dirty.
    assert_eq!(extents(&map(&server, "silent", one), &[1]), [(0, 64 << 20)]);
    assert_eq!(extents(&map(&server, "silent", "qemu:allocation-depth"), &[1]), [(0, 64 << 20)]);
}

#[test]
fn one_block_of_a_large_disk_is_found() {
    require!("nbdinfo", "qemu-io");
    let server = controlled(&["1M"]);
    sh(
        &server,
        "$memnbd create large 1T
        $memnbd snapshot large one
        qemu-io -f raw -c 'write -q 700G 1' $(uri large)
        $memnbd snapshot large two",
    );
    let dirty = [(700 << 30, BLOCK)];
    assert_eq!(extents(&map(&server, "large", "qemu:dirty-bitmap:one"), &[1]), dirty);
    assert_eq!(extents(&map(&server, "large", "qemu:dirty-bitmap:two"), &[0]), [(0, 1 << 40)]);
    assert_eq!(extents(&map(&server, "large", "qemu:allocation-depth"), &[2]), dirty);
}
