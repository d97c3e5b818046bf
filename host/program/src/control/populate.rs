//! Making the disks and exports of a server those that a configuration describes.
//!
//! Everything is checked before the first change. A disk whose description is the same is left alone, and
//! its clients notice nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::StatusCode;
use axum::routing::{MethodRouter, post};
use memnbd::exports::Export;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::api::{Api, Room, Shared, check_name};
use super::catalog::Entry;
use super::changes::{
    Action, Change, Differing, Growth, Origin, Populated, Refused, Wanted, named,
};
use super::model::DiskSpec;
use super::object::Object;
use super::offers::ExportSpec;
use super::path::{At, OfTenant};
use super::problem::{BadBody, BadRequest, NotFound, Problem};
use crate::config::{Author, parse};
use crate::events::Happening;
use crate::making::{Made, Rights};

/// The longest body, in bytes: 4 MiB of TOML, whose lines JSON ends with two bytes. What it takes to parse
/// it is up to 75 times as much.
const MAX_BODY: usize = 5 << 20;

/// The places of bodies that are being received, and of texts that are being parsed. Each tenant has one
/// configuration under way, so whoever waits here waits for others only as long as these take.
static RECEIVING: Semaphore = Semaphore::const_new(8);
static PARSING: Semaphore = Semaphore::const_new(2);

/// A configuration, as an object or as text.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"disks": {"scratch": {"parameters": ["size=1G"]}}, "dry_run": true}))]
pub(super) struct PopulateRequest {
    /// The disks, by their names. Either this or `toml` is required.
    #[serde(default)]
    disks: Option<BTreeMap<String, DiskSpec>>,
    /// The exports, by their names, besides `disks`.
    #[serde(default)]
    exports: BTreeMap<String, ExportSpec>,
    /// Disks and exports in TOML, as in a configuration file, but without grants.
    #[serde(default)]
    toml: Option<String>,
    /// Whether disks that are made of something else are removed and created anew, which loses their
    /// content. Without it, nothing is changed if there are any.
    #[serde(default)]
    replace: bool,
    /// Whether nothing is changed, and the answer tells what would be.
    #[serde(default)]
    dry_run: bool,
}

/// How the disks that are wanted differ from those that there are.
struct Compared {
    changes: Vec<Change>,
    /// The disks that are the same.
    unchanged: Vec<Arc<Export>>,
    /// What the changes take.
    growth: Growth,
}

impl Api {
    /// Creates, changes and removes disks and exports of an origin, until they are those that are wanted.
    /// Nothing is changed unless all of them can be made, as far as that is known before they are opened. The
    /// future must not be dropped before it completes.
    ///
    /// # Errors
    ///
    /// Returns the reason if nothing was changed.
    pub(super) async fn populate(
        self: &Arc<Self>,
        wanted: Wanted<'_>,
    ) -> Result<Populated, Refused> {
        let _alone = self.changing.lock().await;
        let Wanted { disks, exports, origin, rights, differing, room, dry_run } = wanted;
        let Compared { changes, unchanged, growth } = self.compare(disks, origin, room)?;
        let mut populated = Populated::new(dry_run, changes, unchanged.len());
        self.keep_content(&mut populated.changes, rights).await;
        refuse_replacing(&mut populated.changes, differing, dry_run)?;
        let growth = self.compare_exports(exports, origin, &mut populated, growth)?;
        let Growth { added, removed, weight, weight_removed } = growth;
        let weight = weight.saturating_sub(weight_removed);
        self.check_room_of(room, added.saturating_sub(removed), weight)?;
        let mut made = HashMap::new();
        for Change { disk, action, after, .. } in &populated.changes {
            if let (Action::Create | Action::Replace, Some(after)) = (action, after) {
                let one = self.make(disk, after, rights).await.map_err(|problem| Refused {
                    name: Some(disk.clone()),
                    problem: problem.with(|detail| format!("the disk {disk:?}: {detail}")),
                });
                made.insert(disk.clone(), one?);
            }
        }
        if !dry_run {
            unchanged.iter().for_each(|export| self.lives.renew(export));
            self.withdraw_all(&mut populated.exports).await;
            self.remove_all(&mut populated.changes).await;
            // Those on which a disk stood.
            self.withdraw_all(&mut populated.exports).await;
            for change in &mut populated.changes {
                let made = made.remove(&change.disk);
                change.error =
                    change.error.take().or(self.change(origin, rights, change, made).await.err());
            }
            self.offer_all(origin, &mut populated.exports).await;
            populated.log();
        }
        Ok(populated)
    }

    /// Compares the disks that there are with those that are wanted.
    fn compare(
        &self,
        disks: BTreeMap<String, DiskSpec>,
        origin: Origin,
        room: Room,
    ) -> Result<Compared, Refused> {
        let most = room.disks;
        if disks.len() > most {
            let problem = format!("{} disks; at most {most} are possible", disks.len());
            return Err(Problem::bad_request(problem).into());
        }
        let wrong = |disk: &str, problem: Problem| Refused { name: Some(disk.to_owned()), problem };
        let checked = disks.into_iter().map(|(name, spec)| {
            let checked = check_name(&name).and_then(|()| spec.checked());
            checked.map(|spec| (name.clone(), spec)).map_err(|error| {
                wrong(&name, Problem::bad_request(format!("the disk {name:?}: {error}")))
            })
        });
        let disks: BTreeMap<String, DiskSpec> = checked.collect::<Result<_, _>>()?;
        let catalog = self.catalog();
        let (mut changes, mut unchanged) = (Vec::new(), Vec::new());
        let mut growth = Growth::default();
        let ours = catalog.of_origin(origin);
        let mut gone: Vec<&String> = ours.filter(|name| !disks.contains_key(*name)).collect();
        gone.sort_unstable();
        for name in &gone {
            let before = catalog.spec(name).cloned();
            changes.push(Change::new(name, Action::Remove, before, None));
        }
        for (name, spec) in disks {
            let before = catalog.spec(&name);
            let action = match before {
                Some(before) if *before == spec => {
                    unchanged.extend(self.export(&name));
                    continue;
                }
                None if self.is_free(&name, origin) => Action::Create,
                Some(before) if catalog.of_this(&name, origin) => {
                    let relabelled = before.relabelled(&spec);
                    if relabelled == spec { Action::Relabel } else { Action::Replace }
                }
                _ => {
                    let problem = format!(
                        "the disk {name:?} exists, is made of something else, and was not made by \
                         such a configuration; remove it first, or choose another name"
                    );
                    return Err(wrong(&name, Problem::conflict(problem)));
                }
            };
            growth.added += usize::from(action == Action::Create);
            growth.weight += spec.weight();
            changes.push(Change::new(&name, action, before.cloned(), Some(spec)));
        }
        drop(catalog);
        let removed = changes.iter().filter_map(|change| change.before.as_ref());
        growth.weight_removed = removed.map(DiskSpec::weight).sum();
        growth.removed = changes.iter().filter(|change| change.action == Action::Remove).count();
        Ok(Compared { changes, unchanged, growth })
    }

    /// Returns true if a disk may get this name: no other has it, and an export only if the configuration made
    /// it, which then says whether that goes.
    fn is_free(&self, name: &str, origin: Origin) -> bool {
        self.export(name).is_none() && (!self.offers.has(name) || self.offers.is_of(name, origin))
    }

    /// Finds the disks that keep their content, because only their filters are others.
    async fn keep_content(&self, changes: &mut [Change], rights: Rights<'_>) {
        for change in changes.iter_mut().filter(|change| change.action == Action::Replace) {
            let entry = self.catalog().disk(&change.disk).cloned();
            if let (Some(entry), Some(after)) = (entry, &change.after)
                && self.refiltered(&entry, after, rights).await.is_ok()
            {
                change.action = Action::Refilter;
            }
        }
    }

    /// Removes the disks that are not described any more. One that another stands on is removed after that
    /// one.
    async fn remove_all(self: &Arc<Self>, changes: &mut [Change]) {
        let removed = changes.iter().filter(|change| change.action == Action::Remove);
        let mut left: HashSet<String> = removed.map(|change| change.disk.clone()).collect();
        let mut errors = HashMap::new();
        while !left.is_empty() {
            let before = left.len();
            let mut removing = JoinSet::new();
            for name in left.drain() {
                let api = self.clone();
                removing.spawn(async move { (api.remove_alone(&name).await, name) });
            }
            // A task that panics is not expected.
            while let Some(Ok((removed, name))) = removing.join_next().await {
                let Err(problem) = removed else {
                    errors.remove(&name);
                    continue;
                };
                if problem.is(StatusCode::CONFLICT) {
                    left.insert(name.clone());
                }
                errors.insert(name, problem.detail().to_owned());
            }
            if left.len() == before {
                break;
            }
        }
        for change in changes.iter_mut().filter(|change| change.action == Action::Remove) {
            change.error = errors.remove(&change.disk);
        }
    }

    /// Makes a change, except for a removal. This is the one place that changes a disk that is in use.
    async fn change(
        &self,
        origin: Origin,
        rights: Rights<'_>,
        change: &Change,
        made: Option<Made>,
    ) -> Result<(), String> {
        let name = &change.disk;
        let Some(after) = change.after.clone() else { return Ok(()) };
        let (export, chain) = match change.action {
            Action::Remove | Action::Keep => return Ok(()),
            Action::Refilter => {
                let changed = self.refilter(name, after, rights).await;
                return changed.map(drop).map_err(|problem| problem.detail().to_owned());
            }
            Action::Relabel => {
                let entry = self.catalog().disk(name).cloned().ok_or("it is gone")?;
                let export = self.export(name).ok_or("it is gone")?;
                self.events.tell(Some(name.clone()), Happening::DiskRelabelled);
                (export, entry.chain)
            }
            Action::Create | Action::Replace => {
                if change.action == Action::Replace {
                    let removed = self.remove_alone(name).await;
                    // It is gone even if it could not be flushed.
                    if let Err(problem) = removed
                        && self.export(name).is_some()
                    {
                        return Err(problem.detail().to_owned());
                    }
                }
                let Made { export, chain } = made.ok_or("it was not made")?;
                self.server.add(export.clone()).map_err(|error| error.to_string())?;
                (export, chain)
            }
        };
        self.record(&export, Entry { spec: after, chain, origin: Some(origin) });
        Ok(())
    }
}

/// Checks that no disks lose their content, unless that is wanted. Those that are to stay as they are do.
fn refuse_replacing(
    changes: &mut [Change],
    differing: Differing,
    dry_run: bool,
) -> Result<(), Problem> {
    let replaced = changes.iter_mut().filter(|change| change.action == Action::Replace);
    if differing == Differing::Keep {
        replaced.for_each(|change| change.action = Action::Keep);
        return Ok(());
    }
    let replaced: Vec<&str> = replaced.map(|change| change.disk.as_str()).collect();
    if differing == Differing::Refuse && !dry_run && !replaced.is_empty() {
        return Err(Problem::conflict(format!(
            "made of something else: {}; to create them anew loses their content, which is only \
             done if the request says replace (memnbd apply --replace); nothing was changed",
            named(&replaced)
        )));
    }
    Ok(())
}

/// Returns the route for configurations.
pub(super) fn route() -> MethodRouter<Arc<Api>> {
    post(populate_disks).layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Makes the disks and exports those that a configuration describes: creates those that are new, changes those
/// that differ, and removes those that an earlier configuration made here and this one does not describe.
/// Others are left alone: those of the command line, of the server's own configuration file, and those that
/// were created one by one. Nothing is changed unless all of them can be made.
#[utoipa::path(
    post,
    path = "/v1/tenants/{tenant}/populate",
    params(OfTenant),
    request_body = PopulateRequest,
    responses(
        (status = 200, description = "What was changed, or would be", body = Populated),
        BadRequest,
        NotFound,
        (status = 409, description = "A disk exists and is made of something else", body = Problem,
            content_type = "application/problem+json"),
        BadBody,
        (status = 429, description = "Another one of the tenant is being handled", body = Problem,
            content_type = "application/problem+json"),
        (status = 507, description = "There are too many disks", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn populate_disks(
    State(api): Shared,
    _: At<OfTenant>,
    request: Request,
) -> Result<Json<Populated>, Problem> {
    // Requests that wait would keep others from being handled.
    let place = api.populating.clone().try_acquire_owned().map_err(|_| {
        let detail = "another configuration is being handled; try again";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
    })?;
    // It is never closed.
    let receiving = RECEIVING.acquire().await.map_err(|_| Problem::failed())?;
    let Object(request) = Object::<PopulateRequest>::from_request(request, &()).await?;
    drop(receiving);
    let populating = tokio::spawn(async move {
        let _place = place;
        populate(&api, request).await
    });
    populating.await.unwrap_or_else(|_| Err(Problem::failed())).map(Json)
}

async fn populate(api: &Arc<Api>, request: PopulateRequest) -> Result<Populated, Problem> {
    let PopulateRequest { disks, exports, toml, replace, dry_run } = request;
    let (disks, exports, config) = match (disks, toml) {
        (Some(disks), None) => (disks, exports, None),
        (None, Some(_)) if !exports.is_empty() => {
            return Err(Problem::bad_request("with \"toml\", that has the exports as well"));
        }
        (None, Some(toml)) => {
            let parsing = PARSING.acquire().await.map_err(|_| Problem::failed())?;
            let parsed = tokio::task::spawn_blocking(move || parse(toml, Author::Api)).await;
            drop(parsing);
            let config = parsed.map_err(|_| Problem::failed())?.map_err(Problem::bad_request)?;
            (config.specs(), config.export_specs(), Some(config))
        }
        _ => return Err(Problem::bad_request("either \"disks\" or \"toml\" is required")),
    };
    let wanted = Wanted {
        disks,
        exports,
        origin: Origin::Api,
        rights: Rights::Grants,
        differing: if replace { Differing::Replace } else { Differing::Refuse },
        room: api.room(),
        dry_run,
    };
    api.populate(wanted).await.map_err(|Refused { name, problem }| match (config, name) {
        (Some(config), Some(name)) => problem.with(|detail| config.located(None, &name, detail)),
        _ => problem,
    })
}
