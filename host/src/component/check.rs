//! What a component says of itself and of its disk, checked against the contract.

use super::bindings::{self, Capabilities, Description, Parameter};
use super::fault::Breach;
use crate::block::{self, BlockSizes, MAX_SIZE, MAX_TRANSFER};

/// The longest text that is taken from a component.
const MAX_TEXT: usize = 4096;

/// How many parameters a component may have.
const MAX_PARAMETERS: usize = 256;

/// What `open` said, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The size in bytes, a multiple of `block_sizes.minimum`, at most [`MAX_SIZE`].
    pub size: u64,
    /// In order as [`BlockSizes`] says. The maximum is the longest read or write of one call.
    pub block_sizes: BlockSizes,
    /// What the component itself can do.
    pub capabilities: block::Capabilities,
    /// Whether the component knows extents.
    pub extents: bool,
    /// How instances share the disk.
    pub sharing: Sharing,
    /// Whether there are pages that can be read and written without a call.
    pub direct_access: bool,
    /// For people, at most 4096 bytes, without control characters.
    pub description: String,
}

/// How many instances may serve a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// One.
    Exclusive,
    /// Any number, each for everything.
    Interchangeable,
    /// Any number, each for its stripes of two to the power of this many bytes.
    Striped {
        /// The logarithm of the stripe's size, at least 16.
        shift: u32,
    },
}

/// Checks the names, by which the parameters are passed, and makes all texts printable.
pub(super) fn check_description(said: Description) -> Result<Description, Breach> {
    if said.parameters.len() > MAX_PARAMETERS {
        return Err(Breach::TooManyParameters(said.parameters.len()));
    }
    let names: Vec<&str> = said.parameters.iter().map(|p| p.name.as_str()).collect();
    let well_formed = |name: &str| {
        name.len() <= MAX_TEXT
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let distinct = names.iter().enumerate().all(|(i, name)| !names[..i].contains(name));
    if !distinct || !names.iter().all(|name| well_formed(name)) {
        return Err(Breach::ParameterNames);
    }
    if said.bare_parameter.as_ref().is_some_and(|bare| !names.contains(&bare.as_str())) {
        return Err(Breach::BareParameter);
    }
    let parameters = said.parameters.into_iter().map(|parameter| Parameter {
        summary: printable(&parameter.summary),
        default: parameter.default.as_deref().map(printable),
        ..parameter
    });
    Ok(Description {
        name: printable(&said.name),
        version: printable(&said.version),
        summary: printable(&said.summary),
        parameters: parameters.collect(),
        bare_parameter: said.bare_parameter,
    })
}

/// Checks sizes and stripes.
pub(super) fn check_disk(disk: &bindings::Disk) -> Result<Disk, Breach> {
    if disk.size > MAX_SIZE {
        return Err(Breach::Size(disk.size));
    }
    let block_sizes = check_block_sizes(disk)?;
    let sharing = match disk.sharing {
        bindings::Sharing::Exclusive => Sharing::Exclusive,
        bindings::Sharing::Interchangeable => Sharing::Interchangeable,
        bindings::Sharing::Striped(stripe) => {
            let minimum = u64::from(block_sizes.minimum).max(1 << 16);
            if !stripe.is_power_of_two() || stripe < minimum {
                return Err(Breach::StripeSize(stripe));
            }
            Sharing::Striped { shift: stripe.trailing_zeros() }
        }
    };
    let has = |flag: Capabilities| disk.capabilities & flag == flag;
    Ok(Disk {
        size: disk.size - disk.size % u64::from(block_sizes.minimum),
        block_sizes,
        capabilities: block::Capabilities {
            writable: has(Capabilities::WRITABLE),
            flush: has(Capabilities::FLUSH),
            fua: has(Capabilities::FUA),
            trim: has(Capabilities::TRIM),
            zero: has(Capabilities::ZERO),
            fast_zero: has(Capabilities::ZERO | Capabilities::FAST_ZERO),
            cache: has(Capabilities::CACHE),
            multi_conn: has(Capabilities::MULTI_CONN),
            rotational: has(Capabilities::ROTATIONAL),
        },
        extents: has(Capabilities::EXTENTS),
        sharing,
        direct_access: false,
        description: printable(&disk.description),
    })
}

fn check_block_sizes(disk: &bindings::Disk) -> Result<BlockSizes, Breach> {
    let (minimum, preferred) = (disk.minimum_block, disk.preferred_block);
    let maximum = match disk.maximum_transfer {
        0 => MAX_TRANSFER,
        maximum => maximum,
    };
    let in_order = minimum.is_power_of_two()
        && minimum <= 65536
        && preferred.is_power_of_two()
        && preferred >= minimum.max(512)
        && preferred <= MAX_TRANSFER / 2
        && maximum >= preferred
        && maximum % minimum == 0;
    if !in_order {
        return Err(Breach::BlockSizes { minimum, preferred, maximum });
    }
    Ok(BlockSizes { minimum, preferred, maximum: maximum.min(MAX_TRANSFER) })
}

/// A component's text as it may be shown: of bounded length, without control characters, and
/// without those that change the direction of the text around them.
pub(super) fn printable(text: &str) -> String {
    let mut shown = String::new();
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    for c in text.chars().map(|c| if harmful(c) { ' ' } else { c }) {
        if shown.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        shown.push(c);
    }
    shown
}
