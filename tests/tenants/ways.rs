//! The ways of NBD clients to a tenant's disks.

use serde_json::json;
use tempfile::TempDir;

use super::{put, script, token};
use crate::control::{control, controlled};
use crate::support::{Server, memnbd, require, run};
use crate::tls::pki::{self, Use};

/// Gives a tenant a disk, `d`, that holds a letter.
fn fill(server: &Server, tenant: &str) {
    let expression = format!("\"{}\" * 512", &tenant[..1]);
    control(server, &["--tenant", tenant, "create", "d", "data", &expression]).success();
}

#[test]
fn users_get_the_disks_of_their_tenant() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    assert_eq!(script(&server, "print(listed())"), "['disk']\n");
    let uid = rustix::process::getuid().as_raw();
    put(&server, "acme", &json!({"uids": [uid]}));
    fill(&server, "acme");
    script(
        &server,
        "
assert listed() == ['d'], listed()
assert open_disk('d').pread(512, 0) == b'a' * 512
assert open_disk('').pread(512, 0) == b'a' * 512
assert error_of('disk') == error_of('dusk')",
    );
    control(&server, &["tenant", "acme"]).success();
    script(&server, "assert listed() == ['disk'], listed()");
    let taken = control(&server, &["tenant", "acme", "--uid", "7"]);
    taken.success();
    let error = control(&server, &["tenant", "other", "--uid", "7"]).failure(1);
    assert!(error.contains("the user 7 is of another tenant"), "{error}");
}

#[test]
fn whoever_has_a_token_to_connect_opens_disks_by_it() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    for tenant in ["acme", "other"] {
        put(&server, tenant, &json!({}));
        fill(&server, tenant);
    }
    let connect = token(&server, "acme", "connect");
    let full = token(&server, "acme", "tenant");
    script(
        &server,
        &format!(
            "
disk = nbd.NBD()
disk.set_full_info(True)
disk.set_export_name('{connect}/d')
disk.connect_unix('socket')
assert disk.pread(512, 0) == b'a' * 512
assert disk.get_canonical_export_name() == '{connect}/d'
assert listed() == ['disk'], listed()
absent = error_of('{}/d')
for name in ['{connect}/e', '{connect}', '{connect}/', '{connect}/other/d', '{full}/d',
             '/{connect}/d', 'acme/d', 'd']:
    assert error_of(name) == absent, (name, error_of(name))",
            connect.replace("mnbd_", "mnbe_")
        ),
    );
    control(&server, &["--tenant", "acme", "token", "connect", "--rm"]).success();
    script(&server, &format!("error_of('{connect}/d')"));
}

#[test]
fn certificates_and_keys_tell_the_tenant() {
    require!("nbdinfo");
    let path = TempDir::new().unwrap();
    let authority = pki::directory(path.path());
    for tenant in ["acme", "other", "nobody"] {
        let own = path.path().join(tenant);
        std::fs::create_dir(&own).unwrap();
        authority.sign(tenant, Use::Client).write(&own, "client");
        pki::write_certificates(&own, "ca", &[&authority.certificate]);
    }
    let server = {
        let options = ["-p", "0", "--tls=require", "--tls-verify-peer", "--tls-certificates=."];
        let mut command = memnbd(path.path(), options);
        command.args(["--control", "unix:control", "1M"]);
        Server::spawn(path, &mut command)
    };
    for tenant in ["acme", "other"] {
        put(&server, tenant, &json!({"certificates": [format!("CN={tenant}")]}));
        fill(&server, tenant);
    }
    let list = |who: &str| {
        let directory = server.path(who);
        let uri =
            format!("nbds://localhost:{}/?tls-certificates={}", server.port(), directory.display());
        run(std::process::Command::new("nbdinfo").args(["--list", "--json", &uri])).success()
    };
    for (who, name) in [("acme", "d"), ("other", "d"), ("nobody", "disk")] {
        let listed: serde_json::Value = serde_json::from_str(&list(who)).unwrap();
        let exports = listed["exports"].as_array().unwrap();
        assert_eq!(exports.len(), 1, "{listed}");
        assert_eq!(exports[0]["export-name"], name, "{who}");
    }
}

#[test]
fn identities_of_keys_tell_the_tenant() {
    require!("nbdinfo");
    let path = TempDir::new().unwrap();
    let keys = path.path().join("keys.psk");
    crate::tls::client::write_secret(&keys, "acme:00112233445566778899aabbccddeeff\n");
    let server = {
        let mut command = memnbd(path.path(), ["-U", "socket", "--tls-psk=keys.psk"]);
        command.args(["--control", "unix:control", "1M"]);
        Server::spawn(path, &mut command)
    };
    put(&server, "acme", &json!({"keys": ["acme"]}));
    control(&server, &["--tenant", "acme", "create", "d", "size=3M"]).success();
    let size = |uri: &str| {
        let mut command = std::process::Command::new("nbdinfo");
        run(command.current_dir(server.path("")).args(["--size", uri])).success()
    };
    assert_eq!(size("nbds+unix://acme@/d?socket=socket&tls-psk-file=keys.psk"), "3145728\n");
    assert_eq!(size("nbd+unix:///disk?socket=socket"), "1048576\n");
}
