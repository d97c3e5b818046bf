//! Random expressions against a simple model, and random texts that are mostly wrong.

use super::*;

/// Makes expressions together with their content.
struct Generator {
    random: fastrand::Rng,
    /// The names in scope with their content.
    names: Vec<(String, Vec<u8>)>,
}

/// The content of a list while it is made.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
    cursor: usize,
}

impl Model {
    fn write(&mut self, bytes: &[u8]) {
        self.move_to(self.cursor + bytes.len());
        self.bytes[self.cursor - bytes.len()..self.cursor].copy_from_slice(bytes);
    }

    fn move_to(&mut self, offset: usize) {
        self.cursor = offset;
        self.bytes.resize(self.bytes.len().max(offset), 0);
    }
}

impl Generator {
    fn list(&mut self, depth: u32) -> (String, Vec<u8>) {
        let scope = self.names.len();
        let mut model = Model::default();
        let mut text = String::new();
        for _ in 0..self.random.usize(0..6) {
            text += [" ", "\n", " # comment\n", "\t"][self.random.usize(0..4)];
            if self.random.u8(0..4) == 0 {
                text += &self.motion(&mut model);
                continue;
            }
            let (term, content) = self.term(depth);
            text += &term;
            if self.random.u8(0..5) == 0 {
                let name = format!("n{}", self.random.u8(0..6));
                text += &format!(" -> \\{name}");
                self.names.push((name, content));
            } else {
                model.write(&content);
            }
        }
        self.names.truncate(scope);
        (text, model.bytes)
    }

    fn motion(&mut self, model: &mut Model) -> String {
        let count = self.random.usize(0..150);
        let (text, offset) = match self.random.u8(0..4) {
            0 => (format!("@{count}"), count),
            1 => (format!("@+0x{count:x}"), model.cursor + count),
            2 => {
                let count = count.min(model.cursor);
                (format!("@-{count}"), model.cursor - count)
            }
            _ => (format!("@^{}", count + 1), model.cursor.next_multiple_of(count + 1)),
        };
        model.move_to(offset);
        text
    }

    fn term(&mut self, depth: u32) -> (String, Vec<u8>) {
        let (mut text, mut content) = self.primary(depth);
        while self.random.u8(0..3) == 0 {
            if self.random.bool() && content.len() < 2000 {
                let count = self.random.usize(0..5);
                text += &format!("*{count}");
                content = content.repeat(count);
            } else {
                let start = self.random.usize(0..=content.len());
                let end = self.random.usize(start..=content.len());
                text += &format!("[{start}:{end}]");
                content = content[start..end].to_vec();
            }
        }
        (text, content)
    }

    fn primary(&mut self, depth: u32) -> (String, Vec<u8>) {
        let value: u32 = self.random.u32(..) >> self.random.u32(0..32);
        match self.random.u8(0..8) {
            0 => (format!("{}", value as u8), vec![value as u8]),
            1 => (format!("be32:{value:#x}"), value.to_be_bytes().to_vec()),
            2 => (format!("\"\\x{:02x}b\"", value as u8), vec![value as u8, b'b']),
            3 => {
                let count = self.random.usize(0..120);
                (format!("{}*{count}", value as u8 & 1), vec![value as u8 & 1; count])
            }
            4 if !self.names.is_empty() => {
                let (name, _) = self.names[self.random.usize(0..self.names.len())].clone();
                let mut latest = self.names.iter().rev().filter(|(other, _)| *other == name);
                let (_, content) = latest.next().expect("the name is in the list");
                (format!("\\{name}"), content.clone())
            }
            _ if depth > 0 => {
                let (text, content) = self.list(depth - 1);
                (format!("({text})"), content)
            }
            _ => ("0x7f".into(), vec![0x7f]),
        }
    }
}

/// Checks searches against a search byte by byte, and that holes read as zeroes.
fn check_searches(image: &Image, content: &[u8], random: &mut fastrand::Rng) {
    let size = content.len() as u64;
    let data: Vec<bool> = (0..size).map(|at| image.find_data(at..at + 1).is_some()).collect();
    for (at, is_data) in data.iter().enumerate() {
        let hole = image.find_hole(at as u64..at as u64 + 1);
        assert_eq!(hole.is_none(), *is_data);
        assert!(*is_data || content[at] == 0);
    }
    for _ in 0..20 {
        let start = random.u64(0..=size);
        let end = random.u64(start..=size);
        let find = |wanted| (start..end).find(|at| data[*at as usize] == wanted);
        assert_eq!(image.find_data(start..end), find(true));
        assert_eq!(image.find_hole(start..end), find(false));
        let mut bytes = vec![0xa5; (end - start) as usize];
        image.read(start, &mut bytes);
        assert_eq!(bytes, content[start as usize..end as usize]);
    }
}

#[test]
fn random_expressions_have_the_content_of_the_model() {
    let mut generator = Generator { random: fastrand::Rng::with_seed(1), names: Vec::new() };
    let mut sizes = 0;
    for _ in 0..3000 {
        let (text, expected) = generator.list(5);
        let image = image(&text);
        assert_eq!(content(&image), expected, "{text}");
        if expected.len() < 20_000 {
            check_searches(&image, &expected, &mut generator.random);
        }
        sizes += expected.len();
    }
    assert!(sizes > 100_000, "only {sizes} bytes");
}

#[test]
fn random_texts_never_panic() {
    const PARTS: [&str; 40] = [
        "(",
        ")",
        "*",
        "[",
        "]",
        ":",
        "@",
        "+",
        "-",
        "^",
        "->",
        "\\",
        "\\x",
        "$",
        "$v",
        "$w",
        "<",
        "<one",
        "<endless",
        "<(",
        "\"",
        "\"ab\"",
        "\\x4",
        "#",
        "\n",
        " ",
        "0",
        "1",
        "0x",
        "255",
        "9223372036854775807",
        "8",
        "le16:",
        "be64:",
        "l",
        "é",
        "\u{1f600}",
        "[1:]",
        "[:0]",
        "@^4",
    ];
    let mut random = fastrand::Rng::with_seed(2);
    let mut right = 0;
    for _ in 0..60_000 {
        let part = |_| PARTS[random.usize(0..PARTS.len())];
        let text: String = (0..12).map(part).collect();
        let cut = text.floor_char_boundary(random.usize(0..=text.len()));
        let variables = [("v", &text[cut..]), ("w", "1 $v")];
        match evaluate_with(&text[..cut], &variables) {
            Ok(mut image) => {
                right += 1;
                let size = image.size().min(100);
                image.read(image.size() - size, &mut vec![0; size as usize]);
                image.resize(size / 2);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!(right > 1000, "only {right} texts were right");
}
