//! Checks a component's answers against the contract.
//!
//! These functions depend on the answers alone: they know no instance and call nothing.

use super::bindings::{self, Capabilities};
use super::breach::Breach;
use super::contract::{
    MAX_CHUNKS, MAX_EXTENTS, MAX_MESSAGE, MAX_MINIMUM_BLOCK, MAX_PARAMETERS, MAX_TEXT, MIN_STRIPE,
    PREFERRED_BLOCKS,
};
use super::control::ControlCommand;
use super::route::Rules;
use crate::block::{self, BlockSizes, MAX_SIZE, MAX_TRANSFER};
use crate::parameters::{
    Argument, ArgumentError, Link, Parameter, ParameterType, is_name, parse_arguments,
};

/// A component's description of itself, checked. All texts are printable lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The name that people use for it.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// A one-line summary.
    pub summary: String,
    /// The parameters that it takes.
    pub parameters: Vec<Parameter>,
    /// The parameter that a bare value sets, one of `parameters`.
    pub bare_parameter: Option<String>,
    /// Parameters with other names are accepted as well, as text.
    pub other_parameters: bool,
}

/// The parameter of a filter that is the device beneath.
pub const BASE: &str = "base";

impl Description {
    /// Returns how the component uses the device beneath, if it is a filter: it has the parameter
    /// [`BASE`], of the type device.
    pub fn base(&self) -> Option<Link> {
        self.parameters.iter().find_map(|one| match one.kind {
            ParameterType::Device(link) if one.name == BASE => Some(link),
            _ => None,
        })
    }

    /// Parses the words that people typed for a disk of the component.
    ///
    /// # Errors
    ///
    /// See [`parse_arguments`].
    pub fn parse_arguments(&self, words: &[String]) -> Result<Vec<Argument>, ArgumentError> {
        let bare = self.bare_parameter.as_deref();
        parse_arguments(&self.parameters, bare, self.other_parameters, words)
    }
}

/// What `open` returned, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The size in bytes, a multiple of `block_sizes.minimum`, at most [`MAX_SIZE`].
    pub size: u64,
    /// Valid according to [`BlockSizes`]. The maximum is the longest read or write of one call.
    pub block_sizes: BlockSizes,
    /// The operations that the component itself supports.
    pub capabilities: block::Capabilities,
    /// Whether the component reports extents.
    pub extents: bool,
    /// How instances share the disk.
    pub sharing: Sharing,
    /// Whether the host can read and write pages without a call.
    pub direct_access: bool,
    /// The locks of its requests, if the component routes them.
    pub rules: Option<Rules>,
    /// The commands that it takes while it is in use.
    pub commands: Vec<ControlCommand>,
    /// It is told of flushes, and of its end.
    pub events: bool,
    /// A description for people: at most 4096 bytes, without control characters.
    pub description: String,
}

/// How many instances may serve a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Only one.
    Exclusive,
    /// Any number, each of which serves the whole disk.
    Interchangeable,
    /// Any number, each of which serves its own stripes of `2^shift` bytes.
    Striped {
        /// The base-2 logarithm of the stripe size, at least 16.
        shift: u32,
    },
}

/// Checks the lengths of the chunks that `read` returned: each is at least one byte, and together
/// they are as long as requested.
pub(super) fn check_chunks(
    lengths: impl ExactSizeIterator<Item = u64>,
    wanted: u32,
) -> Result<(), Breach> {
    check_chunk_count(lengths.len())?;
    let mut got = 0;
    for (index, length) in lengths.enumerate() {
        if length == 0 {
            return Err(Breach::EmptyChunk { index });
        }
        // This cannot overflow: there are at most 4096 chunks, with 32-bit lengths.
        got += length;
    }
    match got == u64::from(wanted) {
        true => Ok(()),
        false => Err(Breach::ReadLength { wanted, got }),
    }
}

/// Checks the number of chunks, which is known before the chunks are decoded.
pub(super) fn check_chunk_count(count: usize) -> Result<(), Breach> {
    match count <= MAX_CHUNKS {
        true => Ok(()),
        false => Err(Breach::TooManyChunks(count)),
    }
}

/// Checks the extents returned for a range that begins `left` bytes before the end of the disk.
pub(super) fn check_extents(
    extents: &[bindings::Extent],
    left: u64,
    minimum_block: u32,
) -> Result<(), Breach> {
    if extents.is_empty() || extents.len() > MAX_EXTENTS {
        return Err(Breach::ExtentCount(extents.len()));
    }
    let mut rest = left;
    for (index, &bindings::Extent { length, .. }) in extents.iter().enumerate() {
        if length == 0 {
            return Err(Breach::EmptyExtent { index });
        }
        rest = rest.checked_sub(length).ok_or(Breach::ExtentBeyondEnd { index, length, rest })?;
        if length % u64::from(minimum_block) != 0 {
            return Err(Breach::ExtentUnaligned { index, length, minimum: minimum_block });
        }
    }
    Ok(())
}

/// Checks the parameters, and makes all other text printable.
pub(super) fn check_description(said: bindings::Description) -> Result<Description, Breach> {
    let parameters = check_parameters(said.parameters)?;
    if let Some(bare) = &said.bare_parameter
        && !parameters.iter().any(|parameter| parameter.name == *bare)
    {
        return Err(Breach::BareParameter(excerpt(bare)));
    }
    Ok(Description {
        name: printable(&said.name),
        version: printable(&said.version),
        summary: printable(&said.summary),
        parameters,
        bare_parameter: said.bare_parameter,
        other_parameters: said.other_parameters,
    })
}

/// Checks the parameters of a disk, or of one of its commands.
pub(super) fn check_parameters(said: Vec<bindings::Parameter>) -> Result<Vec<Parameter>, Breach> {
    if said.len() > MAX_PARAMETERS {
        return Err(Breach::TooManyParameters(said.len()));
    }
    let mut parameters: Vec<Parameter> = Vec::new();
    for parameter in said {
        if parameters.iter().any(|other| other.name == parameter.name) {
            return Err(Breach::ParameterTwice(excerpt(&parameter.name)));
        }
        parameters.push(check_parameter(parameter)?);
    }
    for parameter in &parameters {
        if let ParameterType::Output(Some(append)) = &parameter.kind
            && !parameters
                .iter()
                .any(|other| other.name == *append && other.kind == ParameterType::Boolean)
        {
            let (name, append) = (parameter.name.clone(), excerpt(append));
            return Err(Breach::AppendParameter { name, append });
        }
    }
    Ok(parameters)
}

fn check_parameter(said: bindings::Parameter) -> Result<Parameter, Breach> {
    let bindings::Parameter { name, summary, kind, required, repeatable, default } = said;
    if name.len() > MAX_TEXT || !is_name(&name) {
        return Err(Breach::ParameterName(excerpt(&name)));
    }
    let kind = match kind {
        bindings::ParameterType::Text => ParameterType::Text,
        bindings::ParameterType::Choice(words) => {
            if words.is_empty() || words.len() > MAX_PARAMETERS {
                return Err(Breach::ChoiceCount { name, count: words.len() });
            }
            ParameterType::Choice(words.iter().map(|word| printable(word)).collect())
        }
        bindings::ParameterType::Boolean => ParameterType::Boolean,
        bindings::ParameterType::Number(range) if range.minimum <= range.maximum => {
            ParameterType::Number(range.minimum..=range.maximum)
        }
        bindings::ParameterType::Size(range) if range.minimum <= range.maximum => {
            ParameterType::Size(range.minimum..=range.maximum)
        }
        bindings::ParameterType::Number(range) => {
            let (minimum, maximum) = (range.minimum.into(), range.maximum.into());
            return Err(Breach::EmptyRange { name, minimum, maximum });
        }
        bindings::ParameterType::Size(range) => {
            let (minimum, maximum) = (range.minimum.into(), range.maximum.into());
            return Err(Breach::EmptyRange { name, minimum, maximum });
        }
        bindings::ParameterType::Duration => ParameterType::Duration,
        bindings::ParameterType::Probability => ParameterType::Probability,
        bindings::ParameterType::Device(link) => ParameterType::Device(check_link(link)),
        bindings::ParameterType::File(link) => ParameterType::File(check_link(link)),
        bindings::ParameterType::Secret => ParameterType::Secret,
        bindings::ParameterType::Output(append) => ParameterType::Output(append),
    };
    let default = default.as_deref().map(printable);
    Ok(Parameter { name, summary: printable(&summary), kind, required, repeatable, default })
}

fn check_link(link: bindings::Link) -> Link {
    let has = |flag: bindings::Link| link & flag == flag;
    Link {
        writes: has(bindings::Link::WRITES),
        unshared: has(bindings::Link::UNSHARED),
        scratch: has(bindings::Link::SCRATCH),
    }
}

/// Checks the properties of a disk. `stripe` is the length of its stripes, or 0.
pub(super) fn check_disk(disk: &bindings::Disk, stripe: u64) -> Result<Disk, Breach> {
    if disk.size > MAX_SIZE {
        return Err(Breach::Size(disk.size));
    }
    let block_sizes = check_block_sizes(disk)?;
    let interchangeable = Capabilities::INTERCHANGEABLE;
    let sharing = match disk.capabilities & interchangeable == interchangeable {
        true if stripe > 0 => return Err(Breach::StripesInterchangeable(stripe)),
        true => Sharing::Interchangeable,
        false if stripe == 0 => Sharing::Exclusive,
        false => {
            // The stripe is a multiple of the minimum block, too: both are powers of two, and no
            // minimum block is larger than the smallest stripe.
            if !stripe.is_power_of_two() || stripe < MIN_STRIPE {
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
        rules: None,
        commands: Vec::new(),
        events: false,
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
        && minimum <= MAX_MINIMUM_BLOCK
        && preferred.is_power_of_two()
        && preferred >= minimum
        && PREFERRED_BLOCKS.contains(&preferred)
        && maximum >= preferred
        && maximum % minimum == 0;
    if !in_order {
        return Err(Breach::BlockSizes { minimum, preferred, maximum });
    }
    Ok(BlockSizes { minimum, preferred, maximum: maximum.min(MAX_TRANSFER) })
}

/// Returns the error of a request in printable form.
pub(super) fn check_error(said: bindings::Error) -> block::Error {
    let message = said.message.map(|text| printable_up_to(&text, MAX_MESSAGE));
    let message = message.filter(|text| !text.trim().is_empty());
    block::Error { code: said.code.into(), message: message.map(String::into_boxed_str) }
}

/// Returns a component's reason for not opening a disk, in printable form.
pub(super) fn refusal(said: bindings::Error) -> String {
    let block::Error { code, message } = check_error(said);
    match message {
        Some(text) => text.into(),
        None => format!("the component refused to open the disk ({code}) and gave no reason"),
    }
}

/// Returns the beginning of a text, for use in messages.
pub(super) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 60;
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}...", printable(&text[..end])),
        None => printable(text),
    }
}

/// Returns a component's text in printable form: of bounded length, without control characters, and
/// without characters that change the direction of the text around them.
pub(super) fn printable(text: &str) -> String {
    printable_up_to(text, MAX_TEXT)
}

pub(super) fn printable_up_to(text: &str, most: usize) -> String {
    let mut shown = String::new();
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    for c in text.chars().map(|c| if harmful(c) { ' ' } else { c }) {
        if shown.len() + c.len_utf8() > most {
            break;
        }
        shown.push(c);
    }
    shown
}
