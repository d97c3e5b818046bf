//! The example `notes`: exports that a component lists, a secret, and what it learns of a client.

use std::fs;

use super::example;
use crate::support::{Finished, Server, memnbd, nbdsh, require, run};

#[test]
fn exports_of_a_component_are_listed_and_the_first_is_the_default() {
    require!("nbdsh", "nbdinfo");
    let Some(notes) = example("notes") else { return };
    let mut server = Server::start(&["--export", &format!("*={notes},note=a,note=b c")]);
    nbdsh(
        &server,
        "
def text(name):
    c = nbd.NBD()
    c.set_export_name(name)
    c.connect_unix('socket')
    return bytes(c.pread(4096, 0)).rstrip(b'\\0').decode()
assert text('b c') == 'this is b c'
assert text('') == 'this is a', text('')
try:
    text('d')
    assert False
except nbd.Error as error:
    assert error.errno == 'ENOENT'
listed = {}
c = nbd.NBD()
c.set_opt_mode(True)
c.connect_unix('socket')
c.opt_list(lambda name, description: listed.update({name: description}))
assert set(listed) == {'a', 'b c'}, listed
",
    );
    server.expect_log("there is no note \"d\"");
}

#[test]
fn secret_is_read_from_a_file_and_shown_nowhere() {
    require!("nbdsh");
    let Some(notes) = example("notes") else { return };
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("key"), "hunter2\nnot this").unwrap();
    let run_with = |key: &str| -> Finished {
        let command = "nbdsh -u \"$uri\" -c 'print(h.pread(4096, 0))'";
        run(memnbd(directory.path(), ["-v", "--private", "-e", "a", "--run", command]).args([
            "--component",
            &notes,
            "note=a",
            &format!("key={key}"),
        ]))
    };
    // Without TLS it is refused, which says that the key was read.
    let finished = run_with("+key");
    assert!(finished.stderr.contains("needs TLS and a private disk"), "{finished}");
    for key in ["+key", "hunter2"] {
        let finished = run_with(key);
        assert!(!finished.stderr.contains("hunter2"), "{finished}");
    }
    for (key, message) in [
        ("+none", "notes: key: "),
        ("-1", "a minus is followed by the number of an inherited file descriptor, at least 3"),
        ("+", "the path is missing"),
    ] {
        let finished = run_with(key);
        assert!(finished.stderr.contains(message), "{finished}");
    }
}

#[test]
fn private_disk_knows_its_client() {
    require!("nbdsh");
    let Some(notes) = example("notes") else { return };
    let server = Server::start(&["--private", "-e", "a", "--component", &notes, "note=a"]);
    nbdsh(
        &server,
        "
c = nbd.NBD()
c.set_export_name('a')
c.connect_unix('socket')
text = bytes(c.pread(4096, 0)).rstrip(b'\\0').decode()
assert text.startswith('this is a for (Unix socket, user '), text
",
    );
}
