//! Making the exports of a server those that a configuration describes, besides its disks.
//!
//! An export has no content, so one that serves something else is removed and created anew. Those that go are
//! removed before the disks, and those that come are created after them.

use std::collections::{BTreeMap, HashSet};

use super::api::{Api, check_name};
use super::changes::{Action, Change, ExportChange, Growth, Origin, Populated, Refused};
use super::offers::{ExportSpec, Offer};
use super::problem::Problem;

/// The names of disks by what a configuration does with them.
struct Disks<'a> {
    made: HashSet<&'a str>,
    removed: HashSet<&'a str>,
    /// Those that are removed and created anew.
    replaced: HashSet<&'a str>,
}

impl<'a> Disks<'a> {
    fn of(changes: &'a [Change]) -> Self {
        let named = |action: Action| {
            let of = changes.iter().filter(move |change| change.action == action);
            of.map(|change| change.disk.as_str()).collect()
        };
        Self {
            made: named(Action::Create),
            removed: named(Action::Remove),
            replaced: named(Action::Replace),
        }
    }
}

impl Api {
    /// Compares the exports that there are with those that are wanted, and adds the changes to those of the
    /// disks. `growth` is what these take; returns what all take.
    pub(super) fn compare_exports(
        &self,
        exports: BTreeMap<String, ExportSpec>,
        origin: Origin,
        populated: &mut Populated,
        mut growth: Growth,
    ) -> Result<Growth, Refused> {
        let disks = Disks::of(&populated.changes);
        let mut ours = self.offers.of_origin(origin);
        let (mut changes, mut unchanged) = (Vec::new(), 0);
        for (name, spec) in exports {
            let wrong = |problem: Problem| Refused {
                name: Some(name.clone()),
                problem: problem.with(|detail| format!("the export {name:?}: {detail}")),
            };
            let checked = check_name(&name).and_then(|()| spec.checked());
            let spec = checked.map_err(|error| wrong(Problem::bad_request(error)))?;
            let before = ours.remove(&name);
            self.check_offer(&name, &spec, before.is_some(), &disks).map_err(wrong)?;
            let disk_is_new = spec.disk.as_ref().is_some_and(|disk| {
                disks.replaced.contains(disk.as_str()) || disks.made.contains(disk.as_str())
            });
            let action = match &before {
                None => Action::Create,
                Some(_) if disk_is_new => Action::Replace,
                Some(before) if *before == spec => {
                    unchanged += 1;
                    continue;
                }
                Some(before) if before.is_like(&spec) => Action::Refilter,
                Some(_) => Action::Replace,
            };
            growth.added += usize::from(before.is_none());
            growth.weight += spec.weight();
            changes.push(ExportChange::new(&name, action, before, Some(spec)));
        }
        let gone = ours.into_iter().map(|(name, before)| {
            growth.removed += 1;
            ExportChange::new(&name, Action::Remove, Some(before), None)
        });
        let mut all: Vec<ExportChange> = gone.collect();
        all.append(&mut changes);
        let before = all.iter().filter_map(|change| change.before.as_ref());
        growth.weight_removed += before.map(ExportSpec::weight).sum::<usize>();
        (populated.exports, populated.unchanged_exports) = (all, unchanged);
        Ok(growth)
    }

    /// Checks that an export can be made once the disks are what they are to be.
    fn check_offer(
        &self,
        name: &str,
        spec: &ExportSpec,
        is_ours: bool,
        disks: &Disks<'_>,
    ) -> Result<(), Problem> {
        let there = |disk: &str| {
            disks.made.contains(disk)
                || (self.export(disk).is_some() && !disks.removed.contains(disk))
        };
        if there(name) {
            return Err(Problem::conflict(
                "there is a disk of this name, and clients find disks and exports by the same names; choose \
                 another one",
            ));
        }
        if !is_ours && self.offers.has(name) {
            return Err(Problem::conflict(
                "it exists and was not made by such a configuration; remove it first, or choose another name",
            ));
        }
        self.check_free(name)?;
        spec.policy(&self.maker)?;
        match (&spec.disk, &spec.snapshot) {
            (Some(disk), _) if disks.removed.contains(disk.as_str()) => Err(Problem::conflict(
                format!("its disk {disk:?} is not described any more, so it would be removed"),
            )),
            (Some(disk), _) if !there(disk) => self.disk(disk).map(drop),
            (Some(_), _) => Ok(()),
            (None, snapshot) => self.snapshot(snapshot.as_deref().unwrap_or_default()).map(drop),
        }
    }

    /// Removes the exports that are not described any more, and those that are to be created anew, unless they
    /// are gone already.
    pub(super) async fn withdraw_all(&self, changes: &mut [ExportChange]) {
        for change in changes {
            let goes = matches!(change.action, Action::Remove | Action::Replace);
            if goes && self.offers.has(&change.export) {
                let withdrawn = self.withdraw(&change.export).await;
                change.error = withdrawn.err().map(|problem| problem.detail().to_owned());
            }
        }
    }

    /// Creates and changes the exports that are described.
    pub(super) async fn offer_all(&self, origin: Origin, changes: &mut [ExportChange]) {
        for change in changes.iter_mut().filter(|change| change.error.is_none()) {
            let Some(spec) = change.after.clone() else { continue };
            let changed = match change.action {
                Action::Refilter => self.limit(&change.export, spec, origin),
                _ => self.offer_alone(&change.export, spec, Some(origin)).await,
            };
            change.error = changed.err().map(|problem| problem.detail().to_owned());
        }
    }

    /// Gives an export other limits for its clients.
    fn limit(&self, name: &str, spec: ExportSpec, origin: Origin) -> Result<(), Problem> {
        let policy = spec.policy(&self.maker)?;
        let (export, _) = self.offered(name)?;
        export.set_policy(policy);
        self.offers.insert(name, Offer { spec, origin: Some(origin) });
        Ok(())
    }
}
