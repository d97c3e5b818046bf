//! Images of raw and base64 text.

use alloc::vec::Vec;
use core::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::image::Image;

/// Returns the image of a text as it is.
pub fn raw(text: &[u8]) -> Image {
    Image::of_bytes(text)
}

/// Decodes base64 of the standard alphabet, with padding. White space is ignored.
///
/// # Errors
///
/// Returns an error if the text is not base64.
pub fn base64(text: &str) -> Result<Image, Base64Error> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !is_space(*byte)).collect();
    let bytes = STANDARD.decode(&digits).map_err(|error| match error {
        base64::DecodeError::InvalidByte(index, b'=') => {
            Base64Error::Padding { offset: original(text, index) }
        }
        base64::DecodeError::InvalidByte(index, _) => {
            let offset = original(text, index);
            Base64Error::Character { offset, found: text[offset..].chars().next().unwrap_or(' ') }
        }
        base64::DecodeError::InvalidLastSymbol { .. } => Base64Error::LastDigit,
        _ => Base64Error::Length { digits: digits.len() },
    })?;
    Ok(Image::of_bytes(&bytes))
}

/// A text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base64Error {
    /// A character is no digit of base64.
    Character {
        /// Its offset in bytes.
        offset: usize,
        /// The character.
        found: char,
    },
    /// There is padding where none belongs.
    Padding {
        /// Its offset in bytes.
        offset: usize,
    },
    /// The last digit has bits for which there is no byte.
    LastDigit,
    /// The number of digits with padding is no multiple of 4.
    Length {
        /// The number of digits, with padding.
        digits: usize,
    },
}

impl fmt::Display for Base64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Character { offset, found } => write!(
                f,
                "{found:?} at offset {offset} is no digit of base64; those are A-Z a-z 0-9 + / and \
                 = at the end"
            ),
            Self::Padding { offset } => write!(
                f,
                "= at offset {offset} is misplaced; one or two at the end make the number of \
                 digits a multiple of 4"
            ),
            Self::LastDigit => f.write_str(
                "the last digit has bits for which there is no byte; was the text cut off?",
            ),
            Self::Length { digits } => write!(
                f,
                "{digits} digits with padding are no multiple of 4; add = at the end, or was the \
                 text cut off?"
            ),
        }
    }
}

impl core::error::Error for Base64Error {}

/// Returns the offset of the digit with an index, which does not count white space.
fn original(text: &str, index: usize) -> usize {
    let mut digits = text.bytes().enumerate().filter(|(_, byte)| !is_space(*byte));
    digits.nth(index).map_or(text.len(), |(offset, _)| offset)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(image: &Image) -> Vec<u8> {
        let mut bytes = vec![0xa5; image.size() as usize];
        image.read(0, &mut bytes);
        bytes
    }

    #[test]
    fn raw_is_kept() {
        assert_eq!(content(&raw(b"Hello, world!")), b"Hello, world!");
        assert_eq!(content(&raw(b"")), b"");
    }

    #[test]
    fn base64_is_decoded() {
        let decoded = |text| content(&base64(text).unwrap());
        assert_eq!(decoded("MTIz"), b"123");
        assert_eq!(decoded("aGVsbG8gbmJka2l0IHVzZXI="), b"hello nbdkit user");
        assert_eq!(decoded(" TQ\n=\t= "), b"M");
        assert_eq!(decoded("+/+/"), [0xfb, 0xff, 0xbf]);
        assert_eq!(decoded(""), b"");
    }

    #[test]
    fn wrong_base64_is_refused() {
        let error = |text| base64(text).unwrap_err();
        assert_eq!(error("MTI zM é="), Base64Error::Character { offset: 7, found: 'é' });
        assert_eq!(error("M-_z"), Base64Error::Character { offset: 1, found: '-' });
        assert_eq!(error("MTJ="), Base64Error::LastDigit);
        assert_eq!(error("MTI"), Base64Error::Length { digits: 3 });
        assert_eq!(error("M T=z"), Base64Error::Padding { offset: 3 });
        assert_eq!(error("MTI=="), Base64Error::Padding { offset: 3 });
        assert_eq!(error("="), Base64Error::Padding { offset: 0 });
    }
}
