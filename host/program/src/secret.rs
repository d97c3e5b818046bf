//! The secrets of tokens, and their digests.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// The beginning of every secret, by which scanners recognise leaked ones.
const PREFIX: &str = "mnbd_";

/// The SHA-256 of a secret. Secrets have 256 bits that nobody can guess, so that needs no salt and no more
/// work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of a secret.
    pub(crate) fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is not a digest.
pub(crate) const DIGEST_FORM: &str =
    "it is written sha256: and 64 hexadecimal digits, as memnbd token prints it";

impl FromStr for Digest {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let digits = text.strip_prefix("sha256:").ok_or(DIGEST_FORM)?;
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        if !rest.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(DIGEST_FORM);
        }
        let byte = |pair: &[u8; 2]| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok()
        };
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(DIGEST_FORM)
    }
}

/// Makes a secret that nobody can guess.
///
/// # Errors
///
/// Returns an error if the kernel gives no random numbers.
pub(crate) fn new_secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().fold(PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_digests_are_written_as_they_are_read() {
        let secrets = [new_secret().unwrap(), new_secret().unwrap()];
        assert_ne!(secrets[0], secrets[1]);
        assert!(secrets[0].starts_with("mnbd_") && secrets[0].len() == 69);
        let digest = Digest::of("abc");
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
        for wrong in
            ["", "sha256:", "sha256:00", &text[7..], &format!("{text}0"), &format!("{text}00")]
        {
            assert_eq!(wrong.parse::<Digest>(), Err(DIGEST_FORM), "{wrong}");
        }
        assert!(text.replace('b', "\u{e4}").parse::<Digest>().is_err());
        assert!(text.replace("ba", "+a").parse::<Digest>().is_err());
    }
}
