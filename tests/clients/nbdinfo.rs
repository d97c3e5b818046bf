//! nbdinfo tells what the server says of itself and its disk.

use serde_json::{Value, json};

use crate::support::{Server, client, require, run};

fn nbdinfo(server: &Server, options: &[&str]) -> String {
    run(client(server, "nbdinfo").args(options).arg(server.uri())).success()
}

fn nbdinfo_json(server: &Server, options: &[&str]) -> Value {
    let text = nbdinfo(server, options);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn disk_can_what_it_should() {
    require!("nbdinfo");
    let server = Server::start(&["2G"]);
    let info = nbdinfo_json(&server, &["--json"]);
    assert_eq!(info["protocol"], "newstyle-fixed");
    assert_eq!(info["TLS"], false);
    let export = &info["exports"][0];
    assert_eq!(export["export-size"], 2_u64 << 30);
    for (key, value) in [
        ("is_read_only", false),
        ("is_rotational", false),
        ("can_cache", true),
        ("can_fast_zero", true),
        ("can_flush", true),
        ("can_fua", true),
        ("can_multi_conn", true),
        ("can_trim", true),
        ("can_zero", true),
    ] {
        assert_eq!(export[key], value, "{key}");
    }
    assert_eq!(export["block_size_minimum"], 1);
    assert_eq!(export["block_size_preferred"], 4096);
    assert!(export["block_size_maximum"].as_u64().unwrap() >= 32 << 20);
    assert_eq!(export["contexts"], json!(["base:allocation"]));
    nbdinfo(&server, &[]);
}

#[test]
fn read_only_disk_offers_no_writing() {
    require!("nbdinfo");
    let server = Server::start(&["-r", "1M"]);
    let info = nbdinfo_json(&server, &["--json"]);
    let export = &info["exports"][0];
    assert_eq!(export["is_read_only"], true);
    for key in ["can_trim", "can_zero", "can_fast_zero"] {
        assert_eq!(export[key], false, "{key}");
    }
}

#[test]
fn size_is_told_in_bytes() {
    require!("nbdinfo");
    for size in ["0", "1", "511", "1048577", "9223372036854775807"] {
        assert_eq!(nbdinfo(&Server::start(&[size]), &["--size"]), format!("{size}\n"));
    }
}

#[test]
fn export_is_listed_by_its_name_and_description() {
    require!("nbdinfo");
    let server = Server::start_tcp(&["-e", "scratch", "1M"]);
    let list = nbdinfo_json(&server, &["--list", "--json"]);
    let exports = list["exports"].as_array().unwrap();
    assert_eq!(exports.len(), 1);
    assert_eq!(exports[0]["export-name"], "scratch");
    assert!(exports[0]["description"].as_str().unwrap().contains("memory"));
}

#[test]
fn export_that_there_is_not_is_refused() {
    require!("nbdinfo");
    let server = Server::start_tcp(&["-i", "127.0.0.1", "-e", "scratch", "1M"]);
    let uri = format!("nbd://127.0.0.1:{}/other", server.port());
    let error = run(client(&server, "nbdinfo").args(["--size", &uri])).failure(1);
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn map_of_a_fresh_disk_is_one_hole() {
    require!("nbdinfo");
    let server = Server::start(&["2G"]);
    let map = nbdinfo_json(&server, &["--map", "--json"]);
    let hole =
        json!([{ "offset": 0, "length": 2_u64 << 30, "type": 3, "description": "hole,zero" }]);
    assert_eq!(map, hole);
}

#[test]
fn can_answers_by_its_exit_code() {
    require!("nbdinfo");
    let server = Server::start(&["1M"]);
    for feature in ["write", "flush", "fua", "multi-conn", "trim", "zero", "fast-zero", "cache"] {
        nbdinfo(&server, &["--can", feature]);
    }
    let uri = server.uri();
    run(client(&server, "nbdinfo").args(["--is", "rotational", uri])).failure(2);
    run(client(&server, "nbdinfo").args(["--is", "read-only", uri])).failure(2);
}
