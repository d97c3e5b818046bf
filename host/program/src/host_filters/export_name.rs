//! The filter `exportname`: rules for the names of exports.

use memnbd::exports::{Described, ListedNames, Naming};
use memnbd::parameters::{Argument, Value};

/// What exportdesc= begins with for a text, and for a command.
const FIXED: &str = "fixed:";
const SCRIPT: &str = "script:";

/// The longest name or description, as in the protocol.
const MAX_LENGTH: usize = 4096;

/// Returns the rules that arguments give.
///
/// # Errors
///
/// Returns a message if a description is none, or something is too long.
pub(super) fn naming(arguments: &[Argument]) -> Result<Naming, String> {
    let mut naming = Naming::default();
    for Argument { name, value } in arguments {
        match (name.as_str(), value) {
            (_, Value::Text(text)) if text.len() > MAX_LENGTH => {
                return Err(format!("{name}: it has more than {MAX_LENGTH} bytes"));
            }
            ("default-export", Value::Text(export)) => {
                naming.default = (!export.is_empty()).then(|| export.clone());
            }
            ("exportname", Value::Text(export)) => naming.names.push(export.clone()),
            ("exportname-strict", Value::Boolean(strict)) => naming.strict = *strict,
            ("exportname-list", Value::Text(mode)) => {
                naming.listed = match mode.as_str() {
                    "error" => ListedNames::Denied,
                    "empty" => ListedNames::None,
                    "defaultonly" => ListedNames::Default,
                    "explicit" => ListedNames::These,
                    _ => ListedNames::All,
                };
            }
            ("exportdesc", Value::Text(text)) => naming.description = described(text)?,
            _ => {}
        }
    }
    Ok(naming)
}

fn described(text: &str) -> Result<Described, String> {
    if text.starts_with(SCRIPT) {
        return Err(
            "exportdesc: scripts are not run here; give keep, none, or fixed: and a text".into()
        );
    }
    match (text, text.strip_prefix(FIXED)) {
        (_, Some(text)) => Ok(Described::As(text.into())),
        ("keep", None) => Ok(Described::Own),
        ("none", None) => Ok(Described::Not),
        _ => Err(format!("exportdesc: {text:?} must be keep, none, or fixed: and a text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(name: &str, value: &str) -> Argument {
        Argument { name: name.into(), value: Value::Text(value.into()) }
    }

    #[test]
    fn arguments_make_rules() {
        let arguments = [
            argument("default-export", "a"),
            argument("exportname", "a"),
            argument("exportname", "b"),
            argument("exportname-list", "explicit"),
            argument("exportdesc", "fixed:all the same"),
            Argument { name: "exportname-strict".into(), value: Value::Boolean(true) },
        ];
        let expected = Naming {
            default: Some("a".into()),
            names: vec!["a".into(), "b".into()],
            strict: true,
            listed: ListedNames::These,
            description: Described::As("all the same".into()),
        };
        assert_eq!(naming(&arguments).unwrap(), expected);
        assert_eq!(naming(&[argument("default-export", "")]).unwrap(), Naming::default());
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (value, words) in [
            ("script:ls", "scripts are not run here; give keep, none, or fixed:"),
            ("all", "\"all\" must be keep, none, or fixed:"),
            (&"x".repeat(5000), "exportdesc: it has more than 4096 bytes"),
        ] {
            let error = naming(&[argument("exportdesc", value)]).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
