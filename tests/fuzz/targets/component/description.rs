//! What `describe` returns.

use memnbd::component::Description;

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
    required: bool,
    default: Option<&'a str>,
}

/// A description of the model.
struct All<'a> {
    /// The name, the version and the summary.
    texts: [&'a str; 3],
    parameters: Vec<Said<'a>>,
    bare: Option<&'a str>,
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
            said.name.len() + said.summary.len() + said.default.map_or(0, str::len)
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
        && said.bare.is_none_or(|bare| names.contains(&bare))
}

fn check(description: &Description, said: &All<'_>) {
    let Description { name, version, summary, parameters, bare_parameter } = description;
    for (shown, said) in [name, version, summary].into_iter().zip(said.texts) {
        check_shown(shown, said);
    }
    assert_eq!(bare_parameter.as_deref(), said.bare);
    assert_eq!(parameters.len(), said.parameters.len());
    for (parameter, said) in parameters.iter().zip(&said.parameters) {
        assert_eq!((parameter.name.as_str(), parameter.required), (said.name, said.required));
        check_shown(&parameter.summary, said.summary);
        match (&parameter.default, said.default) {
            (Some(shown), Some(said)) => check_shown(shown, said),
            (shown, said) => assert!(shown.is_none() && said.is_none()),
        }
    }
}

/// `description`.
fn lift(memory: &Memory) -> Option<All<'_>> {
    let at = memory.answer(44, 4)?;
    let parameters = memory.list(at + 24, 32, 4)?;
    let parameter = |index| {
        let at = parameters.at + 32 * index;
        Some(Said {
            name: memory.string(at)?,
            summary: memory.string(at + 8)?,
            required: memory.u8(at + 16) != 0,
            default: memory.option(at + 20)?,
        })
    };
    Some(All {
        texts: [memory.string(at)?, memory.string(at + 8)?, memory.string(at + 16)?],
        parameters: (0..parameters.length).map(parameter).collect::<Option<_>>()?,
        bare: memory.option(at + 32)?,
    })
}
