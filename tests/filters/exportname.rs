//! The filter `exportname`, beside nbdkit's.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::backends::served;
use crate::mistakes::complaint;
use crate::support::{Server, nbdsh, require};

/// Prints the list of exports, and what there is by some names.
const ASK: &str = r#"export uri; nbdsh -c '
import os
h.set_opt_mode(True)
h.connect_uri(os.environ["uri"])
listed = []
try:
    h.opt_list(lambda name, description: listed.append((name, description)))
    print(sorted(listed))
except nbd.Error:
    print("no list")
for name in ["", "file1", "file2", "no"]:
    try:
        h.set_export_name(name)
        h.set_full_info(True)
        h.opt_info()
        description = ""
        try:
            description = h.get_export_description()
        except nbd.Error:
            pass
        print(name, h.get_size(), h.get_canonical_export_name(), description)
    except nbd.Error as error:
        print(name, error.errno)
h.opt_abort()
'"#;

fn files() -> TempDir {
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("files")).unwrap();
    for (name, length) in [("file1", 1024), ("file2", 2048), ("file3", 4096)] {
        fs::write(directory.path().join("files").join(name), vec![1; length]).unwrap();
    }
    directory
}

fn ask(program: &str, directory: &Path, parameters: &[&str]) -> String {
    let arguments = ["--filter=exportname", "file", "dir=files", "exportdesc=none"];
    let described = parameters.iter().any(|parameter| parameter.starts_with("exportdesc="));
    let arguments = &arguments[..if described { 3 } else { 4 }];
    served(program, directory, &[arguments, parameters].concat(), ASK)
}

#[test]
fn names_are_told_and_found_as_with_nbdkit() {
    require!("nbdkit", "nbdsh");
    let directory = files();
    for parameters in [
        &[][..],
        &["default-export=file2"],
        &["exportname-list=error"],
        &["exportname-list=empty"],
        &["exportname-list=defaultonly"],
        &["exportname-list=defaultonly", "default-export=file2"],
        &["exportname-list=explicit", "exportname=file1", "exportname=none"],
        &["exportname-strict=true", "exportname=file1", "default-export=file1"],
        &["exportname-strict=on", "exportname-list=explicit", "exportname=file2"],
        &["exportdesc=fixed:the same for all"],
    ] {
        let ours = ask("memnbd", directory.path(), parameters);
        assert_eq!(ours, ask("nbdkit", directory.path(), parameters), "{parameters:?}");
    }
}

#[test]
fn rules_are_for_exports_of_the_command_line_but_not_for_sockets_of_one() {
    require!("nbdsh");
    let arguments = [
        "--filter=exportname",
        "exportname-strict=true",
        "exportname=a",
        "default-export=a",
        "exportname-list=defaultonly",
        "--export",
        "a=memory,1M",
        "--export",
        "b=memory,2M",
        "--listen",
        "unix:only,export=b",
    ];
    let server = Server::start(&arguments);
    nbdsh(
        &server,
        "
def connect(name, socket):
    c = nbd.NBD()
    c.set_opt_mode(True)
    c.set_export_name(name)
    c.connect_unix(socket)
    return c
names = []
c = connect('a', 'socket')
c.opt_list(lambda name, description: names.append(name))
assert names == ['a'], names
c.opt_go()
assert c.get_size() == 1 << 20
for name in ['', 'b', 'c']:
    c = connect(name, 'socket')
    try:
        c.opt_go()
        assert False, name
    except nbd.Error as error:
        assert error.errno == 'ENOENT', error
c = connect('b', 'only')
c.opt_go()
assert c.get_size() == 2 << 20
",
    );
}

#[test]
fn mistakes_are_told() {
    let directory = TempDir::new().unwrap();
    for (arguments, words) in [
        (
            &["--filter=exportname", "memory", "1M", "exportdesc=script:ls"][..],
            "scripts are not run",
        ),
        (&["--filter=exportname", "memory", "1M", "exportname-list=some"], "exportname-list"),
        (&["--export", "a=memory,1M,filter=exportname"], "give it as --filter=exportname"),
    ] {
        let error = complaint(directory.path(), 2, arguments);
        assert!(error.contains(words), "{error}");
    }
}
