//! A filter that serves a file in a tar archive, like nbdkit's filter `tar`.
//!
//! ```text
//! memnbd-host -r --filter=tar file images.tar tar-entry=disk.img
//! memnbd-host -r --export '*=file,filter=tar,images.tar'
//! ```
//!
//! `tar-entry` is the name of the file, exactly as `tar tf` lists it. Without it the name of the export
//! is that name, and clients can list all files of the archive; the empty name stands for the first.
//! If several members have the name, the first is served. `tar-limit` ends the search after so many
//! bytes of the archive.
//!
//! Archives are those of ustar, pax and GNU tar, with long names and large members. Files that GNU tar
//! stored as sparse are refused: `tar` stores them with all their bytes unless `--sparse` is given.
//!
//! The file can be written, unless `-r` is given. That changes the archive in place.
//!
//! # Differences from nbdkit
//!
//! The archive is read by the component, so there is no parameter `tar`, which names a program.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod archive;

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use memnbd_guest::{
    Backend, Capabilities, Description, Disk, Error, Filter, Listed, ListedExport, Listing, Lower,
    OpenRequest, Operation, Parameter, Request, Route, StableRoute,
};

use archive::{Kind, Member, Members, text};

/// The most files of an archive that are listed, and the most bytes of their names and descriptions.
const MAX_LISTED: usize = 10_000;
const MAX_LISTED_BYTES: usize = 1 << 20;

/// The most names in a message.
const MAX_NAMES: usize = 8;

/// The open disk.
#[derive(Clone, Debug)]
pub struct Tar {
    base: Lower,
    member: Member,
}

fn description(size: u64) -> String {
    format!("a file of {size} bytes in a tar archive")
}

fn members(request: &OpenRequest) -> Result<(Lower, Members), Error> {
    let base = request.device("base").ok_or(Error::EINVAL)?;
    let limit = request.size("tar-limit").filter(|limit| *limit > 0).unwrap_or(u64::MAX);
    Ok((base, Members::new(base, limit)))
}

impl Backend for Tar {
    fn describe() -> Description {
        Description::new("tar", env!("CARGO_PKG_VERSION"), "a file in a tar archive")
            .parameter(
                Parameter::device("base", "the device beneath, which has the archive")
                    .writes()
                    .required(),
            )
            .parameter(
                Parameter::text("tar-entry", "the name of the file, as `tar tf` lists it")
                    .default("the name of the export, or else the first file"),
            )
            .parameter(
                Parameter::size("tar-limit", "how much of the archive is searched")
                    .default("all of it"),
            )
    }

    fn open(request: &OpenRequest) -> Result<Self, Error> {
        let (base, mut members) = members(request)?;
        let wanted = request.text("tar-entry").unwrap_or(&request.export_name);
        let any = request.text("tar-entry").is_none() && wanted.is_empty();
        let mut names: Vec<String> = Vec::new();
        while let Some(member) = members.next()? {
            if member.name == wanted.as_bytes() || any && member.kind == Kind::File {
                let problem = match member.kind {
                    Kind::File => return Ok(Self { base, member }),
                    Kind::Sparse => "is stored as sparse, which is not supported",
                    Kind::Other => "is not a regular file",
                };
                return Err(Error::EINVAL.because(format!("{wanted:?} in the archive {problem}")));
            }
            if member.kind == Kind::File && names.len() < MAX_NAMES {
                names.push(format!("{:?}", text(&member.name)));
            }
        }
        let known = match names.len() {
            0 => "no files".into(),
            MAX_NAMES => format!("{}, and perhaps others", names.join(", ")),
            _ => names.join(", "),
        };
        Err(Error::EINVAL.because(format!("the archive has no file {wanted:?}; it has {known}")))
    }

    fn disk(&self) -> Disk {
        let disk = Disk::above(&self.base.geometry());
        // The largest power of two that divides all three.
        let divisors = u64::from(disk.minimum_block) | self.member.offset | self.member.size;
        Disk {
            size: self.member.size,
            minimum_block: 1 << divisors.trailing_zeros(),
            capabilities: disk.capabilities | Capabilities::INTERCHANGEABLE,
            description: description(self.member.size).into(),
            ..disk
        }
    }
}

impl Filter for Tar {
    fn route(&mut self, request: &Request) -> Result<Route, Error> {
        Ok(Route::lower(self.base.at(self.member.offset + request.offset), request.length))
    }

    fn stable(&mut self, _operation: Operation, offset: u64) -> Option<StableRoute> {
        let length = self.member.size.checked_sub(offset).filter(|length| *length > 0)?;
        Some(StableRoute::new(self.base.at(self.member.offset + offset), length))
    }
}

impl Listing for Tar {
    fn exports(request: &OpenRequest) -> Result<Listed, Error> {
        let (_, mut members) = members(request)?;
        let only = request.text("tar-entry");
        let mut listed = Listed::default();
        let mut known = BTreeSet::new();
        let mut bytes = 0;
        while let Some(member) = members.next()? {
            // Names of exports are text.
            let Ok(name) = String::from_utf8(member.name) else { continue };
            let is_wanted = only.is_none_or(|only| only == name);
            let has_nul = name.contains('\0');
            if member.kind != Kind::File || !is_wanted || has_nul || !known.insert(name.clone()) {
                continue;
            }
            let description = description(member.size);
            bytes += name.len() + description.len();
            if listed.exports.len() == MAX_LISTED || bytes > MAX_LISTED_BYTES {
                break;
            }
            listed.default.get_or_insert_with(|| name.clone());
            listed.exports.push(ListedExport { name, description });
        }
        Ok(listed)
    }
}

memnbd_guest::filter!(Tar);
memnbd_guest::listing!(Tar);

#[cfg(test)]
mod tests;
