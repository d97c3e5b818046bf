//! Mistakes with the files of TLS are told before anything listens, and say what would be right.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use super::client::{write_keys, write_secret};
use super::pki::{Pair, Use, VALID, directory, write_certificates};
use crate::mistakes::{complains, complaint};
use crate::support::Server;
use crate::wire::haggle::Haggle;

/// With certificates after this was done to them, the complaint must have all these words.
fn complains_of(spoil: impl FnOnce(&Path, &Pair), words: &[&str]) {
    complains_of_with(&[], spoil, words);
}

fn complains_of_with(arguments: &[&str], spoil: impl FnOnce(&Path, &Pair), words: &[&str]) {
    let path = TempDir::new().unwrap();
    let authority = directory(&path.path().join("certs"));
    spoil(&path.path().join("certs"), &authority);
    let arguments = [&["--tls-certificates=certs", "1M"], arguments].concat();
    let error = complaint(path.path(), 1, &arguments);
    for word in ["memnbd-host: --tls-certificates: "].iter().chain(words) {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// With this file of keys, the complaint must have all these words and none of the key.
fn complains_of_keys(text: &str, words: &[&str]) {
    let path = TempDir::new().unwrap();
    write_secret(&path.path().join("keys"), text);
    let error = complaint(path.path(), 1, &["--tls-psk=keys", "1M"]);
    for word in ["memnbd-host: --tls-psk: keys: "].iter().chain(words) {
        assert!(error.contains(word), "{word:?} is not in {error}");
    }
    assert!(!error.contains("5ec2e7"), "{error}");
}

#[test]
fn tls_without_credentials_is_usage() {
    for mode in ["on", "require"] {
        let words = [&format!("--tls={mode}"), "--tls-certificates DIR", "--tls-psk FILE"];
        complains(2, &["--tls", mode, "1M"], &words);
    }
    complains(2, &["--tls-verify-peer", "1M"], &["--tls-verify-peer", "--tls-certificates DIR"]);
    complains(2, &["--tls=maybe", "1M"], &["off, on or require"]);
    complains(2, &["--tls"], &["--tls"]);
}

#[test]
fn files_are_not_looked_at_without_tls() {
    let arguments = ["--tls=off", "--tls-certificates=none", "--tls-psk=none", "1M"];
    let server = Server::start(&arguments);
    Haggle::new(&server).go("").expect_in_sync();
}

#[test]
fn missing_files_are_told_by_name() {
    let words = ["memnbd-host: --tls-certificates: no-such: ", "No such file or directory"];
    complains(1, &["--tls-certificates=no-such", "1M"], &words);
    complains(1, &["--tls-certificates=/dev/null", "1M"], &["/dev/null: it is not a directory"]);
    for name in ["ca-cert.pem", "server-cert.pem", "server-key.pem"] {
        complains_of(
            |path, _| fs::remove_file(path.join(name)).unwrap(),
            &["certs: there is no ", name, "ca-cert.pem, server-cert.pem, server-key.pem"],
        );
    }
    complains_of(
        |path, _| {
            fs::remove_file(path.join("ca-cert.pem")).unwrap();
            fs::remove_file(path.join("server-key.pem")).unwrap();
        },
        &["there is no ca-cert.pem, no server-key.pem;"],
    );
    complains_of(
        |path, _| {
            fs::remove_file(path.join("server-cert.pem")).unwrap();
            fs::create_dir(path.join("server-cert.pem")).unwrap();
        },
        &["certs/server-cert.pem: it is not a regular file"],
    );
}

#[test]
fn files_that_hold_something_else_are_told() {
    for name in ["ca-cert.pem", "server-cert.pem"] {
        for text in ["", "nonsense\n"] {
            complains_of(
                |path, _| fs::write(path.join(name), text).unwrap(),
                &[name, "there is no certificate in it"],
            );
        }
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        complains_of(
            |path, _| fs::write(path.join(name), broken).unwrap(),
            &[name, "read its certificates"],
        );
    }
    complains_of(
        |path, _| write_secret(&path.join("server-key.pem"), "nonsense"),
        &["server-key.pem: read the private key, which should be in PEM"],
    );
    complains_of(
        |path, _| fs::write(path.join("ca-crl.pem"), "nonsense").unwrap(),
        &["ca-crl.pem: there is no list of revoked certificates"],
    );
}

#[test]
fn key_of_another_certificate_is_told() {
    complains_of(
        |path, authority| {
            let certificate = fs::read(path.join("server-cert.pem")).unwrap();
            authority.sign("localhost", Use::Server).write(path, "server");
            fs::write(path.join("server-cert.pem"), certificate).unwrap();
        },
        &["server-key.pem: it is not the key of server-cert.pem"],
    );
}

#[test]
fn encrypted_key_is_told_and_nobody_asked_for_its_password() {
    complains_of(
        |path, authority| {
            let own = authority.sign("localhost", Use::Server);
            own.write(path, "server");
            let cipher = openssl::symm::Cipher::aes_128_cbc();
            let key = own.key.private_key_to_pem_pkcs8_passphrase(cipher, b"5ec2e7").unwrap();
            write_secret(&path.join("server-key.pem"), &String::from_utf8(key).unwrap());
        },
        &["server-key.pem: it is encrypted"],
    );
}

#[test]
fn certificate_out_of_its_time_is_told_with_its_dates() {
    for (days, words) in [
        ((-9, -1), ["it has expired: it is valid from ", " GMT to "]),
        ((1, 9), ["it is not valid yet: it is valid from ", " GMT to "]),
    ] {
        complains_of(
            |path, authority| {
                authority.sign_for("localhost", Use::Server, days).write(path, "server");
            },
            &[&["server-cert.pem: "], &words[..]].concat(),
        );
    }
}

#[test]
fn authority_that_clients_would_not_believe_is_told() {
    complains_of(
        |path, _| {
            let stranger = Pair::authority("Stranger");
            write_certificates(path, "ca", &[&stranger.certificate]);
        },
        &["server-cert.pem: it does not lead to ca-cert.pem", "CN=localhost"],
    );
    complains_of(
        |path, authority| {
            let authority = authority.sign_for("Old", Use::Authority, (-9, -1));
            write_certificates(path, "ca", &[&authority.certificate]);
            authority.sign("localhost", Use::Server).write(path, "server");
        },
        &["CN=Old: certificate has expired"],
    );
    complains_of(
        |path, authority| authority.sign("localhost", Use::Client).write(path, "server"),
        &["CN=localhost: ", "purpose"],
    );
}

#[test]
fn key_that_is_too_weak_is_told() {
    complains_of(
        |path, authority| {
            let weak = openssl::rsa::Rsa::generate(1024).unwrap();
            authority.sign_key("localhost", weak).write(path, "server");
        },
        &["ee key too small"],
    );
}

#[test]
fn list_of_revoked_certificates_must_be_of_use() {
    let verify = ["--tls=require", "--tls-verify-peer"];
    complains_of_with(
        &verify,
        |path, authority| authority.revoke(path, &[], (-9, -1)),
        &["ca-crl.pem: the list of CN=Test Authority has expired: the next one was due on "],
    );
    complains_of_with(
        &verify,
        |path, _| Pair::authority("Stranger").revoke(path, &[], VALID),
        &["ca-crl.pem: the list of CN=Stranger is not signed by ca-cert.pem"],
    );
}

#[test]
fn secrets_that_everybody_can_read_or_change_are_told() {
    for mode in [0o644, 0o602, 0o777] {
        let expose = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let told = format!("its mode {mode:04o} lets everybody read or change it");
        complains_of(
            |path, _| expose(&path.join("server-key.pem")),
            &["server-key.pem: ", &told, "chmod 600"],
        );
        let path = TempDir::new().unwrap();
        write_keys(path.path());
        expose(&path.path().join("keys.psk"));
        let error = complaint(path.path(), 1, &["--tls-psk=keys.psk", "1M"]);
        assert!(error.contains(&told), "{error}");
    }
}

#[test]
fn files_of_keys_are_told_by_line_and_without_the_key() {
    complains_of_keys("", &["there are no keys in it", "psktool"]);
    complains_of_keys("# nothing\n\n", &["there are no keys in it"]);
    let good = "alice:5ec2e75ec2e75ec2\n";
    for (line, words) in [
        ("5ec2e75ec2e7", ["line 2: ", "no colon"]),
        (":5ec2e75ec2e7", ["line 2: ", "no user"]),
        ("bob:", ["line 2: ", "no key"]),
        ("bob:5ec2e", ["line 2: ", "pairs of hexadecimal digits"]),
        ("bob: 5ec2e7", ["line 2: ", "pairs of hexadecimal digits"]),
        ("bob:5ec2e7zz", ["line 2: ", "pairs of hexadecimal digits"]),
    ] {
        complains_of_keys(&format!("{good}{line}\n{good}"), &words);
    }
    let long = format!("{good}\n{}:5ec2e75e", "b".repeat(257));
    complains_of_keys(&long, &["line 3: the user has more than 256 bytes"]);
    let long = format!("{good}bob:{}", "5ec2e7".repeat(100));
    complains_of_keys(&long, &["line 2: the key has more than 256 bytes"]);
}

#[test]
fn file_of_keys_must_be_a_file() {
    complains(1, &["--tls-psk=no-such", "1M"], &["--tls-psk: no-such: No such file"]);
    complains(1, &["--tls-psk=.", "1M"], &["--tls-psk: .: it is not a regular file"]);
    let path = TempDir::new().unwrap();
    symlink("loop", path.path().join("loop")).unwrap();
    let error = complaint(path.path(), 1, &["--tls-psk=loop", "1M"]);
    assert!(error.contains("loop: "), "{error}");
    // Opening one would wait for somebody who writes.
    let pipe = path.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let error = complaint(path.path(), 1, &["--tls-psk=pipe", "1M"]);
    assert!(error.contains("pipe: it is not a regular file"), "{error}");
}
