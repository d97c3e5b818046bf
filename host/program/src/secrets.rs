//! Reads the passwords and keys that parameters name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use memnbd::parameters::{Argument, MAX_SECRET, SecretSource, Value};

/// Secrets that were read. A file descriptor can be read once only, and the disk may be opened several
/// times.
#[derive(Clone, Default)]
pub(super) struct Secrets(Arc<Mutex<HashMap<SecretSource, Arc<[u8]>>>>);

impl Secrets {
    /// Reads the secrets among some arguments. Relative paths begin at a directory. It may block.
    ///
    /// # Errors
    ///
    /// Returns a message if a secret cannot be read.
    pub(super) fn read(&self, arguments: &mut [Argument], directory: &Path) -> Result<(), String> {
        for Argument { name, value } in arguments {
            let Value::Secret(secret) = value else { continue };
            if secret.is_known() {
                continue;
            }
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = match known.get(secret.source()) {
                Some(bytes) => bytes.clone(),
                None => {
                    let path = path(secret.source(), directory);
                    let read = first_line(&path);
                    let read =
                        read.map_err(|error| format!("{name}: {}: {error}", path.display()))?;
                    known.entry(secret.source().clone()).or_insert(read).clone()
                }
            };
            secret.set(bytes);
        }
        Ok(())
    }
}

fn path(source: &SecretSource, directory: &Path) -> PathBuf {
    match source {
        SecretSource::Text(_) => PathBuf::new(),
        SecretSource::File(path) => directory.join(path),
        SecretSource::Descriptor(number) => format!("/proc/self/fd/{number}").into(),
    }
}

/// Returns the first line of a file, without its end.
fn first_line(path: &Path) -> io::Result<Arc<[u8]>> {
    let mut line = Vec::new();
    let most = MAX_SECRET as u64 + 2;
    BufReader::new(File::open(path)?.take(most)).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    if line.len() > MAX_SECRET {
        let text = format!("its first line is too long, at most {MAX_SECRET} bytes are possible");
        return Err(io::Error::other(text));
    }
    Ok(line.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use memnbd::parameters::ParameterType;

    use super::*;

    fn argument(text: &str) -> Argument {
        Argument { name: "key".into(), value: ParameterType::Secret.parse(text).unwrap() }
    }

    fn read(text: &str, directory: &Path) -> Result<Value, String> {
        let mut arguments = [argument(text)];
        Secrets::default().read(&mut arguments, directory)?;
        let [Argument { value, .. }] = arguments;
        Ok(value)
    }

    #[test]
    fn first_line_of_a_file_is_the_secret() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let known = |bytes: &[u8]| {
            let Value::Secret(mut secret) = argument("+key").value else { panic!("a secret") };
            secret.set(bytes.into());
            Ok(Value::Secret(secret))
        };
        for (content, secret) in [
            (&b"a b\nc"[..], &b"a b"[..]),
            (b"a", b"a"),
            (b"", b""),
            (b"\xff\0\r\n", b"\xff\0\r"),
            (&[b'x'; MAX_SECRET], &[b'x'; MAX_SECRET]),
        ] {
            fs::write(&file, content).unwrap();
            assert_eq!(read("+key", directory.path()), known(secret));
        }
        fs::write(&file, [b'x'; MAX_SECRET + 1]).unwrap();
        let error = read("+key", directory.path()).unwrap_err();
        assert!(error.contains("too long") && error.starts_with("key: "), "{error}");
        let error = read("+none", directory.path()).unwrap_err();
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn secret_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        fs::write(&file, "one").unwrap();
        let secrets = Secrets::default();
        let mut first = [argument("+key")];
        secrets.read(&mut first, directory.path()).unwrap();
        fs::write(&file, "two").unwrap();
        let mut second = [argument("+key")];
        secrets.read(&mut second, directory.path()).unwrap();
        assert_eq!(first, second);
    }
}
