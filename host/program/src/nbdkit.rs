//! The program under the name `nbdkit`: what differs, so that scripts written for nbdkit(1) run
//! unchanged. And the options of nbdkit that are refused under any name.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::args::{Args, PROGRAM};
use super::signals::Hangup;
use memnbd::component::Description;

/// The name that is told from others.
const NBDKIT: &str = "nbdkit";

/// The release of nbdkit whose options and messages these are. Scripts ask for it.
const VERSION: (u32, u32, u32) = (1, 48, 0);

/// Whose command line it is: that of this program, or that of nbdkit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Manner {
    #[default]
    Own,
    /// The program was started under the name `nbdkit`, for example through a link. It goes to the
    /// background, listens on all interfaces, takes the first word for the name of a component, serves
    /// one disk under all names, prints no URI unless it is told to, stops on SIGHUP, and exits
    /// with 1 for wrong usage.
    Nbdkit,
}

impl Manner {
    /// Returns the manner that goes with a name of the program, which may be a path.
    pub(super) fn of(program: Option<&OsString>) -> Self {
        let name = program.and_then(|program| Path::new(program).file_name());
        if name.is_some_and(|name| name == NBDKIT) { Self::Nbdkit } else { Self::Own }
    }

    /// The name of the program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Own => PROGRAM,
            Self::Nbdkit => NBDKIT,
        }
    }

    /// The exit code for wrong usage.
    pub(super) fn usage_code(self) -> ExitCode {
        ExitCode::from(if self == Self::Own { 2 } else { 1 })
    }

    /// What SIGHUP does.
    pub(super) fn hangup(self) -> Hangup {
        if self == Self::Own { Hangup::Reopen } else { Hangup::Stop }
    }

    /// Returns true if the URI is printed when the server is ready.
    pub(super) fn prints_uri(self, args: &Args) -> bool {
        self == Self::Own || args.life.print_uri
    }

    /// Adapts how options are parsed: those of nbdkit may be abbreviated.
    pub(super) fn adapt(self, command: clap::Command) -> clap::Command {
        match self {
            Self::Own => command,
            Self::Nbdkit => command
                .name(NBDKIT)
                .override_usage("nbdkit [OPTIONS] PLUGIN [KEY=VALUE | VALUE | @FILE]...")
                .infer_long_args(true),
        }
    }

    /// Gives arguments the meaning that they have in this manner.
    pub(super) fn apply(self, args: &mut Args) {
        if self == Self::Own {
            return;
        }
        args.logging.name.get_or_insert_with(|| NBDKIT.into());
        if let Some(name) = args.exports.drain(..).next_back() {
            args.export_name.get_or_insert(name);
        }
        if args.component.is_none() && !args.parameters.is_empty() {
            args.component = Some(args.parameters.remove(0));
        }
        if let Some(component) = &mut args.component {
            *component = short(component, "-plugin.so");
        }
        args.filters.iter_mut().for_each(|filter| *filter = short(filter, "-filter.so"));
    }

    /// Checks that there is a component, which nbdkit has no default for.
    ///
    /// # Errors
    ///
    /// Returns a message if there is none.
    pub(super) fn check(self, args: &Args) -> Result<(), String> {
        match self == Self::Nbdkit && args.component.is_none() {
            true => Err("no plugins given on the command line".into()),
            false => Ok(()),
        }
    }

    /// Returns the answer to `--version`.
    pub(super) fn version(self) -> String {
        const OWN: &str = concat!("memnbd-host ", env!("CARGO_PKG_VERSION"));
        match self {
            Self::Own => format!("{OWN}\n"),
            Self::Nbdkit => format!("{NBDKIT} {} ({OWN})\n", version()),
        }
    }
}

fn version() -> String {
    let (major, minor, patch) = VERSION;
    format!("{major}.{minor}.{patch}")
}

/// Returns the name of a plugin or filter whose file is named as nbdkit's are.
fn short(name: &str, suffix: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or(name);
    let short = file.strip_prefix("nbdkit-").and_then(|rest| rest.strip_suffix(suffix));
    short.unwrap_or(name).to_owned()
}

/// Returns what nbdkit prints for `--dump-config`. There are no files in `plugindir` and `filterdir`.
pub(super) fn config() -> String {
    let binary = env::current_exe().unwrap_or_default();
    let bindir = binary.parent().unwrap_or(Path::new("/usr/bin")).to_owned();
    let prefix = bindir.parent().unwrap_or(Path::new("/usr")).to_owned();
    let within = |path: &str| prefix.join(path).display().to_string();
    let (major, minor, _) = VERSION;
    let display = |path: &PathBuf| path.display().to_string();
    [
        ("binary", display(&binary)),
        ("bindir", display(&bindir)),
        ("exit_with_parent", "yes".into()),
        ("filterdir", within("lib/nbdkit/filters")),
        ("host_cpu", env::consts::ARCH.into()),
        ("host_os", "linux-gnu".into()),
        ("libdir", within("lib")),
        ("mandir", within("share/man")),
        ("name", NBDKIT.into()),
        ("plugindir", within("lib/nbdkit/plugins")),
        ("root_tls_certificates_dir", "/etc/pki/nbdkit".into()),
        ("sbindir", display(&bindir)),
        ("selinux", "no".into()),
        ("sysconfdir", "/etc".into()),
        ("tls", "yes".into()),
        ("version", version()),
        ("version_extra", concat!("memnbd-host ", env!("CARGO_PKG_VERSION")).into()),
        ("version_major", major.to_string()),
        ("version_minor", minor.to_string()),
        ("zstd", "yes".into()),
    ]
    .map(|(key, value)| format!("{key}={value}\n"))
    .concat()
}

/// The functions that all components implement, by nbdkit's names.
const FUNCTIONS: [&str; 20] = [
    "config",
    "config_complete",
    "config_help",
    "open",
    "get_size",
    "block_size",
    "can_write",
    "can_flush",
    "is_rotational",
    "can_trim",
    "can_zero",
    "can_fast_zero",
    "can_extents",
    "can_fua",
    "can_multi_conn",
    "pread",
    "pwrite",
    "flush",
    "trim",
    "zero",
];

/// Returns what nbdkit prints for `--dump-plugin`.
pub(super) fn describe(description: &Description) -> String {
    let path = env::current_exe().unwrap_or_default();
    let mut text = format!("path={}\n", path.display());
    let mut put = |key: &str, value: &str| {
        // It may come from an untrusted component.
        let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        text.push_str(&format!("{key}={value}\n"));
    };
    put("name", &description.name);
    put("version", &description.version);
    put("api_version", "2");
    put("max_thread_model", "parallel");
    put("thread_model", "parallel");
    put("errno_is_preserved", "1");
    if let Some(key) = &description.bare_parameter {
        put("magic_config_key", key);
    }
    FUNCTIONS.iter().for_each(|function| put(&format!("has_{function}"), "1"));
    put("has_extents", "1");
    put("has_cache", "1");
    match description.name.as_str() {
        "data" => put("data_base64", "yes"),
        "file" => {
            put("has_list_exports", "1");
            put("file_falloc_fl_punch_hole", "yes");
            put("file_falloc_fl_zero_range", "yes");
        }
        _ => {}
    }
    if matches!(description.name.as_str(), "data" | "memory") {
        put("mlock", "no");
        put("zstd", if description.name == "memory" { "yes" } else { "no" });
    }
    text
}

/// Options of nbdkit that cannot be followed.
#[derive(Debug, clap::Args)]
pub(super) struct Refused {
    #[arg(short = 'o', long, alias = "old-style", hide = true)]
    oldstyle: bool,

    #[arg(long, value_name = "LABEL", hide = true)]
    selinux_label: Option<String>,

    #[arg(long, value_name = "PRIORITY", hide = true)]
    tls_priority: Option<String>,
}

impl Refused {
    /// Checks that none of them is given.
    ///
    /// # Errors
    ///
    /// Returns a message that says what to do instead.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self { oldstyle, selinux_label, tls_priority } = self;
        let refused = [
            (
                *oldstyle,
                "-o (--oldstyle): the oldstyle protocol is not supported; leave the option out, as \
                 clients since 2011 speak the newstyle protocol",
            ),
            (
                selinux_label.is_some(),
                "--selinux-label is not supported; start the server with runcon(1), and its sockets \
                 get the label of its process",
            ),
            (
                tls_priority.is_some(),
                "--tls-priority is not supported, as versions and ciphers are fixed: TLS 1.2 and \
                 1.3 with AES-GCM and ChaCha20-Poly1305; leave the option out",
            ),
        ];
        match refused.into_iter().find(|(given, _)| *given) {
            Some((_, text)) => Err(text.into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{self, Address, ClientSource, Family, Life};

    fn args(typed: &[&str]) -> Args {
        Args::of(typed.iter().map(OsString::from).collect()).unwrap()
    }

    #[test]
    fn manner_goes_with_the_name() {
        for (name, manner) in [
            ("nbdkit", Manner::Nbdkit),
            ("/usr/bin/nbdkit", Manner::Nbdkit),
            ("./nbdkit", Manner::Nbdkit),
            ("memnbd-host", Manner::Own),
            ("nbdkit-host", Manner::Own),
            ("/nbdkit/memnbd-host", Manner::Own),
            ("", Manner::Own),
        ] {
            assert_eq!(Manner::of(Some(&name.into())), manner, "{name}");
        }
        assert_eq!(Manner::of(None), Manner::Own);
    }

    #[test]
    fn first_word_is_the_plugin() {
        let args = args(&["nbdkit", "/usr/lib/nbdkit/plugins/nbdkit-memory-plugin.so", "1G"]);
        assert_eq!(args.component.as_deref(), Some("memory"));
        assert_eq!(args.parameters, ["1G"]);
        assert!(Manner::Nbdkit.check(&args).is_ok());
        let numeric = self::args(&["nbdkit", "1G"]);
        assert_eq!((numeric.component.as_deref(), numeric.parameters.len()), (Some("1G"), 0));
        assert!(Manner::Nbdkit.check(&self::args(&["nbdkit", "-f"])).is_err());
        assert_eq!(short("./nbdkit-x-filter.so", "-filter.so"), "x");
        assert_eq!(short("./x.so", "-filter.so"), "./x.so");
    }

    #[test]
    fn options_may_be_abbreviated() {
        let args = args(&["nbdkit", "--fore", "--exportn=x", "--verb", "null"]);
        assert!(args.life.foreground && args.logging.verbose);
        assert_eq!(args.export_name(), "x");
        assert_eq!(self::args(&["nbdkit", "--export=a=b", "null"]).export_name(), "a=b");
        let own = Args::of(["memnbd-host", "--fore"].map(OsString::from).into());
        assert!(own.is_err());
    }

    #[test]
    fn server_goes_to_the_background_unless_it_is_told_not_to() {
        let life = |options: &[&str]| {
            let args = args(&[&["nbdkit"], options, &["null"]].concat());
            match plan::life(&args, false) {
                Life::Foreground => 'f',
                Life::Background => 'b',
                Life::Captive(_) => 'c',
            }
        };
        assert_eq!(life(&[]), 'b');
        assert_eq!(life(&["-P", "pid"]), 'b');
        for options in [&["-f"][..], &["--no-fork"], &["-s"], &["--stdin"], &["--exit-with-parent"]]
        {
            assert_eq!(life(options), 'f', "{options:?}");
        }
        assert_eq!(life(&["--run", "true"]), 'c');
        let inherited = args(&["nbdkit", "null"]);
        assert_eq!(plan::life(&inherited, true), Life::Foreground);
    }

    #[test]
    fn server_listens_on_all_interfaces() {
        let address = |options: &[&str]| {
            let args = args(&[&["nbdkit"], options, &["null"]].concat());
            match plan::client_source(&args, false) {
                Ok(ClientSource::Listen(mut sockets)) => sockets.remove(0).address,
                _ => panic!("{options:?}"),
            }
        };
        let all = |port, family| Address::AllInterfaces { port, family };
        assert_eq!(address(&[]), all(10809, Family::Any));
        assert_eq!(address(&["-4", "-p", "5"]), all(5, Family::V4));
        assert_eq!(address(&["-6"]), all(10809, Family::V6));
        assert_eq!(address(&["--run", "true"]), Address::Private);
        assert_eq!(address(&["--run", "true", "-p", "5"]), all(5, Family::Any));
        let host = Address::Tcp { host: "::1".into(), port: 10809, family: Family::Any };
        assert_eq!(address(&["-i", "::1"]), host);
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (options, word) in [
            (&["-o"][..], "newstyle"),
            (&["--old-style"], "newstyle"),
            (&["--selinux-label", "x"], "runcon"),
            (&["--tls-priority=NORMAL"], "TLS 1.2"),
        ] {
            for name in ["nbdkit", "memnbd-host"] {
                let args = args(&[&[name], options, &["null"]].concat());
                assert!(args.refused.check().unwrap_err().contains(word), "{options:?}");
            }
        }
        assert!(
            args(&["nbdkit", "-n", "-t", "4", "-D", "nbdkit.x=1", "null"]).refused.check().is_ok()
        );
    }
}
