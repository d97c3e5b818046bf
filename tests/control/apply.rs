//! Configurations that come through the control API.

use std::fs;

use serde_json::{Value, json};

use super::{EXPORTS, control, controlled, http, names, put};
use crate::support::{Server, nbdsh, require};

/// Where configurations go.
const POPULATE: &str = "/v1/tenants/default/populate";

/// Writes a file in the directory of a server, and returns its path.
fn file(server: &Server, config: &str) -> String {
    let path = server.path("disks.toml");
    fs::write(&path, config).unwrap();
    path.display().to_string()
}

fn populate(server: &Server, request: &Value) -> super::Answer {
    http(server, "POST", POPULATE, Some(&request.to_string()))
}

#[test]
fn applying_makes_the_disks_of_the_file() {
    let server = controlled(&["1M"]);
    let two = "[disks.a]\nparameters = ['1M']\n[disks.b]\nparameters = ['2M']\n";
    let path = file(&server, two);
    let plan = control(&server, &["apply", "--dry-run", &path]).success();
    for line in ["  + a\n", "  + b\n", "would be created 2, changed 0, removed 0; unchanged 0"] {
        assert!(plan.contains(line), "{plan}");
    }
    assert_eq!(names(&server), ["disk"], "a plan changes nothing");
    let done = control(&server, &["apply", &path]).success();
    assert!(done.contains("\ncreated 2, changed 0, removed 0; unchanged 0\n"), "{done}");
    let again = control(&server, &["apply", &path]).success();
    assert_eq!(again, "created 0, changed 0, removed 0; unchanged 2\n");
    assert_eq!(put(&server, "c", &json!({"parameters": ["1M"]})).status, 201);
    let path = file(&server, "[disks.a]\nparameters = ['1M']\nlabels.x = 'y'");
    let answer = control(&server, &["--json", "apply", &path]).success();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let actions: Vec<_> = answer["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["disk"].as_str().unwrap(), change["action"].as_str().unwrap()))
        .collect();
    assert_eq!(actions, [("b", "remove"), ("a", "relabel")]);
    assert_eq!(names(&server), ["disk", "a", "c"], "others are left alone");
}

#[test]
fn content_is_lost_only_when_that_is_said() {
    require!("nbdsh");
    let server = controlled(&["1M"]);
    let old = "[disks.a]\nparameters = ['1M']\n";
    control(&server, &["apply", &file(&server, old)]).success();
    let look = |expected: &str, then: &str| {
        nbdsh(
            &server,
            &format!(
                "
c = nbd.NBD()
c.set_export_name('a')
c.connect_unix('socket')
assert c.pread(1, 0) == {expected}, c.pread(1, 0)
{then}
"
            ),
        );
    };
    look("b'\\0'", "c.pwrite(b'x', 0)");
    let path = file(&server, "[disks.a]\nparameters = ['2M']\n[disks.b]\nparameters = ['1M']\n");
    let plan = control(&server, &["apply", "--dry-run", &path]).success();
    assert!(plan.contains("-/+ a (created anew") && plan.contains("refused without"), "{plan}");
    let error = control(&server, &["apply", &path]).failure(1);
    assert!(error.contains("\"a\"") && error.contains("--replace"), "{error}");
    assert_eq!(names(&server), ["disk", "a"], "nothing was changed");
    look("b'x'", "");
    control(&server, &["apply", "--replace", &path]).success();
    look("b'\\0'", "assert c.get_size() == 2 << 20");
}

#[test]
fn nothing_is_changed_unless_everything_is_right() {
    let server = controlled(&["1M"]);
    control(&server, &["apply", &file(&server, "[disks.a]\nparameters = ['1M']\n")]).success();
    for (config, words) in [
        ("[disks.b]\nparameters = ['1M']\n[disks.c]", "line 3, column 8: the disk \"c\""),
        ("[disks.b]\nparametres = []", "line 2, column 1"),
        ("[disks.b]\ncomponent = './b.wasm'", "line 1, column 8"),
        ("[disks.b]\ncomponent = 'file'\nparameters = ['/etc/passwd']", "granted"),
        ("[disks.disk]\nparameters = ['2M']", "line 1, column 8: the disk \"disk\" exists"),
        ("[disks]\n[grants.file]\nx = '/etc/passwd'", "line 2, column 2: grants are given"),
        ("", "no table \"disks\""),
    ] {
        let error = control(&server, &["apply", &file(&server, config)]).failure(1);
        assert!(error.contains(words) && error.contains("disks.toml: "), "{error}");
        assert_eq!(names(&server), ["disk", "a"], "{config}");
    }
    let error = control(&server, &["apply", "/nowhere/x.toml"]).failure(1);
    assert!(error.contains("/nowhere/x.toml: No such file"), "{error}");
    let path = server.path("bad");
    fs::write(&path, b"[disks]\n# \xff").unwrap();
    let error = control(&server, &["apply", path.to_str().unwrap()]).failure(1);
    assert!(error.contains("line 2, column 3: this is not UTF-8"), "{error}");
    let error = control(&server, &["apply", "/dev/zero"]).failure(1);
    assert!(error.contains("at most 4194304 bytes"), "{error}");
}

#[test]
fn disks_that_stand_on_each_other_are_removed_in_order() {
    let server = controlled(&["1M"]);
    let config = "
[disks.a]
parameters = ['1M']
[disks.b]
component = 'offset'
parameters = ['base=a', 'offset=64k']
[disks.c]
component = 'offset'
parameters = ['base=b', 'offset=64k']
";
    control(&server, &["apply", &file(&server, config)]).success();
    control(&server, &["fault", "c"]).success();
    // One of the command line keeps what it stands on.
    control(&server, &["create", "top", "offset", "base=a", "offset=4k"]).success();
    control(&server, &["fault", "top"]).success();
    let path = file(&server, "[disks]");
    let error = control(&server, &["apply", &path]).failure(1);
    assert!(error.contains("not everything was done"), "{error}");
    assert_eq!(names(&server), ["disk", "a", "top"]);
    control(&server, &["rm", "top"]).success();
    control(&server, &["apply", &path]).success();
    assert_eq!(names(&server), ["disk"]);
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let server = controlled(&["1M"]);
    let spec = json!({"parameters": ["1M"]});
    let many: serde_json::Map<String, Value> =
        (0..10_001).map(|n| (format!("d{n}"), spec.clone())).collect();
    for (request, status, words) in [
        (json!({}), 400, "is required"),
        (json!({"disks": {}, "toml": "[disks]"}), 400, "is required"),
        (json!({"disks": {"": spec}}), 400, "1 to 255 bytes"),
        (json!({"disks": {"a": {}}}), 400, "the disk \"a\": memory needs"),
        (json!({"disks": {"a": {"filters": vec!["error"; 17]}}}), 400, "at most 16"),
        (json!({"disks": {"a": {"paramters": []}}}), 422, "disks.a"),
        (json!({"disks": {"disk": {"parameters": ["2M"]}}}), 409, "\"disk\" exists"),
        (json!({"disks": many}), 400, "at most 10000"),
        (json!({"toml": " ".repeat(6 << 20)}), 413, "length limit"),
    ] {
        let answer = populate(&server, &request);
        assert_eq!(answer.status, status, "{words}");
        assert!(answer.problem().contains(words), "{}", answer.problem());
        assert_eq!(names(&server), ["disk"]);
    }
    let many: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("d{n}"), spec.clone())).collect();
    assert_eq!(populate(&server, &json!({"disks": many})).status, 507);
    let answer = populate(&server, &json!({"disks": {"a": spec}, "dry_run": true}));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["changes"][0]["action"], "create");
    assert_eq!(names(&server), ["disk"]);
}

#[test]
fn configurations_leave_the_disks_of_each_other_alone() {
    let directory = tempfile::TempDir::new().unwrap();
    let of_server = directory.path().join("server.toml");
    fs::write(&of_server, "[disks.a]\nparameters = ['1M']\n").unwrap();
    let mut server = super::controlled_in(directory, &["--config", "server.toml"]);
    let path = file(&server, "[disks.b]\nparameters = ['1M']\n");
    control(&server, &["apply", &path]).success();
    fs::write(&of_server, "[disks.c]\nparameters = ['1M']\n").unwrap();
    server.signal(rustix::process::Signal::HUP);
    server.expect_log("read again: 2 disks changed");
    assert_eq!(names(&server), ["b", "c"]);
    let path = file(&server, "[disks.c]\nparameters = ['2M']\n");
    let error = control(&server, &["apply", "--replace", &path]).failure(1);
    assert!(error.contains("the disk \"c\" exists"), "{error}");
    control(&server, &["apply", &file(&server, "[disks]")]).success();
    assert_eq!(names(&server), ["c"]);
    // Whoever removes a disk, its name is free for all.
    control(&server, &["rm", "c"]).success();
    let path = file(&server, "[disks.c]\nparameters = ['2M']\n");
    control(&server, &["apply", &path]).success();
    assert_eq!(names(&server), ["c"]);
}

#[test]
fn applying_makes_the_exports_of_the_file() {
    let server = controlled(&["1M"]);
    let disk = "[disks.a]\nparameters = ['1M']\n";
    let with = |exports: &str| file(&server, &format!("{disk}{exports}"));
    let listed = || {
        let listed = http(&server, "GET", EXPORTS, None).json();
        let names = listed.as_array().unwrap().iter().map(|export| export["name"].clone());
        names.collect::<Vec<_>>()
    };
    let two = "[exports.b]\ndisk = 'a'\n[exports.c]\ndisk = 'disk'\nread_only = true\n";
    let plan = control(&server, &["apply", "--dry-run", &with(two)]).success();
    assert!(plan.contains("  + export b\n") && plan.contains("would be created 3,"), "{plan}");
    assert_eq!(listed(), [json!(null); 0], "a plan changes nothing");
    control(&server, &["apply", &with(two)]).success();
    assert_eq!(listed(), [json!("b"), json!("c")]);
    let again = control(&server, &["apply", &with(two)]).success();
    assert_eq!(again, "created 0, changed 0, removed 0; unchanged 3\n");

    control(&server, &["snapshot", "a", "s"]).success();
    let other = "[exports.b]\nsnapshot = 's'\n[exports.d]\ndisk = 'a'\nfilters = ['limit']\n\
                 parameters = ['limit=1']\n";
    let done = control(&server, &["apply", &with(other)]).success();
    assert!(done.contains("-/+ export b (created anew: its clients"), "{done}");
    assert!(done.ends_with("created 1, changed 1, removed 1; unchanged 1\n"), "{done}");
    let shown = http(&server, "GET", &format!("{EXPORTS}/b"), None).json();
    let spec = &shown["spec"];
    assert_eq!((&spec["snapshot"], &spec["read_only"]), (&json!("s"), &json!(true)));
    let limits = other.replace("limit=1", "limit=2");
    let done = control(&server, &["apply", &with(&limits)]).success();
    assert!(done.contains("  ~ export d\n") && done.contains("changed 1, removed 0"), "{done}");

    for (exports, words) in [
        ("[exports.a]\ndisk = 'disk'", "line 3, column 10: the export \"a\": there is a disk"),
        ("[exports.e]\nsnapshot = 't'", "line 3, column 10: the export \"e\": there is no snap"),
        ("[exports.e]\ndisk = 'f'", "line 3, column 10: the export \"e\": there is no disk"),
    ] {
        let error = control(&server, &["apply", &with(exports)]).failure(1);
        assert!(error.contains(words), "{error}");
        assert_eq!(listed(), [json!("b"), json!("d")], "nothing was changed");
    }
    // A disk that is created anew is so with its exports, and goes after them.
    let larger = "[disks.a]\nparameters = ['2M']\n[exports.d]\ndisk = 'a'\n";
    control(&server, &["apply", "--replace", &file(&server, larger)]).success();
    assert_eq!((listed(), names(&server)), (vec![json!("d")], vec!["disk".into(), "a".into()]));
    control(&server, &["apply", &file(&server, "[disks]")]).success();
    assert_eq!((listed().len(), names(&server)), (0, vec!["disk".to_owned()]));

    let both = json!({"disks": {"x": {"parameters": ["1M"]}}, "exports": {"x": {"disk": "disk"}}});
    assert_eq!(populate(&server, &both).status, 409);
    let body = json!({"disks": {}, "exports": {"x": {"disk": "disk"}}});
    assert_eq!((populate(&server, &body).status, listed()), (200, vec![json!("x")]));
    let body = json!({"toml": "[disks]", "exports": {"x": {"disk": "disk"}}});
    assert_eq!(populate(&server, &body).status, 400);
}
