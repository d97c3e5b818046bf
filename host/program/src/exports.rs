//! The exports that the command line asks for.

use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::args::Args;
use super::budgets;
use super::components::{self, Choice};
use super::file::{self, FileSource};
use super::loading::{ExportSource, Loader};
use super::privileges::Identity;
use super::start::Planned;
use super::wish::Wish;
use memnbd::exports::{Export, Exports, Source};

/// The name in --export that stands for all that clients ask for.
const ANY_NAME: &str = "*";

/// How many exports there can be at a time for [`ANY_NAME`].
const MAX_ON_DEMAND: usize = 256;

/// Plans the exports. No third-party component is run and no disk is opened, but every mistake that
/// can be detected without that is reported.
pub(super) async fn plan(args: &Args, identity: &Identity) -> Result<Planned, Failure> {
    for flag in &args.logging.debug_flags {
        tracing::debug!("-D {flag} is ignored: components have no debug flags");
    }
    let (choice, values) = components::choose(args.component.as_deref(), &args.parameters);
    let alone = args.exports.is_empty();
    let has_main = alone || choice != Choice::Default || !values.is_empty();
    let process = budgets::process(args, args.exports.len() + usize::from(has_main));
    if let Some(warning) = budgets::promises_too_much(&process) {
        tracing::warn!("{warning}");
    }
    let cache_directory = cache_directory(identity.home());
    let mut loader = Loader::new(args, cache_directory, Some(process.memory().clone()));
    let mut list = Vec::new();
    let mut keep_open = Vec::new();
    let mut on_demand = None;
    if has_main {
        let name = match &choice {
            Choice::Default => components::DEFAULT,
            Choice::Named(name) => name,
        };
        let wish = Wish::new(args, &process, args.export_name(), values, false)?;
        let disk = Disk::new(&mut loader, name, name, wish).await?;
        list.push(disk.export(args.export_name(), args.private));
        keep_open.push(true);
    }
    for text in &args.exports {
        let Some(NamedExport { name, component, values }) = parse(text) else {
            return Err(Failure::Usage(format!(
                "--export {text:?}: it is written NAME=COMPONENT[,KEY=VALUE]..."
            )));
        };
        let wish = Wish::new(args, &process, &name, &values, true)?;
        let disk = Disk::new(&mut loader, text, &component, wish).await?;
        if name == ANY_NAME {
            if on_demand.replace(disk).is_some() {
                return Err(Failure::Usage(format!("--export {ANY_NAME}=... is given twice")));
            }
            continue;
        }
        list.push(disk.export(&name, args.private));
        keep_open.push(false);
    }
    let exports = Exports::new(list).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(disk) = on_demand {
        let private = args.private;
        exports.on_demand(MAX_ON_DEMAND, Box::new(move |name| disk.export(name, private)));
    }
    Ok(Planned { exports: Arc::new(exports), keep_open })
}

/// A disk that was asked for, of which exports can be made.
enum Disk {
    Component(Box<ExportSource>),
    File(FileSource),
}

impl Disk {
    async fn new(
        loader: &mut Loader,
        label: &str,
        component: &str,
        wish: Wish,
    ) -> Result<Self, Failure> {
        if component == file::NAME {
            return Ok(Self::File(FileSource::new(label, wish).map_err(Failure::Usage)?));
        }
        let supply = loader.supply(component).await?;
        let source = ExportSource::new(supply, label, wish).map_err(Failure::Usage)?;
        Ok(Self::Component(Box::new(source)))
    }

    fn export(&self, name: &str, private: bool) -> Arc<Export> {
        let source: Box<dyn Source> = match self {
            Self::Component(source) => Box::new(source.named(name)),
            Self::File(source) => Box::new(source.named(name)),
        };
        let export = Export::of_source(name, source);
        if private { export.private() } else { export }
    }
}

/// A parsed `--export` option.
#[derive(Debug, PartialEq, Eq)]
struct NamedExport {
    name: String,
    component: String,
    values: Vec<String>,
}

/// Parses `NAME=COMPONENT[,KEY=VALUE]...`, where two commas stand for a literal comma.
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

/// Returns the directory where compiled components are cached: below the user's cache directory
/// (XDG Base Directory Specification), if there is one. `home` is the home directory of the user
/// that the process will become.
pub(super) fn cache_directory(home: Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = absolute("XDG_CACHE_HOME")
        .or_else(|| Some(home.or_else(|| absolute("HOME"))?.join(".cache")))?;
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
