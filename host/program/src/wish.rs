//! A disk as requested on the command line, before its component is loaded.

use super::Failure;
use super::args::Args;
use memnbd::component::{Component, Description};
use memnbd::device::Buffers;
use memnbd::device::guest::{Budgets, DiskConfig};
use memnbd::exports::ProcessBudgets;
use memnbd::parameters::Argument;

/// The longest name of an export, in bytes (spec: "Conventions").
const MAX_NAME: usize = 4096;

/// The item of --export that is meant for the host, not for the component.
const READ_ONLY: &str = "read-only";

/// The command line's description of a disk.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) export_name: String,
    values: Vec<String>,
    /// True if all disks are read-only.
    read_only: bool,
    /// True if `values` may include items for the host.
    for_host: bool,
    budgets: Budgets,
}

impl Wish {
    pub(super) fn new(
        args: &Args,
        process: &ProcessBudgets,
        name: &str,
        values: &[String],
        for_host: bool,
    ) -> Result<Self, Failure> {
        if name.len() > MAX_NAME {
            return Err(Failure::Usage(format!(
                "the name of an export has {} bytes, at most {MAX_NAME} are possible",
                name.len()
            )));
        }
        Ok(Self {
            export_name: name.to_owned(),
            values: values.to_vec(),
            read_only: args.read_only,
            for_host,
            budgets: process.export(),
        })
    }

    /// Returns the same wish for an export of another name.
    pub(super) fn named(&self, name: &str) -> Self {
        Self { export_name: name.to_owned(), ..self.clone() }
    }

    /// Returns the configuration of the disk with this component.
    ///
    /// # Errors
    ///
    /// Returns a message if a parameter is unknown to the component, missing or malformed.
    pub(super) fn config(&self, component: Component) -> Result<DiskConfig, String> {
        let (read_only, arguments) = self.parse(component.description())?;
        Ok(DiskConfig {
            component,
            export_name: self.export_name.clone(),
            read_only,
            arguments,
            budgets: self.budgets.clone(),
            lowers: Vec::new(),
        })
    }

    /// Parses the words that were typed for the disk, and tells whether it is read-only.
    ///
    /// # Errors
    ///
    /// Returns a message if a parameter is unknown, missing or malformed.
    pub(super) fn parse(&self, known: &Description) -> Result<(bool, Vec<Argument>), String> {
        let (own, values) = match self.for_host {
            true => for_host(known, &self.values)?,
            false => (None, self.values.clone()),
        };
        let arguments = known.parse_arguments(&values);
        let arguments = arguments.map_err(|error| error.of(&known.name).to_string())?;
        Ok((self.read_only || own == Some(true), arguments))
    }

    /// The budget for the payloads of requests.
    pub(super) fn buffers(&self) -> Buffers {
        self.budgets.buffers.clone()
    }
}

/// Splits the items of --export into the one for the host, whether the disk is read-only, and the
/// rest. All are for the component if it has a parameter of that name itself.
fn for_host(
    description: &Description,
    values: &[String],
) -> Result<(Option<bool>, Vec<String>), String> {
    if description.parameters.iter().any(|parameter| parameter.name == READ_ONLY) {
        return Ok((None, values.to_vec()));
    }
    let mut read_only = None;
    let mut rest = Vec::new();
    for value in values {
        let said = match value.strip_prefix(READ_ONLY) {
            Some("" | "=true") => true,
            Some("=false") => false,
            Some(other) if other.starts_with('=') => {
                return Err(format!("{value:?}: {READ_ONLY} is true or false"));
            }
            _ => {
                rest.push(value.clone());
                continue;
            }
        };
        if read_only.replace(said).is_some() {
            return Err(format!("{READ_ONLY} is given twice"));
        }
    }
    Ok((read_only, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use memnbd::parameters::{Parameter, ParameterType};

    fn with_parameters(names: &[&str]) -> Description {
        let parameter = |name: &&str| Parameter {
            name: (*name).into(),
            summary: String::new(),
            kind: ParameterType::Text,
            required: false,
            repeatable: false,
            default: None,
        };
        Description {
            name: "x".into(),
            version: String::new(),
            summary: String::new(),
            parameters: names.iter().map(parameter).collect(),
            bare_parameter: names.first().map(|&name| name.into()),
            other_parameters: false,
        }
    }

    #[test]
    fn read_only_is_for_the_host_unless_the_component_has_it() {
        let strings = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>();
        let plain = with_parameters(&["size"]);
        let taken = |values: &[&str]| for_host(&plain, &strings(values));
        assert_eq!(taken(&["1M"]), Ok((None, strings(&["1M"]))));
        assert_eq!(taken(&["1M", "read-only"]), Ok((Some(true), strings(&["1M"]))));
        assert_eq!(taken(&["read-only=true", "1M"]), Ok((Some(true), strings(&["1M"]))));
        assert_eq!(taken(&["read-only=false"]), Ok((Some(false), vec![])));
        let others = ["read-only-x", "size=read-only"];
        assert_eq!(taken(&others), Ok((None, strings(&others))));
        assert!(taken(&["read-only=yes"]).unwrap_err().contains("true or false"));
        assert!(taken(&["read-only", "read-only=false"]).unwrap_err().contains("twice"));
        let own = with_parameters(&["size", "read-only"]);
        let values = strings(&["1M", "read-only=maybe"]);
        assert_eq!(for_host(&own, &values), Ok((None, values.clone())));
    }
}
