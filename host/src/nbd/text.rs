//! Truncates strings to what may be sent.

/// Returns the longest prefix of `text` that is a string in the sense of the spec ("Conventions")
/// and has at most `limit` bytes. It ends at a character boundary and before the first NUL.
pub(super) fn cut(text: &str, limit: usize) -> &str {
    let text = text.split('\0').next().unwrap_or_default();
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn texts_end_at_a_character_and_before_nul() {
        assert_eq!(cut("disk", 256), "disk");
        assert_eq!(cut("disk", 3), "dis");
        assert_eq!(cut("a\u{2603}b", 3), "a", "the snowman has three bytes");
        assert_eq!(cut("a\u{2603}b", 4), "a\u{2603}");
        assert_eq!(cut("disk\0tail", 256), "disk");
        assert_eq!(cut("\0", 256), "");
    }
}
