//! The files that a command line and a configuration file name, and those that every server needs.
//!
//! It is found out from the text alone, because components say only later, when they run, which of
//! their parameters name files. So a value that happens to be the name of a file counts, too.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use data::language::{self, Source};
use memnbd::confinement::{Files, Rights};
use memnbd::parameters::key_value;
use memnbd::tls::FILES as CERTIFICATES;

use crate::args::Args;
use crate::components::{self, Choice};
use crate::config::{Config, ConfigFile};
use crate::exports::parse as parse_export;
use crate::grants::{Grants, Kind};
use crate::log;
use crate::plan::{self, Address, ClientSource, Listen};
use crate::tls::Credentials;

/// What every server reads: numbers that cannot be guessed, and what the machine and the process are like.
const SYSTEM: &[&str] = &[
    "/dev/random",
    "/dev/urandom",
    "/etc/localtime",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/self",
    "/proc/stat",
    "/proc/sys",
    "/sys/dev/block",
    "/sys/devices",
    "/sys/fs/cgroup",
];

/// What the C library reads to find a host, a user or a group, and OpenSSL for TLS: its configuration, and
/// libraries.
const LIBRARIES: &[&str] = &[
    "/etc/crypto-policies",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/tls/openssl.cnf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/lib",
    "/lib64",
    "/nix/store",
    "/usr",
];

/// The parameters of built-in components that name files to be created.
const OUTPUTS: [&str; 2] = ["logfile", "statsfile"];

/// The parameters of built-in components that name files to be read or written.
const INPUTS: [&str; 6] =
    ["badblocks-mapfile", "ddrescue-mapfile", "delay-trace", "extentlist", "file", "input-file"];

/// The built-in components whose bare words name files.
const OF_FILES: [&str; 3] = ["file", "partitioning", "split"];

/// Returns true if every server needs this path.
pub(super) fn is_of_system(path: &Path) -> bool {
    let of_system = SYSTEM.iter().chain(LIBRARIES).chain(&["/dev/null"]);
    of_system.into_iter().any(|of_system| path == *of_system)
}

/// Returns the files that can be opened.
pub(super) fn named(args: &Args) -> Files {
    let mut places = Places { files: Files::default(), directory: current_directory() };
    for path in SYSTEM {
        places.files.allow(path, Rights::Read);
    }
    places.files.allow("/dev/null", Rights::Write);
    // What is wrong with them is reported by those who need them.
    let source = plan::client_source(args, false).ok();
    let credentials = args.tls.find().ok();
    // A plain server on a socket of this machine, which is what tests start by the thousand, needs no more.
    if !is_plain(args, source.as_ref(), credentials.as_ref()) {
        for path in LIBRARIES {
            places.files.allow(path, Rights::Read);
        }
    }
    for path in &args.life.sandbox_paths {
        places.files.allow(places.at(path), Rights::Write);
    }
    places.add_options(args);
    if let Some(ClientSource::Listen(sockets)) = &source {
        sockets.iter().for_each(|socket| places.add_socket(&socket.address));
    }
    if let Some(credentials) = credentials {
        places.add_credentials(credentials);
    }
    places.add_disks(args);
    if let Some(path) = &args.control.config {
        places.add_config(path);
    }
    places.files
}

/// Returns true if no name of a host, user or group has to be found, nor TLS to be prepared.
fn is_plain(args: &Args, source: Option<&ClientSource>, credentials: Option<&Credentials>) -> bool {
    let is_local = |socket: &Listen| match &socket.address {
        Address::Unix(_) | Address::Private | Address::Vsock { .. } => true,
        Address::Tcp { .. } | Address::AllInterfaces { .. } => false,
    };
    let is_local = match source {
        Some(ClientSource::Listen(sockets)) => sockets.iter().all(is_local),
        Some(ClientSource::Single | ClientSource::Inherited) => true,
        None => false,
    };
    let may_need_names = !args.control.control.is_empty()
        || args.control.config.is_some()
        || args.life.user.is_some()
        || args.life.group.is_some()
        || matches!(&args.logging.log, Some(path) if path == "syslog");
    is_local && !may_need_names && matches!(credentials, Some(Credentials::None))
}

fn current_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_default()
}

struct Places {
    files: Files,
    /// Where relative paths begin.
    directory: PathBuf,
}

impl Places {
    fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Adds what may be done in the directory of a file.
    fn beside(&mut self, path: impl AsRef<Path>, rights: Rights) {
        if let Some(directory) = self.at(path).parent() {
            self.files.allow(directory, rights);
        }
    }

    /// Adds a file that may have to be created, and is removed or reopened later.
    fn created(&mut self, path: &Path) {
        self.beside(path, Rights::Create);
        self.files.allow(self.at(path), Rights::Write);
    }

    /// Adds a file that is read again, and may then be another one of this name.
    fn read_again(&mut self, path: &Path) {
        self.beside(path, Rights::Read);
        self.files.allow(self.at(path), Rights::Read);
    }

    /// Adds what options name that are not about disks.
    fn add_options(&mut self, args: &Args) {
        if let Some(path) = &args.logging.log
            && !log::is_no_file(path)
        {
            self.created(path);
        }
        if let Some(path) = &args.life.pidfile {
            self.created(path);
        }
        for address in &args.control.control {
            if let Some(path) = address.as_bytes().strip_prefix(b"unix:") {
                self.beside(OsStr::from_bytes(path), Rights::Sockets);
            }
        }
    }

    /// Adds what TLS reads.
    fn add_credentials(&mut self, credentials: Credentials) {
        match credentials {
            Credentials::Certificates(directory) => {
                for name in CERTIFICATES.iter().chain(&["ca-crl.pem"]) {
                    self.files.allow(self.at(directory.join(name)), Rights::Read);
                }
                self.files.allow(self.at(directory), Rights::Read);
            }
            Credentials::Keys(path) => self.read_again(&path),
            Credentials::None => {}
        }
    }

    fn add_socket(&mut self, address: &Address) {
        match address {
            Address::Unix(path) => self.beside(path, Rights::Sockets),
            Address::Private => self.files.allow(std::env::temp_dir(), Rights::Sockets),
            Address::Tcp { .. } | Address::AllInterfaces { .. } | Address::Vsock { .. } => {}
        }
    }

    /// Adds what the disks of the command line name.
    fn add_disks(&mut self, args: &Args) {
        let rights = if args.read_only { Rights::Read } else { Rights::Write };
        if let Some(path) = &args.preload {
            self.files.allow(self.at(path), Rights::Read);
        }
        let (choice, words) = components::choose(args.component.as_deref(), &args.parameters);
        if let Choice::Named(name) = choice {
            self.add_component(&name);
        }
        args.filters.iter().for_each(|name| self.add_component(name));
        let component =
            args.component.as_deref().unwrap_or(args.parameters.first().map_or("", |word| word));
        words.iter().for_each(|word| self.add_word(component, word, rights));
        for export in &args.exports {
            let Some(export) = parse_export(export) else { continue };
            self.add_component(&export.component);
            export.filters.iter().for_each(|name| self.add_component(name));
            export.values.iter().for_each(|word| self.add_word(&export.component, word, rights));
        }
        if let Ok(grants) = Grants::parse(&args.control.grants, &self.directory) {
            self.add_grants(&grants);
        }
    }

    fn add_component(&mut self, name: &str) {
        if components::is_path(name) {
            self.files.allow(self.at(name), Rights::Read);
        }
    }

    /// Adds what a parameter of a component may name.
    fn add_word(&mut self, component: &str, word: &str, rights: Rights) {
        let bare = if OF_FILES.contains(&component) { "file" } else { "" };
        let (key, value) = key_value(word).unwrap_or((bare, word));
        let key = key.rsplit('.').next().unwrap_or(key);
        if let Ok(inputs) = language::inputs(value, &|name: &str| std::env::var(name).ok()) {
            for input in inputs {
                if let Source::File(path) = &input.input.source {
                    self.files.allow(self.at(path), Rights::Read);
                }
            }
        }
        if let Some(number) = value.strip_prefix('-').or((key.ends_with("fd")).then_some(value))
            && number.parse::<u32>().is_ok()
        {
            return self.files.allow(format!("/proc/self/fd/{number}"), rights);
        }
        let path = Path::new(value.strip_prefix('+').unwrap_or(value));
        if path.as_os_str().is_empty() || path.as_os_str().len() > MAX_PATH {
            return;
        }
        match key {
            "rate-file" | "connection-rate-file" => self.read_again(path),
            _ if OUTPUTS.contains(&key) => self.created(path),
            _ if self.at(path).exists() => self.files.allow(self.at(path), rights),
            // It may be there when the disk is opened again. A text that only looks like a path must not open
            // all there is.
            _ if (INPUTS.contains(&key) || value.contains('/'))
                && self.at(path).parent() != Some(Path::new("/")) =>
            {
                self.beside(path, Rights::Change);
            }
            _ => {}
        }
    }

    fn add_grants(&mut self, grants: &Grants) {
        for (kind, grant) in grants.iter() {
            match kind {
                Kind::Output => self.created(&grant.path),
                Kind::Component | Kind::Secret => self.files.allow(&grant.path, Rights::Read),
                Kind::File | Kind::Directory if grant.read_only => {
                    self.files.allow(&grant.path, Rights::Read);
                }
                Kind::File | Kind::Directory => self.files.allow(&grant.path, Rights::Write),
            }
        }
    }

    fn add_config(&mut self, path: &Path) {
        self.read_again(path);
        let file = ConfigFile::new(path, &self.directory);
        // If it is wrong, whoever needs it says so.
        let Ok(config) = file.load() else { return };
        self.directory = file.directory().to_owned();
        self.add_config_grants(&file, &config);
        let of_tenants = config.tenants.iter().flat_map(|tenant| &tenant.disks);
        for disk in config.disks.iter().chain(of_tenants) {
            let layers = disk.spec.layers();
            self.add_component(&layers.component);
            layers.filters.iter().for_each(|name| self.add_component(name));
            let rights = if layers.read_only { Rights::Read } else { Rights::Write };
            for word in &layers.parameters {
                self.add_word(&layers.component, word, rights);
            }
        }
        for text in config.tenants.iter().flat_map(|tenant| &tenant.listen) {
            if let Ok(listen) = plan::listen_for(text.as_ref(), &self.directory) {
                self.add_socket(&listen.address);
            }
        }
    }

    fn add_config_grants(&mut self, file: &ConfigFile, config: &Config) {
        let mut grants = Grants::default();
        if file.grant(config, &mut grants).is_ok() {
            self.add_grants(&grants);
        }
        for tenant in &config.tenants {
            if let Ok(grants) = file.grants_of(config, tenant) {
                self.add_grants(&grants);
            }
        }
    }
}

/// PATH_MAX.
const MAX_PATH: usize = 4096;

#[cfg(test)]
mod tests {
    use std::slice;

    use clap::Parser;
    use memnbd::component::BuiltIn;
    use memnbd::parameters::ParameterType;
    use tempfile::TempDir;

    use super::*;
    use crate::loading::Loader;

    /// Returns the places of a command line, without those of every one.
    fn places(typed: &[&str]) -> Vec<(PathBuf, Rights)> {
        let all = |typed: &[&str]| {
            let args = Args::try_parse_from(["memnbd-host"].iter().chain(typed)).unwrap();
            let files = named(&args);
            files.iter().map(|(path, rights)| (path.to_owned(), rights)).collect::<Vec<_>>()
        };
        let common = all(&["-p", "0", "--config", "/absent", "--tls=off"]);
        let mut of_this = all(&[typed, &["--tls=off"]].concat());
        of_this.retain(|place| !common.contains(place));
        of_this
    }

    #[test]
    fn files_that_parameters_name_can_be_opened() {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        for name in ["disk", "x.wasm", "key", "sector"] {
            std::fs::write(path(name), "").unwrap();
        }
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let disk = (path("disk"), Rights::Write);
        assert_eq!(places(&["-p", "0", "file", &text("disk")]), slice::from_ref(&disk));
        assert_eq!(
            places(&["-p", "0", "file", &format!("file={}", text("disk"))]),
            slice::from_ref(&disk)
        );
        let read_only = (path("disk"), Rights::Read);
        assert_eq!(places(&["-p", "0", "-r", "file", &text("disk")]), [read_only]);
        let export = format!("a=file,file={},filter=cow", text("disk"));
        assert_eq!(places(&["-p", "0", "--export", &export]), [disk]);
        let component = [&text("x.wasm"), &format!("key=+{}", text("key"))];
        assert_eq!(
            places(&["-p", "0", component[0], component[1]]),
            [(path("key"), Rights::Write), (path("x.wasm"), Rights::Read)]
        );
        let expression = format!("1 2 <{}", text("sector"));
        let found = places(&["-p", "0", "data", &expression]);
        assert!(found.contains(&(path("sector"), Rights::Read)), "{found:?}");
        for typed in [["data", "raw=/AQ"], ["file", "/absent"], ["memory", "size=1G"]] {
            assert_eq!(places(&[&["-p", "0"], &typed[..]].concat()), [], "{typed:?}");
        }
        assert_eq!(places(&["-p", "0", "--log", "null"]), []);
        assert_eq!(places(&["-p", "0", "memory", "1G"]), []);
        let absent = format!("a=file,file={}", text("absent"));
        let beside = (directory.path().to_owned(), Rights::Change);
        assert_eq!(places(&["-p", "0", "--export", &absent]), [beside]);
    }

    #[test]
    fn files_are_created_only_where_an_option_or_an_output_names_them() {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        let socket = (directory.path().to_owned(), Rights::Sockets);
        assert_eq!(places(&["-U", &text("socket")]), slice::from_ref(&socket));
        let listen = format!("unix:{}", text("socket"));
        assert_eq!(places(&["-p", "0", "--listen", &listen]), slice::from_ref(&socket));
        assert_eq!(places(&["-p", "0", "--control", &listen]), [socket]);
        let create = (directory.path().to_owned(), Rights::Create);
        for typed in [
            ["--log", &text("log")],
            ["--filter=log", &format!("logfile={}", text("log"))],
            ["--filter=stats", &format!("statsfile={}", text("log"))],
        ] {
            let found = places(&[&["-p", "0"], &typed[..]].concat());
            assert_eq!(found, [create.clone(), (path("log"), Rights::Write)], "{typed:?}");
        }
        assert_eq!(places(&["-p", "0", "--filter=log", "size=1G", "memory", "x"]), []);
    }

    #[test]
    fn configuration_files_name_what_the_command_line_could() {
        let directory = TempDir::new().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir(path("images")).unwrap();
        for name in ["disk", "images/a"] {
            std::fs::write(path(name), "").unwrap();
        }
        let text = "[disks.d]\ncomponent = \"file\"\nparameters = [\"file=disk\"]\n\
                    [grants.read-only-directory]\nimages = \"images\"\n\
                    [tenants.t]\nlisten = [\"unix:t.sock\"]\n[tenants.t.disks.e]\n";
        std::fs::write(path("c.toml"), text).unwrap();
        let found = places(&["-p", "0", "--config", path("c.toml").to_str().unwrap()]);
        for place in [
            (directory.path().to_owned(), Rights::Read),
            (path("disk"), Rights::Write),
            (path("images"), Rights::Read),
            (directory.path().to_owned(), Rights::Sockets),
        ] {
            assert!(found.contains(&place), "{place:?} of {found:?}");
        }
    }

    #[tokio::test]
    async fn files_of_built_in_components_are_known() {
        let args = Args::try_parse_from(["memnbd-host"]).unwrap();
        let (mut inputs, mut outputs) = (vec![crate::file::NAME.to_owned()], Vec::new());
        for built_in in BuiltIn::ALL.iter().filter(|built_in| built_in.is_compiled()) {
            let component = Loader::component(&args, built_in.name()).await;
            let component = component.map_err(|failure| failure.to_string()).unwrap();
            for parameter in &component.description().parameters {
                match parameter.kind {
                    ParameterType::File(_) => inputs.push(parameter.name.to_string()),
                    ParameterType::Output(_) => outputs.push(parameter.name.to_string()),
                    _ => {}
                }
            }
        }
        for names in [&mut inputs, &mut outputs] {
            names.sort();
            names.dedup();
        }
        assert_eq!(
            (inputs, outputs),
            (INPUTS.map(str::to_owned).into(), OUTPUTS.map(str::to_owned).into())
        );
    }
}
