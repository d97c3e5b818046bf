//! nbd-client's one command that needs no kernel: the list of exports.

use crate::support::{Server, client, require, run};

#[test]
fn exports_are_listed() {
    require!("nbd-client");
    let server = Server::start_tcp(&["-i", "127.0.0.1", "-e", "scratch", "1M"]);
    let port = server.port().to_string();
    let list = &mut client(&server, "nbd-client");
    let list = run(list.args(["-l", "127.0.0.1", &port])).success();
    assert!(list.lines().any(|line| line.starts_with("scratch")), "{list}");
}
