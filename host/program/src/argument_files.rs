//! Argument files: an argument `@FILE` stands for the arguments in that file, one on each line.
//!
//! Blank lines and lines that begin with `#` are skipped. What follows `@` decides, not which files
//! exist: `@` before a digit, `+`, `-` or `^` is an offset in the language of the component `data`, so
//! `@0x1fe 0x55 0xAA` is passed on as it is. Only whole arguments count: the value in
//! `--option=@value` or `key=@value` is never a file.
//!
//! An argument file names no further ones. Expanding a command line twice therefore changes nothing
//! the second time.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::bounded;

/// The most bytes of all argument files of a command line.
const MAX_BYTES: u64 = 1 << 20;

/// The longest argument that Linux passes to another process, in bytes (MAX_ARG_STRLEN).
const MAX_ARGUMENT: usize = (128 << 10) - 1;

/// Time limit for reading a file, which may be a pipe.
const LIMIT: Duration = Duration::from_secs(10);

/// Replaces each argument `@FILE` with the arguments in the file. The name of the program, which comes
/// first, is kept.
///
/// # Errors
///
/// Returns a message with the file, and the line if there is one, if a file cannot be read or is not
/// an argument file.
pub(super) fn expand(typed: Vec<OsString>) -> Result<Vec<OsString>, String> {
    if !typed.iter().skip(1).any(|word| file_of(word.as_bytes()).is_some()) {
        return Ok(typed);
    }
    let mut expanded = Vec::new();
    let mut remaining = MAX_BYTES;
    for (index, word) in typed.into_iter().enumerate() {
        match file_of(word.as_bytes()).filter(|_| index > 0) {
            Some(path) => {
                let bytes = read(path, remaining).map_err(|error| {
                    let word = word.to_string_lossy();
                    format!(
                        "{word}: {error}; an argument that begins with @ names a file with one \
                         argument on each line (values: --option={word}, key={word})"
                    )
                })?;
                remaining -= bytes.len() as u64;
                expanded.extend(arguments(path, &bytes)?);
            }
            None => expanded.push(word),
        }
    }
    Ok(expanded)
}

/// Returns the file that an argument names, if it is one.
fn file_of(word: &[u8]) -> Option<&Path> {
    let name = word.strip_prefix(b"@")?;
    match name.first()? {
        b'0'..=b'9' | b'+' | b'-' | b'^' => None,
        _ => Some(Path::new(std::ffi::OsStr::from_bytes(name))),
    }
}

/// Reads a file, of which it reads no more than one byte beyond `limit`.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    let path = PathBuf::from(path);
    let (sender, receiver) = mpsc::channel();
    // Opening a pipe waits until somebody writes to it.
    let read = move || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // Nobody receives the result of one that took too long.
    bounded::within(LIMIT, move || _ = sender.send(read()));
    let late = |_| format!("it was not read to its end within {} s", LIMIT.as_secs());
    let bytes = receiver.try_recv().map_err(late)?.map_err(|error| error.to_string())?;
    match bytes.len() as u64 <= limit {
        true => Ok(bytes),
        false => Err(format!("argument files have at most {MAX_BYTES} bytes together")),
    }
}

/// Returns the arguments in a file.
fn arguments(path: &Path, bytes: &[u8]) -> Result<Vec<OsString>, String> {
    let mut arguments = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let fails = |what: &str| Err(format!("{}: line {}: {what}", path.display(), index + 1));
        let Ok(text) = std::str::from_utf8(line) else {
            return fails("it is not UTF-8; arguments that are not cannot be in a file");
        };
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        if text.contains('\0') {
            return fails("it has a NUL byte, which no argument can have");
        }
        if text.len() > MAX_ARGUMENT {
            return fails(&format!(
                "it has {} bytes, at most {MAX_ARGUMENT} are possible",
                text.len()
            ));
        }
        if file_of(line).is_some() {
            return fails("it begins with @, and argument files name no further ones");
        }
        arguments.push(text.into());
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn expanded(words: &[&str]) -> Result<Vec<String>, String> {
        let words = words.iter().map(OsString::from).collect();
        let text = |word: OsString| word.into_string().unwrap();
        expand(words).map(|words| words.into_iter().map(text).collect())
    }

    fn in_file(content: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("args");
        fs::write(&path, content).unwrap();
        expanded(&["@program", "a", &format!("@{}", path.display()), "b"])
    }

    #[test]
    fn files_have_one_argument_on_each_line() {
        let content =
            "# comment\n\n--run\necho  'a b' \"c\"\r\n \t\n  indented\n#\ndata=# no\n@0 1";
        assert_eq!(
            in_file(content).unwrap(),
            ["@program", "a", "--run", "echo  'a b' \"c\"", "  indented", "data=# no", "@0 1", "b"]
        );
        assert_eq!(in_file("").unwrap(), ["@program", "a", "b"]);
    }

    #[test]
    fn offsets_of_data_and_values_are_not_files() {
        let words =
            ["x", "@0x1fe 0x55 0xAA", "@^512", "@+1", "@-1", "@", "data=@x", "--name=@x", ""];
        assert_eq!(expanded(&words).unwrap(), words);
    }

    #[test]
    fn mistakes_are_told_with_file_and_line() {
        let missing = expanded(&["x", "@/no/such"]).unwrap_err();
        assert!(missing.starts_with("@/no/such: ") && missing.contains("--option=@/no/such"));
        let fails = |content: &[u8], what: &str| {
            let error = in_file(content).unwrap_err();
            assert!(error.contains(what), "{what:?} is not in {error}");
        };
        fails(b"a\n\xff\n", "args: line 2: it is not UTF-8");
        fails(b"\n\n@other", "args: line 3: it begins with @");
        fails(b"a\0b", "args: line 1: it has a NUL byte");
        fails(&[b'a'; MAX_ARGUMENT + 1], "line 1: it has 131072 bytes, at most 131071");
        assert_eq!(in_file([b'a'; MAX_ARGUMENT]).unwrap()[2].len(), MAX_ARGUMENT);
        fails(&vec![b'\n'; 1 + (1 << 20)], "at most 1048576 bytes together");
        assert!(in_file(vec![b'\n'; 1 << 20]).is_ok());
        assert!(expanded(&["x", "@/"]).unwrap_err().contains("directory"));
        assert!(expanded(&["x", "@/dev/zero"]).unwrap_err().contains("at most 1048576 bytes"));
    }

    #[test]
    fn all_files_together_are_bounded() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("args");
        fs::write(&path, vec![b'\n'; 600 << 10]).unwrap();
        let word = format!("@{}", path.display());
        assert!(expanded(&["x", &word]).is_ok());
        assert!(expanded(&["x", &word, &word]).unwrap_err().contains("together"));
    }
}
