//! What the command line says of a disk, before its components are loaded.

use std::path::PathBuf;
use std::sync::Arc;

use super::Failure;
use super::args::Args;
use super::grants::Grants;
use super::secrets::Secrets;
use memnbd::device::guest::Budgets;
use memnbd::exports::ProcessBudgets;
use memnbd::output::Outputs;

/// The longest name of an export, in bytes (spec: "Conventions").
const MAX_NAME: usize = 4096;

/// The command line's description of a disk.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) export_name: String,
    /// The parameters of its layers.
    pub(super) words: Vec<String>,
    /// True if all disks are read-only.
    pub(super) read_only: bool,
    /// True if `words` may include items for the host.
    pub(super) for_host: bool,
    /// True if the scripts of an expression may be run.
    pub(super) allow_scripts: bool,
    /// What the words may name, unless they are those of a person with the server's rights.
    pub(super) grants: Option<Arc<Grants>>,
    /// Where relative paths begin: the process may change its directory when it goes to the
    /// background, and files are opened later.
    pub(super) directory: PathBuf,
    /// Shared by all layers.
    pub(super) budgets: Budgets,
    /// The secrets that were read, of all exports of this name or pattern.
    pub(super) secrets: Secrets,
    /// The files to which components write, of all exports.
    pub(super) outputs: Outputs,
}

impl Wish {
    pub(super) fn new(
        args: &Args,
        process: &ProcessBudgets,
        name: &str,
        words: &[String],
        for_host: bool,
        outputs: &Outputs,
    ) -> Result<Self, Failure> {
        check_name(name)?;
        Ok(Self {
            export_name: name.to_owned(),
            words: words.to_vec(),
            read_only: args.read_only,
            for_host,
            allow_scripts: args.allow_scripts,
            grants: None,
            directory: std::env::current_dir().unwrap_or_default(),
            budgets: process.export(),
            secrets: Secrets::default(),
            outputs: outputs.clone(),
        })
    }

    /// Creates the wish of somebody who may name these grants, and no paths.
    ///
    /// # Errors
    ///
    /// Returns a message if the name of the export is too long.
    pub(super) fn granted(
        grants: &Arc<Grants>,
        outputs: &Outputs,
        budgets: Budgets,
        name: &str,
        words: &[String],
    ) -> Result<Self, Failure> {
        check_name(name)?;
        Ok(Self {
            export_name: name.to_owned(),
            words: words.to_vec(),
            read_only: false,
            for_host: false,
            allow_scripts: false,
            grants: Some(grants.clone()),
            outputs: outputs.clone(),
            directory: PathBuf::new(),
            budgets,
            secrets: Secrets::default(),
        })
    }

    /// Returns the same wish for an export of another name.
    pub(super) fn named(&self, name: &str) -> Self {
        Self { export_name: name.to_owned(), ..self.clone() }
    }
}

fn check_name(name: &str) -> Result<(), Failure> {
    match name.len() {
        ..=MAX_NAME => Ok(()),
        length => Err(Failure::Usage(format!(
            "the name of an export has {length} bytes, at most {MAX_NAME} are possible"
        ))),
    }
}
