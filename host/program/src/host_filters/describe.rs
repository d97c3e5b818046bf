//! The descriptions of the filters that are parts of the server.

use memnbd::component::Description;
use memnbd::parameters::{Parameter, ParameterType};

/// The names of the filters.
pub(in super::super) const NAMES: [&str; 8] =
    ["exitlast", "exitwhen", "exportname", "ip", "limit", "rate", "time-limit", "tls-fallback"];

/// Returns true if the filter with this index in [`NAMES`] is for the whole server, not for a disk.
pub(super) fn is_of_the_server(index: usize) -> bool {
    matches!(NAMES[index], "exitlast" | "exitwhen" | "exportname" | "tls-fallback")
}

/// The built-in filter that delays requests, and of which the server delays clients.
pub(super) const DELAY: &str = "delay";

/// The largest rate: larger ones would be no limits.
const MOST: u64 = i64::MAX as u64;

/// Returns the description of a filter that is a part of the server, as components describe themselves.
pub(in super::super) fn description(name: &str) -> Option<Description> {
    let (summary, parameters) = match name {
        "rate" => {
            ("limits what clients transfer, and how many requests they make, in a second", rate())
        }
        "limit" => (
            "limits the number of clients of a disk",
            vec![one(
                "limit",
                "the most clients at a time; 0 for any number",
                ParameterType::Number(0..=i64::from(u32::MAX)),
                Some("1"),
            )],
        ),
        "ip" => (
            "allows or denies clients by where they connect from",
            vec![
                several("allow", "rules of clients that may connect, separated by commas"),
                several(
                    "deny",
                    "rules of clients that may not connect unless allow= names them, separated by \
                     commas",
                ),
            ],
        ),
        "time-limit" => (
            "limits the time for which a client may be connected",
            vec![one(
                "time-limit",
                "the time; 0 for no limit",
                ParameterType::Duration,
                Some("60"),
            )],
        ),
        "tls-fallback" => (
            "serves a message, instead of the disk, to clients that do not use TLS",
            vec![one("tlsreadme", "the message, up to 512 bytes", ParameterType::Text, None)],
        ),
        "exportname" => (
            "changes what clients are told of the names of exports, and which they get",
            exportname(),
        ),
        "exitlast" => ("exits when the last client has disconnected", Vec::new()),
        "exitwhen" => ("exits when an event has occurred and no client is connected", exit_when()),
        _ => return None,
    };
    Some(Description {
        name: name.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: summary.into(),
        parameters,
        bare_parameter: None,
        other_parameters: false,
    })
}

/// Returns the parameters of a built-in component that the server takes, for they are about connections. The
/// component describes them, too, for those who read about it.
pub(super) fn delays() -> Description {
    let delay = |name| one(name, "a delay of clients", ParameterType::Duration, Some("0"));
    Description {
        name: DELAY.into(),
        version: env!("CARGO_PKG_VERSION").into(),
        summary: "delays clients as they connect and disconnect".into(),
        parameters: vec![delay("delay-open"), delay("delay-close")],
        bare_parameter: None,
        other_parameters: false,
    }
}

fn rate() -> Vec<Parameter> {
    let bits = || ParameterType::Size(1..=MOST);
    let requests = || ParameterType::Number(1..=i64::MAX);
    vec![
        one(
            "rate",
            "the most bits per second of all connections, read and written each",
            bits(),
            None,
        ),
        one("connection-rate", "the same for each connection", bits(), None),
        one("rate-requests", "the most requests per second of all connections", requests(), None),
        one("connection-rate-requests", "the same for each connection", requests(), None),
        one(
            "rate-file",
            "a file with the value of rate, read every second",
            ParameterType::Text,
            None,
        ),
        one(
            "connection-rate-file",
            "a file with the value of connection-rate, read every second",
            ParameterType::Text,
            None,
        ),
        one(
            "burstiness",
            "what may be caught up on after a pause: as much as is allowed in this time, at least 10 ms",
            ParameterType::Duration,
            Some("2"),
        ),
    ]
}

fn exportname() -> Vec<Parameter> {
    let modes = ["keep", "error", "empty", "defaultonly", "explicit"].map(Into::into);
    vec![
        one(
            "default-export",
            "the export that clients get that ask for the empty name",
            ParameterType::Text,
            None,
        ),
        several("exportname", "a name that is listed with explicit, and permitted with strict"),
        one(
            "exportname-list",
            "what is listed: everything, an error, nothing, the default export, or what exportname names",
            ParameterType::Choice(modes.into()),
            Some("keep"),
        ),
        one(
            "exportname-strict",
            "whether clients can ask for names of exportname alone",
            ParameterType::Boolean,
            Some("false"),
        ),
        one(
            "exportdesc",
            "the description of all exports: keep, none, or fixed: and a text",
            ParameterType::Text,
            Some("keep"),
        ),
    ]
}

fn exit_when() -> Vec<Parameter> {
    vec![
        several("exit-when-file-created", "exit when this file exists"),
        several("exit-when-file-deleted", "exit when this file does not exist"),
        Parameter {
            kind: ParameterType::Number(0..=i64::from(i32::MAX)),
            ..several(
                "exit-when-pipe-closed",
                "exit when the pipe is closed whose other end is this file descriptor",
            )
        },
        Parameter {
            kind: ParameterType::Number(1..=i64::from(i32::MAX)),
            ..several("exit-when-process-exits", "exit when the process with this ID exits")
        },
        several(
            "exit-when-script",
            "exit when this command exits with status 88; needs --allow-scripts",
        ),
        one(
            "exit-when-poll",
            "how often files and scripts are looked at; files at least once a second",
            ParameterType::Duration,
            Some("60"),
        ),
    ]
}

fn one(name: &str, summary: &str, kind: ParameterType, default: Option<&str>) -> Parameter {
    Parameter {
        name: name.into(),
        summary: summary.into(),
        kind,
        required: false,
        repeatable: false,
        default: default.map(Into::into),
    }
}

/// A text that can be given several times.
fn several(name: &str, summary: &str) -> Parameter {
    Parameter { repeatable: true, ..one(name, summary, ParameterType::Text, None) }
}
