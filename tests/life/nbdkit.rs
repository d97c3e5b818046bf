//! What scripts of nbdkit do, done with nbdkit and with this program: the same comes out.

use tempfile::TempDir;

use crate::support::{free_port, require, run, shell};

/// Runs a shell script that starts `$SERVER` with either program; its output and its exit status.
fn outcome(server: &str, script: &str) -> (String, String) {
    let directory = TempDir::new().unwrap();
    let script = format!("set -e\n{script}");
    let mut command = shell(directory.path(), &["-c".as_ref(), script.as_ref()]);
    let program = match server {
        "memnbd" => env!("CARGO_BIN_EXE_memnbd-host"),
        other => other,
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let command = command.env("SERVER", program).env("PATH", format!("/usr/bin:{path}"));
    let finished = run(command.env("PORT", free_port().to_string()).env("TMPDIR", "/tmp"));
    (finished.stdout.clone(), finished.exit_status())
}

/// The script does the same with both, and succeeds or fails as it should.
fn same(script: &str, expected: &str) {
    let ours = outcome("memnbd", script);
    assert_eq!(ours, outcome("nbdkit", script), "{script}");
    assert_eq!(ours.0, expected, "{script}");
}

#[test]
fn captive_commands() {
    require!("nbdkit", "nbdinfo", "nbdsh");
    same(r#"$SERVER -U - memory 1M --run 'nbdinfo --size "$uri"'"#, "1048576\n");
    same(r#"$SERVER -U - memory 1M --run 'nbdinfo --size $nbd'"#, "1048576\n");
    same(r#"$SERVER -U - memory size=1G --run 'exit 3'"#, "");
    same(r#"$SERVER -U - memory 1M --run 'kill -15 $$'"#, "");
    same(r#"$SERVER -p $PORT memory 1M --run 'test $port = '$PORT' && echo "$unixsocket"'"#, "\n");
    same(
        r#"$SERVER -U - -e "a'b \$c" memory 1M --run 'echo "$exportname:$port:$tls"'"#,
        "a'b $c::\n",
    );
    same(r#"$SERVER -fU - memory 1M --run 'echo ${uri%%:*}'"#, "nbd+unix\n");
    same(
        r#"$SERVER -U - memory 1 --run 'nbdsh -u "$uri" -c "print(h.pread(1, 0))"'"#,
        "bytearray(b'\\x00')\n",
    );
    same("$SERVER -U - memory 1M --run 'cat' < /dev/null && echo done", "done\n");
    same("echo text | $SERVER -U - memory 1M --run cat", "text\n");
}

#[test]
fn servers_in_the_background() {
    require!("nbdkit", "nbdinfo");
    same(
        r#"$SERVER -P pid -U socket memory 1M > /dev/null
        nbdinfo --size 'nbd+unix:///?socket=socket'
        kill $(cat pid)"#,
        "1048576\n",
    );
    same(
        r#"$SERVER --pid-file=pid --port=$PORT --ip-addr=127.0.0.1 memory size=2M > /dev/null
        nbdinfo --size nbd://127.0.0.1:$PORT
        kill $(cat pid)"#,
        "2097152\n",
    );
    same(
        r#"rm -f pid
        $SERVER -f --exit-with-parent -P pid -U socket memory 1M > /dev/null &
        for i in $(seq 200); do test -s pid && break; sleep 0.05; done
        nbdinfo --size 'nbd+unix:///?socket=socket'
        kill %1 2> /dev/null || kill $!
        wait $! && echo clean"#,
        "1048576\nclean\n",
    );
}

/// What nbdinfo says of an export, in Python.
const INFO: &str = r#"nbdinfo --json "$uri" | python3 -c "
import json, sys
info = json.load(sys.stdin)
export = info['exports'][0]
print(info['protocol'], info['structured'], export['is_read_only'], export['export-size'])""#;

#[test]
fn options_that_change_what_clients_see() {
    require!("nbdkit", "nbdinfo");
    for (options, expected) in [
        ("", "newstyle-fixed True False 1048576\n"),
        ("-r", "newstyle-fixed True True 1048576\n"),
        ("--readonly", "newstyle-fixed True True 1048576\n"),
        ("--read-only", "newstyle-fixed True True 1048576\n"),
        ("--no-sr", "newstyle-fixed False False 1048576\n"),
        ("--mask-handshake=0", "newstyle False False 1048576\n"),
        ("--mask-handshake=1", "newstyle-fixed True False 1048576\n"),
        ("-n", "newstyle-fixed True False 1048576\n"),
        ("--newstyle --tls=off -t 1", "newstyle-fixed True False 1048576\n"),
        ("-v --log=null --threads=4", "newstyle-fixed True False 1048576\n"),
        ("-e other --exportname third", "newstyle-fixed True False 1048576\n"),
        ("--export=other", "newstyle-fixed True False 1048576\n"),
    ] {
        let run = INFO.replace('\'', r"'\''");
        same(&format!("$SERVER -U - {options} memory 1M --run '{run}' 2> /dev/null"), expected);
    }
}

#[test]
fn mistakes() {
    require!("nbdkit");
    let fails = |script: &str| {
        for server in ["memnbd", "nbdkit"] {
            let (_, status) = outcome(server, &format!("{script} 2> err; test -s err && exit 9"));
            assert_ne!(status, "exit status: 0", "{server}: {script}");
        }
    };
    fails("$SERVER -f -U socket memory");
    fails("$SERVER -f -U socket memory size=x");
    fails("$SERVER -f -U socket memory size=1M no=such");
    fails("$SERVER -f -U socket no-such-plugin");
    fails("$SERVER -f -U socket --no-such-option memory 1M");
    fails("$SERVER -f -U socket -p $PORT memory 1M");
    fails("$SERVER -s -p $PORT memory 1M");
    fails("$SERVER -s --run true memory 1M");
    fails("$SERVER -f -U socket -u no-such-user memory 1M");
    fails("$SERVER -f -U socket -g no-such-group memory 1M");
    fails("$SERVER -f -U /no/such/socket memory 1M");
    fails("$SERVER -f -U socket -P /no/such/pid memory 1M");
    fails("$SERVER -f -U socket --tls=maybe memory 1M");
    fails("$SERVER -f -U socket --log=stderr=x memory");
}

#[test]
fn questions() {
    require!("nbdkit");
    let keys = "name= version= version_major= version_minor= host_os= host_cpu=";
    let dump = "$SERVER --dump-config > out; for key in KEYS; do grep -c \"^$key\" out; done";
    same(&dump.replace("KEYS", keys), "1\n1\n1\n1\n1\n1\n");
    same(
        "$SERVER memory --dump-plugin | grep '^\\(name\\|magic_config_key\\)=' | sort",
        "magic_config_key=size\nname=memory\n",
    );
    same("$SERVER --version > out && grep -c '[0-9]\\.[0-9]' out", "1\n");
    same("$SERVER --help > out && grep -c -e '--exit-with-parent' out", "1\n");
}
