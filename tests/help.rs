//! What the program says of itself.

use std::path::Path;

use crate::support::{memnbd, run};

fn output(arguments: &[&str]) -> String {
    let finished = run(&mut memnbd(Path::new("/"), arguments));
    assert_eq!(finished.stderr, "");
    finished.success()
}

#[test]
fn version_is_one_line() {
    let version = concat!("memnbd-host ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(output(&["-V"]), version);
    assert_eq!(output(&["--version"]), version);
}

#[test]
fn help_names_options_and_built_in_components() {
    let help = output(&["--help"]);
    for word in [
        "--component",
        "-p, --port",
        "-i, --ipaddr",
        "-U, --unix",
        "-f, --foreground",
        "-P, --pidfile",
        "-r, --read-only",
        "-e, --export-name",
        "-v, --verbose",
        "-V, --version",
        "--deadline",
        "--max-memory",
        "memory, memory-zstd",
        "badblocks, blocksize, blocksize-policy",
    ] {
        assert!(help.contains(word), "{word} is not in\n{help}");
    }
    assert_eq!(output(&["-h"]), help);
}

#[test]
fn help_of_a_component_tells_its_parameters() {
    for name in ["memory", "pattern", "memory.wasm"] {
        let expected = format!("Component {}", name.trim_end_matches(".wasm"));
        for arguments in [&[name, "--help"][..], &["--help", "--component", name]] {
            let help = output(arguments);
            assert!(help.contains(&expected), "{help}");
            assert!(help.contains("size=SIZE"), "{help}");
            assert!(help.contains("required"), "{help}");
        }
    }
}

#[test]
fn help_and_version_come_before_complaints() {
    output(&["--help", "no=such"]);
    output(&["--version", "--component", "/no/such"]);
}
