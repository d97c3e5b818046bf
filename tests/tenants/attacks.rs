//! A tenant that wants more than it has: what is another's, or more than its quotas.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{configured, control_as, put, script, secret, shared, token};
use crate::control::{control, http, http_as};
use crate::support::{LIMIT, Server, memnbd, require, run};
use crate::tls::pki::{self, Use};

/// Sends a request for the tenant `acme`; its status and the reason if it was refused.
fn ask(
    server: &Server,
    secret: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, String) {
    let path = format!("/v1/tenants/acme/{path}");
    let answer = http_as(server, secret, method, &path, body.map(Value::to_string).as_deref());
    (answer.status, if answer.status < 400 { String::new() } else { answer.problem() })
}

#[test]
fn quotas_hold_for_requests_at_the_same_time() {
    let (server, acme, _) = shared();
    put(&server, "acme", &json!({"quotas": {"disks": 5, "snapshots": 3}}));
    let at_once = |path: &str, body: Value| {
        let put = |number: usize| {
            let path = path.replace('N', &number.to_string());
            ask(&server, &acme, "PUT", &path, Some(&body)).0
        };
        let statuses: Vec<u16> = thread::scope(|scope| {
            let threads: Vec<_> = (0..12).map(|number| scope.spawn(move || put(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let count = |status| statuses.iter().filter(|&&one| one == status).count();
        assert_eq!(count(201) + count(507), 12, "{statuses:?}");
        count(201)
    };
    assert_eq!(at_once("disks/N", json!({"parameters": ["1M"]})), 5);
    let disks = http_as(&server, &acme, "GET", "/v1/tenants/acme/disks", None).json();
    assert_eq!(disks.as_array().map(Vec::len), Some(5));
    let disk = disks[0]["name"].as_str().unwrap();
    assert_eq!(at_once("snapshots/sN", json!({"disk": disk})), 3);
    let more = json!({"disks": {"x": {"parameters": ["1M"]}}});
    assert_eq!(ask(&server, &acme, "POST", "populate", Some(&more)).0, 507);
}

#[test]
fn connections_to_the_api_are_bounded_for_each_tenant() {
    let (server, acme, other) = shared();
    let open = |secret: &str, tenant: &str| {
        let mut stream = UnixStream::connect(server.path("control")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let request = format!(
            "GET /v1/tenants/{tenant} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {secret}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        let status = String::from_utf8(head[9..].to_vec()).unwrap();
        (stream, status)
    };
    let all: Vec<_> = (0..80).map(|_| open(&acme, "acme")).collect();
    let count = |status: &str| all.iter().filter(|(_, one)| one == status).count();
    assert_eq!((count("200"), count("429")), (64, 16));
    assert_eq!(open(&other, "other").1, "200");
    assert_eq!(http(&server, "GET", "/v1/tenants", None).status, 200);
}

#[test]
fn paths_are_refused_in_every_request() {
    let (server, acme, _) = shared();
    fs::write(server.path("secret"), "the server's own").unwrap();
    let create = |disk: &str, spec: &Value| ask(&server, &acme, "PUT", disk, Some(spec));
    assert_eq!(create("disks/d", &json!({"parameters": ["1M"]})).0, 201);
    assert_eq!(create("snapshots/s", &json!({"disk": "d"})).0, 201);
    let file = server.path("secret").display().to_string();
    let directory = server.path("").display().to_string();
    let words = [file.as_str(), "./secret", "secret"];
    for path in words {
        let of_file = json!({"component": "file", "parameters": [path]});
        let beneath =
            json!({"snapshot": "s", "filters": ["log"], "parameters": [format!("logfile={path}")]});
        let layered = json!({"filters": ["ddrescue"], "parameters": ["1M", format!("ddrescue-mapfile={path}")]});
        let patched =
            json!({"filters": ["stats"], "parameters": ["1M", format!("statsfile={path}")]});
        let exported =
            json!({"disk": "d", "filters": ["rate"], "parameters": [format!("rate-file={path}")]});
        for (method, what, body) in [
            ("PUT", "disks/new", of_file.clone()),
            ("PUT", "disks/new", beneath),
            ("PUT", "disks/new", layered),
            ("PATCH", "disks/d", patched),
            ("PUT", "exports/new", exported),
            ("POST", "populate", json!({"disks": {"new": of_file}})),
        ] {
            let (status, problem) = ask(&server, &acme, method, what, Some(&body));
            // A disk in use stays as it is.
            let expected = if method == "PATCH" { 409 } else { 400 };
            assert_eq!(status, expected, "{method} {what} {body}: {problem}");
            assert!(!problem.contains("the server's own"), "{problem}");
        }
    }
    for component in [&file, "./guest.wasm", "../guest.wasm", &format!("{directory}guest.wasm")] {
        let (status, problem) = create("disks/new", &json!({"component": component}));
        assert_eq!(status, 400, "{problem}");
        let filters = json!({"parameters": ["1M"], "filters": [component]});
        assert_eq!(create("disks/new", &filters).0, 400);
    }
    let disks = http_as(&server, &acme, "GET", "/v1/tenants/acme/disks", None).json();
    assert_eq!(disks.as_array().map(Vec::len), Some(1), "{disks}");
}

#[test]
fn grants_of_others_are_as_absent_as_those_that_do_not_exist() {
    let (ours, our_digest) = secret();
    let (theirs, their_digest) = secret();
    let server = configured(&format!(
        "[disks]\n[grants.file]\nbase = 'server.toml'\n\
         [tenants.acme]\ntokens.t = {{ role = 'tenant', digest = '{our_digest}' }}\n\
         [tenants.other]\ntokens.t = {{ role = 'tenant', digest = '{their_digest}' }}\n\
         grants.file.golden = 'server.toml'\ngrants.secret.key = 'server.toml'\n"
    ));
    let about = |grant: &str| {
        let spec = json!({"component": "file", "parameters": [format!("file={grant}")]});
        let (status, problem) = ask(&server, &ours, "PUT", "disks/d", Some(&spec));
        (status, problem.replace(grant, "NAME"))
    };
    let absent = about("absent");
    assert_eq!(absent.0, 400);
    for grant in ["golden", "key", "base"] {
        assert_eq!(about(grant), absent, "{grant}");
    }
    control_as(&server, "other", &theirs, &["create", "d", "file", "file=golden"]).success();
}

/// What a tenant has, all of it with a word that nobody else uses.
fn furnish(server: &Server, tenant: &str, secret: &str, word: &str) {
    let run = |arguments: &[&str]| _ = control_as(server, tenant, secret, arguments).success();
    let disk = format!("{word}-disk");
    run(&["create", &disk, "1M", "--label", &format!("{word}-label={word}"), "--filter=error"]);
    run(&["snapshot", &disk, &format!("{word}-snapshot")]);
    run(&["export", &disk, &format!("{word}-export")]);
    run(&["token", &format!("{word}-token"), "--role", "connect"]);
    run(&["fault", &disk, "set", "error-rate=0"]);
    run(&["reset", &disk, "--to", &format!("{word}-snapshot")]);
    run(&["create", &format!("{word}-gone"), "1M"]);
    run(&["rm", &format!("{word}-gone")]);
}

#[test]
fn nothing_of_others_is_in_what_a_tenant_reads() {
    require!("nbdsh");
    let (mut server, acme, other) = shared();
    let uid = rustix::process::getuid().as_raw();
    put(&server, "acme", &json!({"uids": [uid], "quotas": {"disks": 3}}));
    furnish(&server, "acme", &acme, "badger");
    furnish(&server, "other", &other, "walrus");
    furnish(&server, "default", &token(&server, "default", "admin"), "gopher");
    control_as(&server, "acme", &acme, &["create", "second", "1M"]).success();
    let read = |path: &str| {
        let answer = http_as(&server, &acme, "GET", path, None);
        (answer.status, format!("{}{}", answer.head, answer.text()))
    };
    let own = [
        "",
        "/disks",
        "/usage",
        "/connections",
        "/events?follow=false",
        "/snapshots",
        "/exports",
        "/tokens",
        "/disks/badger-disk",
        "/disks/badger-disk/commands",
        "/disks/badger-disk/map",
        "/disks/badger-disk/heat",
        "/snapshots/badger-snapshot/diff?from=badger-snapshot",
    ];
    let own = own.map(|path| format!("/v1/tenants/acme{path}"));
    for path in own.iter().map(String::as_str).chain(["/v1/tenants", "/v1/openapi.json"]) {
        let (status, text) = read(path);
        assert_eq!(status, 200, "{path}: {text}");
        for word in ["walrus", "gopher", "\"other\""] {
            assert!(!text.contains(word), "{path}: {text}");
        }
    }
    // Names that are nearly those of others get no hint.
    for path in [
        "/disks/walrus-dis",
        "/disks/gopher-dis",
        "/exports/walrus-expor",
        "/events?disk=walrus-disk&follow=false",
    ] {
        let (_, text) = read(&format!("/v1/tenants/acme{path}"));
        assert!(!text.replace("walrus-disk\"", "").contains("walrus-disk"), "{path}: {text}");
        assert!(!text.contains("gopher-disk") && !text.contains("walrus-export"), "{path}: {text}");
    }
    let third = json!({"parameters": ["1M"]});
    let (status, full) = ask(&server, &acme, "PUT", "disks/third", Some(&third));
    assert!(status == 507 && full.contains("at most 3"), "{full}");
    for (path, status) in [("/metrics", 403), ("/v1/tenants/other/usage", 404)] {
        assert_eq!(read(path).0, status, "{path}");
    }
    script(
        &server,
        "
assert sorted(listed()) == ['badger-disk', 'badger-export', 'second'], listed()
absent = error_of('nothing')
for name in ['walrus-disk', 'gopher-disk', 'disk', 'other/walrus-disk', 'acme/badger-disk', 'default/disk']:
    assert error_of(name) == absent, (name, error_of(name), absent)",
    );
    server.allow_log("no such export");
}

/// A server that asks for certificates, and a client's directory for each of these common names.
fn certified(names: &[(&str, &str)]) -> Server {
    let path = TempDir::new().unwrap();
    let authority = pki::directory(path.path());
    for (directory, name) in names {
        let own = path.path().join(directory);
        fs::create_dir(&own).unwrap();
        authority.sign(name, Use::Client).write(&own, "client");
        pki::write_certificates(&own, "ca", &[&authority.certificate]);
    }
    let options = ["-p", "0", "--tls=require", "--tls-verify-peer", "--tls-certificates=."];
    let mut command = memnbd(path.path(), options);
    command.args(["--control", "unix:control", "1M"]);
    Server::spawn(path, &mut command)
}

#[test]
fn subjects_that_look_alike_are_not_taken_for_each_other() {
    require!("nbdinfo");
    let names = [
        ("acme", "acme"),
        ("case", "ACME"),
        ("space", "acme "),
        ("two", "acme,O=Example"),
        ("plus", "acme+O=Example"),
        ("escaped", "acme\\,O\\=Example"),
    ];
    let server = certified(&names);
    put(&server, "acme", &json!({"certificates": ["CN=acme"]}));
    put(&server, "both", &json!({"certificates": ["CN=acme,O=Example", "CN=acme+O=Example"]}));
    for tenant in ["acme", "both"] {
        control(&server, &["--tenant", tenant, "create", tenant, "1M"]).success();
    }
    let list = |who: &str| {
        let directory = server.path(who);
        let port = server.port();
        let uri = format!("nbds://localhost:{port}/?tls-certificates={}", directory.display());
        let listed = run(Command::new("nbdinfo").args(["--list", "--json", &uri])).success();
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed["exports"][0]["export-name"].as_str().unwrap().to_owned()
    };
    assert_eq!(list("acme"), "acme");
    for (who, _) in &names[1..] {
        assert_eq!(list(who), "disk", "{who} is nobody's");
    }
}

#[test]
fn identities_of_others_need_their_keys() {
    require!("nbdinfo");
    let path = TempDir::new().unwrap();
    let keys = "acme:00112233445566778899aabbccddeeff\nother:0123456789abcdef0123456789abcdef\n";
    crate::tls::client::write_secret(&path.path().join("keys.psk"), keys);
    // What acme has: its own key, under its own name and that of the other.
    let stolen = keys.lines().next().unwrap().replace("acme:", "other:");
    crate::tls::client::write_secret(&path.path().join("stolen.psk"), &format!("{stolen}\n"));
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls=require", "--tls-psk=keys.psk"]);
    command.args(["--control", "unix:control", "1M"]);
    let mut server = Server::spawn(path, &mut command);
    for tenant in ["acme", "other"] {
        put(&server, tenant, &json!({"keys": [tenant]}));
        control(&server, &["--tenant", tenant, "create", tenant, "1M"]).success();
    }
    let info = |who: &str, file: &str, export: &str| {
        let uri = format!("nbds+unix://{who}@/{export}?socket=socket&tls-psk-file={file}");
        let mut command = Command::new("nbdinfo");
        run(command.current_dir(server.path("")).args(["--size", &uri]))
    };
    info("acme", "keys.psk", "acme").success();
    info("other", "keys.psk", "other").success();
    info("acme", "keys.psk", "other").failure(1);
    info("other", "stolen.psk", "other").failure(1);
    server.allow_log("TLS");
    server.allow_log("no such export");
}
