//! What tenants see of each other: nothing.

use serde_json::json;

use super::{control_as, put, script, shared};
use crate::control::{http, http_as};
use crate::support::require;

/// A request, with what tells it from one about what does not exist taken out.
fn answer(
    server: &crate::support::Server,
    secret: &str,
    (method, path, body): (&str, &str, Option<&str>),
    name: &str,
) -> (u16, String) {
    let answer = http_as(server, secret, method, path, body);
    (answer.status, answer.problem().replace(&format!("{name:?}"), "NAME"))
}

#[test]
fn tenants_of_others_are_as_absent_as_those_that_do_not_exist() {
    let (server, acme, other) = shared();
    control_as(&server, "other", &other, &["create", "d", "1M"]).success();
    control_as(&server, "other", &other, &["snapshot", "d", "s"]).success();
    for (method, rest, body) in [
        ("GET", "", None),
        ("PUT", "", Some("{}")),
        ("DELETE", "", None),
        ("GET", "/disks", None),
        ("GET", "/disks/d", None),
        ("GET", "/disks/d/nbd", None),
        ("GET", "/disks/d/map", None),
        ("GET", "/disks/d/heat", None),
        ("GET", "/exports", None),
        ("PUT", "/exports/e", Some("{\"disk\": \"d\"}")),
        ("DELETE", "/exports/e", None),
        ("GET", "/disks/d/commands", None),
        ("PUT", "/disks/d", Some("{}")),
        ("PATCH", "/disks/d", Some("{}")),
        ("DELETE", "/disks/d", None),
        ("POST", "/disks/d/reset", Some("{}")),
        ("POST", "/disks/d/commands", Some("{\"command\": \"set\"}")),
        ("GET", "/snapshots", None),
        ("DELETE", "/snapshots/s", None),
        ("PUT", "/snapshots/t", Some("{\"disk\": \"d\"}")),
        ("GET", "/snapshots/s/diff?from=s", None),
        ("GET", "/disks/d/diff?from=s", None),
        ("GET", "/connections", None),
        ("DELETE", "/connections/0", None),
        ("GET", "/events", None),
        ("GET", "/usage", None),
        ("POST", "/populate", Some("{\"disks\": {}}")),
        ("GET", "/tokens", None),
        ("PUT", "/tokens/t", Some("{\"role\": \"tenant\"}")),
        ("DELETE", "/tokens/tenant", None),
    ] {
        let about = |tenant: &str| {
            let path = format!("/v1/tenants/{tenant}{rest}");
            answer(&server, &acme, (method, &path, body), tenant)
        };
        let (there, absent) = (about("other"), about("nobody"));
        assert_eq!(there, absent, "{method} {rest}");
        assert_eq!(there.0, 404, "{method} {rest}");
        assert_eq!(about("default"), absent, "{method} {rest}");
        assert_eq!(about("%6fther"), absent, "{method} {rest}");
    }
    let listed = http_as(&server, &acme, "GET", "/v1/tenants", None).json();
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["acme"]);
    let disk = http_as(&server, &other, "GET", "/v1/tenants/other/disks/d", None);
    assert_eq!(disk.status, 200, "nothing happened to it");
}

#[test]
fn names_of_others_are_as_absent_as_those_that_do_not_exist() {
    let (mut server, acme, other) = shared();
    control_as(&server, "other", &other, &["create", "theirs", "1M"]).success();
    control_as(&server, "other", &other, &["snapshot", "theirs", "saved"]).success();
    control_as(&server, "acme", &acme, &["create", "mine", "1M"]).success();
    let ask = |method: &str, path: &str, body: Option<String>, name: &str| {
        let path = format!("/v1/tenants/acme/{path}");
        answer(&server, &acme, (method, &path, body.as_deref()), name)
    };
    for (theirs, absent) in
        [("theirs", "absent"), ("other%2Ftheirs", "other%2Fabsent"), ("disk", "dosk")]
    {
        for (method, rest, body) in
            [("GET", "", None), ("DELETE", "", None), ("POST", "/reset", Some("{}".to_owned()))]
        {
            let about = |name: &str| {
                let name_shown = name.replace("%2F", "/");
                ask(method, &format!("disks/{name}{rest}"), body.clone(), &name_shown)
            };
            assert_eq!(about(theirs), about(absent), "{method} {theirs}");
        }
    }
    for (theirs, absent) in [("saved", "seved"), ("other/saved", "other/seved")] {
        let about = |name: &str| {
            let body = json!({"snapshot": name}).to_string();
            ask("PUT", "disks/new", Some(body), name)
        };
        assert_eq!(about(theirs), about(absent));
    }
    // A disk that stands on one of others, or of the administrator.
    for (theirs, absent) in
        [("theirs", "absent"), ("other/theirs", "other/absent"), ("disk", "dosk")]
    {
        let about = |name: &str| {
            let body = json!({"component": "nofilter", "parameters": [format!("base={name}")]});
            let path = "/v1/tenants/acme/disks/on";
            let made = http_as(&server, &acme, "PUT", path, Some(&body.to_string()));
            let told = match made.status {
                201 => {
                    let opened = http_as(&server, &acme, "GET", &format!("{path}/commands"), None);
                    assert_eq!(http_as(&server, &acme, "DELETE", path, None).status, 204);
                    opened
                }
                _ => made,
            };
            (told.status, told.problem().replace(&format!("{name:?}"), "NAME"))
        };
        let there = about(theirs);
        assert_eq!(there, about(absent));
        assert!(there.0 >= 400, "{there:?}");
    }
    for (path, secret) in [("acme", &acme), ("other", &other)] {
        let disks = http_as(&server, secret, "GET", &format!("/v1/tenants/{path}/disks"), None);
        assert_eq!(disks.json().as_array().map(Vec::len), Some(1), "{path}");
    }
    server.expect_log("acme/on: base: there is no export");
}

#[test]
fn clients_and_events_of_others_are_not_seen() {
    require!("nbdsh");
    let (server, acme, other) = shared();
    let uid = rustix::process::getuid().as_raw();
    put(&server, "acme", &json!({"uids": [uid]}));
    for (tenant, secret) in [("acme", &acme), ("other", &other)] {
        control_as(&server, tenant, secret, &["create", "d", "1M"]).success();
    }
    let program = env!("CARGO_BIN_EXE_memnbd");
    script(
        &server,
        &format!(
            "import json, os, subprocess
disk = open_disk('d')
disk.pwrite(b'x' * 512, 0)
def ask(tenant, token, *arguments):
    environment = dict(os.environ, MEMNBD_HOST='unix:control', MEMNBD_TENANT=tenant)
    environment['MEMNBD_TOKEN'] = token
    command = ['{program}', '--json', *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
own = json.loads(ask('acme', '{acme}', 'connections').stdout)
assert [one['disk'] for one in own] == ['d'], own
assert json.loads(ask('other', '{other}', 'connections').stdout) == []
refused = ask('other', '{other}', 'connections', '--drop', str(own[0]['id']))
assert refused.returncode == 1 and 'there is no connection' in refused.stderr, refused
disk.pread(512, 0)
top = json.loads(ask('acme', '{acme}', 'show', 'd').stdout)
assert top['operations']['write']['requests'] == 1, top
events = ask('acme', '{acme}', 'logs').stdout
assert 'client-connected' in events and '\"disk-created\"' in events, events
assert 'other' not in events, events
events = ask('other', '{other}', 'logs').stdout
assert 'client-connected' not in events and events.count('disk-created') == 1, events
assert 'acme' not in events, events
events = ask('default', '', 'logs').stdout
assert 'client-connected' not in events, events"
        ),
    );
    let disks = http(&server, "GET", "/v1/tenants/default/disks", None).json();
    assert_eq!(disks.as_array().map(Vec::len), Some(1), "the administrator's own");
}

#[test]
fn a_disk_of_the_administrator_is_not_called_like_one_of_a_tenant() {
    let (server, ..) = shared();
    let path = "/v1/tenants/default/disks/acme%2Fd";
    let refused = http(&server, "PUT", path, Some("{\"parameters\": [\"1M\"]}"));
    assert_eq!(refused.status, 400);
    assert!(refused.problem().contains("what the log calls a disk of a tenant"));
    let path = "/v1/tenants/default/disks/new%2Fd";
    assert_eq!(http(&server, "PUT", path, Some("{\"parameters\": [\"1M\"]}")).status, 201);
    let refused = http(&server, "PUT", "/v1/tenants/new", Some("{}"));
    assert_eq!(refused.status, 409);
    assert!(refused.problem().contains("\"new/d\""));
}
