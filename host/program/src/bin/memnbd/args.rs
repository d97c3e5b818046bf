//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use memnbd::device::guest::Processors;

use crate::image::Format;
use crate::save::SaveFormat;

/// Control a running memnbd-host.
///
/// The server must have been started with --control.
#[derive(Debug, Parser)]
#[command(name = "memnbd", version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) remote: Remote,

    /// Print what the server answers, as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) action: Action,
}

impl Args {
    /// Checks what the parser cannot.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        match self.action {
            Action::Save { compress: true, format: SaveFormat::Raw, .. } => {
                let problem = "--compress is for --format qcow2; a raw file has holes instead";
                Err(Self::command().error(ErrorKind::ArgumentConflict, problem))
            }
            _ => Ok(()),
        }
    }
}

/// Which server, and who uses it.
#[derive(Debug, clap::Args)]
pub(crate) struct Remote {
    /// Where the server's control API is: the address that was given to memnbd-host --control, with https://
    /// before HOST:PORT
    #[arg(long, value_name = "unix:PATH|https://HOST:PORT", env = "MEMNBD_HOST", global = true)]
    pub(crate) host: Option<String>,

    /// The file of the token that says who uses the server [default: the environment's MEMNBD_TOKEN; a
    /// Unix domain socket needs none]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) token_file: Option<PathBuf>,

    /// The token itself. It has no option, for everybody sees command lines.
    #[arg(skip = std::env::var("MEMNBD_TOKEN").ok())]
    pub(crate) token: Option<String>,

    /// The certificates of the authorities that sign the server's (PEM) [default: the system's]
    #[arg(long, value_name = "FILE", env = "MEMNBD_CACERT", global = true)]
    pub(crate) cacert: Option<PathBuf>,

    /// The tenant
    #[arg(
        long,
        value_name = "NAME",
        env = "MEMNBD_TENANT",
        default_value = "default",
        hide_default_value = true,
        global = true
    )]
    pub(crate) tenant: String,
}

/// What a tenant may have.
#[derive(Debug, clap::Args)]
#[group(id = "tenant_options", multiple = true)]
pub(crate) struct TenantOptions {
    /// The most disks
    #[arg(long, value_name = "N")]
    pub(crate) disks: Option<u64>,
    /// The most snapshots
    #[arg(long, value_name = "N")]
    pub(crate) snapshots: Option<u64>,
    /// The most connections of NBD clients at a time
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<u64>,
    /// The most memory of all disks and snapshots together
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) memory: Option<u64>,
    /// The most memory of requests under way
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) inflight: Option<u64>,
    /// The most processors that the components use on average, as 0.5
    #[arg(long, value_name = "N")]
    pub(crate) cpus: Option<Processors>,
    /// The most that the sizes of all disks are together, whatever is stored on them
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) size: Option<u64>,
    /// The most that all clients together read in a second, and likewise write, in bits
    #[arg(long, value_name = "BITS", value_parser = size)]
    pub(crate) rate: Option<u64>,
    /// The most requests of all clients together in a second
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// The ID of a user whose clients on Unix domain sockets get the disks of the tenant; may be repeated
    #[arg(long = "uid", value_name = "UID")]
    pub(crate) uids: Vec<u32>,
    /// The identity of a pre-shared key whose holders do; may be repeated
    #[arg(long = "key", value_name = "IDENTITY")]
    pub(crate) keys: Vec<String>,
    /// The subject of a certificate whose holders do, as CN=builder,O=Example; may be repeated
    #[arg(long = "certificate", value_name = "SUBJECT")]
    pub(crate) certificates: Vec<String>,
}

fn size(text: &str) -> Result<u64, String> {
    memnbd::parameters::parse_size(text).map_err(|error| error.to_string())
}

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Role {
    /// Everything, with every tenant; only for tokens of the tenant default
    Admin,
    /// Everything with the disks, snapshots and tokens of the tenant
    Tenant,
    /// To look at what the tenant has
    ReadOnly,
    /// To open disks as an NBD client that asks for the export TOKEN/DISK
    Connect,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List the disks
    Ls,
    /// Show a disk, with what it is made of and what was asked of it, as JSON
    Show {
        /// The name of the disk
        disk: String,
    },
    /// Create a disk. If there is one that is made of the same, only its --ttl begins anew
    Create {
        /// The name of the disk
        disk: String,
        /// The component, unless it is memory, and the parameters, as for memnbd-host. Files,
        /// directories and secrets are named by the grants of the server
        #[arg(value_name = "COMPONENT | KEY=VALUE")]
        words: Vec<String>,
        #[command(flatten)]
        options: DiskOptions,
    },
    /// Change the filters of a disk, and their parameters, while its clients go on
    Update {
        /// The name of the disk
        disk: String,
        /// The parameters of all layers, as for create; those of the component have to stay the same, unless
        /// --replace is given. With that, the first word may be a component, again as for create
        #[arg(value_name = "KEY=VALUE")]
        words: Vec<String>,
        /// A filter that it has from now on; may be repeated, the first is nearest to the clients. Others
        /// are removed
        #[arg(long = "filter", value_name = "NAME")]
        filters: Vec<String>,
        /// Begin the disk anew, made of this. What was written to it is lost. The size has to stay the same;
        /// without words and filters, everything else does as well
        #[arg(long)]
        replace: bool,
        /// Remove it so long after now, as 90s, 10m, 8h or 7d; none is never. With this or --ephemeral, and
        /// neither parameters nor filters, those stay
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        /// Remove it when its last client has gone, or do not
        #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
            default_missing_value = "true")]
        ephemeral: Option<bool>,
    },
    /// Fill a disk from an image of this machine: raw, qcow2, vhd, vmdk, gzip, xz or zstd, which is
    /// decoded in the sandbox. Holes of the image are holes of the disk, and what is behind the image reads as zeroes. Backing
    /// files are not opened. If it fails, a part may have been copied
    Copy {
        /// The image; - is stdin, which is raw
        #[arg(value_name = "IMAGE", value_hint = clap::ValueHint::FilePath)]
        image: PathBuf,
        /// The name of the disk
        disk: String,
        /// The format of the image, which is otherwise detected by its first bytes. For a raw image
        /// whose content others wrote, give raw: they may have made it look like another format
        #[arg(long, value_name = "FORMAT")]
        format: Option<Format>,
        /// Create the disk, in memory and as large as the image, if there is none of this name
        #[arg(long)]
        create: bool,
    },
    /// Write the content of a disk to a file of this machine, which gets its name when it is complete.
    /// While others write to the disk, a file has some of their writes and not others: save a disk that
    /// nobody writes to
    Save {
        /// The name of the disk
        disk: String,
        /// The file, which is replaced if it is there
        #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
        file: PathBuf,
        /// The format of the file
        #[arg(long, value_name = "FORMAT", default_value = "raw")]
        format: SaveFormat,
        /// Compress the clusters of qcow2, with zstd
        #[arg(long)]
        compress: bool,
    },
    /// Remove disks. Their clients are disconnected
    Rm {
        /// The names of the disks
        #[arg(required = true, value_name = "DISK")]
        disks: Vec<String>,
        /// Delete snapshots instead; disks that began with them stay
        #[arg(long)]
        snapshot: bool,
        /// Remove exports instead; their disks stay
        #[arg(long, conflicts_with = "snapshot")]
        export: bool,
    },
    /// Serve a disk by another name as well, or a snapshot. Clients of both names see each other's writes
    Export {
        /// The name of the disk
        disk: String,
        /// The name by which clients find it
        export: String,
        /// The parameters of the filters
        #[arg(value_name = "KEY=VALUE")]
        words: Vec<String>,
        /// The first name is that of a snapshot, which is served read-only
        #[arg(long)]
        snapshot: bool,
        /// Refuse writes of those who use this name
        #[arg(short, long)]
        read_only: bool,
        /// Require TLS of them
        #[arg(long)]
        tls: bool,
        /// Limit them by a filter: ip, limit, rate or time-limit; may be repeated
        #[arg(long = "filter", value_name = "NAME")]
        filters: Vec<String>,
    },
    /// List the exports
    Exports,
    /// Take a snapshot of a disk, while its clients go on
    Snapshot {
        /// The name of the disk
        disk: String,
        /// The name of the snapshot
        snapshot: String,
        /// Take it even if the disk writes to files: what is written from now on is kept in memory, and
        /// lost when the disk is removed
        #[arg(long)]
        in_memory: bool,
        /// Delete it so long after now, as 90s, 10m, 8h or 7d
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
    },
    /// List the snapshots
    Snapshots,
    /// Print what may differ between two snapshots, or a snapshot and a disk: a line OFFSET LENGTH for each
    /// extent, in bytes, and the sum. They must stem from the same data. What was written since counts as
    /// different, in whole blocks
    Diff {
        /// The name of the snapshot
        #[arg(value_name = "SNAPSHOT")]
        snapshot: String,
        /// The name of the other snapshot, or of a disk if there is no such snapshot
        #[arg(value_name = "SNAPSHOT | DISK")]
        other: String,
        /// The other one is a disk, even if there is a snapshot of this name
        #[arg(long)]
        disk: bool,
    },
    /// Create a disk that begins with what a snapshot holds
    Clone {
        /// The name of the snapshot
        snapshot: String,
        /// The name of the disk
        disk: String,
        /// The parameters of the filters
        #[arg(value_name = "KEY=VALUE")]
        words: Vec<String>,
        #[command(flatten)]
        options: DiskOptions,
    },
    /// Give disks the content of the snapshot with which they began, while their clients stay connected.
    /// What was written since is lost, and filters begin anew
    Reset {
        /// The names of the disks
        #[arg(required = true, value_name = "DISK")]
        disks: Vec<String>,
        /// Reset to this snapshot, which must have the same size
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Give a command to a filter or component of a disk, such as set; without one, list what there is
    Fault {
        /// The name of the disk
        disk: String,
        /// The command
        command: Option<String>,
        /// Its parameters
        #[arg(value_name = "KEY=VALUE")]
        parameters: Vec<String>,
        /// The filter or component that gets it, if several have such a command
        #[arg(long, value_name = "NAME")]
        layer: Option<String>,
    },
    /// List the clients
    Connections {
        /// Disconnect this client instead; may be repeated
        #[arg(long, value_name = "ID")]
        drop: Vec<u64>,
    },
    /// Print what happened: disks that came, went, were opened or failed, commands, clients, and what the
    /// server logged
    Logs {
        /// Only what is about this disk
        disk: Option<String>,
        /// Go on with what happens from now on, even when the server is started anew
        #[arg(short, long)]
        follow: bool,
    },
    /// List the tenants, with what they have and what they may have
    Tenants,
    /// Create a tenant, or change its quotas and clients: what is left out gets its default. For admins
    Tenant {
        /// The name of the tenant
        name: String,
        #[command(flatten)]
        spec: TenantOptions,
        /// Remove the tenant instead, with all that it has
        #[arg(long, conflicts_with = "tenant_options")]
        rm: bool,
    },
    /// List the tokens of the tenant
    Tokens,
    /// Create a token of the tenant, or give it another secret, which is printed. Without a name, make a
    /// secret and its digest for a configuration file, and ask no server
    Token {
        /// The name of the token
        name: Option<String>,
        /// What its holder may do
        #[arg(long, value_name = "ROLE", requires = "name", default_value = "tenant")]
        role: Role,
        /// Remove the token instead
        #[arg(long, requires = "name", conflicts_with = "role")]
        rm: bool,
    },
    /// Show which disks are busy: requests, bytes, errors, the mean time that a request takes, and clients.
    /// On a terminal this goes on until q is pressed; else it is printed once
    Top {
        /// The time over which is measured, in seconds
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
        interval: Duration,
        /// Print this many times, one below the other
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
    /// Make the disks those that a TOML file describes: create the new ones, change those that differ, and
    /// remove those that an earlier file of this command described and this one does not. Others, and
    /// disks that are the same, are left alone
    Apply {
        /// The file; - is stdin. Files, directories and secrets are named by the grants of the server
        #[arg(value_name = "FILE.toml")]
        file: PathBuf,
        /// Create disks anew that are made of something else, though their content is lost
        #[arg(long)]
        replace: bool,
        /// Print what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a completion script
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// What any disk may have.
#[derive(Debug, clap::Args)]
pub(crate) struct DiskOptions {
    /// Put a filter between the clients and the disk; may be repeated, the first is nearest to
    /// the clients
    #[arg(long = "filter", value_name = "NAME")]
    pub(crate) filters: Vec<String>,
    /// Refuse all writes
    #[arg(short, long)]
    pub(crate) read_only: bool,
    /// Remember this with the disk; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Remove the disk so long after it was created or this was given again, as 90s, 10m, 8h or 7d
    #[arg(long, value_name = "TIME")]
    pub(crate) ttl: Option<String>,
    /// Remove the disk when its last client has gone, unless another comes within 5 seconds
    #[arg(long)]
    pub(crate) ephemeral: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("it is a number of seconds from 0.1 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_consistent() {
        Args::command().debug_assert();
    }
}
