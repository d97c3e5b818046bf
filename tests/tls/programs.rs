//! The clients that people use, which have GnuTLS, over sockets of both kinds.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::client::{write_keys, write_secret};
use super::pki::{Use, directory};
use crate::support::{LIMIT, Server, client, memnbd, require, run, wait_until};

/// A server on a free port of localhost, with certificates of its own and for clients.
fn with_certificates(arguments: &[&str]) -> Server {
    let path = TempDir::new().unwrap();
    let authority = directory(path.path());
    authority.sign("client", Use::Client).write(path.path(), "client");
    let mut command = memnbd(path.path(), ["-p", "0", "-v", "--tls-certificates=."]);
    Server::spawn(path, command.args(arguments))
}

/// The same with keys.
fn with_keys(arguments: &[&str]) -> Server {
    let path = TempDir::new().unwrap();
    write_keys(path.path());
    let mut command = memnbd(path.path(), ["-p", "0", "-v", "--tls-psk=keys.psk"]);
    Server::spawn(path, command.args(arguments))
}

fn certificates_uri(server: &Server) -> String {
    let directory = server.path("");
    format!("nbds://localhost:{}/?tls-certificates={}", server.port(), directory.display())
}

fn keys_uri(server: &Server) -> String {
    let keys = server.path("keys.psk");
    format!("nbds://alice@localhost:{}/?tls-psk-file={}", server.port(), keys.display())
}

fn is_in_log(server: &Server, text: &str) -> bool {
    wait_until(LIMIT, || server.log().iter().any(|line| line.contains(text)))
}

/// Copies an image there and back.
fn there_and_back(server: &Server, uri: &str) {
    let image: Vec<u8> = (0..5_000_000_u32).flat_map(|n| (n / 9).to_be_bytes()).collect();
    fs::write(server.path("image"), &image).unwrap();
    run(client(server, "nbdcopy").args(["image", uri])).success();
    run(client(server, "nbdcopy").args(["--requests=64", uri, "copy"])).success();
    let copy = fs::read(server.path("copy")).unwrap();
    assert!(copy[..image.len()] == image && copy.len() == 24 << 20);
}

#[test]
fn libnbd_comes_in_by_certificates() {
    require!("nbdinfo", "nbdcopy");
    let server = with_certificates(&["--tls=require", "--tls-verify-peer", "24M"]);
    let uri = certificates_uri(&server);
    let info = run(client(&server, "nbdinfo").args(["--json", &uri])).success();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["TLS"], true);
    assert_eq!(info["exports"][0]["export-size"], 24 << 20);
    assert!(is_in_log(&server, "certificate of CN=client"), "{:?}", server.log());
    there_and_back(&server, &uri);
}

/// The pages of a file do not go to a client as they are.
#[test]
fn file_is_encrypted() {
    require!("nbdcopy");
    let path = TempDir::new().unwrap();
    write_keys(path.path());
    fs::write(path.path().join("disk"), vec![0; 24 << 20]).unwrap();
    let arguments = ["-p", "0", "-v", "--tls=require", "--tls-psk=keys.psk", "file", "disk"];
    let mut command = memnbd(path.path(), arguments);
    let server = Server::spawn(path, &mut command);
    let uri = keys_uri(&server);
    there_and_back(&server, &uri);
    let disk = fs::read(server.path("disk")).unwrap();
    assert!(disk == fs::read(server.path("copy")).unwrap());
}

#[test]
fn libnbd_comes_in_by_keys() {
    require!("nbdinfo", "nbdcopy");
    let server = with_keys(&["--tls=require", "24M"]);
    let uri = keys_uri(&server);
    let size = run(client(&server, "nbdinfo").args(["--size", &uri])).success();
    assert_eq!(size, "25165824\n");
    assert!(is_in_log(&server, "identity \"alice\""), "{:?}", server.log());
    there_and_back(&server, &uri);
}

/// As on a system whose policy forbids TLS 1.3.
#[test]
fn libnbd_copies_by_tls_12() {
    require!("nbdcopy");
    let server = with_certificates(&["--tls=require", "24M"]);
    fs::write(server.path("policy"), "[overrides]\ndisabled-version = tls1.3\n").unwrap();
    fs::write(server.path("image"), vec![7; 5 << 20]).unwrap();
    let mut copy = client(&server, "nbdcopy");
    copy.env("GNUTLS_SYSTEM_PRIORITY_FILE", server.path("policy"));
    run(copy.args(["image", &certificates_uri(&server)])).success();
    let name = "TLSv1.2, ECDHE-ECDSA-AES128-GCM-SHA256";
    assert!(is_in_log(&server, name), "{:?}", server.log());
}

#[test]
fn libnbd_comes_in_over_a_unix_socket() {
    require!("nbdinfo");
    let path = TempDir::new().unwrap();
    write_keys(path.path());
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls=require", "--tls-psk=keys.psk"]);
    let server = Server::spawn(path, command.arg("1M"));
    let uri = "nbds+unix://alice@/?socket=socket&tls-psk-file=keys.psk";
    let size = run(client(&server, "nbdinfo").args(["--size", uri])).success();
    assert_eq!(size, "1048576\n");
}

#[test]
fn libnbd_stays_out_without_what_it_needs() {
    require!("nbdinfo");
    let mut server = with_keys(&["--tls=require", "1M"]);
    let plain = format!("nbd://localhost:{}", server.port());
    let is_refused = |server: &Server, uri: &str| {
        run(client(server, "nbdinfo").args(["--size", uri])).failure(1);
    };
    is_refused(&server, &plain);
    write_secret(&server.path("other.psk"), "alice:ffffffff\nmallory:00112233\n");
    let other = keys_uri(&server).replace("keys.psk", "other.psk");
    is_refused(&server, &other);
    is_refused(&server, &other.replace("alice@", "mallory@"));
    server.expect_log("the client may have another key for \"alice\"");
    server.expect_log("there is no key for \"mallory\"");
    let server = with_certificates(&["--tls=off", "1M"]);
    is_refused(&server, &certificates_uri(&server));
}

/// How qemu is told of a server.
fn image_options(server: &Server, export: &str) -> String {
    let port = server.port();
    format!("driver=nbd,host=localhost,port={port},tls-creds=tls0,export={export}")
}

fn qemu_io(server: &Server, credentials: &str) {
    let mut io = client(server, "qemu-io");
    io.args(["--object", credentials, "--image-opts", &image_options(server, "")]);
    for command in ["write -P 7 1M 3M", "read -P 7 1M 3M", "read -P 0 0 1M", "flush"] {
        io.args(["-c", command]);
    }
    let printed = run(&mut io).success();
    assert!(!printed.contains("failed"), "{printed}");
}

#[test]
fn qemu_comes_in_by_certificates() {
    require!("qemu-io");
    let server = with_certificates(&["--tls=require", "--tls-verify-peer", "8M"]);
    let directory = server.path("");
    let credentials = format!("tls-creds-x509,id=tls0,endpoint=client,dir={}", directory.display());
    qemu_io(&server, &credentials);
    for (priority, name) in [
        ("+VERS-TLS1.3", "TLSv1.3, TLS_AES_128_GCM_SHA256"),
        ("+VERS-TLS1.2", "TLSv1.2, ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("+VERS-TLS1.2:-AES-128-GCM", "TLSv1.2, ECDHE-ECDSA-AES256-GCM-SHA384"),
        ("+VERS-TLS1.2:-AES-128-GCM:-AES-256-GCM", "TLSv1.2, ECDHE-ECDSA-CHACHA20-POLY1305"),
    ] {
        qemu_io(&server, &format!("{credentials},priority=NORMAL:-VERS-ALL:{priority}"));
        assert!(is_in_log(&server, name), "{:?}", server.log());
    }
}

#[test]
fn qemu_comes_in_by_keys() {
    require!("qemu-io");
    let server = with_keys(&["--tls=require", "8M"]);
    // It insists on this name.
    let directory = server.path("");
    fs::copy(server.path("keys.psk"), server.path("qemu.psk")).unwrap();
    let credentials =
        format!("tls-creds-psk,id=tls0,endpoint=client,username=alice,dir={}", directory.display());
    qemu_io(&server, &credentials);
    for (priority, name) in [
        ("+VERS-TLS1.3", "TLSv1.3, TLS_AES_128_GCM_SHA256"),
        ("+VERS-TLS1.2", "TLSv1.2, ECDHE-PSK-CHACHA20-POLY1305"),
        ("+VERS-TLS1.2:-CHACHA20-POLY1305", "TLSv1.2, PSK-AES128-GCM-SHA256"),
        ("+VERS-TLS1.2:-CHACHA20-POLY1305:-AES-128-GCM", "TLSv1.2, PSK-AES256-GCM-SHA384"),
    ] {
        qemu_io(&server, &format!("{credentials},priority=NORMAL:-VERS-ALL:{priority}"));
        assert!(is_in_log(&server, name), "{:?}", server.log());
    }
}

/// The files as nbdkit's manual has them made.
#[test]
fn certificates_of_certtool_and_keys_of_psktool_are_understood() {
    require!("certtool", "psktool", "nbdinfo");
    let path = TempDir::new().unwrap();
    let made = run(Command::new("/bin/sh").current_dir(path.path()).args(["-c", CERTTOOL]));
    made.success();
    let verify = ["--tls=require", "--tls-verify-peer"];
    let mut command = memnbd(path.path(), ["-p", "0", "-v", "--tls-certificates=.", "1M"]);
    let mut server = Server::spawn(path, command.args(verify));
    let size = |uri: &str| run(client(&server, "nbdinfo").args(["--size", uri]));
    size(&certificates_uri(&server)).success();
    size(&(certificates_uri(&server) + "/revoked")).failure(1);
    server.expect_log("certificate revoked");

    let path = TempDir::new().unwrap();
    run(Command::new("psktool").current_dir(path.path()).args(["-u", "alice", "-p", "keys.psk"]))
        .success();
    let mut command = memnbd(path.path(), ["-p", "0", "--tls=require", "--tls-psk=keys.psk", "1M"]);
    let server = Server::spawn(path, &mut command);
    run(client(&server, "nbdinfo").args(["--size", &keys_uri(&server)])).success();
}

const CERTTOOL: &str = r#"
set -eu
key() { certtool --generate-privkey --key-type=ecdsa > $1; chmod 600 $1; }
issue() {
    certtool --generate-certificate --load-ca-certificate ca-cert.pem --load-ca-privkey ca-key.pem \
        --load-privkey $1-key.pem --template $1.info --outfile $1-cert.pem
}
key ca-key.pem
printf 'cn = Test\nca\ncert_signing_key\ncrl_signing_key\n' > ca.info
certtool --generate-self-signed --load-privkey ca-key.pem --template ca.info --outfile ca-cert.pem
key server-key.pem
printf 'cn = localhost\ndns_name = localhost\ntls_www_server\nencryption_key\nsigning_key\n' > server.info
issue server
printf 'cn = client.example\nserial = 77\ntls_www_client\nencryption_key\nsigning_key\n' > client.info
key client-key.pem
issue client
mkdir revoked
mv client-cert.pem client-key.pem revoked
cp ca-cert.pem revoked
key client-key.pem
sed -i s/77/78/ client.info
issue client
printf 'crl_next_update = 9\ncrl_number = 1\n' > crl.info
certtool --generate-crl --load-ca-privkey ca-key.pem --load-ca-certificate ca-cert.pem \
    --load-certificate revoked/client-cert.pem --template crl.info --outfile ca-crl.pem
"#;
