//! Tests of expressions: each element, the examples of nbdkit's manual, and each error.

mod errors;
mod hostile;
mod random;

use std::collections::HashMap;

use super::*;

/// Files in memory. `endless` never ends.
struct Fixed(HashMap<&'static str, Vec<u8>>);

impl Files for Fixed {
    fn read(
        &mut self,
        input: &Input,
        start: u64,
        end: Option<u64>,
        limit: usize,
    ) -> Result<Vec<u8>, FileError> {
        let Source::File(name) = &input.source else { return Err(FileError::Failed) };
        if name == "endless" {
            let length = end.map_or(limit + 1, |end| (end - start) as usize);
            return Ok(vec![0xee; length]);
        }
        let bytes = self.0.get(name.as_str()).ok_or(FileError::NotFound)?;
        let end = end.map_or(bytes.len(), |end| bytes.len().min(end as usize));
        Ok(bytes.get(start as usize..end).unwrap_or_default().to_vec())
    }
}

fn evaluate_with(text: &str, variables: &[(&str, &str)]) -> Result<Image, Error> {
    let variable = |wanted: &str| {
        let mut found = variables.iter().filter(|(name, _)| *name == wanted);
        found.next().map(|(_, value)| value.to_string())
    };
    let files = [("one", vec![1, 0, 2]), ("many", (0..200).collect()), ("empty", Vec::new())];
    evaluate(text, &variable, &mut Fixed(files.into()))
}

fn image(text: &str) -> Image {
    evaluate_with(text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn content(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0xa5; image.size() as usize];
    image.read(0, &mut bytes);
    bytes
}

fn bytes(text: &str) -> Vec<u8> {
    content(&image(text))
}

#[test]
fn bytes_have_three_radixes() {
    assert_eq!(bytes("0 1 017 255 0xff 0XaB"), [0, 1, 15, 255, 255, 0xab]);
    assert_eq!(bytes("08 0x1*2 00"), [0, 8, 1, 1, 0]);
    assert_eq!(bytes("1\t2\n3\x0b4\x0c5\r6"), [1, 2, 3, 4, 5, 6]);
    assert_eq!(bytes(""), []);
}

#[test]
fn integers_have_two_byte_orders() {
    assert_eq!(bytes("be32:0x1"), [0, 0, 0, 1]);
    assert_eq!(bytes("le16:0xaa55 be16:0xaa55"), [0x55, 0xaa, 0xaa, 0x55]);
    assert_eq!(bytes("le32:0x01020304 be32:010"), [4, 3, 2, 1, 0, 0, 0, 8]);
    assert_eq!(bytes("le64:18446744073709551615"), [255; 8]);
    assert_eq!(bytes("be64:+0x0102030405060708"), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes("(le16:1)*2 be16:2*2 le16:3[:1]"), [1, 0, 1, 0, 0, 2, 0, 2, 3]);
}

#[test]
fn strings_have_escapes() {
    assert_eq!(bytes(r#""Hello""#), b"Hello");
    let escapes = br#""\a\b\f\n\r\t\v\\\"\x00\xfF\q\'""#;
    let expected = b"\x07\x08\x0c\n\r\t\x0b\\\"\x00\xffq'";
    assert_eq!(bytes(std::str::from_utf8(escapes).unwrap()), expected);
    assert_eq!(bytes("\"two\nlines # ( é \\é\""), "two\nlines # ( é é".as_bytes());
    assert_eq!(bytes(r#""" "ab""cd"*2"#), b"abcdcd");
}

#[test]
fn offsets_move_the_cursor() {
    let mut sector = vec![0; 512];
    sector[1..4].copy_from_slice(&[1, 2, 3]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(bytes("0 1 2 3 @0x1fe 0x55 0xaa"), sector);
    assert_eq!(bytes("0 1 2 3 @^0x200 @-2 le16:0xaa55"), sector);
    assert_eq!(bytes("1 @+2 2 @- 1 3 @+ 1 4"), [1, 0, 0, 3, 0, 4]);
    assert_eq!(bytes("@^4 1 @^4 2 @^1 3 @^3 4"), [1, 0, 0, 0, 2, 3, 4]);
}

#[test]
fn size_is_the_largest_offset_of_the_cursor() {
    assert_eq!(bytes("@3"), [0; 3]);
    assert_eq!(bytes("1 @^4"), [1, 0, 0, 0]);
    assert_eq!(bytes("1 2 3 @0"), [1, 2, 3]);
    assert_eq!(bytes("(1 @4 @1) 5"), [1, 0, 0, 0, 5]);
    assert_eq!(image("@0x7fffffffffffffff").size(), i64::MAX as u64);
    assert_eq!(image("@0x7ffffffffffffffe 1").size(), i64::MAX as u64);
}

#[test]
fn size_can_be_changed() {
    let mut hello = image(r#"("Hello")*2000"#);
    hello.resize(8192);
    assert_eq!(content(&hello), b"Hello".iter().cycle().take(8192).copied().collect::<Vec<_>>());
    hello.resize(3);
    hello.resize(5);
    assert_eq!(content(&hello), b"Hel\0\0");
    hello.resize(i64::MAX as u64);
    assert_eq!(hello.find_data(3..hello.size()), None);
}

#[test]
fn later_data_replaces_earlier_data_and_holes_do_too() {
    assert_eq!(bytes("1 2 3 4 @0 (@2 5)"), [0, 0, 5, 4]);
    assert_eq!(bytes("1 2 3 4 @1 (@2)"), [1, 0, 0, 4]);
    assert_eq!(bytes("1*100 @50 2*25 @60 3")[48..62], [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2]);
    assert_eq!(bytes("1 @0 2 @0 (3 4)*2 @1 5"), [3, 5, 3, 4]);
}

#[test]
fn parentheses_have_their_own_offsets() {
    assert_eq!(bytes("1 (@1 2) 3"), [1, 0, 2, 3]);
    assert_eq!(bytes("9 (1 @^4) 2"), [9, 1, 0, 0, 0, 2]);
    assert_eq!(bytes("() (()) 1 (((2)))"), [1, 2]);
}

#[test]
fn repeats_apply_to_the_last_element() {
    assert_eq!(bytes("(0x55 0xAA) * 256"), [0x55, 0xaa].repeat(256));
    assert_eq!(bytes("0xFF*16"), [255; 16]);
    assert_eq!(bytes("1 2*3 4"), [1, 2, 2, 2, 4]);
    assert_eq!(bytes("(1 2)*3*2"), [1, 2].repeat(6));
    assert_eq!(bytes("(1 2 @+1)*2 1*0"), [1, 2, 0, 1, 2, 0]);
    assert_eq!(bytes("()*1000000000 (@5)*0"), []);
}

#[test]
fn slices_take_a_range() {
    assert_eq!(bytes(r#""abcd"[1:3] "abcd"[:2] "abcd"[2:] "abcd"[:] "abcd"[ 0 : 1 ]"#), {
        b"bcabcdabcda"
    });
    assert_eq!(bytes("((1 2 3 @+1)*3)[2:7]*2"), [3, 0, 1, 2, 3, 3, 0, 1, 2, 3]);
    assert_eq!(bytes("(@100 1 @200)[99:102]"), [0, 1, 0]);
    assert_eq!(bytes(r"1[5:5] (1 2 3)[1:][1:]"), [3]);
}

#[test]
fn names_have_scopes() {
    let boot = r"
        ( 0x55 0xAA ) -> \boot-signature
        ( @0x1fe \boot-signature ) -> \sector
        \sector \sector";
    let sector = [vec![0; 510], vec![0x55, 0xaa]].concat();
    assert_eq!(bytes(boot), sector.repeat(2));
    assert_eq!(bytes(r"1 -> \a (\a 2 -> \a \a) \a"), [1, 2, 1]);
    assert_eq!(bytes(r"1 -> \a (\a \a) -> \a \a*2"), [1; 4]);
    assert_eq!(bytes(r"1 -> \a \a -> \b 2 -> \a \b"), [1]);
    assert_eq!(bytes(r"1 2 -> \x-1_A \x-1_A"), [1, 2]);
    assert_eq!(bytes(r"1 -> \x -> \y 2 \y"), [2]);
}

#[test]
fn variables_are_expressions_in_scopes_of_their_own() {
    let variables = [("pattern", "0x55 0xAA"), ("twice", r"$pattern*2 # comment"), ("n", r"\n")];
    let bytes = |text| content(&evaluate_with(text, &variables).unwrap());
    assert_eq!(bytes("$pattern*16"), [0x55, 0xaa].repeat(16));
    assert_eq!(bytes("1 $twice 2"), [1, 0x55, 0xaa, 0x55, 0xaa, 2]);
    assert_eq!(bytes(r"3 -> \n $n (4 -> \n $n)"), [3, 4]);
}

#[test]
fn files_are_read_in_slices() {
    assert_eq!(bytes("<one @^4 <one 9"), [1, 0, 2, 0, 1, 0, 2, 9]);
    assert_eq!(bytes("<empty <one[1:]*2 (<many)[10:12]"), [0, 2, 0, 2, 10, 11]);
    assert_eq!(bytes("<many[198:999] <many[999:] <endless[:3] ((<endless))[1:2]"), {
        [198, 199, 0xee, 0xee, 0xee, 0xee]
    });
}

#[test]
fn comments_end_with_the_line() {
    assert_eq!(bytes("1 # 2 \" (\n3#4\n#\n5"), [1, 3, 5]);
    assert_eq!(bytes("# only"), []);
}

#[test]
fn partition_table_of_the_manual() {
    let mut disk = image(
        "@0x1be    # MBR first partition entry
           0           # Partition status
           0 2 0       # CHS start
           0x83        # Partition type (Linux)
           0x20 0x20 0 # CHS last sector
           le32:1      # LBA first sector
           le32:0x7ff  # LBA number of sectors
         @0x1fe    # Boot signature
           0x55 0xaa",
    );
    disk.resize(1 << 20);
    let mut expected = vec![0; 1 << 20];
    expected[0x1be..0x1ce]
        .copy_from_slice(&[0, 0, 2, 0, 0x83, 0x20, 0x20, 0, 1, 0, 0, 0, 0xff, 7, 0, 0]);
    expected[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(content(&disk), expected);
}

#[test]
fn inputs_are_numbered_in_the_order_of_the_text() {
    let variable = |name: &str| (name == "v").then(|| "<two[:5] 1".to_string());
    let list = inputs("<one*2 # <no\n \"<no\" ($v)*3 <(a (b) )[2:] (<four)[1:2] $v", &variable);
    let uses: Vec<_> = list.unwrap().into_iter().map(|one| (one.input.source, one.end)).collect();
    let file = |name: &str| Source::File(name.into());
    // The parenthesis in the string of the shell closes the script.
    assert_eq!(inputs("<(a ')')", &variable).unwrap_err().reason, Reason::Unexpected('\''));
    assert_eq!(
        uses,
        [
            (file("one"), None),
            (file("two"), Some(5)),
            (Source::Script("a (b) ".into()), None),
            (file("four"), Some(2)),
            (file("two"), Some(5)),
        ]
    );
}
