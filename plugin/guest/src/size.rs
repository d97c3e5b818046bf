//! Sizes within the text of a parameter.

/// Parses a size as the host does for parameters of this type: a decimal number, or a hexadecimal
/// one after `0x`, with an optional suffix. Returns `None` if the text is none, or too large.
pub fn parse_size(text: &str) -> Option<u64> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (radix, rest) = hexadecimal.map_or((10, text), |digits| (16, digits));
    let end = rest.find(|c: char| !c.is_digit(radix)).unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if radix == 10 && digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    let unit: u64 = match suffix {
        "" | "b" | "B" => 1,
        "s" | "S" => 512,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        "p" | "P" => 1 << 50,
        "e" | "E" => 1 << 60,
        _ => return None,
    };
    u64::from_str_radix(digits, radix).ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_spellings_of_parameters() {
        for (text, size) in [
            ("0", 0),
            ("1b", 1),
            ("2S", 1024),
            ("3k", 3072),
            ("4M", 4 << 20),
            ("0x1f", 31),
            ("7e", 7 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Some(size), "{text}");
        }
        for text in ["", "k", "010", "-1", "+1", "1kb", "1 k", "0x", "16e", "18446744073709551616"]
        {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
