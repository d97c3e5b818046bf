//! The filters ip and tls-fallback: who may use what.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tempfile::TempDir;

use crate::backends::{same, served};
use crate::support::{Server, memnbd, nbdsh, require};

/// How long something takes that is not to take long.
const LIMIT: Duration = Duration::from_secs(20);

/// Connects, and returns what the server greets with.
fn greeting(server: &Server) -> Vec<u8> {
    let mut client = UnixStream::connect(server.socket()).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut greeting = vec![0; 18];
    let length = client.read(&mut greeting).unwrap();
    greeting.truncate(length);
    greeting
}

#[test]
fn rules_are_those_of_nbdkit() {
    require!("nbdkit", "nbdinfo");
    let own = rustix::process::geteuid().as_raw();
    let (uid, not_uid) = (format!("allow=uid:{own}"), format!("deny=uid:{}", own + 1));
    let denied_uid = format!("deny=uid:{own}");
    let ask = r#"nbdinfo --size "$uri" 2>/dev/null || echo denied"#;
    for (rules, expected) in [
        (&[][..], "1048576\n"),
        (&["deny=all"], "denied\n"),
        (&["deny=any"], "denied\n"),
        (&["allow=allunix", "deny=all"], "1048576\n"),
        (&["deny=anyunix"], "denied\n"),
        (&["deny=allipv4,allipv6,allvsock"], "1048576\n"),
        (&[&uid, "deny=all"], "1048576\n"),
        (&["allow=uid:987654", "deny=all"], "denied\n"),
        (&[&not_uid], "1048576\n"),
        (&[&denied_uid], "denied\n"),
        (&["deny=all", "allow=allipv4", "allow=allunix"], "1048576\n"),
    ] {
        let arguments = [&["--filter=ip", "memory", "1M"], rules].concat();
        assert_eq!(same(&arguments, ask), expected, "{rules:?}");
    }
}

/// Debian's nbdkit 1.32.5 was built without inet_pton, and refuses these rules.
#[test]
fn rules_name_addresses_and_networks() {
    require!("nbdsh");
    for (rules, permitted) in [
        (&["allow=127.0.0.1", "deny=all"][..], true),
        (&["allow=127.0.0.0/8", "deny=all"], true),
        (&["allow=127.0.0.2", "deny=all"], false),
        (&["deny=127.0.0.0/8"], false),
        (&["deny=10.0.0.0/8,::/0"], true),
        (&["deny=allipv4"], false),
        (&["deny=allunix"], true),
    ] {
        let arguments = [&["-i", "127.0.0.1", "--filter=ip", "memory", "1M"], rules].concat();
        let mut server = Server::start_tcp(&arguments);
        let mut client = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let length = client.read(&mut [0; 18]).unwrap_or(0);
        assert_eq!(length, if permitted { 18 } else { 0 }, "{rules:?}");
        if !permitted {
            server.expect_log("no export is for it");
        }
    }
}

#[test]
fn denied_clients_are_not_greeted_and_others_are() {
    let mut server = Server::start(&["--filter=ip", "memory", "1M", "deny=allunix"]);
    assert_eq!(greeting(&server), b"");
    server.expect_log("no export is for it");
    let server = Server::start(&["--filter=ip", "memory", "1M", "deny=allipv4"]);
    assert_eq!(greeting(&server).len(), 18);
}

#[test]
fn rules_of_one_export_leave_the_others_alone() {
    require!("nbdsh");
    let server = Server::start(&[
        "--export",
        "public=memory,2M",
        "--export",
        "secret=memory,filter=ip,1M,deny=allunix",
    ]);
    nbdsh(
        &server,
        "
names = []
c = nbd.NBD()
c.set_opt_mode(True)
c.connect_unix('socket')
c.opt_list(lambda name, description: names.append(name) and 0 or 0)
assert names == ['public'], names
c.set_export_name('secret')
try:
    c.opt_go()
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOTSUP', error.string
c.set_export_name('public')
c.opt_go()
assert c.get_size() == 2 << 20
",
    );
}

#[test]
fn rules_of_the_server_are_for_all_exports() {
    let arguments = ["--filter=ip", "memory", "1M", "deny=allunix", "--export", "a=memory,1M"];
    let mut server = Server::start(&arguments);
    assert_eq!(greeting(&server), b"");
    server.expect_log("no export is for it");
}

#[test]
fn clients_without_tls_get_a_message_and_nothing_else() {
    require!("nbdkit", "nbdinfo", "nbdcopy");
    let shown = r#"nbdinfo --list "$uri" | grep -v -e timestamp -e context -e protocol -e block_size_p -e uri; nbdcopy "$uri" - | tr -d '\0'"#;
    let directory = TempDir::new().unwrap();
    for arguments in [
        &["--filter=tls-fallback", "memory", "1M"][..],
        &["--filter=tls-fallback", "memory", "1M", "tlsreadme=Use TLS."],
    ] {
        let arguments = [&["--tls=off"], arguments].concat();
        let ours = served("memnbd", directory.path(), &arguments, shown);
        let theirs = served("nbdkit", directory.path(), &arguments, shown);
        let text = |shown: &str| shown.lines().last().unwrap().to_owned();
        assert_eq!(text(&ours), text(&theirs));
        assert!(ours.contains("export-size: 512"), "{ours}");
    }
}

#[test]
fn message_is_for_plaintext_clients_alone() {
    require!("nbdsh", "psktool");
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("keys"), "me:00112233445566778899aabbccddeeff\n").unwrap();
    let keys = directory.path().join("keys");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--tls=on", "--tls-psk=keys"]);
    command.args(["--filter=tls-fallback", "memory", "1M", "--export", "b=memory,2M"]);
    let server = Server::spawn(directory, &mut command);
    nbdsh(
        &server,
        &format!(
            "
def size(name, tls):
    c = nbd.NBD()
    c.set_export_name(name)
    if tls:
        c.set_tls(nbd.TLS_REQUIRE)
        c.set_tls_psk_file({keys:?})
        c.set_tls_username('me')
    c.connect_unix('socket')
    return c.get_size()
assert size('', False) == 512
assert size('b', False) == 512
assert size('no such', False) == 512
assert size('', True) == 1 << 20
assert size('b', True) == 2 << 20
"
        ),
    );
}
