//! Clients by the certificates that they have.

use openssl::ssl::SslVersion;

use super::client::with_certificate;
use super::handshake::with_certificates;
use super::keys::is_refused;
use super::pki::{Pair, Use, VALID, directory, write_certificates};
use crate::support::{Server, memnbd};
use crate::wire::haggle::*;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

const VERIFY: [&str; 3] = ["--tls=require", "--tls-verify-peer", "1M"];

#[test]
fn certificates_of_the_authority_are_let_in_and_no_others() {
    let (mut server, authority) = with_certificates(&VERIFY);
    let stranger = Pair::authority("Test Authority").sign("client", Use::Client);
    let expired = authority.sign_for("late", Use::Client, (-9, -1));
    let early = authority.sign_for("early", Use::Client, (1, 9));
    let wrong_use = authority.sign("another server", Use::Server);
    let good = authority.sign("client.example", Use::Client);
    for version in VERSIONS {
        let client = |own| with_certificate(version, &authority.certificate, own);
        is_refused(&server, client(None));
        for bad in [&stranger, &expired, &early, &wrong_use] {
            is_refused(&server, client(Some(bad)));
        }
        Haggle::new(&server).start_tls(client(Some(&good))).go("").expect_in_sync();
    }
    server.expect_log("closed: the TLS handshake failed: peer did not return a certificate");
    for reason in
        ["has expired", "is not yet valid", "unsuitable certificate purpose", "signature failure"]
    {
        server.expect_log(reason);
    }
    server.expect_log("the client's certificate is not accepted: ");
    server.expect_log("certificate of CN=client.example");
}

#[test]
fn nobody_is_asked_for_a_certificate_without_verify_peer() {
    let (server, authority) = with_certificates(&["--tls=require", "1M"]);
    let stranger = Pair::authority("Stranger").sign("client", Use::Client);
    for version in VERSIONS {
        let client = |own| with_certificate(version, &authority.certificate, own);
        Haggle::new(&server).start_tls(client(None)).go("").expect_in_sync();
        Haggle::new(&server).start_tls(client(Some(&stranger))).go("").expect_in_sync();
    }
}

#[test]
fn revoked_certificates_are_refused() {
    let path = tempfile::TempDir::new().unwrap();
    let authority = directory(path.path());
    let revoked = authority.sign("lost", Use::Client);
    let good = authority.sign("kept", Use::Client);
    authority.revoke(path.path(), &[&revoked], VALID);
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=."]);
    let mut server = Server::spawn(path, command.args(VERIFY));
    for version in VERSIONS {
        let client = |own| with_certificate(version, &authority.certificate, Some(own));
        is_refused(&server, client(&revoked));
        Haggle::new(&server).start_tls(client(&good)).go("").expect_in_sync();
    }
    server.expect_log("the client's certificate is not accepted: certificate revoked");
}

#[test]
fn an_authority_need_not_have_a_list_of_revoked_certificates() {
    let path = tempfile::TempDir::new().unwrap();
    let first = directory(path.path());
    let second = Pair::authority("Second");
    write_certificates(path.path(), "ca", &[&first.certificate, &second.certificate]);
    first.revoke(path.path(), &[], VALID);
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=."]);
    let server = Server::spawn(path, command.args(VERIFY));
    for authority in [&first, &second] {
        let own = authority.sign("client", Use::Client);
        let ssl = with_certificate(SslVersion::TLS1_3, &first.certificate, Some(&own));
        Haggle::new(&server).start_tls(ssl).go("").expect_in_sync();
    }
}

#[test]
fn authority_between_is_sent_along() {
    let path = tempfile::TempDir::new().unwrap();
    let root = directory(path.path());
    let between = root.sign("Between", Use::Authority);
    let own = between.sign("localhost", Use::Server);
    own.write(path.path(), "server");
    write_certificates(path.path(), "server", &[&own.certificate, &between.certificate]);
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=.", "1M"]);
    let server = Server::spawn(path, &mut command);
    let ssl = with_certificate(SslVersion::TLS1_3, &root.certificate, None);
    Haggle::new(&server).start_tls(ssl).go("").expect_in_sync();
}

#[test]
fn authority_need_not_be_at_the_top() {
    let path = tempfile::TempDir::new().unwrap();
    let root = directory(path.path());
    let between = root.sign("Between", Use::Authority);
    between.sign("localhost", Use::Server).write(path.path(), "server");
    write_certificates(path.path(), "ca", &[&between.certificate]);
    let mut command = memnbd(path.path(), ["-U", "socket", "--tls-certificates=."]);
    let server = Server::spawn(path, command.args(VERIFY));
    let own = between.sign("client", Use::Client);
    let mut builder = super::client::builder(SslVersion::TLS1_3);
    builder.cert_store_mut().add_cert(root.certificate.clone()).unwrap();
    builder.cert_store_mut().add_cert(between.certificate.clone()).unwrap();
    builder.set_verify(openssl::ssl::SslVerifyMode::PEER);
    builder.set_certificate(&own.certificate).unwrap();
    builder.set_private_key(&own.key).unwrap();
    let ssl = openssl::ssl::Ssl::new(&builder.build()).unwrap();
    Haggle::new(&server).start_tls(ssl).go("").expect_in_sync();
}
