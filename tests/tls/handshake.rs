//! STARTTLS and what comes after it, by a client that believes nothing.

use openssl::ssl::{Ssl, SslVersion};

use super::client::{alice, builder, with_certificate, write_keys};
use super::pki::{Pair, directory};
use crate::support::{Server, memnbd};
use crate::wire::haggle::*;
use crate::wire::numbers::*;
use crate::wire::session::{Session, Style};
use crate::wire::stream::Stream;

const VERSIONS: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];

/// A server with keys for alice and bob.
pub(crate) fn with_keys(arguments: &[&str]) -> Server {
    let directory = tempfile::TempDir::new().unwrap();
    write_keys(directory.path());
    let mut command = memnbd(directory.path(), ["-U", "socket", "-v", "--tls-psk", "keys.psk"]);
    command.args(arguments);
    Server::spawn(directory, &mut command)
}

/// A server with certificates, and the authority that has signed them.
pub(crate) fn with_certificates(arguments: &[&str]) -> (Server, Pair) {
    let path = tempfile::TempDir::new().unwrap();
    let authority = directory(path.path());
    let mut command = memnbd(path.path(), ["-U", "socket", "-v", "--tls-certificates", "."]);
    command.args(arguments);
    (Server::spawn(path, &mut command), authority)
}

/// What a client can do that was let in.
pub(super) fn expect_service(mut session: Session) {
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 249) as u8 + 1).collect();
    session.write(4096, &data);
    assert!(session.read(4096, 300_000) == data);
    session.disconnect();
}

#[test]
fn both_versions_work_with_certificates() {
    let (server, authority) = with_certificates(&["--tls=require", "1M"]);
    for version in VERSIONS {
        let ssl = with_certificate(version, &authority.certificate, None);
        expect_service(Haggle::new(&server).start_tls(ssl).structured("").go(""));
    }
    let log = server.log().join("\n");
    assert!(log.contains("TLS established: TLSv1.2, ECDHE-"), "{log}");
    assert!(log.contains("TLS established: TLSv1.3, TLS_AES_"), "{log}");
}

#[test]
fn both_versions_work_with_keys() {
    let server = with_keys(&["--tls=require", "1M"]);
    for version in VERSIONS {
        expect_service(Haggle::new(&server).start_tls(alice(version)).extended("").go(""));
    }
    let log = server.log().join("\n");
    for version in ["TLSv1.2, ECDHE-PSK-", "TLSv1.3, TLS_AES_"] {
        assert!(log.contains(&format!("TLS established: {version}")), "{log}");
    }
    assert!(log.contains("identity \"alice\""), "{log}");
    assert!(!log.contains("0011223344556677"), "{log}");
}

#[test]
fn older_versions_are_refused() {
    let (mut server, authority) = with_certificates(&["1M"]);
    for version in [SslVersion::TLS1, SslVersion::TLS1_1] {
        let mut builder = builder(version);
        builder.set_security_level(0);
        builder.set_cipher_list("ALL:@SECLEVEL=0").unwrap();
        builder.cert_store_mut().add_cert(authority.certificate.clone()).unwrap();
        let mut haggle = Haggle::new(&server);
        haggle.accept(opt::STARTTLS, b"");
        let error = haggle.stream.into_tls(Ssl::new(&builder.build()).unwrap()).unwrap_err();
        assert!(error.to_string().contains("alert protocol version"), "{error}");
    }
    server.expect_log("closed: the TLS handshake failed: unsupported protocol");
}

#[test]
fn nothing_that_was_negotiated_before_counts_inside() {
    let server = with_keys(&["1M"]);
    for version in VERSIONS {
        let before = Haggle::new(&server).structured("");
        let mut inside = before.start_tls(alice(version));
        let answer = inside.option(opt::SET_META_CONTEXT, &meta("", &["base:allocation"]));
        assert_eq!(answer.end, rep::ERR_INVALID, "structured replies are forgotten");
        let mut session = inside.go("");
        // The client checks that replies are simple ones now.
        assert_eq!(session.style, Style::Simple);
        session.expect_in_sync();
        assert_ne!(session.ask(0, cmd::BLOCK_STATUS, 0, 512), 0);

        let session = Haggle::new(&server).extended("").start_tls(alice(version)).go("");
        expect_service(session);
        // The contexts are forgotten, even if structured replies are negotiated anew.
        let before = Haggle::new(&server).structured("");
        let mut inside = before.start_tls(alice(version));
        inside.accept(opt::STRUCTURED_REPLY, b"");
        let mut session = inside.go("");
        assert_ne!(session.ask(0, cmd::BLOCK_STATUS, 0, 512), 0);
        session.expect_in_sync();
    }
}

#[test]
fn second_starttls_is_refused_and_nothing_asks_for_tls_inside() {
    for mode in ["--tls=on", "--tls=require"] {
        let server = with_keys(&[mode, "1M"]);
        let mut inside = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3));
        assert_eq!(inside.option(opt::STARTTLS, b"").end, rep::ERR_INVALID);
        assert_eq!(inside.option(opt::STARTTLS, b"junk").end, rep::ERR_INVALID);
        assert_eq!(inside.option(opt::INFO, &info("no such", &[])).end, rep::ERR_UNKNOWN);
        assert_eq!(inside.option(opt::LIST, b"").exports().len(), 1);
        inside.expect_in_sync();
        expect_service(inside.go(""));
    }
}

#[test]
fn plain_text_along_with_starttls_is_not_obeyed() {
    let mut server = with_keys(&["1M"]);
    for injected in [option(opt::UNKNOWN, b""), vec![0], option(opt::GO, &info("", &[]))] {
        let mut haggle = Haggle::new(&server);
        let bytes = [option(opt::STARTTLS, b""), injected].concat();
        haggle.stream.put(&bytes);
        haggle.stream.expect_end();
    }
    server.expect_log("bytes of plain text after STARTTLS");
}

#[test]
fn plain_text_instead_of_tls_ends_the_connection() {
    let mut server = with_keys(&["1M"]);
    let mut haggle = Haggle::new(&server);
    haggle.accept(opt::STARTTLS, b"");
    haggle.stream.put(&option(opt::INFO, &info("", &[])));
    let rest = haggle.stream.rest();
    // At most an alert comes, which is a record of 7 bytes.
    assert!(rest.is_empty() || (rest[0] == 0x15 && rest.len() == 7), "{rest:02x?}");
    server.expect_log("closed: the TLS handshake failed: ");
}

#[test]
fn starttls_with_data_is_refused() {
    let server = with_keys(&["1M"]);
    let mut haggle = Haggle::new(&server);
    assert_eq!(haggle.option(opt::STARTTLS, b"junk").end, rep::ERR_INVALID);
    expect_service(haggle.start_tls(alice(SslVersion::TLS1_3)).go(""));
}

#[test]
fn required_tls_is_required_of_everything() {
    let mut server = with_keys(&["--tls=require", "1M"]);
    let mut haggle = Haggle::new(&server);
    let options = [opt::LIST, opt::PEEK_EXPORT, opt::INFO, opt::GO, opt::STRUCTURED_REPLY];
    let more = [opt::LIST_META_CONTEXT, opt::SET_META_CONTEXT, opt::EXTENDED_HEADERS];
    for number in [&options[..], &more, &[opt::UNKNOWN, 0, u32::MAX]].concat() {
        let answer = haggle.option(number, &info("", &[]));
        assert_eq!(answer.end, rep::ERR_TLS_REQD, "{number}");
        assert!(answer.interim.is_empty(), "{number}: nothing is told");
    }
    haggle.accept(opt::ABORT, b"");
    haggle.stream.expect_end();
    let mut haggle = Haggle::new(&server);
    haggle.stream.put(&option(opt::EXPORT_NAME, b""));
    haggle.stream.expect_end();
    server.expect_log("EXPORT_NAME without TLS, which is required");
}

#[test]
fn optional_tls_is_required_of_nothing() {
    let server = with_keys(&["--tls=on", "1M"]);
    let mut haggle = Haggle::new(&server);
    for (number, data) in [(opt::LIST, Vec::new()), (opt::INFO, info("no such", &[]))] {
        assert_ne!(haggle.option(number, &data).end, rep::ERR_TLS_REQD);
    }
    haggle.expect_in_sync();
    expect_service(haggle.structured("").go(""));
    expect_service(Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go(""));
}

#[test]
fn without_fixed_newstyle_there_is_no_tls() {
    for (mode, end) in [("--tls=on", rep::ACK), ("--tls=require", rep::ERR_POLICY)] {
        let server = with_keys(&[mode, "1M"]);
        for flags in [0, 2] {
            let mut haggle = Haggle::with_flags(&server, flags);
            assert_eq!(haggle.option(opt::STARTTLS, b"").end, rep::ERR_POLICY);
            assert_eq!(haggle.option(opt::INFO, &info("", &[])).end, end);
        }
    }
}

/// The client's streams take an end without TLS's good-bye for an error.
#[test]
fn tls_says_good_bye_before_the_connection_closes() {
    let mut server = with_keys(&["1M"]);
    for version in VERSIONS {
        let inside = || Haggle::new(&server).start_tls(alice(version));
        inside().go("").disconnect();
        let mut aborting = inside();
        aborting.accept(opt::ABORT, b"");
        aborting.stream.expect_end();
        let mut unknown = inside();
        unknown.stream.put(&option(opt::EXPORT_NAME, b"no such"));
        unknown.stream.expect_end();
        let mut wrong = inside().go("");
        wrong.stream.put(&[0xff; 28]);
        wrong.stream.expect_end();
    }
    server.expect_log("EXPORT_NAME of an unknown export");
    server.expect_log("request with wrong magic");
}

#[test]
fn tcp_clients_are_served_inside_tls() {
    let path = tempfile::TempDir::new().unwrap();
    let authority = directory(path.path());
    let arguments = ["-p", "0", "-i", "127.0.0.1", "--tls=require", "--tls-certificates=.", "1M"];
    let server = Server::spawn(
        tempfile::TempDir::new().unwrap(),
        memnbd(path.path(), arguments).current_dir(path.path()),
    );
    let ssl = with_certificate(SslVersion::TLS1_3, &authority.certificate, None);
    expect_service(Haggle::new(&server).start_tls(ssl).go(""));
}

#[test]
fn options_in_one_record_are_each_answered() {
    let server = with_keys(&["1M"]);
    for version in VERSIONS {
        let mut inside = Haggle::new(&server).start_tls(alice(version));
        let options = [option(opt::STRUCTURED_REPLY, b""), option(opt::GO, &info("", &[]))];
        inside.stream.put(&options.concat());
        assert_eq!(inside.answer(opt::STRUCTURED_REPLY).end, rep::ACK);
        let infos = inside.answer(opt::GO).infos();
        inside.into_session(infos).expect_in_sync();
    }
}

#[test]
fn client_that_leaves_without_good_bye_harms_nobody() {
    let server = with_keys(&["1M"]);
    let session = Haggle::new(&server).start_tls(alice(SslVersion::TLS1_3)).go("");
    let Stream::Tls(stream) = session.stream else { panic!("it is inside TLS") };
    // Dropping the stream sends nothing.
    drop(stream);
    expect_service(Haggle::new(&server).go(""));
}
