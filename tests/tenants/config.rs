//! Tenants in the configuration file.

use std::fs;
use std::os::unix::net::UnixStream;

use rustix::process::Signal;

use super::{configured, control_as, script, secret};
use crate::control::{control, http, http_as};
use crate::support::{LIMIT, Probe, Server, require, wait_until};

#[test]
fn tenants_of_the_file_have_sockets_tokens_grants_and_disks() {
    require!("nbdsh");
    let (token, digest) = secret();
    let server = configured(&format!(
        "[disks.mine]\nparameters = ['1M']\n\
         [tenants.acme]\nlisten = ['unix:acme.sock']\nquotas = {{ disks = 3 }}\n\
         tokens.ci = {{ role = 'tenant', digest = '{digest}' }}\n\
         grants.file.image = 'server.toml'\n\
         [tenants.acme.disks.d]\ncomponent = 'data'\nparameters = ['\"a\" * 512']\n\
         [tenants.other.disks.d]\nparameters = ['1M']\n"
    ));
    script(&server, "
assert listed('acme.sock') == ['d'] and listed() == ['mine']
assert open_disk('d', 'acme.sock').pread(512, 0) == b'a' * 512
assert error_of('d') == error_of('e') and error_of('mine', 'acme.sock') == error_of('e', 'acme.sock')",
    );
    let create = |parameters: &[&str]| control_as(&server, "acme", &token, parameters);
    create(&["create", "granted", "file", "file=image"]).success();
    for path in ["file=server.toml", "file=/etc/passwd", "file=../server.toml"] {
        let error = create(&["create", "stolen", "file", path]).failure(1);
        assert!(error.contains("not the name of a file that the administrator granted"), "{error}");
    }
    let error = control(&server, &["create", "x", "file", "file=image"]).failure(1);
    assert!(error.contains("granted"), "the grant is the tenant's: {error}");
    let error = control(&server, &["tenant", "acme", "--rm"]).failure(1);
    assert!(error.contains("the configuration file has the tenant"), "{error}");
    let error = create(&["token", "ci"]).failure(1);
    assert!(error.contains("the configuration file has this token"), "{error}");
}

/// Makes a server read a new file, and waits for a line in its log.
fn reload(server: &mut Server, text: &str, told: &str) {
    let before = server.log().len();
    fs::write(server.path("server.toml"), text).unwrap();
    server.signal(Signal::HUP);
    let found = wait_until(LIMIT, || server.log()[before..].iter().any(|line| line.contains(told)));
    assert!(found, "{told}: {:#?}", server.log());
}

#[test]
fn tenants_and_tokens_follow_the_file() {
    require!("nbdsh");
    let ((first, one), (second, two)) = (secret(), secret());
    let text = |digest: &str, more: &str| {
        format!(
            "[disks]\n[tenants.acme]\ntokens.ci = {{ role = 'tenant', digest = '{digest}' }}\n{more}\n\
             [tenants.acme.disks.d]\nparameters = ['1M']\n"
        )
    };
    let mut server = configured(&text(&one, "[tenants.old.disks.d]\nparameters = ['1M']"));
    let ls = |server: &Server, secret: &str| {
        http_as(server, secret, "GET", "/v1/tenants/acme/disks", None).status
    };
    assert_eq!((ls(&server, &first), ls(&server, &second)), (200, 401));
    let uid = rustix::process::getuid().as_raw();
    let next = text(&two, &format!("uids = [{uid}]\nquotas.disks = 1"));
    reload(&mut server, &next, "read again: 0 disks changed, 1 as they were");
    assert_eq!((ls(&server, &first), ls(&server, &second)), (401, 200));
    assert_eq!(http(&server, "GET", "/v1/tenants/old", None).status, 404);
    script(&server, "open_disk('d').pwrite(b'x' * 512, 0)");
    let error = control_as(&server, "acme", &second, &["create", "e", "1M"]).failure(1);
    assert!(error.contains("at most 1"), "{error}");
    reload(&mut server, "[disks]\n[tenants.acme]\nuid = 1", "\"uid\" is not a key of a tenant");
    assert_eq!(ls(&server, &second), 200, "nothing was changed");
    let both = text(&two, &format!("uids = [{uid}]\nquotas.disks = 1"));
    let shared = format!("{both}[tenants.second]\nuids = [{uid}]\n");
    reload(
        &mut server,
        &shared,
        "is of another tenant; each client is of one tenant; nothing was changed",
    );
    let bad = format!("{both}[tenants.second.disks.d]\nparameters = ['1Q']\n");
    reload(&mut server, &bad, "nothing was changed");
    assert_eq!(http(&server, "GET", "/v1/tenants/second", None).status, 404);
    // A client goes from one tenant to another one that comes before it.
    let moved = both.replace("[tenants.acme]", "[tenants.aaa]").replace("acme.disks", "aaa.disks");
    let moved = format!(
        "{}[tenants.acme]\ntokens.ci = {{ role = 'tenant', digest = '{two}' }}\nquotas.disks = 1\n\
         [tenants.acme.disks.d]\nparameters = ['1M']\n",
        moved.replace(&two, &one)
    );
    reload(&mut server, &moved, "read again: 1 disks changed, 1 as they were");
    script(&server, "assert open_disk('d').pread(512, 0) == bytes(512)");
    reload(&mut server, &both, "read again: 0 disks changed, 1 as they were");
    script(&server, "assert open_disk('d').pread(512, 0) == b'x' * 512");
    let more = format!(
        "{}[tenants.acme.disks.e]\nparameters = ['1M']\n",
        text(&two, &format!("uids = [{uid}]"))
    );
    reload(&mut server, &more, "read again: 1 disks changed, 1 as they were");
    script(
        &server,
        "assert open_disk('d').pread(512, 0) == b'x' * 512\nassert listed() == ['d', 'e']",
    );
    server.allow_log("");
}

#[test]
fn sockets_of_tenants_follow_the_file() {
    require!("nbdsh");
    let text = |acme: &str, other: &str| {
        let disk = |size: &str| format!("parameters = ['{size}']");
        format!(
            "[disks]\n[tenants.acme]\nlisten = [{acme}]\n[tenants.acme.disks.d]\n{}\n\
             [tenants.other]\nlisten = [{other}]\n[tenants.other.disks.e]\n{}\n",
            disk("1M"),
            disk("2M")
        )
    };
    let mut server = configured(&text("'unix:a'", ""));
    let _stays = Probe::new(UnixStream::connect(server.path("a")).unwrap(), "d");
    reload(&mut server, &text("'unix:a', 'unix:b', '127.0.0.1:0'", "'unix:c'"), "read again");
    script(&server, "assert [listed(path) for path in 'abc'] == [['d'], ['d'], ['e']]");
    let listens = |server: &Server, what: &str| {
        server.log().iter().filter(|line| line.contains(what)).count()
    };
    assert_eq!(listens(&server, "tenant \"acme\": listens on 127.0.0.1:0"), 1);
    // A socket moves from one tenant to the other, and another one is closed.
    reload(&mut server, &text("'unix:c'", "'unix:b', 'unix:a'"), "read again");
    assert_eq!(listens(&server, "tenant \"acme\": closed 127.0.0.1:0"), 1);
    script(&server, "assert [listed(path) for path in 'abc'] == [['e'], ['e'], ['d']]");
    let clients = http(&server, "GET", "/v1/tenants/acme/connections", None).json();
    assert_eq!(clients.as_array().map(Vec::len), Some(1), "{clients}");
    // What cannot be opened is told, and the rest is done.
    let elsewhere = tempfile::TempDir::new().unwrap();
    let path = elsewhere.path().join("s");
    let text_of =
        |more: &str| text(&format!("'unix:{}', 'unix:d'{more}", path.display()), "'unix:a'");
    let named = format!("--sandbox-path={}", elsewhere.path().display());
    reload(&mut server, &text_of(""), &named);
    script(&server, "assert [listed(path) for path in 'ad'] == [['e'], ['d']]");
    assert!(!server.path("b").exists() && !server.path("c").exists());
    let nowhere = "listen = \"nowhere\": it is written HOST:PORT";
    reload(&mut server, &text_of(", 'nowhere'"), nowhere);
    reload(&mut server, "[tenants.acme]\nlisten = ['unix:d']\n[disks]", "read again");
    assert!(server.path("d").exists() && !server.path("a").exists());
    script(&server, "assert listed('d') == []");
    server.allow_log("");
}

#[test]
fn mistakes_are_told_before_anything_starts() {
    for (text, words) in [
        ("[tenants.acme]\nlisten = ['nowhere']", "listen = \"nowhere\": it is written HOST:PORT"),
        (
            "[tenants.acme.disks.d]\nparameters = ['1Q']",
            "line 1, column 21: the disk \"d\" of the tenant",
        ),
        ("[tenants.a]\nuids = [7]\n[tenants.b]\nuids = [7]", "the user 7 is of another tenant"),
        ("[tenants.acme]\nlisten = ['unix:a,export=b']", "leave out export="),
        (
            "[tenants.a]\nlisten = ['unix:s']\n[tenants.b]\nlisten = ['unix:s']",
            "the tenant \"a\" listens there already",
        ),
    ] {
        let directory = tempfile::TempDir::new().unwrap();
        fs::write(directory.path().join("server.toml"), text).unwrap();
        let mut command =
            crate::support::memnbd(directory.path(), ["-U", "socket", "--config", "server.toml"]);
        let error = crate::support::run(&mut command).failure(1);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn server_of_one_client_has_no_sockets_of_tenants() {
    let directory = tempfile::TempDir::new().unwrap();
    fs::write(directory.path().join("c.toml"), "[disks]\n[tenants.a]\nlisten = ['unix:s']")
        .unwrap();
    let mut command =
        crate::support::memnbd(directory.path(), ["-s", "--config", "c.toml", "size=1M"]);
    let error = crate::support::run(&mut command).failure(2);
    assert!(error.contains("so the tenant \"a\" has no sockets"), "{error}");
}
