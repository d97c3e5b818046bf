//! Making exports, at the start and while the server runs.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::Failure;
use super::args::Args;
use super::chain::Chain;
use super::components;
use super::grants::Grants;
use super::host_filters::{HostFilters, Place};
use super::loading::Loader;
use super::wish::Wish;
use memnbd::access::Access;
use memnbd::exports::{Export, KnownExports, Policy, ProcessBudgets};
use memnbd::output::Outputs;

/// What a disk is made of: the words of the command line, in their parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layers {
    /// The name of the backend.
    pub(super) component: String,
    /// The filters, the one nearest to the clients first.
    pub(super) filters: Vec<String>,
    /// The parameters of all of them, mostly KEY=VALUE.
    pub(super) parameters: Vec<String>,
    pub(super) read_only: bool,
}

/// Makes exports for those who do not have the server's rights.
pub(super) struct Maker {
    loader: Mutex<Loader>,
    process: ProcessBudgets,
    known: KnownExports,
    grants: Arc<Grants>,
    outputs: Outputs,
    /// Who may use the exports, by the rules of the whole server.
    access: Option<Arc<Access>>,
    /// All disks are read-only.
    read_only: bool,
    /// Each client has a disk of its own.
    private: bool,
    /// The scripts of expressions may be run, if whoever names them has the server's rights.
    allow_scripts: bool,
}

impl Maker {
    pub(super) fn new(
        loader: Loader,
        process: ProcessBudgets,
        known: KnownExports,
        grants: Arc<Grants>,
        outputs: Outputs,
        access: Option<Arc<Access>>,
        args: &Args,
    ) -> Self {
        let Args { read_only, private, allow_scripts, .. } = *args;
        Self {
            loader: Mutex::new(loader),
            process,
            known,
            grants,
            outputs,
            access,
            read_only,
            private,
            allow_scripts,
        }
    }

    /// Returns what those may name who use the control API.
    pub(super) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Makes an export as [`Self::export`] does, for somebody who has the server's rights. Relative paths
    /// begin at a directory.
    ///
    /// # Errors
    ///
    /// Returns an error if a component does not exist, or the parameters are wrong.
    pub(super) async fn export_with_rights(
        &self,
        name: &str,
        layers: &Layers,
        directory: &Path,
    ) -> Result<Arc<Export>, Failure> {
        let (mut filters, mut words) = (layers.filters.clone(), layers.parameters.clone());
        let own = HostFilters::take(&mut filters, &mut words, Place::Item, directory);
        let own = own.map_err(Failure::Usage)?;
        let policy = own.policy(self.access.as_ref());
        if own.rate_files(&policy.limits).is_some() {
            let problem = "rates that are in files belong on the command line; give rate= instead";
            return Err(Failure::Usage(problem.into()));
        }
        let (component, words) = components::for_words(&layers.component, &words);
        let component = components::located(&component, directory);
        let filters = filters.iter().map(|filter| components::located(filter, directory));
        let filters: Vec<String> = filters.collect();
        let budgets = self.process.extra();
        let wish = Wish {
            read_only: self.read_only || layers.read_only,
            allow_scripts: self.allow_scripts,
            grants: None,
            directory: directory.to_owned(),
            ..Wish::granted(&self.grants, &self.outputs, budgets, name, &words)?
        };
        self.make(&filters, &component, wish, &policy).await
    }

    /// Makes an export. Its disk is not opened, but mistakes that can be seen without that are reported.
    ///
    /// # Errors
    ///
    /// Returns an error if a component does not exist, or the parameters are wrong.
    pub(super) async fn export(&self, name: &str, layers: &Layers) -> Result<Arc<Export>, Failure> {
        let component = self.grants.component(&layers.component).map_err(Failure::Usage)?;
        let (component, words) = components::for_words(&component, &layers.parameters);
        let filters = layers.filters.iter().map(|filter| self.grants.component(filter));
        let filters = filters.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
        let budgets = self.process.extra();
        let mut wish = Wish::granted(&self.grants, &self.outputs, budgets, name, &words)?;
        wish.read_only = self.read_only || layers.read_only;
        let policy = HostFilters::default().policy(self.access.as_ref());
        self.make(&filters, &component, wish, &policy).await
    }

    async fn make(
        &self,
        filters: &[String],
        component: &str,
        wish: Wish,
        policy: &Policy,
    ) -> Result<Arc<Export>, Failure> {
        let name = wish.export_name.clone();
        let mut loader = self.loader.lock().await;
        let chain = Chain::new(&mut loader, &name, filters, component, wish, &self.known).await?;
        Ok(export(&chain, &name, self.private, policy))
    }
}

/// Makes an export of a disk.
pub(super) fn export(chain: &Chain, name: &str, private: bool, policy: &Policy) -> Arc<Export> {
    let export = Export::of_source(name, Box::new(chain.named(name))).with_policy(policy.clone());
    if private { export.private() } else { export }
}
