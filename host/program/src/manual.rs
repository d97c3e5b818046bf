//! Manual pages, generated from the option definitions and the descriptions of components.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::{components, host_filters, inputs};
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
        roman(" lists the parameters of a component. The filters "),
        bold(host_filters::NAMES.join(", ")),
        roman(
            " are parts of the server: they concern connections, so their position among the filters \
             has no effect.",
        ),
    ]);
    section(
        &mut roff,
        "ARGUMENT FILES",
        &[(
            "@FILE",
            "Stands for the arguments in the file, one on each line, as they are: without quoting, \
             and with blanks. Lines that are blank or begin with # are skipped. The file may be a \
             pipe, contains UTF-8, has at most 1 MiB, and names no further files. An argument that \
             begins with @ and a digit, +, - or ^ is not a file but an offset of the component \
             data. The value in --option=@VALUE or KEY=@VALUE is never a file.",
        )],
    );
    section(
        &mut roff,
        "UNDER THE NAME NBDKIT",
        &[(
            "nbdkit",
            "When the program is started under the name nbdkit, for example through a link, it \
             does what nbdkit(1) does where that differs, so that scripts run unchanged. It goes \
             to the background unless -f, -s, --run, --exit-with-parent or inherited sockets \
             keep it in the foreground; listens on all interfaces without -i; needs a component \
             as its first word; serves the disk under all export names, of which -e chooses \
             the one in $uri; prints no URI without --print-uri; stops on SIGHUP; exits with \
             status 1 for wrong usage; takes abbreviated options; and answers --version, \
             --dump-config and --dump-plugin in nbdkit's form.",
        )],
    );
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
            (
                "SIGHUP",
                "Reopen the log file given by --log, for example after it was rotated. With --config, \
                 read the file again, and create, relabel and remove disks so that they are those \
                 that it describes. Disks that are the same are left alone, and so are, with a \
                 warning, those that would lose their content. If the file has a mistake, nothing \
                 is changed.",
            ),
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
    if description.name == inputs::COMPONENT {
        section(
            &mut roff,
            "FILES AND SCRIPTS",
            &[
                (
                    "<FILE",
                    "The program opens the files that the expression names, for reading, before it \
                     serves anything, and gives them to the component, which sees no other files. Of \
                     pipes and character devices it keeps a copy. All that is read has at most 64 \
                     MiB. With input-file=PATH, one for each <FILE in their order, the names in \
                     the expression are not looked at.",
                ),
                (
                    "<(SCRIPT)",
                    "With --allow-scripts, the program runs the script with /bin/sh as the user who \
                     starts it, for at most 60 seconds, and gives its output to the component. A \
                     script fails if its exit status is not 0, unless its output was cut by a \
                     slice like [:512], when it is killed.",
                ),
                (
                    "$NAME",
                    "The expression in the parameter NAME, or else in the environment variable NAME.",
                ),
            ],
        );
    }
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
