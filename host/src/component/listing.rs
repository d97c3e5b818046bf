//! The exports that a component lists, checked.

use std::collections::HashSet;

use super::bindings;
use super::breach::Breach;
use super::check::{excerpt, printable};
use super::contract::{MAX_LISTED, MAX_LISTED_TEXT, MAX_TEXT};

/// The exports of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// What clients can ask for. The names are distinct.
    pub exports: Vec<ListedExport>,
    /// The name that the empty name stands for.
    pub default: Option<String>,
}

/// An export that a component offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedExport {
    /// The name: at most 4096 bytes, without NUL.
    pub name: String,
    /// A printable line, possibly empty.
    pub description: String,
}

/// Checks the exports that a component lists.
pub(super) fn check_listed(said: bindings::Listed) -> Result<Listed, Breach> {
    if said.exports.len() > MAX_LISTED {
        return Err(Breach::TooManyListed(said.exports.len()));
    }
    let text_len = |export: &bindings::ListedExport| export.name.len() + export.description.len();
    let texts: usize = said.exports.iter().map(text_len).sum();
    if texts > MAX_LISTED_TEXT {
        return Err(Breach::ListedTexts(texts));
    }
    let mut names = HashSet::new();
    for bindings::ListedExport { name, .. } in &said.exports {
        check_name(name)?;
        if !names.insert(name.as_str()) {
            return Err(Breach::ListedTwice(excerpt(name)));
        }
    }
    said.default.as_deref().map_or(Ok(()), check_name)?;
    let exports = said.exports.into_iter().map(|bindings::ListedExport { name, description }| {
        ListedExport { name, description: printable(&description) }
    });
    Ok(Listed { exports: exports.collect(), default: said.default })
}

fn check_name(name: &str) -> Result<(), Breach> {
    match name.len() > MAX_TEXT || name.contains('\0') {
        true => Err(Breach::ListedName(excerpt(name))),
        false => Ok(()),
    }
}
