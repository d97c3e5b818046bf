//! The text in an image that describes it, or other files.

use alloc::string::String;

/// The beginning of the text.
pub(crate) const BEGINNING: &[u8] = b"# Disk DescriptorFile";

/// The longest text that is looked at.
pub(crate) const MAX_LENGTH: u64 = 64 << 10;

/// The parent of an image that has none.
const NO_PARENT: &str = "ffffffff";

/// What the text says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) is_empty: bool,
    /// The type of the image.
    pub(crate) create_type: String,
    /// The name of the parent, empty if it is not told, or `None` if there is no parent.
    pub(crate) parent: Option<String>,
    /// The first line that describes a file.
    pub(crate) extent: String,
}

impl Descriptor {
    /// Parses the text, which ends at the first byte that is zero.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let text =
            String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default());
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            let value = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(key));
            value.map(|(_, value)| value.trim().trim_matches('"'))
        };
        let parent = value("parentCID").filter(|parent| !parent.eq_ignore_ascii_case(NO_PARENT));
        let parent = parent.map(|_| value("parentFileNameHint").unwrap_or_default().into());
        let access = ["RW ", "RDONLY ", "NOACCESS "];
        let mut lines = text.lines().map(str::trim);
        let extent = lines.find(|line| access.iter().any(|access| line.starts_with(access)));
        Self {
            is_empty: text.trim().is_empty(),
            create_type: value("createType").unwrap_or_default().into(),
            parent,
            extent: extent.unwrap_or_default().into(),
        }
    }
}
