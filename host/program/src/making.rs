//! Making exports, at the start and while the server runs.

use std::path::Path;
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::Failure;
use super::args::Args;
use super::chain::{Bottom, Chain};
use super::components;
use super::grants::Grants;
use super::host_filters::{HostFilters, Place};
use super::loading::Loader;
use super::wish::Wish;
use memnbd::access::Access;
use memnbd::budget::Budget;
use memnbd::component::MemoryBudget;
use memnbd::device::guest::Budgets;
use memnbd::device::snapshot::Snapshot;
use memnbd::exports::{Export, Exports, KnownExports, Policy, ProcessBudgets, SharedBudgets};
use memnbd::output::Outputs;
use memnbd::places::Places;
use memnbd::rate::Limits;

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

/// An export that was made.
pub(super) struct Made {
    pub(super) export: Arc<Export>,
    /// What it is made of.
    pub(super) chain: Arc<Chain>,
}

/// In what a disk in use is to differ.
pub(super) struct Differences {
    /// The layers or their parameters are others.
    pub(super) layers: bool,
    /// What it is to demand of its clients, if that is something else.
    pub(super) policy: Option<Policy>,
}

/// Whose rights the disks of a configuration have.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rights<'a> {
    /// Those of the server, with paths that begin at a directory.
    Server(&'a Path),
    /// Those of somebody who uses the API.
    Grants,
}

/// Makes exports for those who do not have the server's rights.
pub(super) struct Maker {
    shop: Arc<Workshop>,
    known: KnownExports,
    grants: Arc<Grants>,
    /// What the exports belong to, unless they are those of the command line.
    owner: Option<Owner>,
}

/// Whom exports belong to that are not those of the command line.
#[derive(Clone)]
pub(super) struct Owner {
    /// Where the exports are.
    pub(super) exports: Weak<Exports>,
    /// What they take together.
    pub(super) budgets: SharedBudgets,
    /// What the sizes of their disks take together, in bytes.
    pub(super) sizes: Budget,
    /// The limits of all their clients together.
    pub(super) limits: Arc<Limits>,
}

/// What all makers of a process share.
struct Workshop {
    loader: Mutex<Loader>,
    process: ProcessBudgets,
    outputs: Outputs,
    /// Who may use the exports, by the rules of the whole server.
    access: Option<Arc<Access>>,
    /// All disks are read-only.
    read_only: bool,
    /// Each client has a disk of its own.
    private: bool,
    /// The scripts of expressions may be run, if whoever names them has the server's rights.
    allow_scripts: bool,
    /// Clients can use TLS.
    has_tls: bool,
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
        let (loader, has_tls) = (Mutex::new(loader), args.tls.has_credentials());
        let shop = Workshop {
            loader,
            process,
            outputs,
            access,
            read_only,
            private,
            allow_scripts,
            has_tls,
        };
        Self { shop: Arc::new(shop), known, grants, owner: None }
    }

    /// Returns a maker of the exports of an owner, who may name these grants.
    pub(super) fn for_owner(&self, owner: Owner, grants: Arc<Grants>) -> Self {
        let known = KnownExports::default();
        // Nobody else sets it.
        let _ = known.set(owner.exports.clone());
        Self { shop: self.shop.clone(), known, grants, owner: Some(owner) }
    }

    fn budgets(&self) -> Budgets {
        match &self.owner {
            Some(owner) => self.shop.process.extra_of(&owner.budgets),
            None => self.shop.process.extra(),
        }
    }

    /// Returns the budgets of the process.
    pub(super) fn process(&self) -> &ProcessBudgets {
        &self.shop.process
    }

    /// Returns the memory that the exports of the owner take together, or else all exports of the process.
    pub(super) fn memory(&self) -> &MemoryBudget {
        self.owner.as_ref().map_or(self.shop.process.memory(), |owner| &owner.budgets.memory)
    }

    /// Returns true if clients can use TLS.
    pub(super) fn has_tls(&self) -> bool {
        self.shop.has_tls
    }

    /// Returns what an export demands of its clients that has these filters, and no other layers.
    ///
    /// # Errors
    ///
    /// Returns an error if a filter is no part of the server, or a parameter is wrong.
    pub(super) fn demands(&self, filters: &[String], words: &[String]) -> Result<Policy, Failure> {
        let (filters, parameters) = (filters.to_vec(), words.to_vec());
        let (own, rest) = split(&Layers { filters, parameters, ..Layers::default() })?;
        if let Some(other) = rest.filters.first().or(rest.parameters.first()) {
            return Err(Failure::Usage(format!(
                "{other:?}: an export has the filters ip, limit, rate and time-limit, and their \
                 parameters; others belong to the disk"
            )));
        }
        Ok(self.policy(&own))
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
    ) -> Result<Made, Failure> {
        let (own, layers) = split(layers)?;
        let policy = self.policy(&own);
        let (component, words) = components::for_words(&layers.component, &layers.parameters);
        let component = components::located(&component, directory);
        let filters = layers.filters.iter().map(|filter| components::located(filter, directory));
        let filters: Vec<String> = filters.collect();
        let budgets = self.budgets();
        let wish = Wish {
            read_only: self.shop.read_only || layers.read_only,
            allow_scripts: self.shop.allow_scripts,
            grants: None,
            directory: directory.to_owned(),
            ..Wish::granted(&self.grants, &self.shop.outputs, budgets, name, &words)?
        };
        self.make(&filters, Bottom::Component(&component), wish, &policy).await
    }

    /// Makes an export. Its disk is not opened, but mistakes that can be seen without that are reported.
    ///
    /// # Errors
    ///
    /// Returns an error if a component does not exist, or the parameters are wrong.
    pub(super) async fn export(&self, name: &str, layers: &Layers) -> Result<Made, Failure> {
        let (own, layers) = split(layers)?;
        let component = self.grants.component(&layers.component).map_err(Failure::Usage)?;
        let (component, words) = components::for_words(&component, &layers.parameters);
        let layers = Layers { parameters: words, ..layers };
        self.granted(name, &layers, Bottom::Component(&component), &own).await
    }

    /// Makes an export that begins with what a snapshot holds, with these filters. `component` does not
    /// matter.
    ///
    /// # Errors
    ///
    /// Returns an error under the same conditions as [`Self::export`].
    pub(super) async fn clone_of(
        &self,
        snapshot: Snapshot,
        name: &str,
        layers: &Layers,
    ) -> Result<Made, Failure> {
        let (own, layers) = split(layers)?;
        self.granted(name, &layers, Bottom::Snapshot(snapshot), &own).await
    }

    /// Compares what a disk in use is made of with what it is to be made of.
    ///
    /// # Errors
    ///
    /// Returns an error if a parameter of a filter that is a part of the server is wrong.
    pub(super) fn differences(
        &self,
        before: &Layers,
        after: &Layers,
    ) -> Result<Differences, Failure> {
        let ((before, layers_before), (after, layers_after)) = (split(before)?, split(after)?);
        let policy = (!before.says_the_same(&after)).then(|| self.policy(&after));
        Ok(Differences { layers: layers_before != layers_after, policy })
    }

    /// Returns what a disk that is in use would be made of with other filters, or other parameters of them.
    /// `chain` is what it is made of now, as `before` says.
    ///
    /// # Errors
    ///
    /// Returns an error if more than that would change, or the filters or their parameters are wrong.
    pub(super) async fn with_filters(
        &self,
        chain: &Chain,
        before: &Layers,
        after: &Layers,
        rights: Rights<'_>,
    ) -> Result<Chain, Failure> {
        let ((_, before), (_, after)) = (split(before)?, split(after)?);
        let content = chain.content().await;
        let content = content.map_err(|problem| Failure::Failed(anyhow::anyhow!("{problem}")))?;
        let staying = &before.filters[content.filters.min(before.filters.len())..];
        let name = self.grants.component(&before.component);
        let name = name.unwrap_or_else(|_| before.component.clone());
        let (serving, _) = components::for_words(&name, &before.parameters);
        let (component, words) = components::for_words(&name, &after.parameters);
        let above = after.filters.strip_suffix(staying);
        let above = above.filter(|_| {
            (&before.component, before.read_only) == (&after.component, after.read_only)
                && serving == component
        });
        let above = above.ok_or_else(|| {
            Failure::Failed(anyhow::anyhow!(
                "only filters and their parameters can change while a disk is in use, and not those that \
                 keep content of their own, such as cow and cache, or are beneath such ones, unless the disk \
                 begins anew (memnbd update --replace)"
            ))
        })?;
        let (filters, grants) = match rights {
            Rights::Server(directory) => {
                let located = above.iter().map(|filter| components::located(filter, directory));
                (located.collect(), None)
            }
            Rights::Grants => {
                let granted = above.iter().map(|filter| self.grants.component(filter));
                let filters = granted.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
                (filters, Some(self.grants.clone()))
            }
        };
        chain.with_filters(&self.shop.loader, &filters, words, grants).await
    }

    async fn granted(
        &self,
        name: &str,
        layers: &Layers,
        bottom: Bottom<'_>,
        own: &HostFilters,
    ) -> Result<Made, Failure> {
        let filters = layers.filters.iter().map(|filter| self.grants.component(filter));
        let filters = filters.collect::<Result<Vec<_>, _>>().map_err(Failure::Usage)?;
        let (outputs, budgets) = (&self.shop.outputs, self.budgets());
        let mut wish = Wish::granted(&self.grants, outputs, budgets, name, &layers.parameters)?;
        wish.read_only = self.shop.read_only || layers.read_only;
        self.make(&filters, bottom, wish, &self.policy(own)).await
    }

    /// Returns what an export demands of its clients. The number of clients can be limited later.
    fn policy(&self, own: &HostFilters) -> Policy {
        let mut policy = own.policy(self.shop.access.as_ref());
        policy.places.get_or_insert_with(|| Places::new(u64::MAX));
        if let Some(owner) = &self.owner {
            policy.shared_limits = Some(owner.limits.clone());
            policy.sizes = Some(owner.sizes.clone());
        }
        policy
    }

    async fn make(
        &self,
        filters: &[String],
        bottom: Bottom<'_>,
        wish: Wish,
        policy: &Policy,
    ) -> Result<Made, Failure> {
        let name = match &self.owner {
            None => wish.export_name.clone(),
            Some(owner) => {
                let exports = owner.exports.upgrade();
                let exports = exports.ok_or_else(|| anyhow::anyhow!("the tenant is gone"))?;
                exports.full_name(&wish.export_name)
            }
        };
        let mut loader = self.shop.loader.lock().await;
        let chain = Chain::new(&mut loader, &name, filters, bottom, wish, &self.known).await?;
        Ok(export(chain, &name, self.shop.private, policy))
    }
}

/// Takes the filters that are parts of the server out of what a disk is made of.
fn split(layers: &Layers) -> Result<(HostFilters, Layers), Failure> {
    let mut rest = layers.clone();
    let (filters, words) = (&mut rest.filters, &mut rest.parameters);
    // There are no paths.
    let own = HostFilters::take(filters, words, Place::Item, Path::new(""));
    let own = own.map_err(Failure::Usage)?;
    if own.has_files() {
        let problem = "rates that are in files belong on the command line; give rate= instead, \
                       which memnbd update changes";
        return Err(Failure::Usage(problem.into()));
    }
    Ok((own, rest))
}

/// Makes an export of a disk.
pub(super) fn export(chain: Chain, name: &str, private: bool, policy: &Policy) -> Made {
    let chain = Arc::new(chain);
    let export = Export::of_source(name, chain.clone()).with_policy(policy.clone());
    let export = if private { export.private() } else { export };
    Made { export, chain }
}
