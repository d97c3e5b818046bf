//! Tenants of one server: that they do not know of each other, how their clients get in, and what they may
//! have.

mod attacks;
mod config;
mod day;
mod isolation;
mod quotas;
mod remote;
mod shares;
mod tokens;
mod ways;

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control::{control, controlled, http};
use crate::support::{Finished, Server, client, run};

/// A server with the tenants `acme` and `other`, who each have a token that may do everything for them.
/// Returns the secrets of the tokens as well.
fn shared() -> (Server, String, String) {
    let server = controlled(&["1M"]);
    let secrets = ["acme", "other"].map(|name| {
        put(&server, name, &json!({}));
        token(&server, name, "tenant")
    });
    let [acme, other] = secrets;
    (server, acme, other)
}

/// Creates or changes a tenant.
fn put(server: &Server, tenant: &str, spec: &Value) {
    let path = format!("/v1/tenants/{tenant}");
    let answer = http(server, "PUT", &path, Some(&spec.to_string()));
    assert!(matches!(answer.status, 200 | 201), "{}", answer.problem());
}

/// Makes a token of this role, and returns its secret.
fn token(server: &Server, tenant: &str, role: &str) -> String {
    let made = control(server, &["--tenant", tenant, "token", role, "--role", role]).success();
    made.trim().to_owned()
}

/// Runs `memnbd` for a tenant, with a token.
fn control_as(server: &Server, tenant: &str, secret: &str, arguments: &[&str]) -> Finished {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    command.env("MEMNBD_HOST", format!("unix:{}", server.path("control").display()));
    command.env("MEMNBD_TENANT", tenant).env("MEMNBD_TOKEN", secret).args(arguments);
    run(&mut command)
}

/// A server with a configuration file, `server.toml`, and a control socket.
fn configured(text: &str) -> Server {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("server.toml"), text).unwrap();
    crate::control::controlled_in(directory, &["--config", "server.toml"])
}

/// A secret, and its digest.
fn secret() -> (String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    let made = run(command.arg("token")).success();
    let mut lines = made.lines().map(str::to_owned);
    (lines.next().unwrap(), lines.next().unwrap())
}

/// Runs a script of nbdsh in the server's directory, with no connection of its own.
fn script(server: &Server, code: &str) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = client(server, "nbdsh");
    command.env("PATH", format!("/usr/bin:{path}"));
    run(command.args(["-c", &format!("{OPEN}{code}")])).success()
}

/// Connects to an export over a socket in the server's directory, in a script of nbdsh.
const OPEN: &str = "
def open_disk(name, socket='socket'):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix(socket)
    return c
def error_of(name, socket='socket'):
    try:
        open_disk(name, socket)
    except nbd.Error as error:
        return error.string.replace(repr(name), 'NAME')
    raise AssertionError('it is there: ' + name)
def listed(socket='socket'):
    names = []
    c = nbd.NBD()
    c.set_opt_mode(True)
    c.connect_unix(socket)
    c.opt_list(lambda name, _: names.append(name))
    c.opt_abort()
    return names
";
