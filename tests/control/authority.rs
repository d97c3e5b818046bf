//! Who comes through the API names grants, and no paths.

use serde_json::json;
use tempfile::TempDir;

use super::{OPEN, control, controlled_in, put};
use crate::support::{guest, nbdsh, require};

#[test]
fn paths_are_refused_wherever_they_are_written() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("file"), vec![7; 4096]).unwrap();
    guest(&directory.path().join("guest.wasm"), &[]);
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (file, wasm) = (path("file"), path("guest.wasm"));
    let server = controlled_in(directory, &["--grant", "read-only-file:image=file", "1M"]);
    let refused = |component: &str, filters: &[&str], parameters: &[&str]| {
        let spec = json!({"component": component, "filters": filters, "parameters": parameters});
        let answer = put(&server, "a", &spec);
        assert_eq!(answer.status, 400, "{spec}");
        answer.problem()
    };
    for (component, filters, parameters, words) in [
        // Components.
        (wasm.as_str(), &[][..], &[][..], "granted"),
        ("./guest.wasm", &[], &[], "granted"),
        ("guest.wasm", &[], &[], "granted"),
        ("memory.wasm", &[], &["1M"], "granted"),
        ("memory", &["./guest.wasm"], &["1M"], "granted"),
        ("memory", &[wasm.as_str()], &["1M"], "granted"),
        // The native backend.
        ("file", &[], &[file.as_str()], "granted"),
        ("file", &[], &["file=file"], "granted"),
        ("file", &[], &["file=./image"], "granted"),
        ("file", &[], &["dir=."], "granted"),
        ("file", &[], &["dir=/"], "granted"),
        ("file", &[], &["fd=0"], "fd= is for the command line"),
        ("file", &[], &["dirfd=0"], "dirfd= is for the command line"),
        ("file", &["error"], &["file.file=/etc/passwd"], "granted"),
        // Parameters of the type file.
        ("split", &[], &[file.as_str()], "granted"),
        ("split", &[], &["file=image", "file=/etc/passwd"], "granted"),
        ("partitioning", &[], &["file=/etc/passwd"], "granted"),
        // Expressions.
        ("data", &[], &["</etc/passwd"], "for the command line"),
        ("data", &[], &["<(id)"], "for the command line"),
        ("data", &[], &["(</etc/passwd)*2"], "for the command line"),
        ("data", &[], &["data=$x", "x=</etc/passwd"], "for the command line"),
        ("data", &[], &["0", "input-file=/etc/passwd"], "granted"),
    ] {
        let problem = refused(component, filters, parameters);
        assert!(problem.contains(words), "{component} {filters:?} {parameters:?}: {problem}");
    }
    // An argument file is a bare word here.
    let problem = refused("memory", &[], &["@file"]);
    assert!(problem.contains("@file"), "{problem}");
    assert!(control(&server, &["ls"]).success().lines().count() == 2);
}

#[test]
fn expressions_see_no_environment() {
    let mut server = controlled_in(TempDir::new().unwrap(), &["1M"]);
    control(&server, &["create", "a", "data", "$PATH"]).success();
    let error = control(&server, &["fault", "a"]).failure(1);
    assert!(error.contains("PATH"), "{error}");
    server.expect_log("PATH");
}

#[test]
fn grants_are_used_by_their_names() {
    require!("nbdsh");
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("file"), vec![7; 4096]).unwrap();
    std::fs::create_dir(at("images")).unwrap();
    std::fs::write(at("images").join("one.img"), vec![8; 8192]).unwrap();
    guest(&at("guest.wasm"), &[]);
    let server = controlled_in(
        directory,
        &[
            "--grant=read-only-file:golden=file",
            "--grant=file:scratch=file",
            "--grant=directory:images=images",
            "--grant=component:mine=guest.wasm",
            "1M",
        ],
    );
    control(&server, &["create", "golden", "file", "golden"]).success();
    control(&server, &["create", "scratch", "file", "file=scratch"]).success();
    control(&server, &["create", "one.img", "file", "dir=images"]).success();
    control(&server, &["create", "joined", "split", "file=golden", "file=golden"]).success();
    control(&server, &["create", "mine", "mine"]).success();
    nbdsh(
        &server,
        &format!(
            "{OPEN}
golden = open_disk('golden')
assert golden.is_read_only() and golden.pread(1, 0) == b'\\7'
assert not open_disk('scratch').is_read_only()
assert open_disk('one.img').pread(1, 8191) == b'\\10'
joined = open_disk('joined')
assert joined.get_size() == 8192 and joined.is_read_only()
open_disk('mine').pread(512, 0)
"
        ),
    );
}
