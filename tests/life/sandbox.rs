//! What the kernel keeps the process from.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{LIMIT, Server, bomb, guest, memnbd, nbdsh, probe, run, wait_until};

/// The values of a key in the status of all threads of a process.
fn of_threads(process: i32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    status.filter_map(Result::ok).map(value).collect()
}

fn pid(server: &Server) -> i32 {
    server.pid().as_raw_nonzero().get()
}

/// The processes whose parent this is.
fn children(parent: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |process: &i32| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    numbers.filter(is_child).collect()
}

#[test]
fn all_threads_are_filtered_and_gain_no_privileges() {
    let server = Server::start(&["1M"]);
    assert_eq!(probe(&server).size, 1 << 20);
    let filters = of_threads(pid(&server), "Seccomp");
    assert!(filters.len() > 2 && filters.iter().all(|mode| mode == "2"), "{filters:?}");
    assert!(of_threads(pid(&server), "NoNewPrivs").iter().all(|on| on == "1"));
    let server = Server::start(&["--sandbox=off", "1M"]);
    assert!(of_threads(pid(&server), "Seccomp").iter().all(|mode| mode == "0"));
}

/// Starts a server with a configuration file and further arguments.
fn configured(arguments: &[&str]) -> Server {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("c.toml"), "[disks.a]\nparameters = [\"1M\"]\n").unwrap();
    let mut command = memnbd(directory.path(), ["-U", "socket", "--config", "c.toml"]);
    command.args(arguments);
    Server::spawn(directory, &mut command)
}

/// Has a server read a configuration with the file of another directory as a further disk.
fn name_a_file(server: &Server, file: &Path) {
    let text = format!(
        "[disks.a]\nparameters = [\"1M\"]\n\
         [disks.b]\ncomponent = \"file\"\nparameters = [\"{}\"]\n",
        file.display()
    );
    fs::write(server.path("new"), text).unwrap();
    fs::rename(server.path("new"), server.path("c.toml")).unwrap();
    server.signal(Signal::HUP);
}

/// Returns the size of a disk, or why it cannot be opened.
fn opened(server: &Server, name: &str) -> String {
    let code = format!(
        "disk = nbd.NBD()\ndisk.set_export_name('{name}')\n\
         try:\n    disk.connect_unix('{}')\n    print(disk.get_size())\n\
         except nbd.Error as error:\n    print(error)",
        server.socket().display()
    );
    nbdsh(server, &code)
}

#[test]
fn file_that_nothing_named_at_the_start_is_refused_with_what_to_do() {
    let elsewhere = TempDir::new().unwrap();
    let file = elsewhere.path().join("disk");
    fs::write(&file, vec![0; 1 << 20]).unwrap();

    let mut server = configured(&[]);
    name_a_file(&server, &file);
    let advice = format!("start it with --sandbox-path={} as well", elsewhere.path().display());
    let refused = || {
        assert_ne!(opened(&server, "b"), "1048576\n");
        server.log().iter().any(|line| line.contains(&advice))
    };
    assert!(wait_until(LIMIT, refused), "{:?}", server.log());
    server.expect_log(&advice);

    let allowed = format!("--sandbox-path={}", elsewhere.path().display());
    for arguments in [[allowed.as_str()], ["--sandbox=off"]] {
        let server = configured(&arguments);
        name_a_file(&server, &file);
        assert!(wait_until(LIMIT, || opened(&server, "b") == "1048576\n"), "{:?}", server.log());
    }
}

#[test]
fn components_are_compiled_by_a_process_that_can_open_nothing() {
    let directory = TempDir::new().unwrap();
    bomb(&directory.path().join("bomb.wasm"), (40, 5000));
    guest(&directory.path().join("small.wasm"), &[]);
    let small = "--export=small=./small.wasm";
    let bomb = "--export=bomb=./bomb.wasm";
    let mut command = memnbd(directory.path(), ["-U", "socket", small, bomb]);
    command.env("XDG_CACHE_HOME", directory.path().join("cache"));
    let server = Server::spawn(directory, command.args(["--compile-timeout", "20"]));
    let compilers =
        || -> Vec<i32> { children(pid(&server)).into_iter().flat_map(children).collect() };
    // Its first threads start after it has confined itself.
    let confined = || {
        compilers().into_iter().any(|process| {
            let filters = of_threads(process, "Seccomp");
            filters.len() > 1 && filters.iter().all(|mode| mode == "2")
        })
    };
    assert!(wait_until(LIMIT, confined), "{:?}", server.log());
    let brokers = children(pid(&server));
    assert_eq!(brokers.len(), 1);
    // What starts compilers ends with the server, whatever ends that, and so do the compilers.
    let all: Vec<i32> = brokers.into_iter().chain(compilers()).collect();
    server.kill();
    let gone = |process: &i32| !Path::new(&format!("/proc/{process}")).exists();
    assert!(wait_until(LIMIT, || all.iter().all(gone)));
}

#[test]
fn server_goes_on_when_what_starts_compilers_is_gone() {
    let directory = TempDir::new().unwrap();
    guest(&directory.path().join("disk.wasm"), &[]);
    let arguments = ["--control", "unix:control", "--grant", "component:own=disk.wasm", "1M"];
    let mut command = memnbd(directory.path(), ["-U", "socket"]);
    command.args(arguments).env("XDG_CACHE_HOME", directory.path().join("cache"));
    let mut server = Server::spawn(directory, &mut command);
    let broker = children(pid(&server))[0];
    kill_process(Pid::from_raw(broker).unwrap(), Signal::KILL).unwrap();
    let mut create = Command::new(env!("CARGO_BIN_EXE_memnbd"));
    create.env("MEMNBD_HOST", format!("unix:{}", server.path("control").display()));
    run(create.args(["create", "own", "own"])).success();
    assert!(opened(&server, "own").contains("no export"));
    let told = || server.log().iter().any(|line| line.contains("the compiler cannot be started"));
    assert!(wait_until(LIMIT, told), "{:?}", server.log());
    server.expect_log("the compiler cannot be started");
    assert_eq!(probe(&server).size, 1 << 20);
}

#[test]
fn scripts_need_more_than_the_sandbox_has() {
    let server = Server::start(&["--allow-scripts", "data", "<(printf abc)"]);
    assert!(of_threads(pid(&server), "Seccomp").iter().all(|mode| mode == "0"));
    assert_eq!(nbdsh(&server, "print(h.get_size())"), "3\n");
}

#[test]
fn configuration_tells_what_is_open_to_the_process() {
    let directory = TempDir::new().unwrap();
    let disk = directory.path().join("disk");
    fs::write(&disk, "x").unwrap();
    let dumped = |arguments: &[&str]| run(&mut memnbd(directory.path(), arguments)).success();
    let text = dumped(&["--dump-config", "file", disk.to_str().unwrap()]);
    for line in ["sandbox_mode=on", "sandbox_files=", "sandbox_calls=full"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let paths = text.lines().find(|line| line.starts_with("sandbox_paths=")).unwrap();
    assert!(paths.split(' ').any(|path| Path::new(path) == disk), "{paths}");
    let text = dumped(&["--dump-config", "--sandbox=off"]);
    assert!(text.contains("sandbox_mode=off\n") && !text.contains("sandbox_paths"), "{text}");
}
