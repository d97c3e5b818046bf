//! Tokens, their roles and their rotation.

use serde_json::json;

use super::{control_as, put, secret, shared, token};
use crate::control::{control, controlled, http, http_as};

#[test]
fn roles_may_do_what_is_theirs() {
    let (mut server, acme, _) = shared();
    let look = token(&server, "acme", "read-only");
    let connect = token(&server, "acme", "connect");
    let admin = token(&server, "default", "admin");
    let all = token(&server, "default", "read-only");
    control_as(&server, "acme", &acme, &["create", "d", "1M"]).success();
    for (secret, what, code) in [
        (&acme, &["ls"][..], 0),
        (&look, &["ls"], 0),
        (&look, &["show", "d"], 0),
        (&look, &["logs"], 0),
        (&look, &["create", "e", "1M"], 1),
        (&look, &["rm", "d"], 1),
        (&look, &["save", "d", "/dev/null"], 1),
        (&look, &["token", "mine"], 1),
        (&connect, &["ls"], 1),
        (&acme, &["tenant", "acme", "--disks", "1000"], 1),
        (&acme, &["tenant", "acme", "--rm"], 1),
        (&all, &["ls"], 0),
        (&all, &["tokens"], 0),
        (&all, &["create", "e", "1M"], 1),
        (&admin, &["create", "e", "1M"], 0),
        (&admin, &["tenant", "third"], 0),
        (&admin, &["tenant", "third", "--rm"], 0),
        (&acme, &["token", "second", "--role", "read-only"], 0),
        (&acme, &["token", "third", "--role", "admin"], 1),
    ] {
        let finished = control_as(&server, "acme", secret, what);
        match code {
            0 => _ = finished.success(),
            code => _ = finished.failure(code),
        }
    }
    let names = control_as(&server, "acme", &acme, &["tokens"]).success();
    assert!(names.contains("second") && names.contains("connect"), "{names}");
    assert!(!names.contains(&acme), "the server does not have the secrets");
    let log = server.log().join("\n");
    assert!(
        log.contains("token tenant of the tenant acme: PUT /v1/tenants/acme/disks/d: 201"),
        "{log}"
    );
    assert!(
        log.contains("token read-only of the tenant acme: PUT /v1/tenants/acme/disks/e: 403"),
        "{log}"
    );
    for secret in [&acme, &look, &connect, &admin, &all] {
        assert!(!log.contains(&secret[..20]), "no secret is logged");
    }
    server.allow_log("");
}

#[test]
fn only_known_tokens_are_let_in_and_a_wrong_one_is_nobody() {
    let (mut server, acme, _) = shared();
    for wrong in ["", "x", &acme[1..], &format!("{acme}0"), &acme.to_uppercase()] {
        let answer = http_as(&server, wrong, "GET", "/v1/tenants/default/disks", None);
        assert_eq!(answer.status, 401, "{wrong}");
        assert!(answer.head.contains("www-authenticate: Bearer"), "{}", answer.head);
        answer.problem();
    }
    server.expect_log("control API, client (control API, user");
}

#[test]
fn tokens_are_rotated_while_the_server_runs() {
    let (mut server, acme, _) = shared();
    let second = control_as(&server, "acme", &acme, &["token", "tenant"]).success();
    let second = second.trim();
    let ls = |secret: &str| http_as(&server, secret, "GET", "/v1/tenants/acme/disks", None).status;
    assert_eq!((ls(&acme), ls(second)), (401, 200));
    let path = "/v1/tenants/acme/tokens/made";
    let made = http_as(&server, second, "PUT", path, Some("{\"role\": \"tenant\"}"));
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(ls(made["secret"].as_str().unwrap()), 200);
    let same = json!({"role": "tenant", "digest": made["digest"]}).to_string();
    let again = http_as(&server, second, "PUT", path, Some(&same));
    assert_eq!((again.status, again.json()["secret"].as_str()), (200, None));
    assert_eq!(ls(made["secret"].as_str().unwrap()), 200, "the same digest changes nothing");
    assert_eq!(http_as(&server, second, "DELETE", path, None).status, 204);
    assert_eq!(ls(made["secret"].as_str().unwrap()), 401);
    assert_eq!(http_as(&server, second, "DELETE", path, None).status, 404);
    server.expect_log("this is not Bearer and a token that the server knows");
}

#[test]
fn mistakes_are_told_with_the_rule() {
    let (server, acme, _) = shared();
    let put = |secret: &str, path: &str, body: &str| {
        let answer = http_as(&server, secret, "PUT", path, Some(body));
        (answer.status, answer.problem())
    };
    let (_, digest) = secret();
    for (path, body, status, words) in [
        ("acme/tokens/A", json!({"role": "tenant"}), 400, "lower-case letters"),
        ("acme/tokens/a", json!({"role": "root"}), 422, "role"),
        ("acme/tokens/a", json!({"role": "admin"}), 400, "only tokens of the tenant \"default\""),
        ("acme/tokens/a", json!({"role": "tenant", "digest": "md5:0"}), 400, "sha256:"),
        ("default/tokens/a", json!({"role": "admin", "digest": digest}), 404, "there is no tenant"),
    ] {
        let (found, told) = put(&acme, &format!("/v1/tenants/{path}"), &body.to_string());
        assert!(found == status && told.contains(words), "{found} {told}");
    }
    for number in 0..63 {
        let path = format!("/v1/tenants/acme/tokens/t{number}");
        let made = http_as(&server, &acme, "PUT", &path, Some("{\"role\": \"connect\"}"));
        assert_eq!(made.status, 201, "{number}");
    }
    let (status, told) = put(&acme, "/v1/tenants/acme/tokens/more", "{\"role\": \"connect\"}");
    assert!(status == 507 && told.contains("64 tokens"), "{status} {told}");
}

#[test]
fn tenants_are_created_once_and_removed_with_all_they_have() {
    let mut server = controlled(&["1M"]);
    for (name, status) in [("A", 400), ("default", 400), ("a.b", 400), ("acme", 201), ("acme", 200)]
    {
        let path = format!("/v1/tenants/{name}");
        assert_eq!(http(&server, "PUT", &path, Some("{}")).status, status, "{name}");
    }
    put(&server, "acme", &json!({"quotas": {"disks": 3}}));
    let acme = token(&server, "acme", "tenant");
    control_as(&server, "acme", &acme, &["create", "d", "1M"]).success();
    control_as(&server, "acme", &acme, &["snapshot", "d", "s"]).success();
    control_as(&server, "acme", &acme, &["clone", "s", "c"]).success();
    control_as(&server, "acme", &acme, &["export", "d", "other"]).success();
    let shown = http(&server, "GET", "/v1/tenants/acme", None).json();
    assert_eq!(shown["spec"]["quotas"]["disks"], 3);
    assert_eq!((&shown["usage"]["disks"], &shown["usage"]["snapshots"]), (&json!(3), &json!(1)));
    let table = control(&server, &["tenants"]).success();
    assert!(table.contains("3 of 3") && table.contains("of 1G"), "{table}");
    assert_eq!(http(&server, "DELETE", "/v1/tenants/default", None).status, 409);
    control(&server, &["tenant", "acme", "--rm"]).success();
    assert_eq!(http_as(&server, &acme, "GET", "/v1/tenants/acme", None).status, 401);
    server.expect_log("this is not Bearer and a token that the server knows");
    assert_eq!(http(&server, "GET", "/v1/tenants/acme", None).status, 404);
    put(&server, "acme", &json!({}));
    let exports = http(&server, "GET", "/v1/tenants/acme/exports", None).json();
    assert_eq!(exports.as_array().map(Vec::len), Some(0));
    let disks = http(&server, "GET", "/v1/tenants/acme/disks", None).json();
    assert_eq!(disks.as_array().map(Vec::len), Some(0), "it is another one");
}

#[test]
fn requests_of_one_tenant_take_turns_and_those_of_others_do_not_wait() {
    let (server, acme, other) = shared();
    let look = |tenant: &str, secret: &str| {
        let path = format!("/v1/tenants/{tenant}/disks");
        assert_eq!(http_as(&server, secret, "GET", &path, None).status, 200);
    };
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..100).for_each(|_| look("acme", &acme)));
        }
        scope.spawn(|| (0..50).for_each(|_| look("other", &other)));
    });
    // 400 at once, and 200 in each second from the first on.
    assert!(begin.elapsed().as_secs_f64() > 1.5, "{:?}", begin.elapsed());
}
