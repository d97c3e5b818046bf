//! Which words of the command line are for which layer of a disk.

use memnbd::component::{BASE, Description};
use memnbd::parameters::{key_value, nearest};

/// The item of --export that is meant for the host, not for a component.
const READ_ONLY: &str = "read-only";

/// The words of a disk, by layer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// The filters, the one nearest to the client first, and then the backend.
    pub(super) layers: Vec<Vec<String>>,
    /// The disk is read-only.
    pub(super) read_only: bool,
}

/// Distributes words over the layers of a disk.
///
/// As in nbdkit, KEY=VALUE is for the layer nearest to the client that has a parameter KEY, and only for
/// that one; what is not KEY=VALUE is for the backend. NAME.KEY=VALUE is for the layer NAME. With
/// `for_host`, the item `read-only` is for the host, unless a layer has a parameter of that name.
///
/// # Errors
///
/// Returns a message if a word is for no layer.
pub(super) fn distribute(
    filters: &[&Description],
    backend: &Description,
    words: &[String],
    for_host: bool,
) -> Result<Words, String> {
    let all: Vec<&Description> = filters.iter().copied().chain([backend]).collect();
    let mut layers = vec![Vec::new(); all.len()];
    let mut read_only = None;
    // Filters have it, but there it is what is beneath them.
    let has = |index: usize, key: &str| {
        let is_base = index < filters.len() && key == BASE;
        !is_base && all[index].parameters.iter().any(|parameter| parameter.name == key)
    };
    let for_host = for_host && !(0..all.len()).any(|index| has(index, READ_ONLY));
    for word in words {
        if for_host && let Some(said) = read_only_item(word)? {
            if read_only.replace(said).is_some() {
                return Err(format!("{READ_ONLY} is given twice"));
            }
            continue;
        }
        if let Some((index, rest)) = addressed(&all, word) {
            if index < filters.len() && rest.split('=').next() == Some(BASE) {
                return Err(format!(
                    "{word:?}: {BASE} of a filter is the layer beneath it and cannot be given"
                ));
            }
            layers[index].push(rest.to_owned());
            continue;
        }
        let index = match key_value(word) {
            Some((key, _)) => match (0..all.len()).find(|&index| has(index, key)) {
                Some(index) => index,
                None if filters.is_empty() || backend.other_parameters => filters.len(),
                None => return Err(unknown(&all, key)),
            },
            None => filters.len(),
        };
        layers[index].push(word.clone());
    }
    Ok(Words { layers, read_only: read_only == Some(true) })
}

/// Returns the layer that NAME.KEY=VALUE names, and KEY=VALUE.
fn addressed<'a>(all: &[&Description], word: &'a str) -> Option<(usize, &'a str)> {
    let (name, rest) = word.split_once('.')?;
    key_value(rest)?;
    Some((all.iter().position(|layer| layer.name == name)?, rest))
}

fn read_only_item(word: &str) -> Result<Option<bool>, String> {
    match word.strip_prefix(READ_ONLY) {
        Some("" | "=true") => Ok(Some(true)),
        Some("=false") => Ok(Some(false)),
        Some(other) if other.starts_with('=') => {
            Err(format!("{word:?}: {READ_ONLY} is true or false"))
        }
        _ => Ok(None),
    }
}

fn unknown(all: &[&Description], key: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut owners = Vec::new();
    for layer in all {
        let own = layer.parameters.iter().map(|parameter| parameter.name.as_str());
        let own: Vec<&str> = own.filter(|&name| name != BASE).collect();
        owners.push(match own.as_slice() {
            [] => format!("{} has none", layer.name),
            own => format!("{} has {}", layer.name, own.join(", ")),
        });
        names.extend(own);
    }
    let near = nearest(key, names);
    let guess = near.map_or_else(String::new, |near| format!(" (did you mean {near:?}?)"));
    format!("no layer has a parameter {key:?}{guess}; {}", owners.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memnbd::parameters::{Parameter, ParameterType};

    fn layer(name: &str, parameters: &[&str]) -> Description {
        let parameter = |name: &&str| Parameter {
            name: (*name).into(),
            summary: String::new(),
            kind: ParameterType::Text,
            required: false,
            repeatable: false,
            default: None,
        };
        Description {
            name: name.into(),
            version: String::new(),
            summary: String::new(),
            parameters: parameters.iter().map(parameter).collect(),
            bare_parameter: parameters.first().map(|&name| name.into()),
            other_parameters: false,
        }
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn words_are_for_the_layer_nearest_to_the_client_that_knows_them() {
        let (error, delay) =
            (layer("error", &["base", "rate", "x"]), layer("delay", &["base", "x"]));
        let cow = layer("cow", &["base", "size"]);
        let split = |words: &[&str]| {
            let words = distribute(&[&error, &delay], &cow, &strings(words), false);
            words.map(|words| words.layers)
        };
        assert_eq!(
            split(&["1M", "rate=1", "x=2", "delay.x=3", "size=4", "cow.size=5"]),
            Ok(vec![
                strings(&["rate=1", "x=2"]),
                strings(&["x=3"]),
                strings(&["1M", "size=4", "size=5"]),
            ])
        );
        assert_eq!(
            split(&["base=golden"]),
            Ok(vec![vec![], vec![], strings(&["base=golden"])]),
            "a filter's is the layer beneath it"
        );
        let refused = split(&["error.base=golden"]).unwrap_err();
        assert!(refused.contains("the layer beneath it"), "{refused}");
        let refused = split(&["rat=1"]).unwrap_err();
        assert_eq!(
            refused,
            "no layer has a parameter \"rat\" (did you mean \"rate\"?); error has rate, x; delay has \
             x; cow has size"
        );
        assert_eq!(split(&["./a.b=c"]), Ok(vec![vec![], vec![], strings(&["./a.b=c"])]));
    }

    #[test]
    fn backend_may_take_any_key() {
        let error = layer("error", &["base", "rate"]);
        let data = Description { other_parameters: true, ..layer("data", &["data"]) };
        let words = distribute(&[&error], &data, &strings(&["a=1", "rate=2", "3"]), false).unwrap();
        assert_eq!(words.layers, [strings(&["rate=2"]), strings(&["a=1", "3"])]);
    }

    #[test]
    fn read_only_is_for_the_host_unless_a_layer_has_it() {
        let plain = layer("x", &["size"]);
        let taken = |words: &[&str]| {
            let words = distribute(&[], &plain, &strings(words), true)?;
            Ok::<_, String>((words.read_only, words.layers.concat()))
        };
        assert_eq!(taken(&["1M"]), Ok((false, strings(&["1M"]))));
        assert_eq!(taken(&["1M", "read-only"]), Ok((true, strings(&["1M"]))));
        assert_eq!(taken(&["read-only=true", "1M"]), Ok((true, strings(&["1M"]))));
        assert_eq!(taken(&["read-only=false"]), Ok((false, vec![])));
        let others = ["read-only-x", "size=read-only"];
        assert_eq!(taken(&others), Ok((false, strings(&others))));
        assert!(taken(&["read-only=yes"]).unwrap_err().contains("true or false"));
        assert!(taken(&["read-only", "read-only=false"]).unwrap_err().contains("twice"));
        let own = layer("x", &["size", "read-only"]);
        let words = strings(&["1M", "read-only=maybe"]);
        let layers = vec![words.clone()];
        assert_eq!(distribute(&[], &own, &words, true), Ok(Words { layers, read_only: false }));
    }
}
