//! The configuration file, read again while the server runs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::Notify;

use super::api::Api;
use super::catalog::Entry;
use super::changes::{Action, Change, Differing, Origin, Populated, Refused, Wanted, named};
use super::model::DiskSpec;
use super::tenants::{FIRST, Tenants};
use crate::chain::Chain;
use crate::config::{Config, ConfigFile};
use crate::grants::Grants;
use crate::making::Rights;

/// A configuration file whose disks are served.
pub(crate) struct FromFile {
    file: ConfigFile,
    /// What it said when it was read first.
    config: Option<(Config, HashMap<String, Arc<Chain>>)>,
    /// The sockets of its tenants, which are bound at the start.
    listen: HashMap<String, Vec<String>>,
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
        let tenants = config.tenants.iter();
        let listen = tenants.map(|tenant| (tenant.name.clone(), tenant.listen.clone())).collect();
        Self { file, config: Some((config, chains)), listen, grants }
    }

    /// Records its disks, which are served already.
    pub(super) fn adopt(&mut self, api: &Api) {
        let Some((config, mut chains)) = self.config.take() else { return };
        for (name, spec) in config.specs() {
            if let (Some(chain), Some(export)) = (chains.remove(&name), api.export(&name)) {
                api.record(&export, Entry { spec, chain, origin: Some(Origin::File) });
            }
        }
    }

    /// Reads the file again whenever it is notified.
    pub(super) async fn follow(self, tenants: Arc<Tenants>, hangup: Arc<Notify>) {
        loop {
            hangup.notified().await;
            match self.reload(&tenants).await {
                Ok(populated) => self.report(&populated),
                Err(problem) => tracing::error!("{problem}; nothing was changed"),
            }
        }
    }

    /// Makes everything what the file says: first the tokens, so that one that was leaked is of no use any
    /// more whatever happens then.
    async fn reload(&self, tenants: &Arc<Tenants>) -> Result<Populated, String> {
        let file = self.file.clone();
        let loaded = tokio::task::spawn_blocking(move || file.load()).await;
        let config = loaded.map_err(|_| "the configuration could not be read".to_owned())??;
        let mut grants = self.grants.clone();
        self.file.grant(&config, &mut grants)?;
        let mut of_tenants = Vec::new();
        for tenant in &config.tenants {
            of_tenants.push((tenant, self.file.grants_of(&config, tenant)?));
        }
        let replaced = tenants.entries.tokens.replace_file(&config.all_tokens());
        replaced.map_err(|(token, error)| {
            self.file.of_file(&format!("the token {token:?}: {error}"))
        })?;
        let first = tenants.first();
        self.warn_of_grants(FIRST, grants != *first.maker.grants());
        let mut all = self.populate(first, config.specs(), &config, None).await?;
        for removed in tenants.without_file(|name| config.tenants.iter().any(|it| it.name == name))
        {
            tenants.remove_of_file(&removed).await;
        }
        for (tenant, grants) in of_tenants {
            let name = &tenant.name;
            let served = tenants.put_of_file(name, &tenant.spec, grants.clone()).await;
            let served = served.map_err(|problem| {
                self.file.of_file(&config.located_tenant(name, problem.detail()))
            })?;
            self.warn_of_grants(name, grants != *served.api.maker.grants());
            if self.listen.get(name).map_or(&[][..], Vec::as_slice) != tenant.listen {
                let text = format!(
                    "the sockets of the tenant {name:?} differ, and stay as they are until the server is \
                     started anew"
                );
                tracing::warn!("{}", self.file.of_file(&text));
            }
            let changed = self.populate(&served.api, tenant.specs(), &config, Some(name)).await?;
            all.unchanged += changed.unchanged;
            let full =
                |change: Change| Change { disk: format!("{name}/{}", change.disk), ..change };
            all.changes.extend(changed.changes.into_iter().map(full));
        }
        Ok(all)
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

    /// Makes the disks of a tenant those of the file.
    async fn populate(
        &self,
        api: &Arc<Api>,
        disks: BTreeMap<String, DiskSpec>,
        config: &Config,
        tenant: Option<&str>,
    ) -> Result<Populated, String> {
        let wanted = Wanted {
            disks,
            origin: Origin::File,
            rights: Rights::Server(self.file.directory()),
            differing: Differing::Keep,
            dry_run: false,
        };
        api.populate(wanted).await.map_err(|Refused { disk, problem }| {
            let detail = problem.detail();
            self.file.of_file(&match disk {
                Some(disk) => config.located(tenant, &disk, detail),
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
        let done = |change: &&Change| change.action != Action::Keep && change.error.is_none();
        let changed = populated.changes.iter().filter(done).count();
        let unchanged = populated.unchanged;
        let text = format!("read again: {changed} disks changed, {unchanged} as they were");
        tracing::info!("{}", self.file.of_file(&text));
    }
}
