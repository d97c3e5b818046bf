//! GUIDs, as a GPT stores them: the first three groups of digits are little-endian numbers.

/// The bytes of a GUID.
pub(crate) type Guid = [u8; 16];

/// The positions of the bytes in the text without hyphens, in the order in which they are stored.
const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

/// The positions of the hyphens in the text.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Parses a GUID, which may be in braces.
pub(crate) fn parse(text: &str) -> Option<Guid> {
    let text = text
        .strip_prefix('{')
        .map_or(Some(text), |rest| rest.strip_suffix('}'))
        .filter(|text| text.len() == 36)?;
    let mut digits = 0_u128;
    for (index, character) in text.char_indices() {
        if HYPHENS.contains(&index) {
            (character == '-').then_some(())?;
        } else {
            digits = digits << 4 | u128::from(character.to_digit(16)?);
        }
    }
    let bytes = digits.to_be_bytes();
    Some(ORDER.map(|position| bytes[position]))
}

/// Returns a random GUID (version 4 of RFC 9562).
pub(crate) fn random(number: impl Fn() -> u64) -> Guid {
    let number = u128::from(number()) << 64 | u128::from(number());
    let mut bytes = number.to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    ORDER.map(|position| bytes[position])
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Guid = [
        0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
        0xff,
    ];

    #[test]
    fn first_three_groups_are_little_endian() {
        for text in [
            "00112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-AABBCCDDEEFF",
            "{00112233-4455-6677-8899-aabbccddeeff}",
        ] {
            assert_eq!(parse(text), Some(STORED), "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_guids() {
        for text in [
            "",
            "{}",
            "{00112233-4455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeeff}",
            "00112233-4455-6677-8899-aabbccddeef",
            "00112233-4455-6677-8899-aabbccddeeff0",
            "00112233-4455-6677-8899-aabbccddeefg",
            "001122334-455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddee\u{e4}",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn random_guids_say_that_they_are_random() {
        let guid = random(|| u64::MAX);
        assert_eq!((guid[7], guid[8]), (0x4f, 0xbf));
        let guid = random(|| 0);
        assert_eq!((guid[7], guid[8]), (0x40, 0x80));
    }
}
