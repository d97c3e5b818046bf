//! Manual pages, generated from the option definitions and the descriptions of components.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::components;
use memnbd::component::Description;

const SECTION: &str = "1";

/// Returns the manual page memnbd-host(1).
pub(super) fn program(command: clap::Command) -> String {
    let man = Man::new(command.version(env!("CARGO_PKG_VERSION"))).section(SECTION);
    let mut page = Vec::new();
    // Writing to a vector does not fail.
    let _ = man.render_title(&mut page);
    let _ = man.render_name_section(&mut page);
    let _ = man.render_synopsis_section(&mut page);
    let _ = man.render_description_section(&mut page);
    let _ = man.render_options_section(&mut page);
    String::from_utf8_lossy(&page).into_owned() + &rest().render()
}

/// Returns the sections that are not generated from options.
fn rest() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMPONENTS"]);
    roff.text([
        roman("The built-in components are "),
        bold(components::names().join(", ")),
        roman(
            ". Any other component is a file, named by a path that contains a slash or ends in \
             .wasm. It must export ",
        ),
        italic(memnbd::component::INTERFACE),
        roman(". "),
        bold("memnbd-host --help"),
        roman(" "),
        italic("COMPONENT"),
        roman(" lists the parameters of a component."),
    ]);
    section(
        &mut roff,
        "SIGNALS",
        &[
            (
                "SIGINT, SIGTERM, SIGQUIT",
                "Stop the server. It accepts no more clients, gives requests in flight one second \
                 to finish, flushes all disks within --shutdown-timeout, and exits with status 0. \
                 A second signal, or a signal before the server is ready, ends it immediately.",
            ),
            ("SIGHUP", "Reopen the log file given by --log, for example after it was rotated."),
        ],
    );
    section(
        &mut roff,
        "EXIT STATUS",
        &[
            ("0", "The server was stopped, or the requested information was printed."),
            (
                "1",
                "The server failed, no export could be served, or a disk was not flushed in time, so \
                 that data may be lost. The reason is on stderr or in the log.",
            ),
            ("2", "The command line is invalid."),
            ("128+N", "Signal N ended the server immediately."),
            ("other", "With --run, the exit status of the command, or 128+N if signal N ended it."),
        ],
    );
    section(
        &mut roff,
        "ENVIRONMENT",
        &[
            (
                "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
                "Listening sockets passed to the server; see sd_listen_fds(3). A socket with the \
                 name of an export serves that export only.",
            ),
            ("NOTIFY_SOCKET", "Where to report that the server is ready; see sd_notify(3)."),
            (
                "XDG_CACHE_HOME, HOME",
                "Where compiled components are cached: in $XDG_CACHE_HOME/memnbd, or else in \
                 $HOME/.cache/memnbd; with --user, below the home directory of that user. A \
                 directory that other users can write to is not used, and a warning is logged.",
            ),
            ("TMPDIR", "The directory in which private sockets are created [default: /tmp]."),
        ],
    );
    section(
        &mut roff,
        "EXAMPLES",
        &[
            ("memnbd-host memory 2G", "A disk of 2 GiB on localhost, port 10809."),
            (
                "memnbd-host -U - memory 1G --run 'qemu-img convert -n disk.img \"$uri\"'",
                "Serve a disk on a private socket while a command runs, and fill it.",
            ),
            (
                "memnbd-host -P pid -U /tmp/disk memory 64G",
                "Serve in the background. The pidfile exists once clients can connect.",
            ),
        ],
    );
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("nbdkit"),
        roman("(1), "),
        bold("nbdinfo"),
        roman("(1), "),
        bold("nbdcopy"),
        roman("(1), "),
        bold("qemu-img"),
        roman("(1), "),
        bold("systemd.socket"),
        roman("(5)"),
    ]);
    roff
}

/// Returns the manual page of a component, or of another backend.
pub(super) fn backend(description: &Description) -> String {
    let name = format!("memnbd-{}", description.name);
    let mut roff = Roff::new();
    let version = format!("{} {}", description.name, description.version);
    roff.control("TH", [name.as_str(), SECTION, "", &version]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {}", description.summary))]);
    roff.control("SH", ["SYNOPSIS"]);
    let mut synopsis = vec![bold("memnbd-host"), roman(" [OPTIONS] "), bold(&*description.name)];
    for parameter in &description.parameters {
        let (open, close) = if parameter.required { (" ", "") } else { (" [", "]") };
        synopsis.push(roman(open));
        let bare = description.bare_parameter.as_deref() == Some(parameter.name.as_str());
        synopsis.push(bold(match bare {
            true => format!("[{}=]", parameter.name),
            false => format!("{}=", parameter.name),
        }));
        synopsis.push(italic(parameter.kind.usage()));
        synopsis.push(roman(if parameter.repeatable { "..." } else { "" }));
        synopsis.push(roman(close));
    }
    roff.text(synopsis);
    let parameters: Vec<(String, String)> = description
        .parameters
        .iter()
        .map(|parameter| {
            let default = parameter.default.as_ref();
            let default = default.map(|default| format!(" [default: {default}]"));
            (parameter.name.clone(), parameter.summary.clone() + &default.unwrap_or_default())
        })
        .collect();
    section(&mut roff, "PARAMETERS", &parameters);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("memnbd-host"), roman("(1)")]);
    roff.render()
}

/// Appends a section of terms and their meanings.
fn section<S: AsRef<str>>(roff: &mut Roff, title: &str, items: &[(S, S)]) {
    roff.control("SH", [title]);
    for (term, meaning) in items {
        roff.control("TP", []);
        roff.text([bold(term.as_ref())]);
        roff.text([roman(meaning.as_ref())]);
    }
}
