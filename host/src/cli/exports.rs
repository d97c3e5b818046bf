//! The exports that the command line asks for.

use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::args::Args;
use super::budgets::Process;
use super::components::{self, Choice};
use super::loading::{Loader, Order};
use super::privileges::Identity;
use super::start::Planned;
use crate::component::{Component, Description};
use crate::disk::{Budgets, Recipe};
use crate::exports::{Export, Exports};

/// The longest name of an export, in bytes (spec: "Conventions").
const MAX_NAME: usize = 4096;

/// What an item of --export says to the host and not to the component.
const READ_ONLY: &str = "read-only";

/// Plans the exports: no foreign component runs, and nothing is opened. Every mistake that can be seen
/// by then is told.
pub(super) async fn plan(args: &Args, identity: &Identity) -> Result<Planned, Failure> {
    let (choice, values) = components::choose(args.component.as_deref(), &args.parameters);
    let alone = args.exports.is_empty();
    let has_main = alone || choice != Choice::Default || !values.is_empty();
    let process = Process::new(args, args.exports.len() + usize::from(has_main));
    if let Some(warning) = process.promises_too_much() {
        tracing::warn!("{warning}");
    }
    let cache_directory = cache_directory(identity.home());
    let mut loader = Loader::new(args, cache_directory, Some(process.memory().clone()));
    let mut list = Vec::new();
    let mut keep_open = Vec::new();
    if has_main {
        let name = match &choice {
            Choice::Default => components::DEFAULT,
            Choice::Named(name) => name,
        };
        let wish = Wish::new(args, &process, args.export_name(), values, false)?;
        list.push(export(&mut loader, name, name, wish).await?);
        keep_open.push(true);
    }
    for text in &args.exports {
        let Some(NamedExport { name, component, values }) = parse(text) else {
            return Err(Failure::Usage(format!(
                "--export {text:?}: it is written NAME=COMPONENT[,KEY=VALUE]..."
            )));
        };
        let wish = Wish::new(args, &process, &name, &values, true)?;
        list.push(export(&mut loader, text, &component, wish).await?);
        keep_open.push(false);
    }
    let exports = Exports::new(list).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Planned { exports: Arc::new(exports), keep_open })
}

async fn export(
    loader: &mut Loader,
    label: &str,
    component: &str,
    wish: Wish,
) -> Result<Arc<Export>, Failure> {
    let name = wish.export_name.clone();
    let supply = loader.supply(component).await?;
    let order = Order::new(supply, label, wish).map_err(Failure::Usage)?;
    Ok(Export::of_source(&name, Box::new(order)))
}

/// A disk as the command line describes it.
pub(super) struct Wish {
    export_name: String,
    values: Vec<String>,
    /// All disks are read-only.
    read_only: bool,
    /// What is the host's may be among the values.
    for_host: bool,
    budgets: Budgets,
}

impl Wish {
    fn new(
        args: &Args,
        process: &Process,
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

    /// The disk that it is with this component.
    ///
    /// # Errors
    ///
    /// Which of its parameters the component does not know, or misses.
    pub(super) fn recipe(&self, component: Component) -> Result<Recipe, String> {
        let description = component.description();
        let (own, values) = match self.for_host {
            true => for_host(description, &self.values)?,
            false => (None, self.values.clone()),
        };
        let parameters = components::parameters(description, &values)?;
        Ok(Recipe {
            component,
            export_name: self.export_name.clone(),
            read_only: self.read_only || own == Some(true),
            parameters,
            budgets: self.budgets.clone(),
        })
    }
}

/// Takes what is for the host out of the items of --export: whether it is read-only, unless the
/// component has a parameter of that name.
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

/// `--export` as it is meant.
#[derive(Debug, PartialEq, Eq)]
struct NamedExport {
    name: String,
    component: String,
    values: Vec<String>,
}

/// Takes `NAME=COMPONENT[,KEY=VALUE]...` apart; two commas stand for one that does not separate.
fn parse(text: &str) -> Option<NamedExport> {
    let (name, rest) = text.split_once('=')?;
    let mut parts = vec![String::new()];
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    let values = parts.split_off(1);
    let component = parts.pop().filter(|component| !component.is_empty())?;
    Some(NamedExport { name: name.to_owned(), component, values })
}

/// Where compiled components are kept: below the user's cache directory (the XDG Base Directory
/// Specification), if there is one. `home` is that of the user whom the process becomes.
pub(super) fn cache_directory(home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(home.or_else(|| absolute("HOME"))?.join(".cache")))?;
    Some(cache.join("memnbd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Parameter;

    #[test]
    fn an_export_is_a_name_a_component_and_its_parameters() {
        let export = |name: &str, component: &str, values: &[&str]| {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            Some(NamedExport { name: name.into(), component: component.into(), values })
        };
        assert_eq!(parse("a=memory"), export("a", "memory", &[]));
        assert_eq!(parse("a b=memory,2G"), export("a b", "memory", &["2G"]));
        assert_eq!(parse("=./x.wasm,k=v,l=a,,b"), export("", "./x.wasm", &["k=v", "l=a,b"]));
        for bad in ["", "a", "a=", "a=,size=1G"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    fn with_parameters(names: &[&str]) -> Description {
        let parameter = |name: &&str| Parameter {
            name: (*name).into(),
            summary: String::new(),
            required: false,
            default: None,
        };
        Description {
            name: "x".into(),
            version: String::new(),
            summary: String::new(),
            parameters: names.iter().map(parameter).collect(),
            bare_parameter: names.first().map(|&name| name.into()),
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
