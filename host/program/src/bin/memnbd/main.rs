//! The command `memnbd`: controls a running `memnbd-host` through its control API.
//!
//! Exit codes: 0 if everything was done, 1 if something was not, 2 for wrong usage.

mod apply;
mod args;
mod diff;
mod http;
#[path = "../../image.rs"]
mod image;
mod logs;
#[path = "../../progress.rs"]
mod progress;
mod qcow2;
mod save;
#[path = "../../secret.rs"]
mod secret;
mod sse;
mod table;
mod tenants;
mod top;
mod transfer;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, Parser};
use serde_json::{Value, json};

use args::{Action, Args, DiskOptions};
use http::Server;
use table::Table;

/// Where the disks of a tenant are.
const DISKS: &str = "disks";

/// Where its snapshots are.
const SNAPSHOTS: &str = "snapshots";

/// The ttl of a disk that has none.
const NEVER: &str = "none";

/// Where its exports are.
const EXPORTS: &str = "exports";

/// Where its connections are.
const CONNECTIONS: &str = "connections";

fn main() -> ExitCode {
    let args = Args::parse();
    args.check().unwrap_or_else(|error| error.exit());
    match run(&args) {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                report(&anyhow::anyhow!("write to stdout: {error}"))
            }
            _ => ExitCode::SUCCESS,
        },
        Err(error) => report(&error),
    }
}

fn report(error: &anyhow::Error) -> ExitCode {
    // If stderr is closed, the error cannot be reported.
    let _ = writeln!(io::stderr(), "memnbd: {error:#}");
    ExitCode::FAILURE
}

/// Does what the command line asks for. Returns what is to be printed.
fn run(args: &Args) -> anyhow::Result<String> {
    match &args.action {
        Action::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "memnbd", &mut script);
            return Ok(String::from_utf8_lossy(&script).into_owned());
        }
        Action::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Args::command()).render(&mut page).context("make the page")?;
            return Ok(String::from_utf8_lossy(&page).into_owned());
        }
        Action::Token { name: None, .. } => return tenants::make_secret(args.json),
        _ => {}
    }
    let server = Server::new(&args.remote)?;
    let runtime = match args.action {
        Action::Copy { .. } | Action::Save { .. } => {
            let threads = memnbd::machine::processors().get();
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads).enable_all().build()
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    };
    let runtime = runtime.context("start")?;
    let done = runtime.block_on(ask(&server, args));
    // What still reads stdin must not keep the process alive.
    runtime.shutdown_background();
    done
}

async fn ask(server: &Server, args: &Args) -> anyhow::Result<String> {
    match &args.action {
        Action::Ls => {
            let disks = server.get(DISKS).await?;
            Ok(if args.json { lines(&disks) } else { disks_table(&disks) })
        }
        Action::Show { disk } => Ok(lines(&server.get(&path(disk, "")).await?)),
        Action::Create { disk, words, options } => {
            let (component, parameters) = component_of(words);
            let spec = spec_of(("component", component), parameters, options);
            let made = server.put(&path(disk, ""), &spec).await?;
            Ok(if args.json { lines(&made) } else { String::new() })
        }
        Action::Update { disk, words, filters, replace, ttl, ephemeral } => {
            let change = change_of(words, filters, *replace, ttl.as_deref(), *ephemeral);
            let changed = server.patch(&path(disk, ""), &change).await?;
            Ok(if args.json { lines(&changed) } else { String::new() })
        }
        Action::Clone { snapshot, disk, words, options } => {
            let spec = spec_of(("snapshot", snapshot), words, options);
            let made = server.put(&path(disk, ""), &spec).await?;
            Ok(if args.json { lines(&made) } else { String::new() })
        }
        Action::Snapshot { disk, snapshot, in_memory, ttl } => {
            let spec = json!({ "disk": disk, "in_memory": in_memory, "ttl": ttl });
            let taken = server.put(&path_in(SNAPSHOTS, snapshot), &spec).await?;
            Ok(if args.json { lines(&taken) } else { String::new() })
        }
        Action::Snapshots => {
            let snapshots = server.get(SNAPSHOTS).await?;
            Ok(if args.json { lines(&snapshots) } else { snapshots_table(&snapshots) })
        }
        Action::Diff { snapshot, other, disk } => {
            diff::diff(server, snapshot, other, *disk, args.json).await?;
            Ok(String::new())
        }
        Action::Reset { disks, to } => {
            let mut shown = String::new();
            for disk in disks {
                let request = json!({ "snapshot": to });
                let reset = server.post(&path(disk, "/reset"), &request).await;
                let reset = reset.with_context(|| format!("reset {disk:?}"))?;
                shown += &if args.json { lines(&reset) } else { String::new() };
            }
            Ok(shown)
        }
        Action::Rm { disks: names, snapshot, export } => {
            let (what, all) = match (snapshot, export) {
                (true, _) => ("delete", SNAPSHOTS),
                (_, true) => ("remove", EXPORTS),
                _ => ("remove", DISKS),
            };
            for name in names {
                let removed = server.delete(&path_in(all, name)).await;
                removed.with_context(|| format!("{what} {name:?}"))?;
            }
            Ok(String::new())
        }
        Action::Export { disk, export, words, snapshot, read_only, tls, filters } => {
            let mut spec = json!({
                "read_only": read_only,
                "tls": tls,
                "filters": filters,
                "parameters": words,
            });
            spec[if *snapshot { "snapshot" } else { "disk" }] = json!(disk);
            let made = server.put(&path_in(EXPORTS, export), &spec).await?;
            Ok(if args.json { lines(&made) } else { String::new() })
        }
        Action::Exports => {
            let exports = server.get(EXPORTS).await?;
            Ok(if args.json { lines(&exports) } else { exports_table(&exports) })
        }
        Action::Fault { disk, command: None, .. } => {
            let layers = server.get(&path(disk, "/commands")).await?;
            Ok(if args.json { lines(&layers) } else { commands_text(&layers) })
        }
        Action::Fault { disk, command: Some(command), parameters, layer } => {
            let request =
                json!({ "component": layer, "command": command, "parameters": parameters });
            let answer = server.post(&path(disk, "/commands"), &request).await?;
            Ok(match (args.json, answer["answer"].as_str()) {
                (false, None | Some("")) => String::new(),
                (false, Some(text)) => format!("{}\n", text.trim_end()),
                (true, _) => lines(&answer),
            })
        }
        Action::Connections { drop } if drop.is_empty() => {
            let connections = server.get(CONNECTIONS).await?;
            Ok(if args.json { lines(&connections) } else { connections_table(&connections) })
        }
        Action::Connections { drop } => {
            for id in drop {
                server.delete(&format!("{CONNECTIONS}/{id}")).await?;
            }
            Ok(String::new())
        }
        Action::Apply { file, replace, dry_run } => {
            let applied = apply::apply(server, file, *replace, *dry_run, args.json).await?;
            match applied {
                (text, true) => Ok(text),
                (text, false) => {
                    // What was done is told as well.
                    io::stdout().write_all(text.as_bytes()).context("write to stdout")?;
                    anyhow::bail!("not everything was done")
                }
            }
        }
        Action::Logs { disk, follow } => {
            logs::logs(server, disk.as_deref(), *follow, args.json).await?;
            Ok(String::new())
        }
        Action::Top { interval, count } => {
            top::top(server, *interval, *count, args.json).await?;
            Ok(String::new())
        }
        Action::Copy { image, disk, format, create } => {
            transfer::copy(server, image, disk, *format, *create).await?;
            Ok(String::new())
        }
        Action::Save { disk, file, format, compress } => {
            save::save(server, disk, file, *format, *compress).await?;
            Ok(String::new())
        }
        Action::Tenants => tenants::list(server, args.json).await,
        Action::Tenant { name, rm: true, .. } => tenants::remove(server, name).await,
        Action::Tenant { name, spec, .. } => tenants::put(server, name, spec, args.json).await,
        Action::Tokens => tenants::list_tokens(server, args.json).await,
        Action::Token { name: Some(name), rm: true, .. } => {
            tenants::remove_token(server, name).await
        }
        Action::Token { name: Some(name), role, .. } => {
            tenants::put_token(server, name, *role, args.json).await
        }
        Action::Token { name: None, .. } | Action::Completion { .. } | Action::Man => {
            Ok(String::new())
        }
    }
}

/// Returns the path of a disk, or of what belongs to it.
fn path(disk: &str, rest: &str) -> String {
    path_in(DISKS, disk) + rest
}

/// Returns the path of what has this name in a collection.
fn path_in(collection: &str, name: &str) -> String {
    format!("{collection}/{}", http::encoded(name))
}

/// Returns what a disk is to be made of: what it begins with, and the rest.
fn spec_of(begin: (&str, &str), parameters: &[String], options: &DiskOptions) -> Value {
    let DiskOptions { filters, read_only, labels, ttl, ephemeral } = options;
    let labels: serde_json::Map<String, Value> =
        labels.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    json!({
        begin.0: begin.1,
        "filters": filters,
        "parameters": parameters,
        "read_only": read_only,
        "labels": labels,
        "ttl": ttl,
        "ephemeral": ephemeral,
    })
}

/// Returns what is to change about a disk. Its filters and parameters stay if only its end is given.
fn change_of(
    words: &[String],
    filters: &[String],
    replace: bool,
    ttl: Option<&str>,
    ephemeral: Option<bool>,
) -> Value {
    let mut change = json!({});
    let may_keep = replace || ttl.is_some() || ephemeral.is_some();
    if !may_keep || !words.is_empty() || !filters.is_empty() {
        let (component, parameters) = component_of(words);
        change = match replace {
            true => json!({ "component": component, "parameters": parameters, "filters": filters }),
            false => json!({ "parameters": words, "filters": filters }),
        };
    }
    if replace {
        change["replace"] = json!(true);
    }
    if let Some(ttl) = ttl {
        change["ttl"] = if ttl == NEVER { Value::Null } else { json!(ttl) };
    }
    if let Some(ephemeral) = ephemeral {
        change["ephemeral"] = json!(ephemeral);
    }
    change
}

/// Splits the words after the name of a disk: a first word that is no parameter names the component.
fn component_of(words: &[String]) -> (&str, &[String]) {
    let is_name =
        |word: &String| word.starts_with(|c: char| c.is_ascii_alphabetic()) && !word.contains('=');
    match words.split_first() {
        Some((first, rest)) if is_name(first) => (first, rest),
        _ => ("memory", words),
    }
}

/// Returns JSON as lines for people.
fn lines(value: &Value) -> String {
    format!("{value:#}\n")
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn disks_table(disks: &Value) -> String {
    let mut table = Table::new(&["NAME", "SIZE", "STATE", "CLIENTS", "EXPIRES", "MADE OF"]);
    for disk in items(disks) {
        let spec = &disk["spec"];
        let strings = |key: &str| items(&spec[key]).map(text).collect::<Vec<_>>();
        let mut made = strings("filters");
        made.push(match &spec["snapshot"] {
            Value::String(snapshot) => format!("snapshot {snapshot}"),
            _ => text(&spec["component"]),
        });
        let made = [vec![made.join(" > ")], strings("parameters")].concat().join(" ");
        let size = disk["size"].as_u64().map_or_else(|| "-".into(), table::size);
        table.row([
            text(&disk["name"]),
            size,
            text(&disk["state"]),
            text(&disk["connections"]),
            expires(disk),
            made,
        ]);
    }
    table.to_string()
}

/// Returns in which time a disk or a snapshot is removed.
fn expires(one: &Value) -> String {
    one["expires_in"].as_u64().map_or_else(|| "-".into(), table::time)
}

fn snapshots_table(snapshots: &Value) -> String {
    let mut table = Table::new(&["NAME", "SIZE", "DISK", "SECONDS", "EXPIRES"]);
    for one in items(snapshots) {
        let size = one["size"].as_u64().map_or_else(|| "-".into(), table::size);
        let [name, disk, seconds] = ["name", "disk", "seconds"].map(|key| text(&one[key]));
        table.row([name, size, disk, seconds, expires(one)]);
    }
    table.to_string()
}

fn exports_table(exports: &Value) -> String {
    let mut table = Table::new(&["NAME", "OF", "CLIENTS", "LIMITS"]);
    for one in items(exports) {
        let spec = &one["spec"];
        let of = match &spec["snapshot"] {
            Value::String(snapshot) => format!("snapshot {snapshot}"),
            _ => text(&spec["disk"]),
        };
        let flags = ["read_only", "tls"].into_iter().filter(|&flag| spec[flag] == true);
        let words = items(&spec["filters"]).chain(items(&spec["parameters"])).map(text);
        let limits: Vec<String> = flags.map(|flag| flag.replace('_', "-")).chain(words).collect();
        table.row([text(&one["name"]), of, text(&one["connections"]), limits.join(" ")]);
    }
    table.to_string()
}

fn connections_table(connections: &Value) -> String {
    let mut table = Table::new(&["ID", "DISK", "SECONDS", "PEER"]);
    for one in items(connections) {
        table.row(["id", "disk", "seconds", "peer"].map(|key| text(&one[key])));
    }
    table.to_string()
}

fn commands_text(layers: &Value) -> String {
    let mut lines = String::new();
    for layer in items(layers) {
        for command in items(&layer["commands"]) {
            let component = text(&layer["component"]);
            lines += &format!(
                "{component}: {}: {}\n",
                text(&command["name"]),
                text(&command["summary"])
            );
            for parameter in items(&command["parameters"]) {
                lines += &format!(
                    "  {}={}\n          {}\n",
                    text(&parameter["name"]),
                    text(&parameter["type"]),
                    text(&parameter["summary"])
                );
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_word_names_the_component_unless_it_is_a_parameter() {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let of = |list: &[&str]| {
            let list = words(list);
            let (component, rest) = component_of(&list);
            (component.to_owned(), rest.to_vec())
        };
        assert_eq!(of(&["1G"]), ("memory".into(), words(&["1G"])));
        assert_eq!(of(&["size=1G"]), ("memory".into(), words(&["size=1G"])));
        assert_eq!(of(&["data", "0 1"]), ("data".into(), words(&["0 1"])));
        assert_eq!(of(&[]), ("memory".into(), words(&[])));
    }

    #[test]
    fn filters_stay_where_only_the_end_of_a_disk_changes() {
        let words = ["1M".to_owned()];
        let both = json!({"parameters": ["1M"], "filters": [], "ttl": null});
        assert_eq!(change_of(&words, &[], false, Some("none"), None), both);
        assert_eq!(change_of(&[], &[], false, Some("9s"), None), json!({"ttl": "9s"}));
        assert_eq!(change_of(&[], &[], false, None, Some(false)), json!({"ephemeral": false}));
        assert_eq!(
            change_of(&[], &[], false, None, None),
            json!({"parameters": [], "filters": []})
        );
        let same = json!({"replace": true, "ttl": "9s"});
        assert_eq!(change_of(&[], &[], true, Some("9s"), None), same);
        let other = ["data", "size=1M"].map(str::to_owned);
        let anew = json!({
            "component": "data", "parameters": ["size=1M"], "filters": [], "replace": true
        });
        assert_eq!(change_of(&other, &[], true, None, None), anew);
    }

    #[test]
    fn names_of_disks_are_escaped_in_paths() {
        assert_eq!(path("a/b c%", ""), "disks/a%2Fb%20c%25");
    }
}
