//! Manual pages, generated from the option definitions and the descriptions of components.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::components;
use memnbd::component::Component;

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
        roman("Built in are "),
        bold(components::names().join(", ")),
        roman(
            ". Any other is a file with a WebAssembly component, named by its path, which has a / or \
             ends in .wasm. It exports ",
        ),
        italic(memnbd::component::INTERFACE),
        roman(". "),
        bold("memnbd-host --help"),
        roman(" "),
        italic("COMPONENT"),
        roman(" tells its parameters."),
    ]);
    section(
        &mut roff,
        "SIGNALS",
        &[
            (
                "SIGINT, SIGTERM, SIGQUIT",
                "The server stops: it takes no more clients, finishes requests in flight within a \
                 second, flushes all disks within --shutdown-timeout and exits with 0. A second \
                 signal, or a first one before the server is ready, ends it at once.",
            ),
            ("SIGHUP", "The file that --log names is opened again, by its name."),
        ],
    );
    section(
        &mut roff,
        "EXIT STATUS",
        &[
            ("0", "The server was stopped, or what was asked for was printed."),
            (
                "1",
                "It failed, or none of its exports can be served; stderr or the log says why. Also when disks were not flushed in time, \
                 so that data may be lost.",
            ),
            ("2", "The command line makes no sense."),
            ("128+N", "Signal N ended the server at once."),
            ("other", "With --run it is that of the command, 128 and its number for a signal."),
        ],
    );
    section(
        &mut roff,
        "ENVIRONMENT",
        &[
            (
                "LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES",
                "Sockets that the server was started with, see sd_listen_fds(3). One with the \
                 name of an export is for that export alone.",
            ),
            ("NOTIFY_SOCKET", "Is told when the server is ready, see sd_notify(3)."),
            (
                "XDG_CACHE_HOME, HOME",
                "Compiled components are kept in memnbd below the first, else in .cache/memnbd \
                 below the second, or below the home directory of the user that --user names. A \
                 directory that other users could change is not used, and a warning says so.",
            ),
            ("TMPDIR", "Private sockets are made there."),
        ],
    );
    section(
        &mut roff,
        "EXAMPLES",
        &[
            ("memnbd-host memory 2G", "A disk of 2 GiB on localhost, port 10809."),
            (
                "memnbd-host -U - memory 1G --run 'qemu-img convert -n disk.img \"$uri\"'",
                "A private disk for as long as a command runs.",
            ),
            (
                "memnbd-host -P pid -U /tmp/disk memory 64G",
                "In the background; the pidfile is there when clients can connect.",
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

/// Returns the manual page of a component.
pub(super) fn component(component: &Component) -> String {
    let description = component.description();
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
        synopsis.push(italic("VALUE"));
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
