//! The exports that the command line asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::Failure;
use super::args::Args;
use super::budgets::Process;
use super::components::{self, Choice, Source};
use crate::component::{Component, Engine};
use crate::disk::{OpenError, Recipe};
use crate::exports::{Export, Exports};

/// The longest name of an export, in bytes (spec: "Conventions").
const MAX_NAME: usize = 4096;

/// Loads the components and opens the disks once, so that every mistake is told.
pub(super) async fn all(args: &Args) -> Result<Exports, Failure> {
    let mut loader = Loader::new(args);
    if let Some(warning) = loader.process.promises_too_much() {
        tracing::warn!("{warning}");
    }
    let mut list = Vec::new();
    let (choice, values) = components::choose(args.component.as_deref(), &args.parameters);
    let alone = args.exports.is_empty();
    if alone || choice != Choice::Default || !values.is_empty() {
        let name = match &choice {
            Choice::Default => components::DEFAULT,
            Choice::Named(name) => name,
        };
        let export = loader.export(args.export_name(), name, values).await?;
        export.open().await.map_err(|error| cannot_open(name, &error))?;
        list.push(export);
    }
    for text in &args.exports {
        let Some(NamedExport { name, component, values }) = parse(text) else {
            return Err(Failure::Usage(format!(
                "--export {text:?}: it is written NAME=COMPONENT[,KEY=VALUE]..."
            )));
        };
        let export = loader.export(&name, &component, &values).await?;
        export.try_open().await.map_err(|error| cannot_open(text, &error))?;
        list.push(export);
    }
    Exports::new(list).map_err(|error| Failure::Usage(error.to_string()))
}

fn cannot_open(what: &str, error: &OpenError) -> anyhow::Error {
    anyhow::anyhow!("{what}: {error}")
}

/// Loads each component once.
pub(super) struct Loader<'a> {
    args: &'a Args,
    engine: Engine,
    process: Process,
    loaded: HashMap<String, Component>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(args: &'a Args) -> Self {
        let engine = Engine::with_cache(args.deadline, cache_directory().as_deref());
        let process = Process::new(args, args.exports.len() + 1);
        Self { args, engine, process, loaded: HashMap::new() }
    }

    pub(super) async fn component(&mut self, name: &str) -> Result<Component, Failure> {
        if let Some(component) = self.loaded.get(name) {
            return Ok(component.clone());
        }
        let component = match components::find(name).map_err(Failure::Usage)? {
            Source::File(wasm) => self.engine.load(&components::short_name(name), &wasm).await,
            Source::BuiltIn(built_in) => self.engine.load_built_in(built_in).await,
        };
        let component = component.with_context(|| format!("load component {name}"))?;
        self.loaded.insert(name.to_owned(), component.clone());
        Ok(component)
    }

    async fn export(
        &mut self,
        export_name: &str,
        component: &str,
        values: &[String],
    ) -> Result<Arc<Export>, Failure> {
        if export_name.len() > MAX_NAME {
            let length = export_name.len();
            return Err(Failure::Usage(format!(
                "the name of an export has {length} bytes, at most {MAX_NAME} are possible"
            )));
        }
        let component = self.component(component).await?;
        let parameters =
            components::parameters(component.description(), values).map_err(Failure::Usage)?;
        Ok(Export::new(Recipe {
            component,
            export_name: export_name.to_owned(),
            read_only: self.args.read_only,
            parameters,
            budgets: self.process.export(),
        }))
    }
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
/// Specification), if there is one.
pub(super) fn cache_directory() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("memnbd"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
