//! A directory of certificates, with the file names that nbdkit uses.
//!
//! Everything is validated before it is used: once a server has started, clients that have the
//! authority's certificate will accept it.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslContextBuilder, SslFiletype, SslVerifyMode};
use openssl::stack::Stack;
use openssl::x509::store::{X509Lookup, X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{
    X509, X509Crl, X509NameRef, X509PurposeId, X509Ref, X509StoreContext, X509StoreContextRef,
    X509VerifyResult,
};

use super::failure::explain;
use super::files;

/// The files that a directory of certificates must contain: the authority's certificate, the
/// server's, and its private key. It may also contain [`REVOKED`].
pub const FILES: [&str; 3] = [AUTHORITY, CERTIFICATE, KEY];

const AUTHORITY: &str = "ca-cert.pem";
const CERTIFICATE: &str = "server-cert.pem";
const KEY: &str = "server-key.pem";

/// The file with the certificate revocation lists (CRLs) of the authority.
const REVOKED: &str = "ca-crl.pem";

/// OpenSSL's X509_V_ERR_UNABLE_TO_GET_CRL.
const NO_LIST: i32 = 3;

/// How a PEM block begins.
const BEGIN: &str = "-----BEGIN ";

/// The server's credentials, and what clients are verified against.
pub(super) struct Certificates {
    /// The server's certificate, followed by the intermediate ones.
    chain: Vec<X509>,
    key: PKey<Private>,
    /// The authorities that clients are verified against, if they are verified.
    authorities: Option<Authorities>,
}

struct Authorities {
    certificates: Vec<X509>,
    revoked: Vec<X509Crl>,
    /// The file from which OpenSSL loads the same lists.
    revoked_file: PathBuf,
}

impl Certificates {
    /// Loads and validates the files in a directory.
    pub(super) fn load(directory: &Path, verify_peer: bool) -> anyhow::Result<Self> {
        require_files(directory)?;
        let file = |name: &str| directory.join(name);
        let at = |name: &str| file(name).display().to_string();
        let authorities = Authorities {
            certificates: certificates(&file(AUTHORITY)).with_context(|| at(AUTHORITY))?,
            revoked: revoked(&file(REVOKED)).with_context(|| at(REVOKED))?,
            revoked_file: file(REVOKED),
        };
        let chain = certificates(&file(CERTIFICATE)).with_context(|| at(CERTIFICATE))?;
        check_dates(&chain[0]).with_context(|| at(CERTIFICATE))?;
        let key = private_key(&file(KEY)).with_context(|| at(KEY))?;
        let public = chain[0].public_key().map_err(explain).with_context(|| at(CERTIFICATE))?;
        ensure!(
            public.public_eq(&key),
            "{}: it is not the key of {CERTIFICATE}; the two must be made together",
            at(KEY)
        );
        authorities.check(&chain).with_context(|| at(CERTIFICATE))?;
        if verify_peer {
            authorities.check_revoked().with_context(|| at(REVOKED))?;
        }
        Ok(Self { chain, key, authorities: verify_peer.then_some(authorities) })
    }

    /// Configures OpenSSL with all of this.
    pub(super) fn install(self, builder: &mut SslContextBuilder) -> Result<(), ErrorStack> {
        let mut chain = self.chain.into_iter();
        if let Some(certificate) = chain.next() {
            builder.set_certificate(&certificate)?;
        }
        for certificate in chain {
            builder.add_extra_chain_cert(certificate)?;
        }
        builder.set_private_key(&self.key)?;
        let Some(authorities) = self.authorities else { return Ok(()) };
        for certificate in &authorities.certificates {
            // Clients are told which authorities are accepted.
            builder.add_client_ca(certificate)?;
        }
        builder.set_cert_store(authorities.store_with_revoked()?);
        let mode = SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT;
        builder.set_verify_callback(mode, |accepted, context| accepted || is_without_list(context));
        Ok(())
    }
}

impl Authorities {
    fn store(&self) -> Result<X509StoreBuilder, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for certificate in &self.certificates {
            store.add_cert(certificate.clone())?;
        }
        // Every certificate in the file is trusted, whoever has signed it.
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
        Ok(store)
    }

    fn store_with_revoked(&self) -> Result<X509Store, ErrorStack> {
        let mut store = self.store()?;
        if !self.revoked.is_empty() {
            let lookup = store.add_lookup(X509Lookup::file())?;
            lookup.load_crl_file(&self.revoked_file, SslFiletype::PEM)?;
            store.set_flags(X509VerifyFlags::CRL_CHECK | X509VerifyFlags::CRL_CHECK_ALL)?;
        }
        Ok(store.build())
    }

    /// Checks that clients that trust the authorities will trust the server.
    fn check(&self, chain: &[X509]) -> anyhow::Result<()> {
        let mut store = self.store()?;
        store.set_purpose(X509PurposeId::SSL_SERVER)?;
        let store = store.build();
        let mut between = Stack::new()?;
        for certificate in &chain[1..] {
            between.push(certificate.clone())?;
        }
        let mut context = X509StoreContext::new()?;
        let why = context.init(&store, &chain[0], &between, |context| {
            Ok(match context.verify_cert()? {
                true => None,
                false => Some((context.error(), context.current_cert().map(subject))),
            })
        })?;
        let Some((result, at)) = why else { return Ok(()) };
        let at = at.unwrap_or_else(|| subject(&chain[0]));
        bail!("it does not lead to {AUTHORITY}: {at}: {}", result.error_string())
    }

    /// Checks that the authorities have signed the revocation lists, and that these are up to date.
    fn check_revoked(&self) -> anyhow::Result<()> {
        let now = Asn1Time::days_from_now(0)?;
        for list in &self.revoked {
            let issuer = name(list.issuer_name());
            if let Some(next) = list.next_update()
                && next < now
            {
                bail!("the list of {issuer} has expired: the next one was due on {next}");
            }
            let of_ours = self.certificates.iter().any(|certificate| {
                let key = certificate.public_key();
                key.and_then(|key| list.verify(&key)).unwrap_or(false)
            });
            ensure!(of_ours, "the list of {issuer} is not signed by {AUTHORITY}");
        }
        Ok(())
    }
}

/// Accepts certificates whose authority has no revocation list. Returns whether that was the error.
fn is_without_list(context: &mut X509StoreContextRef) -> bool {
    if context.error().as_raw() != NO_LIST {
        return false;
    }
    context.set_error(X509VerifyResult::OK);
    true
}

/// Returns the subject of a certificate.
pub(super) fn subject(certificate: &X509Ref) -> String {
    name(certificate.subject_name())
}

/// Formats a name in the usual way: `CN=server,O=Example`.
fn name(name: &X509NameRef) -> String {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let field = entry.object().nid().short_name().unwrap_or("?");
        let value = entry.data().to_string().unwrap_or_else(|_| "?".into());
        format!("{field}={}", value.escape_debug())
    };
    let parts: Vec<String> = name.entries().map(part).collect();
    match parts.is_empty() {
        true => "nobody".into(),
        false => parts.join(","),
    }
}

/// Returns the subject of a certificate so that no two subjects are the same text, or `None` if it has none
/// that is text: `CN=server,O=Example`, where the characters `,`, `+`, `=` and `\\` in values follow a
/// backslash.
pub(super) fn distinct_subject(certificate: &X509Ref) -> Option<String> {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let field = entry.object().nid().short_name().ok().filter(|&field| field != "UNDEF")?;
        let value = entry.data().to_string().ok()?;
        let escape = |c: char| {
            let before = matches!(c, ',' | '+' | '=' | '\\').then_some('\\');
            before.into_iter().chain([c])
        };
        Some(format!("{field}={}", value.chars().flat_map(escape).collect::<String>()))
    };
    let parts: Vec<String> =
        certificate.subject_name().entries().map(part).collect::<Option<_>>()?;
    (!parts.is_empty()).then(|| parts.join(","))
}

fn require_files(directory: &Path) -> anyhow::Result<()> {
    let metadata = std::fs::metadata(directory).with_context(|| directory.display().to_string())?;
    ensure!(metadata.is_dir(), "{}: it is not a directory", directory.display());
    let missing: Vec<&str> =
        FILES.into_iter().filter(|name| is_missing(&directory.join(name))).collect();
    ensure!(
        missing.is_empty(),
        "{}: there is no {}; it must have {}",
        directory.display(),
        missing.join(", no "),
        FILES.join(", ")
    );
    Ok(())
}

fn is_missing(path: &Path) -> bool {
    std::fs::metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Reads the certificates in a file, at least one.
fn certificates(path: &Path) -> anyhow::Result<Vec<X509>> {
    let pem = files::read(path)?;
    let certificates =
        X509::stack_from_pem(&pem).map_err(explain).context("read its certificates")?;
    ensure!(!certificates.is_empty(), "there is no certificate in it; PEM begins with {BEGIN}");
    Ok(certificates)
}

fn private_key(path: &Path) -> anyhow::Result<PKey<Private>> {
    let pem = files::read_secret(path)?;
    let mut encrypted = false;
    let key = PKey::private_key_from_pem_callback(&pem, |_| {
        encrypted = true;
        Ok(0)
    });
    ensure!(!encrypted, "it is encrypted; nobody is asked for a password here");
    key.map_err(explain).context("read the private key, which should be in PEM")
}

/// Reads the revocation lists in a file that need not exist.
fn revoked(path: &Path) -> anyhow::Result<Vec<X509Crl>> {
    if is_missing(path) {
        return Ok(Vec::new());
    }
    // OpenSSL reads the file again, and takes only paths that are UTF-8.
    ensure!(path.to_str().is_some(), "the path is not UTF-8");
    let text = files::read(path)?;
    let text = String::from_utf8_lossy(&text);
    let lists = text.split_inclusive("-----END X509 CRL-----").filter(|list| list.contains(BEGIN));
    let lists: Result<Vec<X509Crl>, ErrorStack> =
        lists.map(|list| X509Crl::from_pem(list.as_bytes())).collect();
    let lists = lists.map_err(explain).context("read its lists of revoked certificates")?;
    ensure!(!lists.is_empty(), "there is no list of revoked certificates in PEM in it");
    Ok(lists)
}

fn check_dates(certificate: &X509Ref) -> anyhow::Result<()> {
    let now = Asn1Time::days_from_now(0)?;
    let (begin, end) = (certificate.not_before(), certificate.not_after());
    let between = |when: &str| format!("{when}: it is valid from {begin} to {end}");
    ensure!(now >= *begin, between("it is not valid yet"));
    ensure!(now <= *end, between("it has expired"));
    Ok(())
}
