//! The configuration file, read again while the server runs.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::api::{Api, Room};
use super::catalog::Entry;
use super::changes::{
    Action, Change, Differing, ExportChange, Origin, Populated, Refused, Wanted, named,
};
use super::model::DiskSpec;
use super::offers::{ExportSpec, Offer};
use super::problem::Problem;
use super::tenants::{FIRST, Founded, NotSet, TenantSpec, Tenants, unknown};
use crate::chain::Chain;
use crate::config::{Config, ConfigFile, ConfiguredTenant};
use crate::exports::sockets_of;
use crate::grants::Grants;
use crate::leftovers::Leftovers;
use crate::making::Rights;
use crate::plan::Listen;

/// A configuration file whose disks are served.
pub(crate) struct FromFile {
    file: ConfigFile,
    /// What it said when it was read first.
    config: Option<(Config, HashMap<String, Arc<Chain>>)>,
    /// The grants of the command line, besides those of the file.
    grants: Grants,
}

impl FromFile {
    /// Creates it, with what each of its disks is made of.
    pub(crate) fn new(
        file: ConfigFile,
        config: Config,
        chains: HashMap<String, Arc<Chain>>,
        grants: Grants,
    ) -> Self {
        Self { file, config: Some((config, chains)), grants }
    }

    /// Records its disks and exports, which are served already.
    pub(super) fn adopt(&mut self, api: &Api) {
        let Some((config, mut chains)) = self.config.take() else { return };
        for (name, spec) in config.specs() {
            if let (Some(chain), Some(export)) = (chains.remove(&name), api.export(&name)) {
                api.record(&export, Entry { spec, chain, origin: Some(Origin::File) });
            }
        }
        for (name, spec) in config.export_specs() {
            api.offers.insert(&name, Offer { spec, origin: Some(Origin::File) });
        }
    }

    /// Reads the file again whenever it is notified.
    pub(super) async fn follow(
        self,
        tenants: Arc<Tenants>,
        hangup: Arc<Notify>,
        leftovers: Leftovers,
    ) {
        loop {
            hangup.notified().await;
            match self.reload(&tenants, &leftovers).await {
                Ok(populated) => self.report(&populated),
                Err(problem) => tracing::error!("{problem}; nothing was changed"),
            }
        }
    }

    /// Makes everything what the file says. All of it is checked before the first change, as far as that is
    /// possible.
    async fn reload(
        &self,
        tenants: &Arc<Tenants>,
        leftovers: &Leftovers,
    ) -> Result<Populated, String> {
        let file = self.file.clone();
        let loaded = tokio::task::spawn_blocking(move || file.load()).await;
        let config = loaded.map_err(|_| "the configuration could not be read".to_owned())??;
        let mut grants = self.grants.clone();
        self.file.grant(&config, &mut grants)?;
        let _alone = tenants.changing.lock().await;
        let mut founded = self.check(tenants, &config).await?;
        let sockets = self.sockets(&config)?;
        let first = tenants.first();
        self.warn_of_grants(FIRST, grants != *first.maker.grants());
        let mut all = self.populate(first, &config, None, false).await?;
        self.set_clients_and_tokens(tenants, &config);
        for gone in gone(tenants, &config) {
            // There is nobody else who removes it.
            let _ = tenants.remove(&gone).await;
        }
        // All of them first, for a socket may move from one tenant to another.
        for (name, wanted) in &sockets {
            if let Some(served) = tenants.get(name) {
                served.close_other_sockets(wanted).await;
            }
        }
        for tenant in &config.tenants {
            let changed = match founded.remove(&tenant.name) {
                Some(founded) => self.open(tenants, founded, &config),
                None => self.update(tenants, tenant, &config).await,
            };
            match changed {
                Ok(changed) => all.add(&tenant.name, changed),
                Err(problem) => {
                    tracing::error!(
                        "{problem}; the tenant {:?} is not yet what the file says",
                        tenant.name
                    );
                }
            }
        }
        for (name, wanted) in &sockets {
            let Some(served) = tenants.get(name) else { continue };
            for problem in served.open_sockets(wanted, leftovers).await {
                tracing::error!("{}", self.file.of_file(&config.located_tenant(name, &problem)));
            }
        }
        Ok(all)
    }

    /// Returns the sockets that each tenant is to have.
    fn sockets<'a>(&self, config: &'a Config) -> Result<Vec<(&'a str, Vec<Listen>)>, String> {
        let tenants = config.tenants.iter();
        let sockets = tenants.map(|tenant| {
            let sockets = sockets_of(tenant, config, &self.file);
            sockets.map(|sockets| (tenant.name.as_str(), sockets))
        });
        sockets.collect()
    }

    /// Checks tokens and tenants. Returns the tenants that are new, with their disks.
    async fn check(
        &self,
        tenants: &Tenants,
        config: &Config,
    ) -> Result<HashMap<String, Founded>, String> {
        let checked = tenants.entries.tokens.check_file(&config.all_tokens());
        checked.map_err(|(token, error)| self.of_token(&token, error))?;
        let gone = gone(tenants, config);
        let checked = tenants.check_clients(&clients(config, &gone, &TenantSpec::default()));
        checked.map_err(|problem| self.file.of_file(problem.detail()))?;
        let mut founded = HashMap::new();
        for tenant in &config.tenants {
            let name = &tenant.name;
            let served = tenants.of_file(name).map_err(|problem| {
                self.file.of_file(&config.located_tenant(name, problem.detail()))
            })?;
            match served {
                Some(served) => {
                    let api = &served.api;
                    self.populate(api, config, Some(tenant), true).await?;
                }
                None => {
                    let maker = &tenants.first().maker;
                    let found = crate::exports::found(tenant, config, &self.file, maker).await;
                    let (one, _) = found.map_err(|failure| failure.to_string())?;
                    founded.insert(name.clone(), one);
                }
            }
        }
        Ok(founded)
    }

    /// Sets the clients of all tenants and the tokens of the file. Both were checked.
    fn set_clients_and_tokens(&self, tenants: &Tenants, config: &Config) {
        let gone = gone(tenants, config);
        if let Err(problem) = tenants.set_clients(&clients(config, &gone, &TenantSpec::default())) {
            tracing::error!("{}", self.file.of_file(problem.detail()));
        }
        let replaced = tenants.entries.tokens.replace_file(&config.all_tokens());
        if let Err((token, error)) = replaced {
            tracing::error!("{}; the tokens are as they were", self.of_token(&token, error));
        }
    }

    fn of_token(&self, token: &str, error: NotSet) -> String {
        self.file.of_file(&format!("the token {token:?}: {error}"))
    }

    /// Serves a new tenant.
    fn open(
        &self,
        tenants: &Tenants,
        founded: Founded,
        config: &Config,
    ) -> Result<Populated, String> {
        let name = founded.name.clone();
        let created = |(disk, (spec, _)): (&String, &(DiskSpec, Arc<Chain>))| {
            Change::new(disk, Action::Create, None, Some(spec.clone()))
        };
        let changes = founded.disks.iter().map(created).collect();
        let offered = |(export, spec): (&String, &ExportSpec)| {
            ExportChange::new(export, Action::Create, None, Some(spec.clone()))
        };
        let exports = founded.offers.iter().map(offered).collect();
        let opened = tenants.open(founded);
        opened.map_err(|problem| {
            self.file.of_file(&config.located_tenant(&name, problem.detail()))
        })?;
        Ok(Populated { exports, ..Populated::new(false, changes, 0) })
    }

    /// Makes a tenant that is served already what the file says.
    async fn update(
        &self,
        tenants: &Tenants,
        tenant: &ConfiguredTenant,
        config: &Config,
    ) -> Result<Populated, String> {
        let name = &tenant.name;
        let located =
            |problem: &Problem| self.file.of_file(&config.located_tenant(name, problem.detail()));
        let served = tenants.of_file(name).map_err(|problem| located(&problem))?;
        let served = served.ok_or_else(|| located(&unknown(name)))?;
        if served.spec().as_ref() != Some(&tenant.spec) {
            let changed = tenants.change(&served, tenant.spec.clone());
            changed.map_err(|problem| located(&problem))?;
        }
        let grants = self.file.grants_of(config, tenant)?;
        self.warn_of_grants(name, grants != *served.api.maker.grants());
        self.populate(&served.api, config, Some(tenant), false).await
    }

    fn warn_of_grants(&self, tenant: &str, differ: bool) {
        if differ {
            let whose =
                if tenant == FIRST { String::new() } else { format!(" of the tenant {tenant:?}") };
            let text = format!(
                "the grants{whose} differ, and stay as they are until the server is started anew"
            );
            tracing::warn!("{}", self.file.of_file(&text));
        }
    }

    /// Makes the disks and exports of a tenant, or of the first if it is `None`, those of the file.
    async fn populate(
        &self,
        api: &Arc<Api>,
        config: &Config,
        tenant: Option<&ConfiguredTenant>,
        dry_run: bool,
    ) -> Result<Populated, String> {
        let (disks, exports) = match tenant {
            Some(tenant) => (tenant.specs(), tenant.export_specs()),
            None => (config.specs(), config.export_specs()),
        };
        let wanted = Wanted {
            disks,
            exports,
            origin: Origin::File,
            rights: Rights::Server(self.file.directory()),
            differing: Differing::Keep,
            room: tenant.map_or(Room::WHOLE, |tenant| Room::of(&tenant.spec.quotas)),
            dry_run,
        };
        api.populate(wanted).await.map_err(|Refused { name, problem }| {
            let detail = problem.detail();
            self.file.of_file(&match name {
                Some(name) => {
                    config.located(tenant.map(|tenant| tenant.name.as_str()), &name, detail)
                }
                None => detail.to_owned(),
            })
        })
    }

    fn report(&self, populated: &Populated) {
        let kept = populated.changes.iter().filter(|change| change.action == Action::Keep);
        let kept: Vec<&str> = kept.map(|change| change.disk.as_str()).collect();
        if !kept.is_empty() {
            tracing::warn!(
                "{}",
                self.file.of_file(&format!(
                    "made of something else, and left as they are, for they would lose their \
                     content: {}; remove them (memnbd rm) and reload again to create them anew",
                    named(&kept)
                ))
            );
        }
        for change in &populated.changes {
            if let Some(error) = &change.error {
                tracing::error!("{}", self.file.of_file(&format!("{:?}: {error}", change.disk)));
            }
        }
        for change in &populated.exports {
            if let Some(error) = &change.error {
                let text = format!("the export {:?}: {error}", change.export);
                tracing::error!("{}", self.file.of_file(&text));
            }
        }
        let done = |change: &&Change| change.action != Action::Keep && change.error.is_none();
        let changed = populated.changes.iter().filter(done).count();
        let Populated { exports, unchanged, unchanged_exports, .. } = populated;
        let mut text = format!("read again: {changed} disks changed, {unchanged} as they were");
        if !exports.is_empty() || *unchanged_exports > 0 {
            let changed = exports.iter().filter(|change| change.error.is_none()).count();
            text += &format!("; {changed} exports changed, {unchanged_exports} as they were");
        }
        tracing::info!("{}", self.file.of_file(&text));
    }
}

/// Returns the names of the tenants that are not in the file any more.
fn gone(tenants: &Tenants, config: &Config) -> Vec<String> {
    tenants.without_file(|name| config.tenants.iter().any(|tenant| tenant.name == name))
}

/// Returns the clients of all tenants of the file, and that those which are gone have none.
fn clients<'a>(
    config: &'a Config,
    gone: &'a [String],
    none: &'a TenantSpec,
) -> Vec<(&'a str, &'a TenantSpec)> {
    let of_file = config.tenants.iter().map(|tenant| (tenant.name.as_str(), &tenant.spec));
    of_file.chain(gone.iter().map(|name| (name.as_str(), none))).collect()
}
