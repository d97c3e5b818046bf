//! Sizes as nbdkit writes them.

/// Reads a size in bytes: decimal digits and perhaps a suffix, `b` for 1, `s` for 512, `k`, `m`, `g`,
/// `t`, `p` or `e` for powers of 1024, in either case.
///
/// # Errors
///
/// What is wrong, as a sentence for the person who typed it.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let unit = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "s" => 512,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1_u64 << 40,
        "p" => 1 << 50,
        "e" => 1 << 60,
        _ => return Err(format!("unknown suffix {suffix:?}; known are b k m g t p e s")),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a size; sizes are written like 512M, 2G or 1073741824".into());
    }
    if digits.len() > 1 && digits.starts_with('0') {
        // As the components have it: releases of nbdkit disagree on whether this is octal.
        return Err("it begins with 0, which some take for octal; leave the zero out".into());
    }
    let number: Option<u64> = digits.parse().ok();
    let size = number.and_then(|number| number.checked_mul(unit));
    size.ok_or_else(|| "more than 2^64-1 bytes".into())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_have_one_suffix_of_either_case() {
        assert_eq!(parse("0"), Ok(0));
        assert_eq!(parse("7b"), Ok(7));
        assert_eq!(parse("3S"), Ok(1536));
        assert_eq!(parse("2G"), Ok(2 << 30));
        assert_eq!(parse("15e"), Ok(15 << 60));
        for bad in
            ["", "k", "-1", "1.5G", "2GiB", "16e", "1 k", "0x10", "010", "18446744073709551616"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
