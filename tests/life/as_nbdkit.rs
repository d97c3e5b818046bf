//! The program under the name `nbdkit`: scripts that call nbdkit do the same with either program, without
//! a change. Most of them are the examples of nbdkit's manual pages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::{Finished, free_port, require, run, shell};

/// A directory with a program that is called nbdkit.
fn linked() -> TempDir {
    let directory = TempDir::new().unwrap();
    symlink(env!("CARGO_BIN_EXE_memnbd-host"), directory.path().join("nbdkit")).unwrap();
    directory
}

/// Runs a script in which `nbdkit` is the one in this directory.
fn script(directory: &Path, text: &str) -> Finished {
    let here = TempDir::new().unwrap();
    fs::write(here.path().join("disk.img"), vec![b'x'; 3 << 20]).unwrap();
    fs::create_dir(here.path().join("dir")).unwrap();
    fs::write(here.path().join("dir/a"), vec![0; 1000]).unwrap();
    let text = format!("set -e\n{text}");
    let mut command = shell(here.path(), &["-c".as_ref(), text.as_ref()]);
    let path = format!("{}:/usr/bin:{}", directory.display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("TMPDIR", "/tmp").env("PORT", free_port().to_string());
    run(&mut command)
}

/// Checks that a script prints the same with both programs, and ends in the same way.
fn same(text: &str, expected: &str) {
    let ours = script(linked().path(), text);
    let theirs = script(Path::new("/usr/bin"), text);
    assert_eq!(
        (&*ours.stdout, ours.exit_status()),
        (&*theirs.stdout, theirs.exit_status()),
        "{ours}"
    );
    assert_eq!(ours.stdout, expected, "{text}");
    assert_eq!(ours.stderr.is_empty(), theirs.stderr.is_empty(), "{ours}\n{theirs}");
}

fn nbdkit(arguments: &[&str]) -> Finished {
    let directory = linked();
    let here = TempDir::new().unwrap();
    let mut command = Command::new(directory.path().join("nbdkit"));
    run(command.current_dir(here.path()).args(arguments))
}

/// Examples of nbdkit(1) and of the pages of memory, data and file.
#[test]
fn examples_of_the_manual_pages_work_unchanged() {
    require!("nbdkit", "nbdinfo", "qemu-img");
    let serve = |command: &str, look: &str| {
        format!(
            "nbdkit -p $PORT -P pid {command}
            uri=nbd://localhost:$PORT
            {look}
            kill $(cat pid)"
        )
    };
    let size = "nbdinfo --size $uri";
    for (command, look, expected) in [
        ("file disk.img", size, "3145728\n"),
        ("file file=disk.img fadvise=sequential cache=none", size, "3145728\n"),
        ("file dir=dir", "nbdinfo --size $uri/a", "1000\n"),
        ("memory 1T", size, "1099511627776\n"),
        ("memory size=1G -r", "nbdinfo --is readonly $uri && echo r", "r\n"),
        ("data ' ( 0x55 0xAA )*2048 '", size, "4096\n"),
        ("data ' ( \"Hello\" )*2000 ' size=8192", size, "8192\n"),
        ("data ' <disk.img[:1] @^512 <dir/a @^512 '", size, "1536\n"),
        ("data ' </dev/urandom[:512]*16 '", size, "8192\n"),
        ("data base64=MTIz size=1M", size, "1048576\n"),
        (
            "--filter=error --filter=delay memory 100M error-rate=10% rdelay=1 wdelay=1",
            size,
            "104857600\n",
        ),
        ("pattern 1M -e other", "nbdinfo --size $uri/third", "1048576\n"),
    ] {
        same(&serve(command, look), expected);
    }
    same(
        r#"export pattern='0x55 0xAA'
        nbdkit -U - data '$pattern*16' --run 'nbdinfo --size $uri'
        nbdkit -U - data raw='Hello, world!' --run 'nbdcopy "$uri" - | cat'"#,
        "32\nHello, world!",
    );
    same(
        r#"rm -f pid
        nbdkit -P pid -p $PORT memory 10G
        while [ ! -f pid ]; do sleep 1; done
        qemu-img convert -n disk.img nbd:localhost:$PORT
        qemu-img compare -f raw -F raw disk.img nbd:localhost:$PORT | tail -1
        kill $(cat pid)"#,
        "Images are identical.\n",
    );
    same(
        r#"nbdkit -U - pattern 1M --run 'qemu-img convert $nbd disk2.img'
        stat -c %s disk2.img"#,
        "1048576\n",
    );
}

#[test]
fn server_goes_to_the_background_and_tells_nothing() {
    require!("nbdkit", "nbdinfo");
    // It is ready when the first process ends. The name in the list of processes is nbdkit.
    same(
        r#"nbdkit --pidfile=pid --unix=socket memory 1M
        echo $?
        nbdinfo --size 'nbd+unix:///?socket=socket'
        cat /proc/$(cat pid)/comm
        tr '\0' ' ' < /proc/$(cat pid)/cmdline
        kill -HUP $(cat pid)
        for i in $(seq 200); do
            nbdinfo --size 'nbd+unix:///?socket=socket' > log 2>&1 || break; sleep 0.05
        done
        ! nbdinfo --size 'nbd+unix:///?socket=socket' 2> log"#,
        "0\n1048576\nnbdkit\nnbdkit --pidfile=pid --unix=socket memory 1M ",
    );
    for options in ["-f", "--foreground", "--no-fork", "--exit-with-parent", "--fore"] {
        same(
            &format!(
                r#"nbdkit {options} -P pid -U socket memory 1M &
                for i in $(seq 200); do test -s pid && break; sleep 0.05; done
                test $! = $(cat pid) && echo same
                kill $!
                wait $! && echo clean"#
            ),
            "same\nclean\n",
        );
    }
    same("nbdkit -s memory 1M < /dev/null | head -c 8", "NBDMAGIC");
}

/// nbdkit's plugins serve one disk under all names.
#[test]
fn any_name_gets_the_disk() {
    require!("nbdkit", "nbdinfo", "nbdsh");
    same(
        r#"nbdkit -P pid -U socket -e first memory 1M
        nbdsh -u 'nbd+unix:///one?socket=socket' -c 'h.pwrite(b"x", 0)'
        nbdsh -u 'nbd+unix:///two?socket=socket' -c 'print(h.pread(1, 0))'
        nbdinfo --list 'nbd+unix:///?socket=socket' | grep ^export
        kill $(cat pid)"#,
        "bytearray(b'x')\nexport=\"\":\n",
    );
    same(
        r#"nbdkit -U - -e "a b" memory 1M --run 'echo ${uri%%\?*} ${nbd##*/} $exportname $port'"#,
        "nbd+unix:///a%20b socket a b\n",
    );
    same(
        "nbdkit -U - --export=a=b memory 1M --run 'nbdinfo --size $uri; echo $exportname'",
        "1048576\na=b\n",
    );
}

#[test]
fn server_listens_on_all_interfaces() {
    require!("nbdkit", "nbdinfo", "ss");
    let listening = "nbdkit -P pid OPTIONS -p $PORT memory 1M
        ss -Hltn \"sport = :$PORT\" | awk '{print $4}' | sed 's/:[0-9]*$//' | sort
        kill $(cat pid)";
    same(&listening.replace("OPTIONS", "-4"), "0.0.0.0\n");
    same(&listening.replace("OPTIONS", "-i 127.0.0.1"), "127.0.0.1\n");
    if Path::new("/proc/net/if_inet6").exists() {
        same(&listening.replace("OPTIONS", ""), "0.0.0.0\n[::]\n");
        same(&listening.replace("OPTIONS", "-6"), "[::]\n");
    }
}

#[test]
fn mistakes_end_with_the_same_exit_code() {
    require!("nbdkit");
    for command in [
        "nbdkit",
        "nbdkit -f",
        "nbdkit --no-such-option memory 1M",
        "nbdkit no-such-plugin",
        "nbdkit --filter=no-such-filter memory 1M",
        "nbdkit memory",
        "nbdkit memory size=x",
        "nbdkit memory 1M no=such",
        "nbdkit 1M",
        "nbdkit file",
        "nbdkit file no-such-file",
        "nbdkit data '1 2 $unset_variable'",
        "nbdkit data '<no-such-file'",
        "nbdkit -U socket -p $PORT memory 1M",
        "nbdkit -s --run true memory 1M",
        "nbdkit -f -P /no/such/pid -U socket memory 1M",
        "nbdkit -U /no/such/socket memory 1M",
        "nbdkit -U socket -u no-such-user memory 1M",
        "nbdkit --dump-plugin",
        "nbdkit --tls=maybe memory 1M",
    ] {
        same(&format!("{command} > log 2>&1 || echo $?\ntest -s log"), "1\n");
    }
    same("nbdkit -U - memory 1M --run 'exit 3' || echo $?", "3\n");
    same("nbdkit -U - memory 1M --run 'kill -9 $$' 2> log || echo $?", "137\n");
}

#[test]
fn every_option_of_nbdkit_works_or_is_refused_in_a_line() {
    require!("nbdkit");
    let options = run(Command::new("/usr/bin/nbdkit").arg("--long-options")).success();
    let ours = nbdkit(&["--long-options"]).success();
    let newer = [
        "--keepalive",
        "--name",
        "--no-mc",
        "--no-meta-contexts",
        "--no-structured-replies",
        "--print-uri",
        "--timeout",
    ];
    assert!(newer.iter().all(|option| ours.lines().any(|line| line == *option)), "{ours}");
    let newer = [
        "--keepalive",
        "--name=x",
        "--no-mc",
        "--no-meta-contexts",
        "--no-structured-replies",
        "--print-uri",
        "--timeout=5",
        "--tls-priority=NORMAL",
    ];
    let refused = ["--old-style", "--oldstyle", "--selinux-label", "--tls-priority"];
    for option in options.lines().chain(newer) {
        let name = option.split('=').next().unwrap();
        let value = match option {
            "--debug" => "=memory.x=1",
            "--export" | "--export-name" | "--exportname" => "=x",
            "--filter" => "=offset",
            "--group" | "--user" => "=0",
            "--ip-addr" | "--ipaddr" => "=127.0.0.1",
            "--log" => "=null",
            "--mask-handshake" => "=3",
            "--pid-file" | "--pidfile" => "=pid",
            "--port" => "=0",
            "--run" => "=true",
            "--selinux-label" => "=x",
            "--threads" => "=2",
            "--tls" => "=off",
            "--tls-certificates" => "=/no/such/directory",
            "--tls-psk" => "=/no/such/file",
            "--unix" => "=-",
            _ => "",
        };
        let option = format!("{option}{value}");
        let finished = match name {
            "--single" | "--stdin" => nbdkit(&[&option, "memory", "1M"]),
            "--ip-addr" | "--ipaddr" | "--port" | "--vsock" | "--ipv4-only" | "--ipv6-only"
            | "--run" | "--tls-certificates" | "--tls-psk" | "--tls-verify-peer" | "--swap" => {
                // Where it listens, and which credentials and rights there are, is not the question.
                let finished = nbdkit(&[&option, "--help", "memory"]);
                assert!(finished.stdout.contains("Usage: nbdkit"), "{finished}");
                finished
            }
            _ => nbdkit(&[&option, "-U", "-", "memory", "1M", "--run", "true"]),
        };
        if refused.contains(&name) {
            let error = finished.failure(1);
            assert!(error.starts_with("nbdkit: -") && error.lines().count() == 2, "{error}");
        } else {
            finished.success();
        }
    }
    let short = run(Command::new("/usr/bin/nbdkit").arg("--short-options")).success();
    let ours = nbdkit(&["--short-options"]).success();
    for option in short.lines() {
        assert!(ours.lines().any(|line| line == option), "{option} is not in\n{ours}");
    }
}

#[test]
fn program_tells_what_scripts_ask_nbdkit_for() {
    require!("nbdkit");
    same(
        r#"nbdkit --version | sed -n 's/^nbdkit \([0-9]*\)\..*/\1/p'
        nbdkit -V memory | sed -n '2s/ .*//p'
        eval $(nbdkit --dump-config | grep ^version_major=)
        test $(nbdkit --dump-config | sed -n s/^version_minor=//p) -ge 32
        echo $version_major
        nbdkit --dump-config | cut -d= -f1 | grep -v -e version_extra | tr '\n' ' '
        nbdkit --exit-with-parent --version > log && echo supported
        nbdkit data --dump-plugin | grep data_base64=
        nbdkit pattern --dump-plugin > log
        nbdkit pattern --help > log"#,
        "1\nmemory\n1\nbinary bindir exit_with_parent filterdir host_cpu host_os libdir mandir name \
         plugindir root_tls_certificates_dir sbindir selinux sysconfdir tls version version_major \
         version_minor zstd supported\ndata_base64=yes\n",
    );
    let keys = "name magic_config_key api_version thread_model has_pread has_pwrite has_config";
    for plugin in ["memory", "data"] {
        let ask = format!(
            "nbdkit {plugin} --dump-plugin > dump
            for key in {keys}; do grep \"^$key=\" dump; done
            test -e \"$(sed -n s/^path=//p dump)\""
        );
        let ours = script(linked().path(), &ask).success();
        assert_eq!(ours, script(Path::new("/usr/bin"), &ask).success());
    }
    let text = nbdkit(&["--help"]).success();
    assert!(text.contains("Usage: nbdkit [OPTIONS] PLUGIN"), "{text}");
    let printed = nbdkit(&["-U", "-", "--print-uri", "null", "1M", "--run", "true"]).success();
    assert!(printed.starts_with("nbd+unix:///?socket="), "{printed}");
    assert_eq!(nbdkit(&["-U", "-", "null", "1M", "--run", "true"]).success(), "");
}
