//! What `describe` returns.

use memnbd::component::Description;
use memnbd::parameters::ParameterType;

use super::guest::{check_fault, with_instance, write};
use super::memory::Memory;
use super::{MAX_TEXT, check_shown};

/// The most parameters that a component may have.
const MAX_PARAMETERS: usize = 256;

/// As much text is copied out of a guest whatever happens, in bytes; far more is not.
const COPIED: usize = 32 << 20;

/// A parameter of the model, as the component has it.
struct Said<'a> {
    name: &'a str,
    summary: &'a str,
    kind: Kind<'a>,
    required: bool,
    repeatable: bool,
    default: Option<&'a str>,
}

/// `parameter-type`.
enum Kind<'a> {
    /// A case without a payload, by its number.
    Plain(u8),
    /// `device` or `file`, by its number, with its flags.
    Device(u8, u8),
    Choice(Vec<&'a str>),
    Number(i64, i64),
    Size(u64, u64),
    Output(Option<&'a str>),
}

/// A description of the model.
struct All<'a> {
    /// The name, the version and the summary.
    texts: [&'a str; 3],
    parameters: Vec<Said<'a>>,
    bare: Option<&'a str>,
    others: bool,
}

/// The bytes are the guest's memory.
pub(crate) fn description(data: &[u8]) {
    let memory = Memory::new(data);
    let lifted = lift(&memory);
    with_instance(None, async |mut instance| {
        write(&mut instance, &memory).await;
        match (instance.describe().await, lifted) {
            (Ok(description), Some(said)) => {
                assert!(is_in_order(&said), "{description:?}");
                check(&description, &said);
            }
            (Err(fault), lifted) => {
                let is_copied = lifted.is_some_and(|said| {
                    let is_copied = said.length() <= COPIED;
                    assert!(!is_copied || !is_in_order(&said), "nothing is wrong: {fault}");
                    is_copied
                });
                check_fault(&fault, is_copied);
            }
            (Ok(description), None) => panic!("{description:?} cannot be lifted"),
        }
    });
}

impl All<'_> {
    /// How many bytes of text there are.
    fn length(&self) -> usize {
        let of = |said: &Said<'_>| {
            let words = match &said.kind {
                Kind::Choice(words) => words.iter().map(|word| word.len()).sum(),
                Kind::Output(Some(append)) => append.len(),
                _ => 0,
            };
            said.name.len() + said.summary.len() + words + said.default.map_or(0, str::len)
        };
        let parameters: usize = self.parameters.iter().map(of).sum();
        parameters + self.texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// The rules of the contract.
fn is_in_order(said: &All<'_>) -> bool {
    let names: Vec<&str> = said.parameters.iter().map(|parameter| parameter.name).collect();
    let is_name = |name: &&str| {
        let mut bytes = name.bytes();
        name.len() <= MAX_TEXT
            && bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    names.len() <= MAX_PARAMETERS
        && names.iter().all(is_name)
        && names.iter().enumerate().all(|(index, name)| !names[..index].contains(name))
        && said.parameters.iter().all(|parameter| match &parameter.kind {
            Kind::Plain(_) | Kind::Device(..) => true,
            Kind::Choice(words) => (1..=MAX_PARAMETERS).contains(&words.len()),
            Kind::Number(minimum, maximum) => minimum <= maximum,
            Kind::Size(minimum, maximum) => minimum <= maximum,
            Kind::Output(append) => append.is_none_or(|append| {
                let named = |other: &Said<'_>| other.name == append;
                said.parameters
                    .iter()
                    .any(|other| named(other) && matches!(other.kind, Kind::Plain(2)))
            }),
        })
        && said.bare.is_none_or(|bare| names.contains(&bare))
}

fn check(description: &Description, said: &All<'_>) {
    let Description { name, version, summary, parameters, bare_parameter, other_parameters } =
        description;
    assert_eq!(*other_parameters, said.others);
    for (shown, said) in [name, version, summary].into_iter().zip(said.texts) {
        check_shown(shown, said);
    }
    assert_eq!(bare_parameter.as_deref(), said.bare);
    assert_eq!(parameters.len(), said.parameters.len());
    for (parameter, said) in parameters.iter().zip(&said.parameters) {
        assert_eq!((parameter.name.as_str(), parameter.required), (said.name, said.required));
        assert_eq!(parameter.repeatable, said.repeatable);
        match (&parameter.kind, &said.kind) {
            (ParameterType::Choice(shown), Kind::Choice(said)) => {
                assert_eq!(shown.len(), said.len());
                shown.iter().zip(said).for_each(|(shown, said)| check_shown(shown, said));
            }
            (ParameterType::Number(range), Kind::Number(minimum, maximum)) => {
                assert_eq!(*range, *minimum..=*maximum);
            }
            (ParameterType::Size(range), Kind::Size(minimum, maximum)) => {
                assert_eq!(*range, *minimum..=*maximum);
            }
            (ParameterType::Output(append), Kind::Output(said)) => {
                assert_eq!(append.as_deref(), *said);
            }
            (ParameterType::Text, Kind::Plain(0))
            | (ParameterType::Boolean, Kind::Plain(2))
            | (ParameterType::Duration, Kind::Plain(5))
            | (ParameterType::Probability, Kind::Plain(6))
            | (ParameterType::Secret, Kind::Plain(9)) => {}
            (ParameterType::Device(link), Kind::Device(7, flags))
            | (ParameterType::File(link), Kind::Device(8, flags)) => {
                assert_eq!((link.writes, link.unshared), (flags & 1 != 0, flags & 2 != 0));
            }
            (other, _) => panic!("another type: {other:?}"),
        }
        check_shown(&parameter.summary, said.summary);
        match (&parameter.default, said.default) {
            (Some(shown), Some(said)) => check_shown(shown, said),
            (shown, said) => assert!(shown.is_none() && said.is_none()),
        }
    }
}

/// `description`.
fn lift(memory: &Memory) -> Option<All<'_>> {
    let at = memory.answer(48, 4)?;
    let parameters = memory.list(at + 24, 56, 8)?;
    let parameter = |index| {
        let at = parameters.at + 56 * index;
        Some(Said {
            name: memory.string(at)?,
            summary: memory.string(at + 8)?,
            kind: kind(memory, at + 16)?,
            required: memory.u8(at + 40) != 0,
            repeatable: memory.u8(at + 41) != 0,
            default: memory.option(at + 44)?,
        })
    };
    Some(All {
        texts: [memory.string(at)?, memory.string(at + 8)?, memory.string(at + 16)?],
        parameters: (0..parameters.length).map(parameter).collect::<Option<_>>()?,
        bare: memory.option(at + 32)?,
        others: memory.u8(at + 44) != 0,
    })
}

/// `parameter-type`.
fn kind(memory: &Memory, at: u32) -> Option<Kind<'_>> {
    let payload = at + 8;
    Some(match memory.u8(at) {
        plain @ (0 | 2 | 5 | 6 | 9) => Kind::Plain(plain),
        device @ (7 | 8) => Kind::Device(device, memory.u8(payload)),
        1 => {
            let words = memory.list(payload, 8, 4)?;
            let word = |index| memory.string(words.at + 8 * index);
            Kind::Choice((0..words.length).map(word).collect::<Option<_>>()?)
        }
        3 => {
            let bound = |at| memory.u64(at).map(u64::cast_signed);
            Kind::Number(bound(payload)?, bound(payload + 8)?)
        }
        4 => Kind::Size(memory.u64(payload)?, memory.u64(payload + 8)?),
        10 => Kind::Output(memory.option(payload)?),
        _ => return None,
    })
}
