//! Expressions that would take much time or memory if they were not bounded.

use std::time::{Duration, Instant};

use super::*;

/// Evaluates an expression, which must take little time, and returns the reason of the error.
#[track_caller]
fn bounded(text: &str, variables: &[(&str, &str)]) -> Option<Reason> {
    let start = Instant::now();
    let result = evaluate_with(text, variables);
    let elapsed = start.elapsed();
    // Debug builds on busy machines are slow.
    assert!(elapsed < Duration::from_secs(60), "took {elapsed:?}");
    match result {
        Ok(image) => {
            assert!(image.pieces().len() as u64 <= MAX_PIECES);
            assert!(image.depth() <= MAX_DEPTH);
            None
        }
        Err(error) => Some(error.reason),
    }
}

#[test]
fn repeats_are_not_stored() {
    for text in [
        "1*1073741824",
        "0*9223372036854775807",
        "(0x55 0xAA)*1073741824",
        "((((1*1000)*1000)*1000)*1000)",
        "((((1 2)*1000)*1000)*1000)*1000",
        "(((((1 @+5)*1000 2)*1000 3)*1000 4)*1000 5)*1000",
    ] {
        let image = image(text);
        assert!(image.pieces().len() <= 4, "{text}");
        let mut end = [0; 4];
        image.read(image.size() - 4, &mut end);
    }
    assert_eq!(image("((((1*1000)*1000)*1000)*1000)").size(), 1_000_000_000_000);
}

#[test]
fn doubling_names_share_their_image() {
    let lines = |count| {
        let lines = (0..count).map(|i| format!("(\\x{i} \\x{i}) -> \\x{}\n", i + 1));
        lines.collect::<String>()
    };
    let text = format!("(1 2 3) -> \\x0 {} \\x60", lines(60));
    let image = image(&text);
    assert_eq!(image.size(), 3 << 60);
    let mut end = [0; 5];
    image.read(image.size() - 5, &mut end);
    assert_eq!(end, [2, 3, 1, 2, 3]);
    assert_eq!(image.find_hole(0..image.size()), None);
    let text = format!("(1 2 3) -> \\x0 {} \\x70", lines(70));
    assert_eq!(bounded(&text, &[]), Some(Reason::Size));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| "(".repeat(depth) + "1" + &")".repeat(depth);
    assert_eq!(bytes(&nested(MAX_NESTING)), [1]);
    assert_eq!(bounded(&nested(MAX_NESTING + 1), &[]), Some(Reason::Nesting));
    assert_eq!(bounded(&"(".repeat(1 << 20), &[]), Some(Reason::Nesting));
    assert_eq!(bounded("$a", &[("a", "1 $a")]), Some(Reason::Nesting));
}

#[test]
fn depth_of_images_is_bounded() {
    let mut text = String::from("(1 @+200) -> \\x\n");
    for _ in 0..2 * MAX_DEPTH {
        text += "(\\x*2 1) -> \\x\n";
    }
    assert_eq!(bounded(&text, &[]), Some(Reason::Size));
    let mut text = String::from("(1 @+200) -> \\x\n");
    for _ in 0..2 * MAX_DEPTH {
        text += "(\\x*2 1)[:300] -> \\x\n";
    }
    assert_eq!(bounded(&(text + "\\x"), &[]), None);
    let mut text = String::from("(1 @+200)*1000 -> \\x\n");
    for _ in 0..2 * MAX_DEPTH {
        text += "(\\x 1 @+1 1 @+1 1 @+1 1 @+1 1 @+1) -> \\x\n";
    }
    assert_eq!(bounded(&text, &[]), Some(Reason::Depth));
}

#[test]
fn text_is_bounded_with_its_variables() {
    assert_eq!(bounded(&" ".repeat(MAX_TEXT), &[]), None);
    assert_eq!(bounded(&" ".repeat(MAX_TEXT + 1), &[]), Some(Reason::LongText));
    let names: Vec<String> = (0..40).map(|i| format!("v{i}")).collect();
    let values: Vec<String> = (1..41).map(|i| format!("$v{i} $v{i}")).collect();
    let mut variables: Vec<(&str, &str)> =
        names.iter().zip(&values).map(|(name, value)| (&name[..], &value[..])).collect();
    variables.push(("v40", ""));
    assert_eq!(bounded("$v0", &variables), Some(Reason::LongText));
}

#[test]
fn long_texts_are_quick() {
    let long = |part: &str| part.repeat(MAX_TEXT / part.len());
    assert_eq!(bytes(&long("1 ")).len(), MAX_TEXT / 2);
    assert_eq!(bounded(&long("()"), &[]), None);
    assert_eq!(bounded(&("1".to_string() + &"*1".repeat(MAX_TEXT / 2 - 1)), &[]), None);
    assert_eq!(bounded(&("(1 @+9)".to_string() + &"[0:]".repeat(250_000)), &[]), None);
    assert_eq!(bounded(&long("1 -> \\x "), &[]), None);
    assert_eq!(bounded(&long("@0 1 "), &[]), None);
    // Data in descending order, and then at random over data that was written before.
    assert_eq!(bounded(&("@500000 ".to_string() + &"1 @-3 ".repeat(170_000)), &[]), None);
    assert_eq!(bounded(&long("1 @+1 "), &[]), None);
    assert_eq!(bounded(&long("1*99 @-50 "), &[]), None);
}

#[test]
fn pieces_and_steps_are_bounded() {
    let long = |start: &str, part: &str| {
        start.to_string() + &part.repeat((MAX_TEXT - start.len()) / part.len())
    };
    let many = "(1 @+1 2 @+1 3 @+1 4 @+61) -> \\x ";
    assert_eq!(bounded(&long(many, "\\x "), &[]), Some(Reason::Pieces));
    let large = format!("({}) -> \\x ", "1 @+1 ".repeat(10_000));
    assert_eq!(bounded(&long(&large, "\\x[1:19999] "), &[]), Some(Reason::Steps));
    let large = format!("({})*9999999 @0 ", "1 @+1 ".repeat(10_000));
    assert_eq!(bounded(&long(&large, "@+1 1 "), &[]), Some(Reason::Steps));
}

#[test]
fn files_are_bounded() {
    assert_eq!(bounded("<endless", &[]), Some(Reason::FileBytes));
    let text = format!("<endless[:{MAX_FILE_BYTES}] -> \\x");
    assert_eq!(bounded(&text, &[]), None);
    assert_eq!(bounded(&(text + "<one"), &[]), Some(Reason::FileBytes));
}

/// Searches must not enter images in vain: that would take a time exponential in the depth.
#[test]
fn searches_of_deep_images_are_quick() {
    let mut text = String::from("((@1 1*999)*3)[1:2998] -> \\x\n");
    for i in 0..50 {
        text += &format!("((\\x \\x[1:] \\x 1*{i} 1 2)*2)[{i}:3500] -> \\x\n");
    }
    let start = Instant::now();
    let image = image(&(text + "\\x*1000"));
    for at in (0..image.size() / 2).step_by(2999) {
        let range = at..image.size() - at;
        image.find_data(range.clone());
        image.find_hole(range);
    }
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// A component's stack has 1 MiB, and the frames of debug builds are larger than its frames.
#[test]
fn deepest_nesting_takes_little_stack() {
    let deepest = || {
        let mut text = String::from("(1 @+200)*1000 -> \\x\n");
        for _ in 0..MAX_DEPTH / 2 {
            text += "(\\x*2 1 @+1 1 @+1 1 @+1 1) -> \\x\n";
        }
        text += &("(".repeat(MAX_NESTING) + "\\x[7:]" + &")".repeat(MAX_NESTING));
        let image = image(&text);
        assert!(image.depth() > MAX_DEPTH / 3);
        image.read(image.size() / 3, &mut [0; 100_000]);
        image.find_hole(image.size() / 3..image.size());
    };
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(deepest);
    thread.unwrap().join().unwrap();
}
