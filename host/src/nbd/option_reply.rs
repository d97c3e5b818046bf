//! Encodes option replies.

use super::codes::{InfoType, OptionCode, OptionReplyType, magic};
use super::contexts::Bitmaps;
use super::limits::{MAX_STRING, MAX_TEXT};
use super::option::Wanted;
use super::session::{Session, advertised};
use super::text::cut;
use crate::block::Geometry;

/// An export as LIST describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportSummary<'a> {
    /// The name to use in INFO, GO and EXPORT_NAME.
    pub name: &'a str,
    /// A human-readable line; may be empty.
    pub description: &'a str,
}

/// An export that was found and opened.
#[derive(Clone, Copy, Debug)]
pub struct ExportInfo<'a> {
    /// The canonical name, as in [`ExportSummary`].
    pub name: &'a str,
    /// A human-readable line, as in [`ExportSummary`].
    pub description: &'a str,
    /// The size of the export, its block sizes and what it offers.
    pub geometry: &'a Geometry,
    /// Its dirty bitmaps, if it can have any. It then also has `qemu:allocation-depth`.
    pub bitmaps: Option<&'a dyn Bitmaps>,
}

/// Appends the replies to one option to a buffer.
pub(super) struct OptionReply<'a> {
    pub(super) option: OptionCode,
    pub(super) out: &'a mut Vec<u8>,
}

impl OptionReply<'_> {
    /// Appends the final reply to an option that was accepted.
    pub(super) fn ack(&mut self) {
        self.put(OptionReplyType::ACK, &[]);
    }

    /// Appends the final reply to an option that was refused.
    pub(super) fn error(&mut self, kind: OptionReplyType, text: &str) {
        self.put(kind, &[cut(text, MAX_TEXT).as_bytes()]);
    }

    /// Appends one entry of the list of exports.
    pub(super) fn server(&mut self, export: &ExportSummary<'_>) {
        let name = cut(export.name, MAX_STRING).as_bytes();
        let description = cut(export.description, MAX_STRING).as_bytes();
        let length = (name.len() as u32).to_be_bytes();
        self.put(OptionReplyType::SERVER, &[&length, name, description]);
    }

    /// Appends the information about an export that every INFO and GO gets, and whatever else the
    /// client wants.
    pub(super) fn infos(&mut self, export: &ExportInfo<'_>, wanted: Wanted, session: &Session) {
        let size = export.geometry.size.to_be_bytes();
        let flags = session.transmission_flags().to_be_bytes();
        self.info(InfoType::EXPORT, &[&size, &flags]);
        if wanted.name {
            self.info(InfoType::NAME, &[cut(export.name, MAX_STRING).as_bytes()]);
        }
        if wanted.description && !export.description.is_empty() {
            self.info(InfoType::DESCRIPTION, &[cut(export.description, MAX_STRING).as_bytes()]);
        }
        if wanted.block_size {
            let sizes = advertised(export.geometry.block_sizes);
            let sizes = [sizes.minimum, sizes.preferred, sizes.maximum].map(u32::to_be_bytes);
            self.info(InfoType::BLOCK_SIZE, &[sizes.as_flattened()]);
        }
    }

    /// Appends a metadata context.
    pub(super) fn context(&mut self, id: u32, name: &str) {
        self.put(OptionReplyType::META_CONTEXT, &[&id.to_be_bytes(), name.as_bytes()]);
    }

    fn info(&mut self, kind: InfoType, parts: &[&[u8]]) {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
        self.header(OptionReplyType::INFO, length);
        self.out.extend_from_slice(&kind.0.to_be_bytes());
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
    }

    fn put(&mut self, kind: OptionReplyType, parts: &[&[u8]]) {
        self.header(kind, parts.iter().map(|part| part.len()).sum());
        parts.iter().for_each(|part| self.out.extend_from_slice(part));
    }

    /// Appends the header of a reply. All parts of a reply are bounded strings, so the length fits
    /// into 32 bits.
    fn header(&mut self, kind: OptionReplyType, length: usize) {
        self.out.extend_from_slice(&magic::OPTION_REPLY.to_be_bytes());
        self.out.extend_from_slice(&self.option.0.to_be_bytes());
        self.out.extend_from_slice(&kind.0.to_be_bytes());
        self.out.extend_from_slice(&(length as u32).to_be_bytes());
    }
}
