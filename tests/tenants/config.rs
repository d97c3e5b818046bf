//! Tenants in the configuration file.

use std::fs;

use rustix::process::Signal;

use super::{configured, control_as, script, secret};
use crate::control::{control, http, http_as};
use crate::support::{LIMIT, require, wait_until};

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
    let reload = |server: &mut crate::support::Server, text: &str, told: &str| {
        let before = server.log().len();
        fs::write(server.path("server.toml"), text).unwrap();
        server.signal(Signal::HUP);
        let found =
            wait_until(LIMIT, || server.log()[before..].iter().any(|line| line.contains(told)));
        assert!(found, "{told}: {:#?}", server.log());
    };
    let ls = |server: &crate::support::Server, secret: &str| {
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
    let moved = text(&two, &format!("uids = [{uid}]\nquotas.disks = 1\nlisten = ['unix:new']"));
    reload(&mut server, &moved, "the sockets of the tenant \"acme\" differ");
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
fn mistakes_are_told_before_anything_starts() {
    for (text, words) in [
        ("[tenants.acme]\nlisten = ['nowhere']", "listen = \"nowhere\": it is written HOST:PORT"),
        (
            "[tenants.acme.disks.d]\nparameters = ['1Q']",
            "line 1, column 21: the disk \"d\" of the tenant",
        ),
        ("[tenants.a]\nuids = [7]\n[tenants.b]\nuids = [7]", "the user 7 is of another tenant"),
        ("[tenants.acme]\nlisten = ['unix:a,export=b']", "leave out export="),
    ] {
        let directory = tempfile::TempDir::new().unwrap();
        fs::write(directory.path().join("server.toml"), text).unwrap();
        let mut command =
            crate::support::memnbd(directory.path(), ["-U", "socket", "--config", "server.toml"]);
        let error = crate::support::run(&mut command).failure(1);
        assert!(error.contains(words), "{error}");
    }
}
