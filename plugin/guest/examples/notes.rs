//! An example of a component whose exports have names, with commands and a secret: each note is a
//! small read-only disk that holds a line of text.
//!
//! `--export '*=./notes.wasm,note=a,note=b'` serves the notes `a` and `b`. The command `write`
//! changes the text of a note that is in use. With `key`, a note is for clients that connect with
//! TLS, and a digest of the key is part of it, for the example's sake.

#![cfg_attr(all(target_arch = "wasm32", feature = "runtime"), no_std)]

extern crate alloc;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use memnbd_guest::{
    Argument, Backend, Command, Control, Description, Disk, Error, Listed, ListedExport, Listing,
    OpenRequest, Parameter, Value,
};

/// The size of a note.
const SIZE: usize = 4096;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Note {
    text: String,
}

fn names(request: &OpenRequest) -> impl Iterator<Item = &str> {
    request.values("note").filter_map(|value| match value {
        Value::Text(name) => Some(name.as_str()),
        _ => None,
    })
}

impl Backend for Note {
    fn describe() -> Description {
        Description::new("notes", env!("CARGO_PKG_VERSION"), "disks that hold a line of text")
            .parameter(Parameter::text("note", "the name of a note").required().repeatable())
            .parameter(Parameter::secret("key", "a secret, without which notes are for everybody"))
            .bare_parameter("note")
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let name = &request.export_name;
        if !names(request).any(|known| known == name) {
            return Err(Error::EINVAL.because(format!("there is no note {name:?}")));
        }
        let mut text = format!("this is {name}");
        if let Some(client) = &request.client {
            text += &format!(" for {}", client.peer);
        }
        if let Some(key) = request.secret("key") {
            let tls = request.client.as_ref().is_some_and(|client| client.tls);
            if !tls {
                return Err(Error::EPERM.because("a note with a key needs TLS and a private disk"));
            }
            let digest = key.iter().fold(0_u32, |sum, byte| sum.rotate_left(5) ^ u32::from(*byte));
            text += &format!(", sealed with {digest:08x}");
        }
        Ok(Self { text })
    }

    fn disk(&self) -> Disk {
        Disk::new(SIZE as u64)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let mut content = [0; SIZE];
        let text = self.text.as_bytes();
        let length = text.len().min(SIZE);
        content[..length].copy_from_slice(&text[..length]);
        buffer.copy_from_slice(&content[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

impl Listing for Note {
    fn exports(request: &OpenRequest) -> Result<Listed, Error> {
        let exports = names(request).map(|name| ListedExport {
            name: name.to_string(),
            description: format!("the note {name}"),
        });
        let exports: Vec<_> = exports.collect();
        let default = exports.first().map(|first| first.name.clone());
        Ok(Listed { exports, default })
    }
}

impl Control for Note {
    fn commands(&self) -> Vec<Command> {
        let text = Parameter::text("text", "the text").required();
        vec![Command::new("write", "changes the text of the note").parameter(text)]
    }

    fn execute(&mut self, _command: &str, arguments: &[Argument]) -> Result<String, Error> {
        let [Argument { value: Value::Text(text), .. }] = arguments else {
            return Err(Error::EINVAL);
        };
        if text.len() > SIZE {
            return Err(Error::ENOSPC.because("a note has 4096 bytes"));
        }
        let before = core::mem::replace(&mut self.text, text.clone());
        Ok(format!("it was: {before}"))
    }
}

memnbd_guest::backend!(Note);
memnbd_guest::control!(Note);
memnbd_guest::listing!(Note);

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> OpenRequest {
        let note = |name: &str| Value::Text(name.into());
        OpenRequest::default().with("note", note("a")).with("note", note("b"))
    }

    #[test]
    fn notes_are_listed_and_the_first_is_the_default() {
        let listed = Note::exports(&request()).unwrap();
        let names: Vec<_> = listed.exports.iter().map(|export| export.name.as_str()).collect();
        assert_eq!((names, listed.default.as_deref()), (vec!["a", "b"], Some("a")));
    }

    #[test]
    fn note_can_be_written_anew() {
        let mut note = Note::open(&OpenRequest { export_name: "b".into(), ..request() }).unwrap();
        let text = Argument { name: "text".into(), value: Value::Text("new".into()) };
        assert_eq!(note.execute("write", &[text]).unwrap(), "it was: this is b");
        let mut buffer = [0; 4];
        note.read(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"new\0");
    }

    #[test]
    fn unknown_note_and_sealed_note_without_tls_are_refused() {
        assert!(Note::open(&OpenRequest { export_name: "c".into(), ..request() }).is_err());
        let sealed = request().with("key", Value::Secret(b"k".to_vec()));
        assert!(Note::open(&OpenRequest { export_name: "a".into(), ..sealed }).is_err());
    }
}
