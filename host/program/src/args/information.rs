//! The options that ask for information.

use clap::ArgAction;
use clap::builder::PossibleValuesParser;

/// What the program tells of itself instead of serving.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Information, instead of serving")]
pub(in super::super) struct Information {
    /// Print the build configuration, as KEY=VALUE
    #[arg(long, group = "information")]
    pub(in super::super) dump_config: bool,

    /// Print the description, imports and limits of the component, as KEY=VALUE
    #[arg(long, group = "information", visible_alias = "dump-plugin")]
    pub(in super::super) dump_component: bool,

    /// Print the contract that components implement, in WIT, with its documentation
    #[arg(long, group = "information")]
    pub(in super::super) wit: bool,

    /// Print JSON instead of KEY=VALUE
    #[arg(long, requires = "information")]
    pub(in super::super) json: bool,

    /// Print a completion script for this shell
    #[arg(
        long,
        value_name = "SHELL",
        group = "information",
        value_parser = PossibleValuesParser::new(["bash", "zsh", "fish"])
    )]
    pub(in super::super) completion: Option<String>,

    /// Print the manual page, for man -l -
    #[arg(long, group = "information")]
    pub(in super::super) man: bool,

    #[arg(long, group = "information", hide = true)]
    pub(in super::super) short_options: bool,

    #[arg(long, group = "information", hide = true)]
    pub(in super::super) long_options: bool,

    /// Print the version
    #[arg(short = 'V', long)]
    pub(in super::super) version: bool,

    /// Print help, including the parameters of the component
    #[arg(short, long, action = ArgAction::SetTrue)]
    pub(in super::super) help: bool,
}
