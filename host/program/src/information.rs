//! Options that print information instead of serving: the configuration, a component, the usage.

use clap::CommandFactory;
use serde_json::{Map, Value, json};

use super::args::{Args, Information, PROGRAM};
use super::budgets;
use super::components::{self, Choice};
use super::exports;
use super::file;
use super::host_filters;
use super::loading::Loader;
use super::nbdkit::{self, Manner};
use super::sandbox;
use super::{Failure, manual};
use memnbd::block::MAX_TRANSFER;
use memnbd::component::{self, Component, Description};
use memnbd::machine;
use memnbd::parameters::ParameterType;

/// The information that was requested.
pub(super) enum Question<'a> {
    Version,
    Help,
    Config,
    Component,
    Contract,
    Completion(&'a str),
    Manual,
    Options(Length),
}

/// Which options are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Short,
    Long,
}

impl Question<'_> {
    /// Returns the option that requests it.
    fn option(&self) -> &'static str {
        match self {
            Self::Version => "--version",
            Self::Help => "--help",
            Self::Config => "--dump-config",
            Self::Component => "--dump-component (--dump-plugin)",
            Self::Contract => "--wit",
            Self::Completion(_) => "--completion",
            Self::Manual => "--man",
            Self::Options(Length::Short) => "--short-options",
            Self::Options(Length::Long) => "--long-options",
        }
    }
}

/// Returns the option that conflicts with `question` because it requests a server, if there is one.
/// As in nbdkit, options for where the server listens and how it behaves are ignored. The version
/// and the help are printed in any case.
fn conflict(args: &Args, question: &Question<'_>) -> Option<&'static str> {
    let life = &args.life;
    if args.manner == Manner::Nbdkit {
        return None;
    }
    [
        (args.listening.single, "-s"),
        (life.run.is_some(), "--run"),
        (life.fork, "--fork"),
        (life.print_uri, "--print-uri"),
    ]
    .into_iter()
    .find_map(|(given, option)| given.then_some(option))
    .filter(|_| !matches!(question, Question::Version | Question::Help))
}

/// Returns the question that was asked, or `None` if the program is to serve.
pub(super) fn asked(args: &Args) -> Option<Question<'_>> {
    let Information { version, help, dump_config, dump_component, wit, completion, man, .. } =
        &args.information;
    let Information { short_options, long_options, .. } = &args.information;
    [
        version.then_some(Question::Version),
        help.then_some(Question::Help),
        dump_config.then_some(Question::Config),
        dump_component.then_some(Question::Component),
        wit.then_some(Question::Contract),
        completion.as_deref().map(Question::Completion),
        man.then_some(Question::Manual),
        short_options.then_some(Question::Options(Length::Short)),
        long_options.then_some(Question::Options(Length::Long)),
    ]
    .into_iter()
    .flatten()
    .next()
}

/// Returns the answer, which ends with a newline.
///
/// # Errors
///
/// Returns an error if the command line names an unknown component or also requests a server, or if
/// the component cannot be loaded.
pub(super) async fn answer(args: &Args, question: Question<'_>) -> Result<String, Failure> {
    if let Some(option) = conflict(args, &question) {
        return Err(Failure::Usage(format!(
            "{option} cannot be used together with {}, which serves nothing",
            question.option()
        )));
    }
    if let Choice::Named(name) = chosen_name(args)
        && host_filters::description(&name).is_none()
    {
        components::check_name(&name).map_err(Failure::Usage)?;
    }
    let as_json = args.information.json;
    if matches!(question, Question::Component) {
        args.manner.check(args).map_err(Failure::Usage)?;
    }
    Ok(match question {
        Question::Version => version(args).await?,
        Question::Help => help(args).await?,
        Question::Config if args.manner == Manner::Nbdkit && !as_json => nbdkit::config(),
        Question::Config => printed(config(args), as_json),
        Question::Component if args.manner == Manner::Nbdkit && !as_json => {
            nbdkit::describe(chosen(args).await?.description())
        }
        Question::Component => printed(describe(args, &chosen(args).await?), as_json),
        Question::Contract => component::WIT.map(|(_, text)| text).join("\n"),
        Question::Completion(shell) => completion(shell),
        Question::Options(length) => options(length),
        Question::Manual => match chosen_name(args) {
            Choice::Default => manual::program(Args::command()),
            Choice::Named(_) => manual::backend(chosen(args).await?.description()),
        },
    })
}

/// Returns the version, and as nbdkit that of the component if there is one.
async fn version(args: &Args) -> Result<String, Failure> {
    let mut text = args.manner.version();
    if args.manner == Manner::Nbdkit && args.component.is_some() {
        let backend = chosen(args).await?;
        let Description { name, version, .. } = backend.description();
        text.push_str(&one_line(&format!("{name} {version}")));
        text.push('\n');
    }
    Ok(text)
}

fn chosen_name(args: &Args) -> Choice {
    components::choose(args.component.as_deref(), &args.parameters).0
}

/// What serves a disk.
enum Backend {
    Component(Component),
    /// A part of the host, with this description.
    Native(Description),
}

impl Backend {
    fn description(&self) -> &Description {
        match self {
            Self::Component(component) => component.description(),
            Self::Native(description) => description,
        }
    }
}

async fn chosen(args: &Args) -> Result<Backend, Failure> {
    let name = match chosen_name(args) {
        Choice::Default => components::DEFAULT.to_owned(),
        Choice::Named(name) if name == file::NAME => {
            return Ok(Backend::Native(file::description()));
        }
        Choice::Named(name) => match host_filters::description(&name) {
            Some(description) => return Ok(Backend::Native(description)),
            None => name,
        },
    };
    Loader::component(args, &name).await.map(Backend::Component)
}

async fn help(args: &Args) -> Result<String, Failure> {
    let mut text = args.manner.adapt(Args::command()).render_help().to_string();
    match chosen_name(args) {
        Choice::Default => text.push_str(&format!(
            "\nBuilt-in components: {}. Filters that are parts of the server: {}. '{} NAME --help' \
             tells their parameters.\n",
            components::names().join(", "),
            host_filters::NAMES.join(", "),
            args.manner.program()
        )),
        Choice::Named(_) => text.push_str(&components::help(chosen(args).await?.description())),
    }
    Ok(text)
}

/// Returns the configuration. Keys that nbdkit has too are named as there.
fn config(args: &Args) -> Value {
    let cache = exports::cache_directory(None).map(|path| path.to_string_lossy().into_owned());
    json!({
        "name": PROGRAM,
        "version": env!("CARGO_PKG_VERSION"),
        "version_major": env!("CARGO_PKG_VERSION_MAJOR"),
        "version_minor": env!("CARGO_PKG_VERSION_MINOR"),
        "host_cpu": std::env::consts::ARCH,
        "host_os": std::env::consts::OS,
        "components": components::names(),
        "default_component": components::DEFAULT,
        "contract": format!(
            "{}@{}",
            memnbd::component::INTERFACE,
            memnbd::component::CONTRACT_VERSION
        ),
        "cache_directory": cache,
        "sandbox": sandbox::told(args),
        "max_transfer": MAX_TRANSFER,
        "max_memory": machine::memory(),
        "tls": "yes",
        "selinux": "no",
    })
}

fn describe(args: &Args, backend: &Backend) -> Value {
    let Description { name, version, summary, parameters, bare_parameter, other_parameters } =
        backend.description();
    // What users give with such a parameter is all that a component reaches outside its sandbox.
    let granted = |is: fn(&ParameterType) -> bool| -> Vec<&str> {
        let granted = parameters.iter().filter(|parameter| is(&parameter.kind));
        granted.map(|parameter| &*parameter.name).collect()
    };
    let grants = json!({
        "devices": granted(|kind| matches!(kind, ParameterType::Device(_))),
        "files": granted(|kind| matches!(kind, ParameterType::File(_))),
        "secrets": granted(|kind| *kind == ParameterType::Secret),
        "outputs": granted(|kind| matches!(kind, ParameterType::Output(_))),
        "written": granted(|kind| kind.link().is_some_and(|link| link.writes)),
        "unshared": granted(|kind| kind.link().is_some_and(|link| link.unshared)),
        "scratch": granted(|kind| kind.link().is_some_and(|link| link.scratch)),
    });
    let of_server = host_filters::NAMES.contains(&name.as_str());
    let is_filter = of_server || backend.description().base().is_some();
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|parameter| {
            json!({
                "name": parameter.name,
                "summary": parameter.summary,
                "type": parameter.kind.usage(),
                "required": parameter.required,
                "repeatable": parameter.repeatable,
                "default": parameter.default,
            })
        })
        .collect();
    let (contract, imports, routes) = match backend {
        Backend::Component(component) => {
            (Some(component.contract()), component.imports(), component.routes())
        }
        Backend::Native(_) => (None, &[][..], false),
    };
    json!({
        "name": name,
        "version": version,
        "summary": summary,
        "magic_config_key": bare_parameter,
        "parameters": parameters,
        "other_parameters": other_parameters,
        "contract": contract,
        "imports": imports,
        "filter": is_filter,
        "routes_requests": routes,
        "grants": grants,
        "limits": {
            "deadline_seconds": args.deadline.as_secs_f64(),
            "max_memory": args.max_memory.unwrap_or_else(|| budgets::total(args)),
            "max_transfer": MAX_TRANSFER,
        },
    })
}

fn printed(value: Value, as_json: bool) -> String {
    if as_json {
        return format!("{value:#}\n");
    }
    let mut text = String::new();
    print_pairs(&mut text, "", &value);
    text
}

/// Appends a line for each value. The keys of nested values are prefixed with the outer keys.
fn print_pairs(text: &mut String, key: &str, value: &Value) {
    let within = |name: &str| match key {
        "" => name.to_owned(),
        key => format!("{key}_{name}"),
    };
    match value {
        Value::Null => {}
        Value::Object(object) => object.iter().for_each(|(name, value)| {
            print_pairs(text, &within(name), value);
        }),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            text.push_str(&format!("{key}={}\n", values.join(" ")));
        }
        Value::Array(values) => values.iter().filter_map(Value::as_object).for_each(|object| {
            let mut object: Map<String, Value> = object.clone();
            let name = object.remove("name").unwrap_or_default();
            let name = within(name.as_str().unwrap_or_default());
            print_pairs(text, &name, &Value::Object(object));
        }),
        Value::String(value) => text.push_str(&format!("{key}={}\n", one_line(value))),
        value => text.push_str(&format!("{key}={value}\n")),
    }
}

/// Replaces control characters, because the text may come from an untrusted component.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Returns the options, one on each line, for the completion scripts of nbdkit.
fn options(length: Length) -> String {
    let command = Args::command();
    let names = command.get_arguments().flat_map(|option| match length {
        Length::Short => {
            let short = option.get_short().map(|short| format!("-{short}\n"));
            short.into_iter().collect::<Vec<_>>()
        }
        Length::Long => {
            let all = option.get_long_and_visible_aliases().unwrap_or_default();
            all.into_iter().map(|name| format!("--{name}\n")).collect()
        }
    });
    names.collect()
}

fn completion(shell: &str) -> String {
    use clap_complete::{Shell, generate};
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        _ => Shell::Fish,
    };
    let mut script = Vec::new();
    generate(shell, &mut Args::command(), PROGRAM, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
