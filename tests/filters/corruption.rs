//! The filter `evil`. Debian's nbdkit has none: what is expected is what its manual page says.

use std::fs;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complains;
use crate::support::{Server, memnbd, nbdsh, require, run};

/// The number of bits that differ from a disk of zeroes, and a checksum of what is read twice.
const BITS: &str = r#"
import hashlib
def read():
    data = b"".join(h.pread(1 << 16, at) for at in range(0, h.get_size(), 1 << 16))
    return bin(int.from_bytes(data, "big")).count("1"), hashlib.sha256(data).hexdigest()
one, other = read(), read()
print(one[0], one[1], other[1])
"#;

/// What [`BITS`] prints.
fn bits(parameters: &[&str]) -> (u64, String, String) {
    let arguments = [&["--filter=evil", "memory", "4M"], parameters].concat();
    let printed = nbdsh(&Server::start(&arguments), BITS);
    let words: Vec<&str> = printed.split_whitespace().collect();
    let [count, one, other] = words[..] else { panic!("three words: {printed}") };
    (count.parse().unwrap(), one.to_owned(), other.to_owned())
}

#[test]
fn as_many_bits_are_wrong_as_is_probable() {
    require!("nbdsh");
    let size = f64::from(4 << 23);
    // Of those that are stuck, half are stuck low, as all are on a disk of zeroes.
    for (mode, share) in
        [("stuck-bits", 0.5), ("stuck-wires", 0.5), ("cosmic-rays", 1.0), ("bit-rot", 1.0)]
    {
        for probability in ["1e-3", "1:100"] {
            let parameters = [
                &*format!("evil={mode}"),
                &format!("evil-probability={probability}"),
                "evil-seed=3",
            ];
            let (count, one, other) = bits(&parameters);
            let expected = if probability == "1e-3" { size * 1e-3 } else { size * 1e-2 } * share;
            let ratio = count as f64 / expected;
            // All replies have the same wires, of which there are few.
            let tolerance = if mode == "stuck-wires" { 0.4 } else { 0.1 };
            assert!((ratio - 1.0).abs() < tolerance, "{mode} {probability}: {count} of {expected}");
            assert_eq!(one == other, mode != "cosmic-rays", "{mode}");
            assert_eq!(bits(&parameters).1, one, "{mode}: the same seed does the same");
        }
    }
    assert_eq!(bits(&["evil-probability=0"]).0, 0);
    assert_eq!(bits(&["evil=cosmic", "evil-probability=1"]).0, 4 << 23);
    assert_ne!(bits(&["evil-probability=1e-4"]).1, bits(&["evil-probability=1e-4"]).1);
}

#[test]
fn what_is_written_is_right_beneath() {
    require!("nbdcopy");
    let directory = TempDir::new().unwrap();
    let image: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    fs::write(directory.path().join("image"), &image).unwrap();
    fs::write(directory.path().join("disk"), vec![0; image.len()]).unwrap();
    let arguments = ["--filter=evil", "file", "disk", "evil-probability=1e-4"];
    let script = r#"nbdcopy --flush image "$uri" && nbdcopy "$uri" back"#;
    served("memnbd", directory.path(), &arguments, script);
    assert!(fs::read(directory.path().join("disk")).unwrap() == image);
    let back = fs::read(directory.path().join("back")).unwrap();
    let wrong = back.iter().zip(&image).filter(|(one, other)| one != other).count();
    assert!((1000..2300).contains(&wrong), "{wrong}");
}

#[test]
fn rotten_bits_are_right_once_they_are_rewritten() {
    require!("nbdsh");
    let arguments = ["--filter=evil", "memory", "8M", "evil=bit-rot", "evil-probability=1e-3"];
    nbdsh(
        &Server::start(&arguments),
        "
import random
h.pwrite(b'\\x5a' * (8 << 20), 0)
assert h.pread(8 << 20, 0) == b'\\x5a' * (8 << 20)
model = bytearray(b'\\x5a' * (8 << 20))
for n in range(300):
    offset = random.randrange(len(model))
    length = random.randint(1, min(len(model) - offset, random.choice([7, 600, 70000])))
    if random.random() < 0.5:
        data = random.randbytes(length)
        h.pwrite(data, offset)
        model[offset:offset + length] = data
    else:
        assert h.pread(length, offset) == model[offset:offset + length]
",
    );
    let code = "
rotten = h.pread(1 << 20, 0)
assert rotten == h.pread(1 << 20, 0) and any(rotten)
h.pwrite(b'x' * 512, 4096)
assert h.pread(512, 4096) == b'x' * 512
assert h.pread(4096, 0) == rotten[:4096] and h.pread(65536, 4608) == rotten[4608:70144]
h.zero(65536, 131072)
assert h.pread(65536, 131072) == bytes(65536)
";
    nbdsh(&Server::start(&arguments), code);
}

#[test]
fn only_a_range_is_corrupted() {
    require!("nbdsh");
    for mode in ["evil=cosmic-rays", "evil-mode=stuck-bit", "evil=stuck-wires", "evil=bit-rot"] {
        let range = ["evil-range=1M:4k", "evil-probability=100%"];
        let arguments = [&["--filter=evil", "memory", "4M", mode], &range[..]].concat();
        nbdsh(
            &Server::start(&arguments),
            "
data = h.pread(4 << 20, 0)
assert any(data[1 << 20:(1 << 20) + 4096])
assert not any(data[:1 << 20]) and not any(data[(1 << 20) + 4096:])
",
        );
    }
}

/// With blocks of 512 bytes, and four connections that read the same.
#[test]
fn concurrent_replies_are_corrupted_each_for_itself() {
    require!("nbdsh");
    let arguments = [
        "--filter=evil",
        "--filter=blocksize-policy",
        "memory",
        "4M",
        "evil=stuck-wires",
        "evil-probability=1e-3",
        "blocksize-minimum=512",
    ];
    nbdsh(
        &Server::start(&arguments),
        "
expected = h.pread(65536, 0)
assert any(expected)
connections = [h]
for n in range(3):
    c = nbd.NBD()
    c.connect_unix('socket')
    connections.append(c)
for round in range(30):
    buffers = []
    for n in range(32):
        c, buffer = connections[n % 4], nbd.Buffer(65536)
        buffers.append((c, buffer, c.aio_pread(buffer, (n * 512 * round) % (3 << 20))))
    for c, buffer, cookie in buffers:
        while not c.aio_command_completed(cookie):
            c.poll(-1)
        assert buffer.to_bytearray() == expected
",
    );
}

#[test]
fn chosen_seed_is_logged() {
    let mut server = Server::start(&["--filter=evil", "memory", "1M"]);
    server.expect_log("chose a seed; evil-seed=");
}

#[test]
fn mistakes_are_told() {
    for (parameter, code, words) in [
        ("evil=bad", 2, "cosmic-rays"),
        ("evil-probability=2", 2, "evil-probability"),
        ("evil-seed=4294967296", 2, "evil-seed"),
        ("evil-range=1M:1", 1, "evil-range=1M:1 ends beyond the device beneath"),
    ] {
        complains(code, &["--filter=evil", "memory", "1M", parameter], &[words]);
    }
}

/// Clients that skip holes do not see what is wrong there, as nbdkit's manual says.
#[test]
fn holes_are_corrupted_where_clients_read_them() {
    require!("nbdcopy");
    let copied = |filters: &[&str]| {
        let directory = TempDir::new().unwrap();
        let mut command = memnbd(directory.path(), ["-U", "-"]);
        command.args(filters).args(["memory", "4M", "evil-probability=1e-3", "--run"]);
        run(command.arg(r#"nbdcopy "$uri" copy"#)).success();
        fs::read(directory.path().join("copy")).unwrap().iter().any(|byte| *byte != 0)
    };
    assert!(!copied(&["--filter=evil"]));
    assert!(copied(&["--filter=noextents", "--filter=evil"]));
    assert!(copied(&["--filter=evil", "--filter=noextents"]));
}
