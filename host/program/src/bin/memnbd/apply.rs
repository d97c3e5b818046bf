//! The command `apply`: makes the disks and exports of a server those that a file describes.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::http::Server;
use crate::table::plain;
use crate::{items, lines, text};

/// The longest file, in bytes, for the server takes no longer ones.
const MAX_FILE: u64 = 4 << 20;

/// Where configurations go.
const POPULATE: &str = "populate";

/// Sends a file to the server. Returns what is to be printed, and whether everything was done.
pub(crate) async fn apply(
    server: &Server,
    file: &Path,
    replace: bool,
    dry_run: bool,
    json: bool,
) -> anyhow::Result<(String, bool)> {
    let toml = read(file).with_context(|| file.display().to_string())?;
    let request = json!({ "toml": toml, "replace": replace, "dry_run": dry_run });
    let answer = server.post(POPULATE, &request).await;
    let answer = answer.with_context(|| file.display().to_string())?;
    let changes = items(&answer["changes"]).chain(items(&answer["exports"]));
    let failed = changes.into_iter().any(|change| !change["error"].is_null());
    Ok((if json { lines(&answer) } else { plan(&answer, replace) }, !failed))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    match file.as_os_str() == "-" {
        true => stdin().take(MAX_FILE + 1).read_to_end(&mut bytes)?,
        false => File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > MAX_FILE {
        bail!("it is too long; a configuration has at most {MAX_FILE} bytes");
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let start = before.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let column = String::from_utf8_lossy(&before[start..]).chars().count() + 1;
        anyhow::anyhow!(
            "line {line}, column {column}: this is not UTF-8; a configuration is UTF-8 text"
        )
    })
}

/// Returns the changes for people.
fn plan(answer: &Value, replace: bool) -> String {
    let dry_run = answer["dry_run"] == true;
    let mut shown = String::new();
    let mut counts = [0; 3];
    let mut refused = false;
    for change in items(&answer["changes"]).chain(items(&answer["exports"])) {
        let is_disk = !change["disk"].is_null();
        let (sign, count, note) = match change["action"].as_str() {
            Some("create") => ("+", 0, ""),
            Some("remove") => ("-", 2, ""),
            Some("replace") if is_disk => ("-/+", 1, " (created anew: its content is lost)"),
            Some("replace") => ("-/+", 1, " (created anew: its clients are disconnected)"),
            _ => ("~", 1, ""),
        };
        refused |= sign == "-/+" && is_disk && dry_run && !replace;
        counts[count] += 1;
        let name = match is_disk {
            true => plain(&text(&change["disk"])),
            false => format!("export {}", plain(&text(&change["export"]))),
        };
        shown += &format!("{sign:>3} {name}{note}\n");
        for (sign, spec) in [("-", &change["before"]), ("+", &change["after"])] {
            if !spec.is_null() {
                shown += &format!("      {sign} {}\n", plain(&spec.to_string()));
            }
        }
        if let Some(error) = change["error"].as_str() {
            shown += &format!("      ! {}\n", plain(error));
        }
    }
    let [created, changed, removed] = counts;
    let count = |key: &str| answer[key].as_u64().unwrap_or_default();
    let unchanged = count("unchanged") + count("unchanged_exports");
    let would = if dry_run { "would be " } else { "" };
    shown += &format!(
        "{would}created {created}, changed {changed}, removed {removed}; unchanged {unchanged}\n"
    );
    if refused {
        shown += "this is refused without --replace, because content would be lost\n";
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_tell_what_is_lost() {
        let answer = json!({
            "dry_run": true,
            "unchanged": 3,
            "changes": [
                {"disk": "a\u{1b}", "action": "create", "after": {"component": "m\u{9b}"}},
                {"disk": "b", "action": "replace", "before": {}, "after": {}},
                {"disk": "c", "action": "remove", "before": {}, "error": "another stands on it"},
            ],
            "unchanged_exports": 1,
            "exports": [{"export": "d", "action": "replace"}],
        });
        assert_eq!(
            plan(&answer, false),
            "  + a?\n      + {\"component\":\"m?\"}\n\
             -/+ b (created anew: its content is lost)\n      - {}\n      + {}\n\
             \x20 - c\n      - {}\n      ! another stands on it\n\
             -/+ export d (created anew: its clients are disconnected)\n\
             would be created 1, changed 2, removed 1; unchanged 4\n\
             this is refused without --replace, because content would be lost\n"
        );
        assert!(!plan(&answer, true).contains("refused"));
    }
}
