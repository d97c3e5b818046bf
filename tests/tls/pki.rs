//! An authority, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName,
};
use openssl::x509::{
    X509, X509Builder, X509CrlBuilder, X509Extension, X509Name, X509RevokedBuilder,
};

/// A certificate and the key to it.
pub(crate) struct Pair {
    pub(crate) certificate: X509,
    pub(crate) key: PKey<Private>,
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Authority,
    Server,
    Client,
}

/// From when to when, in days from now.
pub(crate) type Days = (i64, i64);

pub(crate) const VALID: Days = (-1, 30);

/// Seconds since 1970.
fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("it is later than 1970").as_secs() as i64
}

fn day(days: i64) -> Asn1Time {
    Asn1Time::from_unix(now() + days * 86_400).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

impl Pair {
    /// An authority that signs its own certificate.
    pub(crate) fn authority(common_name: &str) -> Self {
        Self::make(common_name, Use::Authority, VALID, None)
    }

    /// A certificate that this one signs.
    pub(crate) fn sign(&self, common_name: &str, usage: Use) -> Self {
        self.sign_for(common_name, usage, VALID)
    }

    pub(crate) fn sign_for(&self, common_name: &str, usage: Use, days: Days) -> Self {
        Self::make(common_name, usage, days, Some(self))
    }

    /// A server's certificate for a key of another kind.
    pub(crate) fn sign_key(&self, common_name: &str, key: Rsa<Private>) -> Self {
        let key = PKey::from_rsa(key).unwrap();
        Self::make_with(key, common_name, Use::Server, VALID, Some(self))
    }

    fn make(common_name: &str, usage: Use, days: Days, issuer: Option<&Self>) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        Self::make_with(key, common_name, usage, days, issuer)
    }

    fn make_with(
        key: PKey<Private>,
        common_name: &str,
        usage: Use,
        (begin, end): Days,
        issuer: Option<&Self>,
    ) -> Self {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(120, openssl::bn::MsbOption::MAYBE_ZERO, false).unwrap();
        builder.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap()).unwrap();
        builder.set_subject_name(&name(common_name)).unwrap();
        match issuer {
            Some(issuer) => builder.set_issuer_name(issuer.certificate.subject_name()).unwrap(),
            None => builder.set_issuer_name(&name(common_name)).unwrap(),
        }
        builder.set_not_before(&day(begin)).unwrap();
        builder.set_not_after(&day(end)).unwrap();
        builder.set_pubkey(&key).unwrap();
        for extension in extensions(&builder, usage, common_name) {
            builder.append_extension(extension).unwrap();
        }
        let signer = issuer.map_or(&key, |issuer| &issuer.key);
        builder.sign(signer, MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    /// Writes `NAME-cert.pem` and `NAME-key.pem`.
    pub(crate) fn write(&self, directory: &Path, name: &str) {
        write_certificates(directory, name, &[&self.certificate]);
        let key = directory.join(format!("{name}-key.pem"));
        fs::write(&key, self.key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes `ca-crl.pem`: that these are revoked, as is valid for some days.
    pub(crate) fn revoke(&self, directory: &Path, revoked: &[&Self], (begin, end): Days) {
        let mut list = X509CrlBuilder::new().unwrap();
        list.set_issuer_name(self.certificate.subject_name()).unwrap();
        list.set_last_update(&day(begin)).unwrap();
        list.set_next_update(&day(end)).unwrap();
        for pair in revoked {
            let mut entry = X509RevokedBuilder::new().unwrap();
            entry.set_serial_number(pair.certificate.serial_number()).unwrap();
            entry.set_revocation_date(&day(begin)).unwrap();
            list.add_revoked(entry.build()).unwrap();
        }
        let context = X509Builder::new().unwrap();
        let context = context.x509v3_context(Some(&self.certificate), None);
        let identifier = AuthorityKeyIdentifier::new().issuer(true).build(&context).unwrap();
        list.append_extension(identifier).unwrap();
        list.append_extension(crl_number()).unwrap();
        list.sign(&self.key, MessageDigest::sha256()).unwrap();
        let pem = list.build().unwrap().to_pem().unwrap();
        fs::write(directory.join("ca-crl.pem"), pem).unwrap();
    }
}

/// A server's directory: an authority, and a certificate for localhost.
pub(crate) fn directory(path: &Path) -> Pair {
    fs::create_dir_all(path).unwrap();
    let authority = Pair::authority("Test Authority");
    write_certificates(path, "ca", &[&authority.certificate]);
    authority.sign("localhost", Use::Server).write(path, "server");
    authority
}

/// Writes `NAME-cert.pem`.
pub(crate) fn write_certificates(directory: &Path, name: &str, certificates: &[&X509]) {
    let pem: Vec<u8> = certificates.iter().flat_map(|one| one.to_pem().unwrap()).collect();
    fs::write(directory.join(format!("{name}-cert.pem")), pem).unwrap();
}

/// The number 1.
fn crl_number() -> X509Extension {
    let oid = Asn1Object::from_str("2.5.29.20").unwrap();
    let number = Asn1OctetString::new_from_bytes(&[0x02, 0x01, 0x01]).unwrap();
    X509Extension::new_from_der(&oid, false, &number).unwrap()
}

fn extensions(builder: &X509Builder, usage: Use, common_name: &str) -> Vec<X509Extension> {
    match usage {
        Use::Authority => vec![BasicConstraints::new().critical().ca().build().unwrap()],
        Use::Server => {
            let context = builder.x509v3_context(None, None);
            let names = SubjectAlternativeName::new().dns(common_name).build(&context).unwrap();
            vec![ExtendedKeyUsage::new().server_auth().build().unwrap(), names]
        }
        Use::Client => vec![ExtendedKeyUsage::new().client_auth().build().unwrap()],
    }
}
