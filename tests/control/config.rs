//! The configuration file, and SIGHUP.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use super::{DISKS, EXPORTS, OPEN, control, controlled_in, http, names, put};
use crate::support::{LIMIT, Server, memnbd, nbdsh, require, run, wait_until};

/// The configuration of a server, in its directory.
const FILE: &str = "disks.toml";

/// A server with this configuration, and nothing else unless the arguments say so.
fn configured(config: &str, arguments: &[&str]) -> Server {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(FILE), config).unwrap();
    let arguments = [&["--config", FILE], arguments].concat();
    controlled_in(directory, &arguments)
}

/// Replaces the configuration, and waits until the server has read it.
fn reload(server: &Server, config: &str) {
    replace_file(server, config);
    let reloads = |server: &Server| {
        let said =
            |line: &String| line.contains("read again:") || line.contains("nothing was changed");
        server.log().iter().filter(|line| said(line)).count()
    };
    let before = reloads(server);
    server.signal(Signal::HUP);
    assert!(wait_until(LIMIT, || reloads(server) > before), "{:?}", server.log());
}

fn replace_file(server: &Server, config: &str) {
    fs::write(server.path("new.toml"), config).unwrap();
    fs::rename(server.path("new.toml"), server.path(FILE)).unwrap();
}

/// The number of a disk, which is another one after it was created anew.
fn tag(server: &Server, disk: &str) -> String {
    let shown = http(server, "GET", &format!("{DISKS}/{disk}"), None);
    shown.head.lines().find(|line| line.starts_with("etag:")).unwrap().to_owned()
}

/// The error of a server that cannot be started with a configuration.
fn refused(config: &[u8]) -> String {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(FILE), config).unwrap();
    refused_file(directory.path(), FILE)
}

fn refused_file(directory: &Path, file: &str) -> String {
    run(&mut memnbd(directory, ["-U", "socket", "--config", file])).failure(1)
}

#[test]
fn disks_of_the_file_are_served() {
    require!("nbdsh");
    let config = r#"
[grants.file]
image = "image"

[disks.z]
parameters = ["size=64k"]
labels = { suite = "nightly" }

[disks."a b"]
component = "file"
parameters = ["image"]
read_only = true

[disks.c]
component = "data"
filters = ["offset"]
parameters = ["1 2 3", "size=4k", "offset=1"]
"#;
    let directory = TempDir::new().unwrap();
    let below = directory.path().join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join(FILE), config).unwrap();
    fs::write(below.join("image"), [7; 4096]).unwrap();
    let server = controlled_in(directory, &["--config", "below/disks.toml"]);
    assert_eq!(names(&server), ["z", "a b", "c"]);
    nbdsh(
        &server,
        &format!(
            "{OPEN}
assert open_disk('').get_size() == open_disk('z').get_size() == 65536
assert open_disk('a b').pread(2, 0) == bytes([7, 7])
assert open_disk('a b').is_read_only()
assert open_disk('c').pread(2, 0) == bytes([2, 3])
"
        ),
    );
    // It is granted to those who use the API as well, and nothing else is.
    assert_eq!(
        put(&server, "i", &json!({"component": "file", "parameters": ["image"]})).status,
        201
    );
    let path = json!({"component": "file", "parameters": ["./image"]});
    assert_eq!(put(&server, "j", &path).status, 400);
}

#[test]
fn command_line_and_file_are_served_together() {
    let server = configured("[disks.b]\nparameters = ['1M']", &["--export", "a=memory,1M"]);
    assert_eq!(names(&server), ["a", "b"]);
    let error = refused_with(b"[disks.disk]\nparameters = ['1M']", &["-e", "disk", "1M"]);
    assert!(error.contains("line 1, column 8") && error.contains("command line"), "{error}");
}

fn refused_with(config: &[u8], arguments: &[&str]) -> String {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(FILE), config).unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--config", FILE]);
    run(command.args(arguments)).failure(1)
}

#[test]
fn mistakes_are_told_with_line_and_column() {
    for (config, place, words) in [
        ("", "line 1, column 1", "no table \"disks\""),
        ("[disk.a]", "line 1, column 2", "did you mean \"disks\"?"),
        ("[disks.a]\n\n  paramters = []", "line 3, column 3", "did you mean \"parameters\"?"),
        ("[disks.a]\nparameters = [1]", "line 2, column 15", "type integer"),
        ("[disks.a]\nparameters = 'x'", "line 2, column 14", "an array of strings"),
        ("[disks.a]\nread_only = 'no'", "line 2, column 13", "true or false"),
        ("[disks.a]\nlabels = { '\u{e4}' = '\u{e4}', a = 1 }", "line 2, column 27", "a string"),
        ("disks = 5", "line 1, column 9", "a table"),
        ("[disks.a]\n[disks.b]\n[disks.a]", "line 3, column 8", "duplicate key"),
        ("[disks.a]\ncomponent = 'memory", "line 2, column 20", "not TOML"),
        ("[disks.a]\nparameters = ['1M', 'colour=red']", "line 1, column 8", "\"colour\""),
        ("[disks.b]\nparameters=['1M']\n[disks.a]", "line 3, column 8", "needs the parameter"),
        ("[disks.a]\ncomponent = 'memroy'", "line 1, column 8", "did you mean \"memory\"?"),
        (
            "[disks.a]\nfilters = ['memory']\nparameters = ['1M']",
            "line 1, column 8",
            "not a filter",
        ),
        ("[disks.'']", "line 1, column 8", "1 to 255 bytes"),
        ("[disks]\n[grants.fiel]\na = 'b'", "line 2, column 9", "did you mean \"file\"?"),
        ("[disks]\n[grants.file]\n'a b' = 'b'", "line 3, column 1", "ASCII letters"),
        ("[disks]\n[grants.file]\na = 'b'\n[grants.read-only-file]\na = 'c'", "line 5", "twice"),
        ("[disks.a]\nread_only = 99999999999999999999999999", "line 2, column 13", "integer"),
    ] {
        let error = refused(config.as_bytes());
        assert!(error.contains(FILE) && error.contains(place), "{config:?}: {error}");
        assert!(error.contains(words), "{config:?}: {error}");
    }
}

#[test]
fn hostile_files_are_refused() {
    let deep = |open: &str| format!("[disks]\na = {}", open.repeat(1 << 20));
    let many: String = (0..10_001).map(|n| format!("[disks.d{n}]\n")).collect();
    let filters = format!("[disks.a]\nfilters = [{}]", "'error',".repeat(17));
    let label = format!("[disks.a.labels]\na = '{}'", "x".repeat(257));
    let name = format!("[disks.{}]", "x".repeat(1 << 20));
    let key = format!("[disks.a]\n{} = 1", "x".repeat(1 << 20));
    let heavy: String = (0..8000).map(|n| format!("[disks.d{n}]\nlabels.a = ''\n")).collect();
    let heavy = format!("{heavy}[disks.x]\nparameters = [{}]", "'',".repeat(1025));
    for (config, words) in [
        (deep("["), "line 2, column 8"),
        (deep("{a = "), "line 2, column "),
        (many, "line 10001, column 8: there are too many disks"),
        (filters, "at most 16"),
        (label, "labels"),
        (name, "1 to 255 bytes"),
        (key, "xxx...\" is not a key"),
        (heavy, "at most 1024"),
        ("a.".repeat(1 << 20) + "b = 1", "line 1, column "),
    ] {
        let error = refused(config.as_bytes());
        assert!(error.contains(words) && error.len() < 1000, "{words}: {error:.1000}");
    }
    let error = refused(b"[disks.a]\n# \xc3\xa4 \xff\n");
    assert!(error.contains("line 2, column 5: this is not UTF-8"), "{error}");
    let error = refused(&vec![b' '; (16 << 20) + 1]);
    assert!(error.contains("at most 16777216 bytes"), "{error}");
}

#[test]
fn only_regular_files_are_read() {
    let directory = TempDir::new().unwrap();
    let fifo = directory.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for file in ["fifo", ".", "/dev/zero", "/dev/null"] {
        let error = refused_file(directory.path(), file);
        assert!(error.contains("not a regular file"), "{file}: {error}");
    }
    let error = refused_file(directory.path(), "missing.toml");
    assert!(error.contains("missing.toml: No such file"), "{error}");
}

#[test]
fn ten_thousand_disks_are_served_without_being_opened() {
    let disk = |n| format!("[disks.d{n}]\nparameters = ['size=1G']\n");
    let config: String = (0..10_000).map(disk).collect();
    let server = configured(&config, &[]);
    let listed = http(&server, "GET", DISKS, None).json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 10_000);
    assert!(listed.iter().all(|disk| disk["state"] == "closed"));
    assert_eq!(put(&server, "one-more", &json!({"parameters": ["1M"]})).status, 507);
    reload(&server, "[disks]");
    assert!(names(&server).is_empty());
}

#[test]
fn reloading_changes_what_differs() {
    let disk = |name: &str, rest: &str| format!("[disks.{name}]\nparameters = ['1M']\n{rest}\n");
    let config = disk("same", "") + &disk("labelled", "labels.a = '1'") + &disk("gone", "");
    let mut server = configured(&config, &["--export", "line=memory,1M"]);
    assert_eq!(put(&server, "made", &json!({"parameters": ["1M"]})).status, 201);
    let before = ["same", "labelled", "line", "made"].map(|name| tag(&server, name));
    let config = disk("same", "") + &disk("labelled", "labels.a = '2'") + &disk("new", "");
    reload(&server, &config);
    assert_eq!(names(&server), ["line", "same", "labelled", "made", "new"]);
    assert_eq!(before, ["same", "labelled", "line", "made"].map(|name| tag(&server, name)));
    let labelled = http(&server, "GET", &format!("{DISKS}/labelled"), None).json();
    assert_eq!(labelled["spec"]["labels"], json!({"a": "2"}));

    // Other filters keep the content.
    reload(&server, &config.replacen("['1M']", "['1M', 'error-rate=0']\nfilters = ['error']", 1));
    server.expect_log("1 disks changed");
    let same = http(&server, "GET", &format!("{DISKS}/same"), None).json();
    assert_eq!((&same["spec"]["filters"], &same["generation"]), (&json!(["error"]), &json!(1)));
    reload(&server, &config);
    server.expect_log("1 disks changed");
    let before = ["same", "labelled", "line", "made"].map(|name| tag(&server, name));

    // What would lose its content stays until somebody removes it.
    reload(&server, &config.replacen("1M", "2M", 1));
    server.expect_log("they would lose their content: \"same\"");
    assert_eq!(before[0], tag(&server, "same"));
    control(&server, &["rm", "same"]).success();
    reload(&server, &config.replacen("1M", "2M", 1));
    let same = http(&server, "GET", &format!("{DISKS}/same"), None).json();
    assert_eq!(same["spec"]["parameters"], json!(["2M"]));

    // Those of the command line and of the API are not the file's.
    for other in ["line", "made"] {
        reload(&server, &(config.clone() + &disk(other, "read_only = true")));
        server.expect_log(&format!("the disk \"{other}\" exists"));
    }
    reload(&server, "[disks]");
    assert_eq!(names(&server), ["line", "made"]);
}

#[test]
fn failing_reload_changes_nothing() {
    let good = "[disks.a]\nparameters = ['1M']\n";
    let mut server = configured(good, &[]);
    let before = tag(&server, "a");
    for (config, place) in [
        ("[disks.b]\nparameters = ['1M']\n[disks.c]\n", "line 3, column 8: the disk \"c\""),
        ("[disks.b]\nparametres = []\n", "line 2, column 1"),
        ("[disks.b", "line 1, column 9"),
        ("", "line 1, column 1"),
        ("[disks.b]\ncomponent = './missing.wasm'", "no such file"),
    ] {
        reload(&server, config);
        server.expect_log(place);
        assert_eq!((names(&server), tag(&server, "a")), (vec!["a".to_owned()], before.clone()));
    }
    fs::remove_file(server.path(FILE)).unwrap();
    server.signal(Signal::HUP);
    server.expect_log("No such file");
    reload(&server, &format!("{good}[grants.file]\nx = 'y'"));
    server.expect_log("the grants differ");
    reload(&server, &format!("{good}[disks.b]\nparameters = ['1M']"));
    assert_eq!(names(&server), ["a", "b"]);
}

#[test]
fn hangups_that_come_quickly_end_with_the_last_file() {
    let server = configured("[disks.a]\nparameters = ['1M']", &[]);
    for round in 0..20 {
        replace_file(&server, &format!("[disks.b{round}]\nparameters = ['1M']"));
        server.signal(Signal::HUP);
        server.signal(Signal::HUP);
    }
    assert!(wait_until(LIMIT, || names(&server) == ["b19"]), "{:?}", names(&server));
}

#[test]
fn clients_of_unchanged_disks_notice_no_reload() {
    require!("nbdsh");
    let server = configured("[disks.a]\nparameters = ['4M']", &[]);
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import os, random, signal, threading, time
stop, errors, rounds = threading.Event(), [], [0, 0, 0, 0]
def load(index):
    try:
        c = open_disk('a')
        at, length = index << 20, 1 << 20
        model = bytearray(length)
        chance = random.Random(index)
        while not stop.is_set():
            offset = chance.randrange(0, length - 4096)
            data = bytes([chance.randrange(256)]) * chance.randrange(1, 4096)
            c.pwrite(data, at + offset)
            model[offset:offset + len(data)] = data
            offset = chance.randrange(0, length - 65536)
            assert c.pread(65536, at + offset) == model[offset:offset + 65536]
            rounds[index] += 1
        assert c.pread(length, at) == model
    except Exception as error:
        errors.append(error)
threads = [threading.Thread(target=load, args=(index,)) for index in range(4)]
for thread in threads:
    thread.start()
for reload in range(20):
    with open('new', 'w') as file:
        file.write('''
[disks.a]
parameters = ['4M']
labels.reload = '%d'
[disks.churn%d]
parameters = ['1M']
''' % (reload, reload))
    os.rename('new', '{FILE}')
    os.kill({pid}, signal.SIGHUP)
    before = list(rounds)
    while True:
        try:
            other = open_disk('churn%d' % reload)
            break
        except nbd.Error:
            assert not errors, errors
            time.sleep(0.01)
    # Its clients are disconnected by the next reload, the others are not.
    other.pwrite(b'x' * 512, 0)
    while not errors and any(now == then for now, then in zip(rounds, before)):
        time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join()
assert not errors, errors
",
            pid = server.pid().as_raw_nonzero(),
        ),
    );
    assert_eq!(names(&server), ["a", "churn19"]);
}

#[test]
fn servers_without_a_control_socket_reload_as_well() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join(FILE), "[disks.a]\nparameters = ['1M']").unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--config", FILE]);
    let server = Server::spawn(directory, &mut command);
    reload(&server, "[disks.a]\nparameters = ['1M']\n[disks.b]\nparameters = ['2M']");
    nbdsh(
        &server,
        "
c = nbd.NBD()
c.set_export_name('b')
c.connect_unix('socket')
assert c.get_size() == 2 << 20
",
    );
}

#[test]
fn clients_are_limited_by_the_file() {
    require!("nbdsh");
    let limited = "[disks.a]\nfilters = ['limit', 'error']\nparameters = ['1M', 'limit=1']";
    let server = configured(limited, &[]);
    nbdsh(
        &server,
        "
def open_disk():
    c = nbd.NBD()
    c.set_export_name('a')
    c.connect_unix('socket')
    return c
h.shutdown()
first = None
for attempt in range(1000):
    try:
        first = open_disk()
        break
    except nbd.Error:
        pass
assert first.get_size() == 1 << 20
try:
    open_disk()
    assert False
except nbd.Error:
    pass
",
    );
    let rates = "[disks.a]\nfilters = ['rate']\nparameters = ['1M', 'rate-file=x']";
    let error = refused(rates.as_bytes());
    assert!(error.contains("line 1, column 8") && error.contains("command line"), "{error}");
    let exits = refused(b"[disks.a]\nfilters = ['exitlast']\nparameters = ['1M']");
    assert!(exits.contains("line 1, column 8"), "{exits}");
}

/// The exports of a server, with their disks.
fn exports(server: &Server) -> Vec<(String, String)> {
    let listed = http(server, "GET", EXPORTS, None).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let listed = listed.as_array().unwrap().iter();
    listed.map(|export| (text(&export["name"]), text(&export["spec"]["disk"]))).collect()
}

#[test]
fn exports_of_the_file_are_served_and_follow_it() {
    require!("nbdsh");
    let disks = "[disks.a]\nparameters = ['1M']\n[disks.b]\nparameters = ['2M']\n";
    let export =
        |name: &str, disk: &str, rest: &str| format!("[exports.{name}]\ndisk = '{disk}'\n{rest}\n");
    let first = format!(
        "{disks}{}{}",
        export("a-ro", "a", "read_only = true"),
        export("line-too", "line", "filters = ['limit']\nparameters = ['limit=1']"),
    );
    let mut server = configured(&first, &["--export", "line=memory,1M"]);
    let pair = |name: &str, disk: &str| (name.to_owned(), disk.to_owned());
    assert_eq!(exports(&server), [pair("a-ro", "a"), pair("line-too", "line")]);
    assert_eq!(names(&server), ["line", "a", "b"], "exports are no disks");
    let spec = json!({"disk": "a"}).to_string();
    assert_eq!(http(&server, "PUT", &format!("{EXPORTS}/made"), Some(&spec)).status, 201);
    let second = format!(
        "{disks}{}{}{}",
        export("a-ro", "a", "read_only = true"),
        export("line-too", "line", "filters = ['limit']\nparameters = ['limit=2']"),
        export("new", "b", ""),
    );
    nbdsh(
        &server,
        &format!(
            "{OPEN}
import os, signal, time
ro, limited = open_disk('a-ro'), open_disk('line-too')
assert ro.is_read_only() and ro.get_size() == 1 << 20
def refused(name):
    try:
        open_disk(name)
        return False
    except nbd.Error:
        return True
assert refused('line-too') and refused('new')
open_disk('a').pwrite(b'x' * 512, 0)
assert ro.pread(512, 0) == b'x' * 512
with open('new', 'w') as file:
    file.write('''{second}''')
os.rename('new', '{FILE}')
os.kill({pid}, signal.SIGHUP)
while refused('new'):
    time.sleep(0.01)
# The limit of the number of clients is another one, and they stay connected.
assert ro.pread(512, 0) == b'x' * 512 and limited.pread(1, 0) == bytes(1)
second = open_disk('line-too')
assert refused('line-too')
assert open_disk('new').get_size() == 2 << 20
",
            pid = server.pid().as_raw_nonzero(),
        ),
    );
    server.expect_log("0 disks changed, 2 as they were; 2 exports changed, 1 as they were");

    // One that serves another disk is another one, and one may take the name of a disk that goes.
    reload(&server, &format!("{disks}{}", export("new", "a", "")));
    assert_eq!(exports(&server), [pair("made", "a"), pair("new", "a")]);
    reload(&server, &format!("[disks.a]\nparameters = ['1M']\n{}", export("b", "a", "")));
    assert_eq!(exports(&server), [pair("b", "a"), pair("made", "a")]);
    assert_eq!(names(&server), ["line", "a"]);
    reload(&server, disks);
    assert_eq!(exports(&server), [pair("made", "a")]);
    assert_eq!(names(&server), ["line", "a", "b"]);

    for (exports_too, words) in [
        (export("made", "a", ""), "line 5, column 10: the export \"made\": it exists"),
        (export("line", "a", ""), "line 5, column 10: the export \"line\": there is a disk"),
        (export("x", "c", ""), "line 5, column 10: the export \"x\": there is no disk \"c\""),
        (export("x", "made", ""), "is an export, and no disk"),
        (export("x", "a", "tls = true"), "line 5, column 10: the export \"x\": the server was"),
        (export("x", "a", "filters = ['error']"), "line 5, column 10: the export \"x\": \"error\""),
        ("[exports.x]\n".to_owned(), "line 5, column 10: the export \"x\": an export has either"),
    ] {
        reload(&server, &format!("{disks}{exports_too}"));
        server.expect_log(words);
        assert_eq!(exports(&server), [pair("made", "a")], "nothing was changed");
    }
}

#[test]
fn mistakes_in_exports_stop_the_start() {
    let disks = "[disks.a]\nparameters = ['1M']\n";
    for (exports, words) in [
        ("[exports.x]\ndisk = 'b'", "line 3, column 10: the export \"x\": there is no disk \"b\""),
        ("[exports.a]\ndisk = 'a'", "line 3, column 10: the export \"a\": there is a disk"),
        ("[exports.x]\ndisk = 'a'\n[exports.y]\ndisk = 'x'", "is an export, and no disk"),
        ("[exports.x]\ndisk = 'a'\ntls = true", "started without TLS"),
        ("[exports.x]\ndisk = 'a'\nparameters = ['limit=x']", "line 3, column 10"),
        ("[exports.x]\nsnapshot = 's'", "line 4, column 1: snapshots are taken"),
        ("[tenants.t.exports.x]\ndisk = 'a'", "the export \"x\" of the tenant \"t\""),
    ] {
        let error = refused(format!("{disks}{exports}").as_bytes());
        assert!(error.contains(FILE) && error.contains(words), "{exports}: {error}");
    }
}

#[test]
fn tenants_of_the_file_have_exports_as_well() {
    let disk = "[disks]\n[tenants.acme.disks.a]\nparameters = ['1M']\n";
    let export = |name: &str| format!("[tenants.acme.exports.{name}]\ndisk = 'a'\n");
    let mut server = configured(&format!("{disk}{}", export("b")), &[]);
    let listed = |server: &Server| {
        let of_tenant = EXPORTS.replace("default", "acme");
        let listed = http(server, "GET", &of_tenant, None).json();
        let names = listed.as_array().unwrap().iter().map(|export| export["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!((listed(&server), exports(&server)), (vec![json!("b")], Vec::new()));
    reload(&server, &format!("{disk}{}", export("c")));
    assert_eq!(listed(&server), [json!("c")]);
    reload(&server, &format!("{disk}{}{}", export("b"), export("c").replace("acme", "other")));
    server.expect_log("the export \"c\" of the tenant \"other\": there is no disk \"a\"");
    assert_eq!(listed(&server), [json!("c")], "a mistake of another tenant changes nothing");
}
