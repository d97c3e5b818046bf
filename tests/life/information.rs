//! What the program tells instead of serving, and what `make install` installs.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{memnbd, run};

fn output(arguments: &[&str]) -> String {
    let finished = run(&mut memnbd(Path::new("/"), arguments));
    assert_eq!(finished.stderr, "", "{finished}");
    finished.success()
}

fn json(arguments: &[&str]) -> Value {
    let text = output(arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The value of a line `KEY=VALUE`.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("{key} is not in\n{text}"))
}

#[test]
fn configuration_is_told() {
    let text = output(&["--dump-config"]);
    assert_eq!(value(&text, "name"), "memnbd-host");
    assert_eq!(value(&text, "version"), env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&text, "host_os"), "linux");
    let components: Vec<&str> = value(&text, "components").split(' ').collect();
    for name in ["data", "error", "file", "memory", "offset"] {
        assert!(components.contains(&name), "{components:?}");
    }
    assert!(components.is_sorted());
    assert_eq!(value(&text, "contract"), "memnbd:block/block-store@0.2.0");
    assert_eq!(value(&text, "max_transfer"), "67108864");
    let object = json(&["--dump-config", "--json"]);
    assert_eq!(object["version"], env!("CARGO_PKG_VERSION"));
    assert!(object["components"].as_array().unwrap().contains(&"memory".into()));
}

#[test]
fn component_is_told() {
    for option in ["--dump-component", "--dump-plugin"] {
        let text = output(&["memory", option, "--max-memory", "1G", "--deadline", "2"]);
        assert_eq!(value(&text, "name"), "memory");
        assert_eq!(value(&text, "magic_config_key"), "size");
        assert_eq!(value(&text, "imports"), "");
        assert_eq!(value(&text, "contract"), "memnbd:block/block-store@0.2.0");
        assert_eq!(value(&text, "parameters_size_required"), "true");
        assert_eq!(value(&text, "limits_max_memory"), "1073741824");
        assert_eq!(value(&text, "limits_deadline_seconds"), "2.0");
    }
    let object = json(&["--component", "pattern", "--dump-component", "--json"]);
    assert_eq!(object["name"], "pattern");
    assert_eq!(object["parameters"][0]["name"], "size");
    assert_eq!(object["imports"], serde_json::json!([]));
}

#[test]
fn json_alone_is_a_mistake() {
    run(&mut memnbd(Path::new("/"), ["--json", "1M"])).failure(2);
}

#[test]
fn options_are_completed_by_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["--completion", shell]);
        for option in ["exit-last", "tls", "listen"] {
            assert!(script.contains(option), "{shell}: {option}");
        }
    }
    let error = run(&mut memnbd(Path::new("/"), ["--completion", "csh"])).failure(2);
    assert!(error.contains("bash, zsh, fish"), "{error}");
    // What bash makes of it.
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("script"), output(&["--completion", "bash"])).unwrap();
    let test = "source ./script; COMP_WORDS=(memnbd-host --exit-w); COMP_CWORD=1;
        _memnbd__host memnbd-host --exit-w memnbd-host; echo \"${COMPREPLY[@]}\"";
    let mut bash = std::process::Command::new("bash");
    let completed = run(bash.current_dir(directory.path()).args(["-c", test])).success();
    assert_eq!(completed, "--exit-with-parent\n");
}

#[test]
fn manual_pages_have_all_options_and_parameters() {
    let page = output(&["--man"]);
    assert!(page.contains(".TH memnbd-host 1"), "{page}");
    for word in ["exit\\-with\\-parent", "SIGHUP", "LISTEN_FDNAMES", "EXIT STATUS", "unixsocket"] {
        assert!(page.contains(word), "{word} is not in\n{page}");
    }
    let page = output(&["memory", "--man"]);
    assert!(page.contains("memnbd\\-memory") && page.contains("size"), "{page}");
}

#[test]
fn everything_is_installed() {
    let prefix = TempDir::new().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = std::process::Command::new(root.join("host/program/dist/install"));
    command.args([Path::new(env!("CARGO_BIN_EXE_memnbd-host")), Path::new("/opt/x")]);
    run(command.env("DESTDIR", prefix.path())).success();
    let installed = |path: &str| fs::read(prefix.path().join("opt/x").join(path)).unwrap();
    for program in ["memnbd-host", "memnbd"] {
        assert!(!installed(&format!("bin/{program}")).is_empty());
    }
    for page in ["memnbd-host", "memnbd", "memnbd-memory", "memnbd-file", "memnbd-sparse-random"] {
        assert!(installed(&format!("share/man/man1/{page}.1")).starts_with(b".ie"));
    }
    assert!(
        String::from_utf8_lossy(&installed("share/memnbd/block.wit")).contains("world backend")
    );
    for script in [
        "share/bash-completion/completions/memnbd-host",
        "share/bash-completion/completions/memnbd",
        "share/zsh/site-functions/_memnbd-host",
        "share/fish/vendor_completions.d/memnbd-host.fish",
    ] {
        assert!(!installed(script).is_empty(), "{script}");
    }
    let service = String::from_utf8(installed("lib/systemd/system/memnbd-host.service")).unwrap();
    assert!(service.contains("ExecStart=/opt/x/bin/memnbd-host "), "{service}");
    let socket = String::from_utf8(installed("lib/systemd/system/memnbd-host.socket")).unwrap();
    assert!(socket.contains("ListenStream="), "{socket}");
    assert!(!prefix.path().join("opt/x/bin/nbdkit").exists());
}

#[test]
fn program_is_installed_as_nbdkit_unless_that_exists() {
    let prefix = TempDir::new().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let install = || {
        let mut command = std::process::Command::new(root.join("host/program/dist/install"));
        command.args(["--nbdkit", env!("CARGO_BIN_EXE_memnbd-host"), "/opt/x"]);
        command.env("DESTDIR", prefix.path());
        run(&mut command)
    };
    install().success();
    // Once more, over itself.
    install().success();
    let program = prefix.path().join("opt/x/bin/nbdkit");
    let version = run(std::process::Command::new(&program).arg("--version")).success();
    assert!(version.starts_with("nbdkit 1."), "{version}");
    let page = fs::read(prefix.path().join("opt/x/share/man/man1/nbdkit.1")).unwrap();
    assert!(page.starts_with(b".ie"));
    fs::remove_file(&program).unwrap();
    fs::write(&program, "another").unwrap();
    assert!(install().failure(1).contains("bin/nbdkit exists"));
    assert_eq!(fs::read(&program).unwrap(), b"another");
}

#[test]
fn component_tells_what_it_may_be_granted() {
    let text = output(&["--dump-component", "error"]);
    assert_eq!(value(&text, "filter"), "true");
    assert_eq!(value(&text, "routes_requests"), "true");
    assert_eq!(value(&text, "grants_devices"), "base");
    assert_eq!(value(&text, "grants_written"), "base");
    assert_eq!(value(&text, "parameters_base_type"), "EXPORT");
    let text = output(&["--dump-component", "split"]);
    assert_eq!(value(&text, "filter"), "false");
    assert_eq!(value(&text, "grants_files"), "file");
    let memory = json(&["--dump-component", "memory", "--json"]);
    let grants = memory["grants"].as_object().unwrap();
    assert!(
        grants.contains_key("secrets")
            && grants.values().all(|names| names == &serde_json::json!([]))
    );
    assert_eq!(memory["routes_requests"], false);
    assert!(!memory["imports"].to_string().contains("lower"));
    let offset = json(&["--dump-component", "offset", "--json"]);
    assert!(offset["imports"].to_string().contains("memnbd:block/lower"));
}
