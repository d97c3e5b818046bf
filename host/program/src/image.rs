//! Images with which disks are filled: their formats, and opening them. Both programs use this file.
//!
//! An image is decoded in the sandbox, read-only, by the built-in components that are filters for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use clap::ValueEnum;
use memnbd::component::{BASE, BuiltIn, Engine};
use memnbd::device::file::{FileDevice, FileOptions, Source};
use memnbd::device::guest::{Budgets, DiskConfig};
use memnbd::device::{self, Device, LowerSource, OpenDevice};
use rustix::fs::OFlags;

/// What messages and components call the disk of an image.
const NAME: &str = "image";

/// The format of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The bytes of the disk
    Raw,
    /// QEMU's format, decoded by the component of this name
    Qcow2,
    /// The format of Virtual PC and Hyper-V, decoded by the component of this name
    Vhd,
    /// VMware's format, decoded by the component of this name
    Vmdk,
    /// Compressed, decoded by the component of this name
    Gzip,
    /// Compressed, decoded by the component of this name
    Xz,
    /// Compressed, decoded by the component of this name
    Zstd,
}

impl Format {
    /// Returns the format of an image that begins with these bytes. A fixed VHD image begins with its disk,
    /// and counts as raw.
    fn detect(head: &[u8]) -> Self {
        match head {
            [b'Q', b'F', b'I', 0xfb, ..] => Self::Qcow2,
            [b'c', b'o', b'n', b'e', b'c', b't', b'i', b'x', ..] => Self::Vhd,
            [b'K', b'D', b'M', b'V', ..] => Self::Vmdk,
            // A description of other files, which is refused with the reason.
            _ if head.starts_with(b"# Disk DescriptorFile") => Self::Vmdk,
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or one to skip, with which pzstd begins.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Raw,
        }
    }

    /// Returns the filter that decodes it.
    fn filter(self) -> Option<&'static str> {
        match self {
            Self::Raw => None,
            Self::Qcow2 => Some("qcow2"),
            Self::Vhd => Some("vhd"),
            Self::Vmdk => Some("vmdk"),
            Self::Gzip => Some("gzip"),
            Self::Xz => Some("xz"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// Opens an image. Its format is detected unless it is known.
pub(crate) async fn open(
    path: &Path,
    format: Option<Format>,
    engine: &Engine,
    budgets: &Budgets,
) -> anyhow::Result<Arc<dyn Device>> {
    let path = PathBuf::from(path);
    let opening = tokio::task::spawn_blocking(move || open_file(&path, format));
    let (image, format) = opening.await.context("open it")??;
    let options = FileOptions {
        // The file whose format was detected, whatever the path names by now.
        source: Source::Descriptor(image.into()),
        export_name: NAME.into(),
        read_only: true,
        access: Default::default(),
        page_cache: Default::default(),
        buffers: budgets.buffers.clone(),
    };
    let opening = tokio::task::spawn_blocking(move || FileDevice::open(options));
    let file: Arc<dyn Device> = Arc::new(opening.await.context("open it")??);
    let Some(filter) = format.filter() else { return Ok(file) };
    let built_in = BuiltIn::find(filter).with_context(|| format!("there is no {filter}"))?;
    let component = engine.load_built_in(built_in).await;
    let component = component.with_context(|| format!("load component {filter}"))?;
    let arguments = component.description().parse_arguments(&[format!("{BASE}=")]);
    let arguments = arguments.map_err(|error| anyhow!("{filter}: {error}"))?;
    let base: Arc<dyn LowerSource> = Arc::new(OpenDevice::Own(file));
    let config = DiskConfig {
        component: component.for_export(NAME),
        export_name: NAME.into(),
        read_only: true,
        arguments,
        budgets: budgets.clone(),
        lowers: vec![(BASE.into(), base)],
        client: None,
    };
    let opened = device::open(config).await;
    opened.map_err(|error| anyhow!("it cannot be opened as {filter}: {error}"))
}

/// Opens the file of an image, and detects the format unless it is known.
fn open_file(path: &Path, format: Option<Format>) -> io::Result<(File, Format)> {
    // A pipe must not block.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let image = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = image.metadata()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(io::Error::other("it is neither a regular file nor a block device"));
    }
    let mut head = [0; 21];
    let length = image.read_at(&mut head, 0)?;
    Ok((image, format.unwrap_or_else(|| Format::detect(&head[..length]))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_detected_by_their_first_bytes() {
        assert_eq!(Format::detect(b"QFI\xfb\0\0"), Format::Qcow2);
        assert_eq!(Format::detect(b"conectix\0"), Format::Vhd);
        assert_eq!(Format::detect(b"KDMV\x01\0"), Format::Vmdk);
        assert_eq!(Format::detect(b"# Disk DescriptorFile\n"), Format::Vmdk);
        assert_eq!(Format::detect(b"\x1f\x8b\x08\0\0\0"), Format::Gzip);
        assert_eq!(Format::detect(b"\xfd7zXZ\0"), Format::Xz);
        assert_eq!(Format::detect(b"\x28\xb5\x2f\xfd\0\0"), Format::Zstd);
        assert_eq!(Format::detect(b"\x50\x2a\x4d\x18\x04\0"), Format::Zstd);
        for raw in [&b""[..], b"QFI", b"\0QFI\xfb\0"] {
            assert_eq!(Format::detect(raw), Format::Raw);
        }
    }
}
