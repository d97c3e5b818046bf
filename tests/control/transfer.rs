//! Images that `memnbd` copies to disks, and disks that it saves to files.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{DISKS, control, controlled, controlled_in, http};
use crate::support::{Finished, LIMIT, Server, require, run, wait_until};

const SIZE: u64 = 8 << 20;

/// Writes an image, `raw`, of holes and numbered data, and the same in other formats.
fn write_images(server: &Server) {
    let raw = File::create(server.path("raw")).unwrap();
    raw.set_len(SIZE).unwrap();
    let data: Vec<u8> = (0..768_u32 << 10).flat_map(|n| (n / 100 + 1).to_be_bytes()).collect();
    raw.write_all_at(&data, 1 << 20).unwrap();
    raw.write_all_at(b"the end", SIZE - 7).unwrap();
    sh(
        server,
        "qemu-img convert -f raw -O qcow2 raw plain.qcow2
        qemu-img convert -c -f raw -O qcow2 raw compressed.qcow2
        qemu-img convert -f raw -O vpc -o force_size=on raw raw.vhd
        qemu-img convert -f raw -O vmdk -o subformat=streamOptimized raw raw.vmdk
        gzip -k raw; xz -k --block-size=1MiB raw; zstd -q raw",
    );
}

/// Runs a script in the directory of a server, which finds the server's disk X at $nbd/X$at.
fn sh(server: &Server, script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(server.path("."));
    command.env("nbd", "nbd+unix://").env("at", "?socket=socket");
    run(&mut command).success()
}

/// Runs `memnbd` in the directory of a server.
fn memnbd_command(server: &Server, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    command.env("MEMNBD_HOST", "unix:control").current_dir(server.path(".")).args(arguments);
    command
}

fn memnbd(server: &Server, arguments: &[&str]) -> Finished {
    run(&mut memnbd_command(server, arguments))
}

/// Starts `memnbd`, whose errors can be read.
fn spawn(server: &Server, arguments: &[&str]) -> Child {
    let mut command = memnbd_command(server, arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end of a program that fails. Returns what it said.
fn failed(mut child: Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{text}");
    text
}

fn connections(server: &Server) -> Vec<serde_json::Value> {
    let listed = http(server, "GET", "/v1/tenants/default/connections", None).json();
    listed.as_array().unwrap().clone()
}

/// The names of the files in the directory of a server that begin so.
fn files(server: &Server, prefix: &str) -> Vec<String> {
    let entries = fs::read_dir(server.path(".")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[test]
fn disks_get_the_content_of_images_of_any_format() {
    require!("qemu-img", "zstd", "nbdinfo");
    let server = controlled(&["1M"]);
    write_images(&server);
    control(&server, &["create", "old", "8M"]).success();
    for image in [
        "raw",
        "plain.qcow2",
        "compressed.qcow2",
        "raw.vhd",
        "raw.vmdk",
        "raw.gz",
        "raw.xz",
        "raw.zst",
    ] {
        assert_eq!(memnbd(&server, &["copy", image, "new", "--create"]).success(), "");
        let script = r#"qemu-img compare -f raw -F raw raw "$nbd/new$at" >&2
            nbdinfo --size "$nbd/new$at"; nbdinfo --map --totals "$nbd/new$at""#;
        let told = sh(&server, script);
        assert!(told.starts_with("8388608\n"), "{told}");
        let allocated = (3 << 20) + (32 << 10);
        assert!(told.contains(&format!("{allocated} ")), "holes stay holes: {told}");
        memnbd(&server, &["rm", "new"]).success();
        // What was on a disk is replaced.
        sh(&server, r#"qemu-io -f raw -c 'write -q -P 7 0 8M' "$nbd/old$at""#);
        assert_eq!(memnbd(&server, &["copy", image, "old"]).success(), "");
        sh(&server, r#"qemu-img compare -f raw -F raw raw "$nbd/old$at""#);
    }
    memnbd(&server, &["copy", "--format", "raw", "plain.qcow2", "old"]).success();
    sh(&server, r#"qemu-img compare -f raw -F raw plain.qcow2 "$nbd/old$at""#);
}

#[test]
fn stdin_is_a_raw_image() {
    require!("qemu-img", "zstd");
    let server = controlled(&["9M"]);
    write_images(&server);
    let copy = |image: &str, arguments: &str| {
        let memnbd = env!("CARGO_BIN_EXE_memnbd");
        let script = format!("exec {memnbd} --host unix:control copy {arguments} <{image}");
        run(Command::new("sh").args(["-ec", &script]).current_dir(server.path(".")))
    };
    assert_eq!(copy("raw", "- disk").success(), "");
    sh(&server, r#"qemu-img compare -f raw -F raw raw "$nbd/disk$at""#);
    // A pipe brings little at a time.
    let memnbd = env!("CARGO_BIN_EXE_memnbd");
    sh(
        &server,
        &format!("dd if=plain.qcow2 bs=777 2>&- | {memnbd} --host unix:control copy - disk"),
    );
    sh(&server, r#"qemu-img compare -f raw -F raw plain.qcow2 "$nbd/disk$at""#);
    let error = copy("raw", "- new --create").failure(1);
    assert!(error.contains("create the disk first"), "{error}");
    let error = copy("raw", "- disk --format xz").failure(1);
    assert!(error.contains("needs a file"), "{error}");
    control(&server, &["create", "small", "1M"]).success();
    let error = copy("raw", "- small").failure(1);
    assert!(error.contains("more than the 1048576 bytes"), "{error}");
}

#[test]
fn large_images_of_holes_are_copied_and_saved_as_such() {
    require!("qemu-img", "zstd", "nbdinfo");
    let server = controlled(&["1M"]);
    let image = File::create(server.path("image")).unwrap();
    image.set_len(10 << 30).unwrap();
    image.write_all_at(&[7; 100_000], 5 << 30).unwrap();
    memnbd(&server, &["copy", "image", "disk10g", "--create"]).success();
    let map = sh(&server, r#"nbdinfo --map --totals "$nbd/disk10g$at""#);
    let data = map.lines().find(|line| line.ends_with("data")).unwrap();
    let data: u64 = data.split_whitespace().next().unwrap().parse().unwrap();
    assert!(data <= 5 << 15, "{map}");
    for format in ["raw", "qcow2"] {
        memnbd(&server, &["save", "disk10g", "saved", "--format", format]).success();
        let saved = fs::metadata(server.path("saved")).unwrap();
        assert!(saved.blocks() * 512 <= 1 << 20, "{} blocks", saved.blocks());
        sh(&server, &format!("qemu-img compare -f raw -F {format} image saved"));
    }
}

#[test]
fn saved_files_have_the_content_of_the_disk_and_can_be_loaded() {
    require!("qemu-img", "zstd");
    let server = controlled(&["1M"]);
    write_images(&server);
    memnbd(&server, &["copy", "raw", "full", "--create"]).success();
    // Not a whole number of clusters, or of the sectors that qcow2 has.
    control(&server, &["create", "odd", "3000001"]).success();
    sh(&server, r#"qemu-io -f raw -c 'write -q -P 7 2990001 9k' "$nbd/odd$at""#);
    control(&server, &["create", "pattern", "pattern", "size=70M"]).success();
    for disk in ["full", "odd", "pattern"] {
        memnbd(&server, &["save", disk, &format!("{disk}.raw")]).success();
        let compare = format!(r#"qemu-img compare -f raw -F raw {disk}.raw "$nbd/{disk}$at""#);
        sh(&server, &compare);
        for options in [&[][..], &["--compress"]] {
            let arguments = [&["save", disk, "saved", "--format", "qcow2"], options].concat();
            memnbd(&server, &arguments).success();
            let checked = sh(
                &server,
                &format!(
                    "qemu-img check -f qcow2 saved; qemu-img compare -f qcow2 -F raw saved {disk}.raw
                    qemu-img convert -f qcow2 -O raw saved converted; cmp -n 3000000 converted {disk}.raw"
                ),
            );
            assert!(checked.contains("No errors were found"), "{checked}");
        }
        fs::rename(server.path("saved"), server.path(&format!("{disk}.qcow2"))).unwrap();
    }
    let mode = |name: &str| fs::metadata(server.path(name)).unwrap().mode();
    assert_eq!(mode("full.raw"), mode("raw"), "that of new files");
    let blocks = |name: &str| fs::metadata(server.path(name)).unwrap().blocks();
    assert!(blocks("full.qcow2") < blocks("full.raw"), "it is compressed");
    assert_eq!(files(&server, "."), Vec::<String>::new());
    // The same directory, and another server.
    let directory = TempDir::new().unwrap();
    for name in ["full.raw", "full.qcow2", "pattern.qcow2", "pattern.raw"] {
        fs::copy(server.path(name), directory.path().join(name)).unwrap();
    }
    drop(server);
    let server = controlled_in(directory, &["1M"]);
    for (file, raw) in [("full.qcow2", "full.raw"), ("pattern.qcow2", "pattern.raw")] {
        memnbd(&server, &["copy", file, "loaded", "--create"]).success();
        sh(&server, &format!(r#"qemu-img compare -f raw -F raw {raw} "$nbd/loaded$at""#));
        memnbd(&server, &["rm", "loaded"]).success();
    }
}

#[test]
fn mistakes_are_told() {
    require!("qemu-img", "zstd");
    let server = controlled(&["1M"]);
    write_images(&server);
    control(&server, &["create", "fixed", "8M", "-r"]).success();
    fs::create_dir(server.path("directory")).unwrap();
    sh(&server, "qemu-img create -q -f qcow2 -b raw -F raw above.qcow2");
    for (arguments, words) in [
        (&["copy", "raw", "disk"][..], "the image has 8388608 bytes and the disk 1048576"),
        (&["copy", "compressed.qcow2", "disk"], "the image has 8388608 bytes"),
        (&["copy", "raw", "fixed"], "the disk is read-only"),
        (&["copy", "raw", "fixd"], "did you mean \"fixed\"?; --create creates one"),
        (&["copy", "none", "disk"], "copy none to \"disk\": No such file"),
        (&["copy", "directory", "disk"], "neither a regular file"),
        (&["copy", "above.qcow2", "disk"], "backing"),
        (&["copy", "raw", "disk", "--format", "qcow2"], "qcow2"),
        (&["save", "fixd", "x"], "did you mean \"fixed\"?"),
        (&["save", "fixed", "directory"], "not a regular file"),
        (&["save", "fixed", "none/x"], "No such file"),
        (&["--host", "unix:nowhere", "save", "fixed", "x"], "connect to nowhere"),
    ] {
        let error = memnbd(&server, arguments).failure(1);
        assert!(error.contains(words), "{arguments:?}: {error}");
    }
    let error = memnbd(&server, &["save", "fixed", "x", "--compress"]).failure(2);
    assert!(error.contains("--compress is for --format qcow2"), "{error}");
    assert!(files(&server, "x").is_empty() && files(&server, ".").is_empty());
}

#[test]
fn copies_and_saves_fail_when_the_disk_or_the_server_goes() {
    let mut server = controlled(&["1M"]);
    fs::write(server.path("image"), vec![7; 64 << 20]).unwrap();
    let slow = ["--filter=delay", "delay-write=200ms", "delay-read=200ms"];
    let create = |server: &Server, words: &[&str]| {
        control(server, &[&["create"], words, &slow].concat()).success();
    };
    for (name, words) in [
        ("a", &["the disk was removed"][..]),
        // Requests of its last second are refused.
        ("b", &["the server closed the connection", "the server is shutting down"]),
    ] {
        let source = format!("{name} source");
        create(&server, &[name, "64M"]);
        create(&server, &[&source, "pattern", "size=1G"]);
        let copying = spawn(&server, &["copy", "image", name]);
        let saving = spawn(&server, &["save", &source, "saved"]);
        assert!(wait_until(LIMIT, || connections(&server).len() == 2));
        match name {
            "a" => _ = control(&server, &["rm", name, &source]).success(),
            _ => {
                server.signal(Signal::TERM);
                server.wait();
            }
        }
        for child in [copying, saving] {
            let error = failed(child);
            assert!(words.iter().any(|words| error.contains(words)), "{name}: {error}");
        }
        assert!(files(&server, "saved").is_empty() && files(&server, ".").is_empty());
    }
}

#[test]
fn an_interrupted_save_leaves_the_file_as_it_was() {
    let server = controlled(&["1M"]);
    let slow = ["create", "slow", "pattern", "size=1G", "--filter=delay", "delay-read=200ms"];
    control(&server, &slow).success();
    for (signal, words) in [(Signal::INT, "interrupted"), (Signal::TERM, "terminated")] {
        for format in ["raw", "qcow2"] {
            fs::write(server.path("saved"), "before").unwrap();
            let saving = spawn(&server, &["save", "slow", "saved", "--format", format]);
            assert!(wait_until(LIMIT, || connections(&server).len() == 1));
            assert_eq!(files(&server, ".saved.").len(), 1);
            kill_process(Pid::from_child(&saving), signal).unwrap();
            let error = failed(saving);
            assert!(error.contains(words) && error.contains("not written"), "{error}");
            assert_eq!(fs::read_to_string(server.path("saved")).unwrap(), "before");
            assert_eq!(files(&server, ".saved."), Vec::<String>::new());
            assert!(wait_until(LIMIT, || connections(&server).is_empty()));
        }
    }
}

/// Makes a connection to the API an NBD connection.
fn upgrade(server: &Server, disk: &str) -> UnixStream {
    let mut stream = UnixStream::connect(server.path("control")).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!(
        "GET {DISKS}/{disk}/nbd HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: nbd\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_lowercase().contains("upgrade: nbd"), "{head}");
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
    stream
}

/// Chooses an export by EXPORT_NAME. Returns its size, if it is served.
fn choose(stream: &mut UnixStream, name: &str) -> Option<u64> {
    let length = (name.len() as u32).to_be_bytes();
    let option = [b"\0\0\0\x03IHAVEOPT\0\0\0\x01", &length[..], name.as_bytes()].concat();
    stream.write_all(&option).unwrap();
    let mut reply = [0; 10];
    stream.read_exact(&mut reply).ok()?;
    Some(u64::from_be_bytes(reply[..8].try_into().unwrap()))
}

#[test]
fn upgraded_connections_are_like_others_and_keep_no_request_waiting() {
    let mut server = controlled(&["1M"]);
    control(&server, &["create", "a", "2M"]).success();
    // More than the API handles requests.
    let mut streams: Vec<UnixStream> = (0..150).map(|_| upgrade(&server, "a")).collect();
    for stream in &mut streams[..100] {
        assert_eq!(choose(stream, "a"), Some(2 << 20));
    }
    assert_eq!(choose(&mut streams[100], "disk"), None, "another disk is not served on it");
    server.expect_log("unknown export");
    let listed = connections(&server);
    assert_eq!(listed.len(), 100);
    for one in &listed {
        assert_eq!(one["disk"], "a");
        assert!(one["peer"].as_str().unwrap().starts_with("(control API, user "), "{one}");
    }
    let id = listed[0]["id"].to_string();
    control(&server, &["connections", "--drop", &id]).success();
    assert!(wait_until(LIMIT, || connections(&server).len() == 99));
    control(&server, &["rm", "a"]).success();
    assert!(wait_until(LIMIT, || connections(&server).is_empty()));
    assert_eq!(streams[1].read(&mut [0]).unwrap(), 0, "it is closed");
    let mut stream = upgrade(&server, "disk");
    assert_eq!(choose(&mut stream, "disk"), Some(1 << 20));
    server.signal(Signal::TERM);
    server.wait();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it ends with the server");
}

#[test]
fn upgrades_have_limits_and_rules() {
    let mut server = controlled(&["1M", "--max-connections=2"]);
    let mut first = upgrade(&server, "disk");
    let mut second = upgrade(&server, "disk");
    assert_eq!(choose(&mut second, "disk"), Some(1 << 20));
    let mut waiting = UnixStream::connect(server.path("socket")).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "there are two places");
    assert_eq!(choose(&mut first, "no such disk"), None);
    server.expect_log("unknown export");
    waiting.set_read_timeout(Some(LIMIT)).unwrap();
    waiting.read_exact(&mut [0; 18]).unwrap();

    let path = format!("{DISKS}/disk/nbd");
    let plain = http(&server, "GET", &path, None);
    assert_eq!(plain.status, 426);
    assert!(plain.problem().contains("Upgrade: nbd"), "{}", plain.problem());
    assert!(plain.head.to_lowercase().contains("\r\nupgrade: nbd"), "{}", plain.head);
    assert_eq!(http(&server, "GET", &format!("{DISKS}/dsik/nbd"), None).status, 404);
    assert_eq!(http(&server, "POST", &path, Some("{}")).status, 405);
    let described = http(&server, "GET", "/v1/openapi.json", None).json();
    let described = &described["paths"]["/v1/tenants/{tenant}/disks/{disk}/nbd"]["get"];
    assert!(described["responses"]["101"].is_object(), "{described}");

    let server = controlled(&["--filter=ip", "1M", "deny=anyunix"]);
    let error = memnbd(&server, &["save", "disk", "x"]).failure(1);
    assert!(error.contains("the export is not for this client"), "{error}");
}
