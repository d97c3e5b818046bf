//! The API over TCP.

use std::process::Command;

use tempfile::TempDir;

use super::token;
use crate::control::control;
use crate::support::{LIMIT, Server, memnbd, require, run, wait_until};
use crate::tls::pki;

/// A server whose API is reached over TCP, and where.
fn remote() -> (Server, String) {
    let path = TempDir::new().unwrap();
    pki::directory(path.path());
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=."]);
    command.args(["--control", "unix:control", "--control", "localhost:0", "1M"]);
    let mut server = Server::spawn(path, &mut command);
    let told = "the control API is at https://";
    assert!(wait_until(LIMIT, || server.log().iter().any(|line| line.contains(told))));
    let log = server.log();
    let address = log.iter().find_map(|line| line.split_once(told)).unwrap().1;
    let port = address.rsplit_once(':').unwrap().1.to_owned();
    server.allow_log("");
    (server, format!("https://localhost:{port}"))
}

fn memnbd_at(server: &Server, address: &str, token: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    command.env("MEMNBD_HOST", address).env("MEMNBD_TOKEN", token);
    command.env("MEMNBD_CACERT", server.path("ca-cert.pem"));
    command
}

#[test]
fn tokens_are_wanted_over_tcp_and_all_works_with_them() {
    require!("qemu-img");
    let (server, address) = remote();
    let admin = token(&server, "default", "admin");
    let at = |arguments: &[&str]| run(memnbd_at(&server, &address, &admin).args(arguments));
    at(&["create", "d", "3M"]).success();
    let image = server.path("image");
    std::fs::write(&image, vec![7; 3 << 20]).unwrap();
    at(&["copy", image.to_str().unwrap(), "d"]).success();
    let saved = server.path("saved");
    at(&["save", "d", saved.to_str().unwrap()]).success();
    assert!(std::fs::read(saved).unwrap() == vec![7; 3 << 20]);
    assert!(at(&["logs"]).success().contains("created"));
    assert!(at(&["connections"]).success().starts_with("ID"));
    let listed = at(&["ls"]).success();
    assert_eq!(listed, control(&server, &["ls"]).success());
    for wrong in ["mnbd_0", "x"] {
        let error = run(memnbd_at(&server, &address, wrong).arg("ls")).failure(1);
        assert!(error.contains("a token that the server knows"), "{error}");
    }
    let error = run(memnbd_at(&server, &address, "").arg("ls")).failure(1);
    assert!(error.contains("wants a token"), "{error}");
    let mut command = memnbd_at(&server, &address, &admin);
    let error = run(command.env_remove("MEMNBD_CACERT").arg("ls")).failure(1);
    assert!(error.contains("the server's certificate is not accepted"), "{error}");
    let file = server.path("token");
    std::fs::write(&file, format!("{admin}\n")).unwrap();
    let mut command = memnbd_at(&server, &address, "");
    run(command.arg("--token-file").arg(&file).arg("ls")).success();
}

#[test]
fn other_names_than_that_of_the_certificate_are_not_trusted() {
    let (server, address) = remote();
    let port = address.rsplit_once(':').unwrap().1;
    let address = format!("https://127.0.0.2:{port}");
    let error = run(memnbd_at(&server, &address, "x").arg("ls")).failure(1);
    assert!(error.contains("connect to https://127.0.0.2"), "{error}");
}

#[test]
fn nobody_without_tls_or_a_token_gets_anything() {
    require!("curl");
    let (server, address) = remote();
    let ca = server.path("ca-cert.pem");
    let curl = |address: &str, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"]).arg(&ca);
        command.args(more).arg(format!("{address}/v1/tenants/default/disks"));
        command.output().unwrap()
    };
    let status = |more: &[&str]| String::from_utf8(curl(&address, more).stdout).unwrap();
    assert_eq!(status(&[]), "401");
    assert_eq!(status(&["-H", "authorization: Bearer x"]), "401");
    let admin = token(&server, "default", "admin");
    assert_eq!(status(&["-H", &format!("authorization: Bearer {admin}")]), "200");
    assert!(!curl(&address.replace("https", "http"), &[]).status.success());
}

#[test]
fn tcp_needs_certificates() {
    let path = TempDir::new().unwrap();
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls=off"]);
    let error = run(command.args(["--control", "localhost:0", "1M"])).failure(2);
    assert!(error.contains("needs certificates for TLS"), "{error}");
}
