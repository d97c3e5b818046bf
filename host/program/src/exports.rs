//! The exports that the command line asks for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::Failure;
use super::args::Args;
use super::budgets;
use super::chain::{Bottom, Chain};
use super::components::{self, Choice};
use super::config::{Config, ConfigFile, ConfiguredTenant};
use super::control::{Entries, Founded, FromFile, offer_at_start};
use super::grants::Grants;
use super::host_filters::{HostFilters, Place};
use super::loading::Loader;
use super::making::{Layers, Made, Maker, export};
use super::nbdkit::Manner;
use super::plan::{self, Listen};
use super::preload::Preload;
use super::privileges::Identity;
use super::start::{OfServer, Planned};
use super::wish::Wish;
use memnbd::component::{Broker, Listed, ListedExport};
use memnbd::device::Text;
use memnbd::device::file::files_in;
use memnbd::exports::{Export, Exports, Finding, KnownExports, ProcessBudgets};
use memnbd::output::Outputs;
use memnbd::parameters::key_value;

/// The name in --export that stands for all that clients ask for.
const ANY_NAME: &str = "*";

/// The rule for the names of files in a directory.
const IN_DIRECTORY: &str = "the files of a directory are exports of their own names";

/// The name of a disk that has none, where it needs one.
const DISK: &str = "disk";

/// The beginning of an item of --export that is a filter.
const FILTER: &str = "filter=";

/// How many exports there can be at a time for [`ANY_NAME`].
const MAX_ON_DEMAND: usize = 256;

/// Plans the exports. No third-party component is run and no disk is opened, but every mistake that
/// can be detected without that is reported.
pub(super) async fn plan(
    args: &Args,
    identity: &Identity,
    broker: Option<Broker>,
) -> Result<Planned, Failure> {
    for flag in &args.logging.debug_flags {
        tracing::debug!("-D {flag} is ignored: components have no debug flags");
    }
    let (choice, values) = components::choose(args.component.as_deref(), &args.parameters);
    let directory = std::env::current_dir().unwrap_or_default();
    let (mut filters, mut values) = (args.filters.clone(), values.to_vec());
    let of_main = HostFilters::take(&mut filters, &mut values, Place::Option, &directory);
    let of_main = of_main.map_err(Failure::Usage)?;
    let alone = args.exports.is_empty() && args.control.config.is_none();
    let has_main = alone || choice != Choice::Default || !values.is_empty() || !filters.is_empty();
    if !has_main && of_main.is_for_a_disk() {
        return Err(Failure::Usage(
            "a filter that limits clients is for the disk that is given without --export, and there is \
             none; write it as an item: --export NAME=COMPONENT,filter=..."
                .into(),
        ));
    }
    if of_main.exit_when.has_scripts() && !args.allow_scripts {
        return Err(Failure::Usage(
            "exit-when-script= runs a command; give --allow-scripts as well to permit that".into(),
        ));
    }
    let mut of_server = OfServer {
        exit_last: of_main.exit_last,
        exit_when: of_main.exit_when.clone(),
        needs_tls: of_main.readme.is_some(),
        rate_files: Vec::new(),
    };
    let policy = of_main.policy(of_main.access.as_ref());
    of_server.rate_files.extend(of_main.rate_files(&policy.limits));
    let process = budgets::process(args, (args.exports.len() + usize::from(has_main)).max(1));
    if let Some(warning) = budgets::promises_too_much(&process) {
        tracing::warn!("{warning}");
    }
    let cache_directory = cache_directory(identity.home());
    let budget = Some(process.memory().clone());
    let mut loader = Loader::new(args, cache_directory, budget, broker);
    let mut grants = Grants::parse(&args.control.grants, &directory).map_err(Failure::Usage)?;
    let of_command_line = grants.clone();
    let config = args.control.config.as_deref().map(|path| ConfigFile::new(path, &directory));
    let config = config.map(|file| {
        let config = file.load()?;
        file.grant(&config, &mut grants).map(|()| (file, config))
    });
    let config = config.transpose().map_err(|error| Failure::Failed(anyhow::anyhow!(error)))?;
    let mut list = Vec::new();
    let mut disks = HashMap::new();
    let mut keep_open = Vec::new();
    let mut on_demand = None;
    let known = KnownExports::default();
    let outputs = Outputs::new(args.max_output);
    let mut preload = preload(args, &process, &outputs, has_main)?;
    if has_main {
        let name = match &choice {
            Choice::Default => components::DEFAULT,
            Choice::Named(name) => name,
        };
        let (component, mut values) = components::for_words(name, &values);
        if let Some(preload) = &mut preload
            && component.starts_with(components::DEFAULT)
            && !values.iter().any(|word| is_size(word))
        {
            if identity.changes() {
                return Err(Failure::Usage(
                    "--preload with -u or -g needs the size of the disk, as in memory size=2G: the \
                     image is opened by that user, later"
                        .into(),
                ));
            }
            values.push(format!("size={}", preload.size(args).await?));
        }
        let name_of_export = match args.manner {
            // By the control API it is found under a name, and clients need none.
            Manner::Own if !args.control.control.is_empty() && args.export_name().is_empty() => {
                DISK
            }
            Manner::Own => args.export_name(),
            Manner::Nbdkit => "",
        };
        let wish = Wish::new(args, &process, name_of_export, &values, false, &outputs)?;
        let chain =
            Chain::new(&mut loader, name, &filters, Bottom::Component(&component), wish, &known)
                .await?;
        match chain.directory().map_err(Failure::Usage)? {
            Some(_) if !name_of_export.is_empty() => {
                return Err(Failure::Usage(format!(
                    "{IN_DIRECTORY}; -e cannot give them another one"
                )));
            }
            Some(_) if preload.is_some() => {
                return Err(Failure::Usage(format!("{IN_DIRECTORY}; --preload fills one disk")));
            }
            Some(_) => on_demand = Some((chain, policy)),
            None => {
                let made_of = Layers {
                    component,
                    filters: filters.clone(),
                    parameters: values,
                    read_only: args.read_only,
                };
                let made = export(chain, name_of_export, args.private, &policy);
                list.push(made.export);
                disks.insert(name_of_export.to_owned(), (made_of, made.chain));
                keep_open.push(true);
            }
        }
    }
    for text in &args.exports {
        let Some(NamedExport { name, component, filters, values }) = parse(text) else {
            return Err(Failure::Usage(format!(
                "--export {text:?}: it is written NAME=COMPONENT[,filter=NAME][,KEY=VALUE]..."
            )));
        };
        let (mut filters, mut values) = (filters, values);
        let own = HostFilters::take(&mut filters, &mut values, Place::Item, &directory);
        let own = own.map_err(|error| Failure::Usage(format!("--export {text:?}: {error}")))?;
        let policy = own.policy(of_main.access.as_ref());
        of_server.rate_files.extend(own.rate_files(&policy.limits));
        let (component, values) = components::for_words(&component, &values);
        let wish = Wish::new(args, &process, &name, &values, true, &outputs)?;
        let chain =
            Chain::new(&mut loader, text, &filters, Bottom::Component(&component), wish, &known)
                .await?;
        if name == ANY_NAME {
            if on_demand.replace((chain, policy)).is_some() {
                return Err(Failure::Usage(format!(
                    "--export {ANY_NAME}=... is given twice, or together with a directory"
                )));
            }
            continue;
        }
        if chain.directory().map_err(Failure::Usage)?.is_some() {
            return Err(Failure::Usage(format!(
                "--export {text:?}: {IN_DIRECTORY}; write --export '{ANY_NAME}=file,dir=...'"
            )));
        }
        let Made { export, chain } = export(chain, &name, args.private, &policy);
        list.push(export);
        keep_open.push(false);
        let made_of = Layers { component, filters, parameters: values, read_only: args.read_only };
        disks.insert(name, (made_of, chain));
    }
    let exports = Exports::new(list).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(readme) = &of_main.readme {
        exports.serve_without_tls(Export::of_device("", Text::sector(readme)));
    }
    if let Some(naming) = &of_main.naming {
        exports.name_by(naming.clone());
    }
    if let Some((chain, policy)) = on_demand {
        match chain.directory().map_err(Failure::Usage)? {
            Some(directory) => list_directory(&exports, directory)?,
            None => list_component(&exports, chain.clone()),
        }
        let private = args.private;
        let demanded = policy.clone();
        let make = move |name: &str| export(chain.named(name), name, private, &demanded).export;
        exports.on_demand_for(MAX_ON_DEMAND, policy, Box::new(make));
    }
    if args.manner == Manner::Nbdkit {
        // Its plugins serve the same disk under all names, except for directories.
        exports.answer_any_name();
    }
    let exports = Arc::new(exports);
    // Nobody else sets it.
    let _ = known.set(Arc::downgrade(&exports));
    let access = of_main.access.clone();
    let maker = Maker::new(loader, process, known, grants.into(), outputs, access, args);
    let (mut configured, mut tenants, entries) = (None, Vec::new(), Arc::<Entries>::default());
    if let Some((file, config)) = config {
        let mut chains = HashMap::new();
        for disk in &config.disks {
            let wrong = |problem: &str| {
                let problem = format!("the disk {:?}: {problem}", disk.name);
                anyhow::anyhow!(file.of_file(&config.located(None, &disk.name, &problem)))
            };
            let layers = disk.spec.layers();
            let made = maker.export_with_rights(&disk.name, &layers, file.directory()).await;
            let made = made.map_err(|failure| wrong(&failure.to_string()))?;
            let Made { export, chain } = made;
            exports.add(export).map_err(|_| wrong("the command line has a disk of this name"))?;
            chains.insert(disk.name.clone(), chain);
        }
        for export in &config.exports {
            offer_at_start(&exports, &maker, &export.name, &export.spec).map_err(|problem| {
                let problem = format!("the export {:?}: {problem}", export.name);
                anyhow::anyhow!(file.of_file(&config.located(None, &export.name, &problem)))
            })?;
        }
        let replaced = entries.tokens.replace_file(&config.all_tokens());
        replaced.map_err(|(token, error)| {
            anyhow::anyhow!(file.of_file(&format!("the token {token:?}: {error}")))
        })?;
        for tenant in &config.tenants {
            tenants.push(found(tenant, &config, &file, &maker).await?);
        }
        configured = Some(FromFile::new(file, config, chains, of_command_line));
    }
    Ok(Planned {
        exports,
        keep_open,
        maker,
        disks,
        of_server,
        configured,
        preload,
        tenants,
        entries,
    })
}

/// Founds a tenant of the configuration file, with its disks and sockets.
pub(super) async fn found(
    tenant: &ConfiguredTenant,
    config: &Config,
    file: &ConfigFile,
    maker: &Maker,
) -> Result<(Founded, Vec<Listen>), Failure> {
    let name = &tenant.name;
    let grants = file.grants_of(config, tenant).map_err(|problem| anyhow::anyhow!(problem))?;
    let mut founded = Founded::new(name, tenant.spec.clone(), grants, maker);
    for disk in &tenant.disks {
        let wrong = |problem: &str| {
            let problem = format!("the disk {:?} of the tenant {name:?}: {problem}", disk.name);
            anyhow::anyhow!(file.of_file(&config.located(Some(name), &disk.name, &problem)))
        };
        let layers = disk.spec.layers();
        let made = founded.maker.export_with_rights(&disk.name, &layers, file.directory()).await;
        let Made { export, chain } = made.map_err(|failure| wrong(&failure.to_string()))?;
        // The names are keys of a table.
        founded.exports.add(export).map_err(|error| wrong(&error.to_string()))?;
        founded.disks.insert(disk.name.clone(), (disk.spec.clone(), chain));
    }
    for export in &tenant.exports {
        let offered = offer_at_start(&founded.exports, &founded.maker, &export.name, &export.spec);
        offered.map_err(|problem| {
            let problem = format!("the export {:?} of the tenant {name:?}: {problem}", export.name);
            anyhow::anyhow!(file.of_file(&config.located(Some(name), &export.name, &problem)))
        })?;
        founded.offers.insert(export.name.clone(), export.spec.clone());
    }
    let sockets = sockets_of(tenant, config, file).map_err(|problem| anyhow::anyhow!(problem))?;
    Ok((founded, sockets))
}

/// Returns the sockets of a tenant of the configuration file.
pub(super) fn sockets_of(
    tenant: &ConfiguredTenant,
    config: &Config,
    file: &ConfigFile,
) -> Result<Vec<Listen>, String> {
    let ConfiguredTenant { name, listen, .. } = tenant;
    let sockets = listen.iter().map(|text| {
        plan::listen_for(text.as_ref(), file.directory()).map_err(|problem| {
            let problem = format!("the tenant {name:?}: listen = {text:?}: {problem}");
            file.of_file(&config.located_tenant(name, &problem))
        })
    });
    sockets.collect()
}

/// Returns the image with which the main disk is to be filled, if there is one.
fn preload(
    args: &Args,
    process: &ProcessBudgets,
    outputs: &Outputs,
    has_main: bool,
) -> Result<Option<Preload>, Failure> {
    let Some(path) = &args.preload else { return Ok(None) };
    let obstacle = match () {
        () if !has_main => "fills the disk that is given without --export, and there is none",
        () if args.private => "fills one disk, and with --private each client has its own",
        () if args.read_only => "writes to the disk, and -r refuses writes",
        () => {
            let wish = Wish::new(args, process, "preload", &[], false, outputs)?;
            return Ok(Some(Preload::new(path, args.preload_format, wish)));
        }
    };
    Err(Failure::Usage(format!("--preload {obstacle}")))
}

/// Returns true if a word for a disk in memory is its size.
fn is_size(word: &str) -> bool {
    match key_value(word) {
        Some((key, _)) => key == "size" || key.ends_with(".size"),
        None => true,
    }
}

/// Lists the files of a directory when clients ask for a list of exports.
fn list_directory(exports: &Exports, directory: PathBuf) -> anyhow::Result<()> {
    let what = || format!("the directory {}", directory.display());
    let found = std::fs::metadata(&directory).with_context(what)?;
    anyhow::ensure!(found.is_dir(), "{}: it is not a directory", directory.display());
    let find = move || -> Finding {
        let directory = directory.clone();
        let names = tokio::task::spawn_blocking(move || {
            files_in(&directory).unwrap_or_else(|error| {
                tracing::warn!("list {}: {error}", directory.display());
                Vec::new()
            })
        });
        Box::pin(async move {
            let named = |name| ListedExport { name, description: String::new() };
            let exports = names.await.unwrap_or_default().into_iter().map(named).collect();
            Listed { exports, default: None }
        })
    };
    exports.list_on_demand(Box::new(find), true);
    Ok(())
}

/// Lists the exports that a component offers when clients ask for a list.
fn list_component(exports: &Exports, chain: Chain) {
    let find = move || -> Finding {
        let chain = chain.clone();
        Box::pin(async move {
            chain.list_exports().await.unwrap_or_else(|problem| {
                tracing::warn!("list the exports: {problem}");
                Listed::default()
            })
        })
    };
    exports.list_on_demand(Box::new(find), false);
}

/// A parsed `--export` option.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NamedExport {
    name: String,
    pub(super) component: String,
    /// The items `filter=NAME`.
    pub(super) filters: Vec<String>,
    pub(super) values: Vec<String>,
}

/// Parses `NAME=COMPONENT[,filter=NAME][,KEY=VALUE]...`, where two commas stand for a literal comma.
pub(super) fn parse(text: &str) -> Option<NamedExport> {
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
    let is_filter = |value: &String| value.starts_with(FILTER);
    let (filters, values): (Vec<_>, Vec<_>) = values.into_iter().partition(is_filter);
    let filters = filters.iter().map(|filter| filter[FILTER.len()..].to_owned()).collect();
    Some(NamedExport { name: name.to_owned(), component, filters, values })
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
            let filters = Vec::new();
            Some(NamedExport { name: name.into(), component: component.into(), filters, values })
        };
        assert_eq!(parse("a=memory"), export("a", "memory", &[]));
        assert_eq!(parse("a b=memory,2G"), export("a b", "memory", &["2G"]));
        assert_eq!(parse("=./x.wasm,k=v,l=a,,b"), export("", "./x.wasm", &["k=v", "l=a,b"]));
        let filtered = parse("a=memory,filter=error,1G,filter=delay").unwrap();
        assert_eq!(
            (filtered.filters, filtered.values),
            (vec!["error".into(), "delay".into()], vec!["1G".into()])
        );
        for bad in ["", "a", "a=", "a=,size=1G"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
