//! The allocators of `memory`, with real clients, and beside nbdkit's.

use crate::mistakes::complains;
use crate::support::{Server, nbdsh, require};

use super::same;

const ALLOCATORS: [&str; 4] =
    ["allocator=sparse", "allocator=zstd", "allocator=malloc", "allocator=malloc,mlock=false"];

/// Copies data of several kinds in and out, over several connections.
const COPIES: &str = r#"
{ seq 600000; head -c 3000000 /dev/zero; head -c 9000000 /dev/urandom;
  head -c 20000000 /dev/urandom | base64; } | head -c 33554439 >data &&
nbdcopy data "$uri" && nbdcopy "$uri" copy && cmp data copy && nbdinfo --size "$uri" && echo same
"#;

/// Random requests, compared with an array of bytes.
const RANDOM: &str = "
import random
random.seed(7)
size = h.get_size()
model = bytearray(size)
words = [b'%d ' % i for i in range(1000)]
def payload(n):
    kind = random.randrange(4)
    if kind == 0: return bytes(n)
    if kind == 1: return random.randbytes(n)
    return b''.join(random.choices(words, k=n // 2 + 1))[:n]
def zero(n, at): h.zero(n, at)
def keep(n, at): h.zero(n, at, nbd.CMD_FLAG_NO_HOLE)
for step in range(800):
    n = random.choice([random.randrange(1, 600), random.randrange(1, 100000), 32768, 262144,
                       random.randrange(1, 1 << 20)])
    at = random.randrange(size - n)
    if random.randrange(2): at &= ~32767
    what = random.randrange(10)
    if what < 4:
        data = payload(n)
        h.pwrite(data, at)
        model[at:at + n] = data
    elif what < 6:
        random.choice([zero, keep])(n, at)
        model[at:at + n] = bytes(n)
    elif what < 7:
        h.trim(n, at)
        found = h.pread(n, at)
        assert found == model[at:at + n] or found == bytes(n)
        model[at:at + n] = found
    else:
        assert h.pread(n, at) == model[at:at + n], (step, at, n)
for at in range(0, size, 1 << 20):
    n = min(1 << 20, size - at)
    assert h.pread(n, at) == model[at:at + n], at
runs = []
def told(context, offset, entries, error):
    runs.extend(zip(entries[::2], entries[1::2]))
at = 0
while at < size:
    del runs[:]
    h.block_status(size - at, at, told)
    for length, flags in runs:
        if flags & nbd.STATE_ZERO:
            assert not any(model[at:at + length]), (at, length)
        at += length
";

#[test]
fn allocators_hold_what_nbdkits_do() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    for allocator in ALLOCATORS {
        let out = same(&["memory", "33554439", allocator], COPIES);
        assert_eq!(out, "33554439\nsame\n", "{allocator}");
    }
}

#[test]
fn allocators_behave_as_arrays() {
    require!("nbdsh");
    for allocator in ALLOCATORS {
        // More than 64 MiB for each of several instances.
        let server = Server::start(&["memory", "size=150000001", allocator]);
        let socket = server.socket();
        let again = format!(
            "h = nbd.NBD(); h.add_meta_context('base:allocation'); h.connect_unix({socket:?})"
        );
        nbdsh(&server, &format!("{again}\n{RANDOM}"));
    }
}

#[test]
fn compressed_disk_holds_more_than_its_memory() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "64M", "memory", "1G", "allocator=zstd"]);
    let code = "
import random
block = 1 << 18
def content(i):
    return b''.join(b'%d and %d; ' % (i, k * k) for k in range(20000))[:block]
n = 600
for i in range(n):
    h.pwrite(content(i), i * block)
for i in range(0, n, 7):
    assert h.pread(block, i * block) == content(i)
# Random bytes fill it, and what is there stays there.
noise = random.randbytes(block)
full = None
for i in range(n, 4096):
    try:
        h.pwrite(noise, i * block)
    except nbd.Error as error:
        assert error.errno in ('ENOSPC', 'ENOMEM'), error
        full = i
        break
assert full is not None and full > n + 10, full
for _ in range(20):
    for what in lambda: h.pwrite(noise, 3900 * block), lambda: h.pwrite(b'1', 3900 * block + 7):
        try:
            what()
        except nbd.Error as error:
            assert error.errno in ('ENOSPC', 'ENOMEM'), error
for i in range(n):
    assert h.pread(block, i * block) == content(i), i
for i in range(n, full):
    assert h.pread(block, i * block) == noise, i
# A trim makes room: these 100 blocks took about 5 MB.
h.trim(100 * block, 0)
for i in range(10):
    h.pwrite(noise, i * block)
for i in range(10):
    assert h.pread(block, i * block) == noise, i
assert h.pread(block, 30 * block) == bytes(block)
";
    nbdsh(&server, code);
}

#[test]
fn allocated_disk_is_never_full() {
    require!("nbdsh");
    let server = Server::start(&["--max-memory", "70M", "memory", "size=64M", "allocator=malloc"]);
    let code = "
import random
block = 1 << 20
noise = random.randbytes(block)
for _ in range(2):
    for i in range(64):
        h.pwrite(noise, i * block)
    for i in range(64):
        assert h.pread(block, i * block) == noise
    h.zero(40 * block, 0)
    h.trim(24 * block, 40 * block)
    assert h.pread(32 << 20, 32 << 20) == bytes(32 << 20)
";
    nbdsh(&server, code);
}

#[test]
fn wrong_allocators_are_told_with_what_would_be_right() {
    complains(
        2,
        &["memory", "1G", "allocator=zsdt"],
        &["allocator: \"zsdt\" is not a choice", "did you mean \"zstd\"?", "sparse, zstd, malloc"],
    );
    complains(2, &["memory", "allocator=zstd"], &["needs the parameter \"size\""]);
    for malloc in [&["allocator=malloc,mlock=true"][..], &["allocator=malloc", "mlock=on"]] {
        let words = ["mlock=true is not possible", "use mlock=false", "--swap"];
        complains(1, &[&["memory", "1G"], malloc].concat(), &words);
    }
    complains(1, &["memory", "1G", "mlock=false"], &["mlock is an option of allocator=malloc"]);
    complains(
        1,
        &["--max-memory", "64M", "memory", "1G", "allocator=malloc"],
        &["1073741824 bytes", "the limit of 67108864 bytes", "--max-memory", "a smaller size"],
    );
    complains(1, &["memory", "4G", "allocator=malloc"], &["the limit of 4294967296 bytes"]);
}

#[test]
fn exports_have_allocators_of_their_own() {
    require!("nbdsh");
    let server = Server::start(&[
        "--export",
        "a=memory,100M,allocator=zstd",
        "--export",
        "b=memory,16M,allocator=malloc,mlock=false",
        "--filter=delay",
        "memory",
        "memory.size=32M",
        "memory.allocator=zstd",
        "rdelay=1ms",
    ]);
    let code = "
for name, size in ('', 32 << 20), ('a', 100 << 20), ('b', 16 << 20):
    other = nbd.NBD()
    other.set_export_name(name)
    other.connect_unix(SOCKET)
    assert other.get_size() == size, name
    other.pwrite(b'12345' * 1000, 999)
    assert other.pread(5000, 999) == b'12345' * 1000
";
    nbdsh(&server, &code.replace("SOCKET", &format!("{:?}", server.socket())));
}
