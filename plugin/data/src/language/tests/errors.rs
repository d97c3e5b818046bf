//! Each error, and the place where it is.

use super::*;

/// Checks the reason, the line and the column of an error.
#[track_caller]
fn fails(text: &str, line: usize, column: usize, reason: Reason) {
    let error = evaluate_with(text, &[]).unwrap_err();
    assert_eq!((error.line, error.column, &error.reason), (line, column, &reason), "{error}");
}

#[test]
fn wrong_elements() {
    fails("1 hello", 1, 3, Reason::Unexpected('h'));
    fails("1*1G", 1, 4, Reason::Unexpected('G'));
    fails("1\n 2 é", 2, 4, Reason::Unexpected('é'));
    fails(r"1 -> \x \x->\y", 1, 12, Reason::Unexpected('>'));
    fails("base64:AA==", 1, 1, Reason::UnknownWord);
    fails("le17:1", 1, 1, Reason::UnknownWord);
    fails("1 - 2", 1, 3, Reason::Dash);
    fails("<(echo (\n)", 1, 1, Reason::OpenScript);
    let script = Source::Script("echo".into());
    fails("<(echo)", 1, 1, Reason::Input(script, FileError::Failed));
    fails(&"<one ".repeat(MAX_INPUTS + 1), 1, 5 * MAX_INPUTS + 1, Reason::Inputs);
    fails("$", 1, 2, Reason::NoVariable);
    fails("$1", 1, 2, Reason::NoVariable);
    fails("1 < one", 1, 4, Reason::NoFileName);
    fails(r"\", 1, 2, Reason::NoName("\\"));
    fails("1 -> x", 1, 6, Reason::NoName("->"));
    fails("1 -> \\", 1, 7, Reason::NoName("->"));
}

#[test]
fn wrong_numbers() {
    fails("256", 1, 1, Reason::Byte);
    fails("99999999999999999999", 1, 1, Reason::Byte);
    fails("1 0x", 1, 5, Reason::NoHexDigit);
    fails("le16:65536", 1, 6, Reason::LargeNumber(65535));
    fails("be64:18446744073709551616", 1, 6, Reason::LargeNumber(u64::MAX));
    fails("le16:", 1, 6, Reason::NoNumber("le16:"));
    fails("le16:08", 1, 7, Reason::WordEnd('8'));
    fails("le16:-1", 1, 6, Reason::Negative("le16:"));
    fails("@ 5", 1, 2, Reason::NoNumber("@"));
    fails("@+-5", 1, 3, Reason::Negative("@+"));
    fails("@9223372036854775808", 1, 2, Reason::LargeNumber(i64::MAX as u64));
    fails("1 @^0", 1, 3, Reason::ZeroAlignment);
    fails("1*-1", 1, 3, Reason::Negative("*"));
    fails("1*", 1, 3, Reason::NoNumber("*"));
}

#[test]
fn wrong_strings() {
    fails(r#"1 "abc"#, 1, 3, Reason::OpenString);
    fails(r#""abc\"#, 1, 1, Reason::OpenString);
    fails(r#""a\x4""#, 1, 3, Reason::HexEscape);
    fails("\"a\\xé\"", 1, 3, Reason::HexEscape);
    fails(r#""a\x+1""#, 1, 3, Reason::HexEscape);
    fails(r#""\0""#, 1, 2, Reason::Escape('0'));
    fails(r#""\u00e9""#, 1, 2, Reason::Escape('u'));
}

#[test]
fn wrong_structure() {
    fails("(1 (2)", 1, 1, Reason::OpenParenthesis);
    fails("1)", 1, 2, Reason::CloseParenthesis);
    fails("*5", 1, 1, Reason::NoOperand("*"));
    fails("([:1])", 1, 2, Reason::NoOperand("["));
    fails(r"@5 -> \x", 1, 4, Reason::MoveOperand("->"));
    fails(r"\x", 1, 1, Reason::UndefinedName("x".into()));
    fails(r"(1 -> \x) \x", 1, 11, Reason::UndefinedName("x".into()));
    fails(r"1 -> \x *3 \x", 1, 12, Reason::UndefinedName("x".into()));
    fails("1 $x", 1, 3, Reason::UnsetVariable("x".into()));
    fails("<none", 1, 1, Reason::Input(Source::File("none".into()), FileError::NotFound));
}

#[test]
fn wrong_ranges() {
    fails("1 (@-1)", 1, 4, Reason::BeforeStart(1, 0));
    fails("(1 2)[1:3]", 1, 6, Reason::SliceRange(1, 3, 2));
    fails("(1 2)[3:]", 1, 6, Reason::SliceRange(3, 2, 2));
    fails("(1 2)[2:1]", 1, 6, Reason::SliceOrder(2, 1));
    fails("(1 2)[1]", 1, 6, Reason::Slice);
    fails("(1 2)[x:y]", 1, 6, Reason::Slice);
    fails("(1 2)[0:1", 1, 6, Reason::Slice);
    fails("(1 2)[0:-1]", 1, 9, Reason::Negative(":"));
    fails("@9223372036854775807 1", 1, 22, Reason::Size);
    fails("1 @+9223372036854775807", 1, 3, Reason::Size);
    fails("@9223372036854775807 @^2", 1, 22, Reason::Size);
    fails("(1 2)*9223372036854775807", 1, 6, Reason::Size);
    fails("(@0x4000000000000000) -> \\x \\x \\x", 1, 32, Reason::Size);
}

#[test]
fn places_in_variables_are_named() {
    let variables = [("a", "1\n  $b"), ("b", "2 300")];
    let error = evaluate_with("0 $a", &variables).unwrap_err();
    assert_eq!(error.variable.as_deref(), Some("b"));
    assert_eq!((error.line, error.column, error.offset), (1, 3, 2));
    assert_eq!(
        error.to_string(),
        "in $b, line 1, column 3, at \"300\": the number does not fit in a byte, whose range is 0 \
         to 255; write larger numbers as integers, like le16:256"
    );
}

#[test]
fn excerpts_are_short_and_end_with_the_line() {
    let error = evaluate_with(&format!("1 {}\n2", "é".repeat(100)), &[]).unwrap_err();
    assert_eq!(error.excerpt, "é".repeat(24));
    assert_eq!(evaluate_with("?a\r\n2", &[]).unwrap_err().excerpt, "?a");
    assert_eq!(evaluate_with("@", &[]).unwrap_err().excerpt, "");
}

#[test]
fn missing_files_are_told() {
    let error = evaluate("<one", &|_| None, &mut NoFiles).unwrap_err().to_string();
    assert!(error.contains("\"one\"") && error.contains("input-file="));
}
