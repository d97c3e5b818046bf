//! A device that stands on others, and whose component says where the bytes of a request are.
//!
//! The component is a guest device like any other; this module executes the routes that it gives, by the
//! rules of the contract's interface `routing` (their numbers are in the comments). Bytes go from the
//! lower devices to the client and back, and do not enter the component.
//!
//! - `granules`: locks on ranges, which requests take before they are routed (rule 2).
//! - `stable`: routes that hold for all requests of a range (rule 4). `table`: those that the component
//!   sets while it serves requests.
//! - `execute`: the implementation of [`Device`], and what needs no route.
//! - `routed`: the execution of a route (rules 1 to 6).
//! - `segments`: the execution of its parts.
//! - `holds`: requests that wait until the component releases them.
//! - `located`: where the parts of a span are, for those who ask for layers.
//! - `below`: the time limit on what lower devices are asked for.
//!
//! Locks are taken downwards only: while an instance of this device is called, only the import of a
//! lower device can wait for another lock, and that is a device further down.

mod below;
mod execute;
mod granules;
mod holds;
mod located;
mod routed;
mod segments;
mod stable;
mod table;
#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::guest::{self, Budgets, DiskConfig, GuestDevice, OpenError};
use super::lower::{Lower, LowerError, LowerSource, Lowers};
use super::{Cancelled, Device, Execution, Order, Outcome};
use crate::block::{Command, Error, Geometry, MAX_SIZE, MAX_TRANSFER, Operation, Span};
use crate::component::{
    self, Below, BuiltIn, Client, Engine, Executing, Fault, Hold, Listed, Location, Reply, Rules,
};
use crate::parameters::{Argument, Link, Value};
use granules::Granules;
use holds::Holds;
use stable::{Entry, MAX_ROUTES, Shape, StableRoutes};
use table::Operations;

/// The most copies of routes that a device makes at a time, 128 KiB each.
const MAX_COPYING: usize = 16;

/// The most devices that may stand on each other. Each takes a part of the stack of the thread that
/// executes a request.
pub const MAX_DEPTH: usize = 16;

/// Opens a device: that of a component, after the devices on which it stands.
///
/// # Errors
///
/// Returns an error if a lower device cannot be opened, or the component refuses or fails.
pub async fn open(mut config: DiskConfig) -> Result<Arc<dyn Device>, OpenError> {
    open_outputs(&config).await?;
    let lowers = open_lowers(&mut config).await?;
    if lowers.list().is_empty() && !config.component.routes() {
        return Ok(Arc::new(GuestDevice::open(config, None).await?));
    }
    Ok(StackedDevice::open(config, lowers).await?)
}

/// Lists the exports that a component offers with these arguments. Returns `None` if it does not know them.
///
/// # Errors
///
/// Returns an error if a lower device cannot be opened, or the component refuses or fails.
pub async fn list_exports(mut config: DiskConfig) -> Result<Option<Listed>, OpenError> {
    if !config.component.lists_exports() {
        return Ok(None);
    }
    let lowers = open_lowers(&mut config).await?;
    guest::list_exports(config, Arc::new(Beneath::new(&Arc::new(lowers), false))).await
}

/// A lower device that is the disk of a component, and has no other users: it is opened for each device
/// that stands on it.
#[derive(Debug)]
pub struct OwnDisk(pub DiskConfig);

impl LowerSource for OwnDisk {
    fn open<'a>(&'a self, client: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        let config = DiskConfig { client: client.cloned(), ..self.0.clone() };
        Box::pin(async move {
            let component = config.component.description().name.clone();
            let failed = |error: OpenError| LowerError {
                message: format!("{component}: {error}"),
                may_pass: error.may_pass(),
            };
            let device = open(config).await.map_err(failed)?;
            Ok(Lower { device, link: None })
        })
    }
}

/// A lower device that is made for the device that stands on it: an empty disk in memory, as large as a
/// disk can be ([`Link::scratch`]).
#[derive(Debug)]
pub struct ScratchDisk {
    /// Loads the component of disks in memory.
    pub engine: Engine,
    /// The export that needs the disk.
    pub export_name: String,
    /// The budgets of the device that stands on it.
    pub budgets: Budgets,
}

impl LowerSource for ScratchDisk {
    fn open<'a>(&'a self, client: Option<&'a Client>) -> Executing<'a, Result<Lower, LowerError>> {
        Box::pin(self.open_of_size(MAX_SIZE, client))
    }
}

impl ScratchDisk {
    /// Opens one of this size, in bytes.
    pub(super) async fn open_of_size(
        &self,
        size: u64,
        client: Option<&Client>,
    ) -> Result<Lower, LowerError> {
        let failed = |message: String, may_pass| LowerError {
            message: format!("a disk in memory: {message}"),
            may_pass,
        };
        let missing = || failed("this program has no component for it".into(), false);
        let memory = BuiltIn::find("memory").ok_or_else(missing)?;
        let loaded = self.engine.load_built_in(memory).await;
        let component = loaded.map_err(|error| failed(error.to_string(), error.may_pass()))?;
        let arguments = component.description().parse_arguments(&[format!("size={size}")]);
        let config = DiskConfig {
            arguments: arguments.map_err(|error| failed(error.to_string(), false))?,
            component: component.for_export(&self.export_name),
            export_name: self.export_name.clone(),
            read_only: false,
            budgets: self.budgets.clone(),
            lowers: Vec::new(),
            client: None,
        };
        OwnDisk(config).open(client).await
    }
}

/// Opens the files to which a component may write.
async fn open_outputs(config: &DiskConfig) -> Result<(), OpenError> {
    for Argument { name, value } in &config.arguments {
        let Value::Output(file) = value else { continue };
        let Some(output) = file.output().cloned() else {
            return Err(OpenError::Refused("an output among its arguments was not found".into()));
        };
        if output.is_open() {
            continue;
        }
        let path = output.path().to_owned();
        let opened = tokio::task::spawn_blocking(move || output.open()).await;
        opened.map_err(io::Error::other).flatten().map_err(|error| OpenError::Lower {
            parameter: name.clone(),
            error: LowerError { message: format!("{}: {error}", path.display()), may_pass: true },
        })?;
    }
    Ok(())
}

/// Opens the devices on which that of a component stands, with how it uses them.
async fn open_lowers(config: &mut DiskConfig) -> Result<Lowers, OpenError> {
    let values = || config.arguments.iter().map(|argument| &argument.value);
    let links: Vec<Link> = values().filter_map(Value::link).collect();
    if links.len() != config.lowers.len() {
        return Err(OpenError::Refused(format!(
            "its arguments name {} devices, and it got {}",
            links.len(),
            config.lowers.len()
        )));
    }
    if values().any(|value| matches!(value, Value::Secret(secret) if !secret.is_known())) {
        return Err(OpenError::Refused("a secret among its arguments was not read".into()));
    }
    let mut list: Vec<(Lower, Link)> = Vec::new();
    let sources = std::mem::take(&mut config.lowers);
    for ((parameter, source), link) in sources.iter().zip(links) {
        let lower = source.open(config.client.as_ref()).await;
        let failed = |error| OpenError::Lower { parameter: parameter.clone(), error };
        list.push((lower.map_err(failed)?, link));
    }
    let mut lowers = Lowers::new(list);
    if config.component.reopens_lowers() {
        for (number, (_, source)) in sources.into_iter().enumerate() {
            lowers.make_renewable(number, source, config.client.as_ref(), &config.export_name);
        }
    }
    let deepest = lowers.depth();
    if deepest >= MAX_DEPTH {
        return Err(OpenError::Refused(format!(
            "it would be the uppermost of {} devices that stand on each other; at most {MAX_DEPTH} may",
            deepest + 1
        )));
    }
    Ok(lowers)
}

/// A device that stands on others.
pub(super) struct StackedDevice {
    guest: Arc<GuestDevice>,
    lowers: Arc<Lowers>,
    /// The same, for the instances of the component.
    beneath: Arc<Beneath>,
    /// The parameters that name the lower devices, in the order of their numbers.
    parameters: Arc<[String]>,
    geometry: Geometry,
    /// The locks of requests; `None` if the component does not route them, and uses its lower devices
    /// by itself.
    rules: Option<Rules>,
    granules: Granules,
    copying: Semaphore,
}

/// What the instances of the component see of the device.
struct Beneath {
    /// Those of the present device ([`Device::on_base`]).
    lowers: RwLock<Arc<Lowers>>,
    /// Their properties, which stay.
    geometries: Box<[Geometry]>,
    routes: Arc<StableRoutes>,
    holds: Holds,
}

impl Beneath {
    fn new(lowers: &Arc<Lowers>, withdrawable: bool) -> Self {
        Self {
            geometries: lowers.geometries().into(),
            lowers: RwLock::new(lowers.clone()),
            routes: StableRoutes::new(withdrawable),
            holds: Holds::default(),
        }
    }

    fn set_lowers(&self, lowers: &Arc<Lowers>) {
        *self.lowers.write().unwrap_or_else(PoisonError::into_inner) = lowers.clone();
    }

    fn lowers(&self) -> Arc<Lowers> {
        self.lowers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Below for Beneath {
    fn count(&self) -> usize {
        self.geometries.len()
    }

    fn geometry(&self, device: usize) -> Option<&Geometry> {
        self.geometries.get(device)
    }

    fn execute(
        &self,
        device: usize,
        command: Command,
        payload: Bytes,
    ) -> Executing<'static, Result<Reply, Error>> {
        self.lowers().execute(device, command, payload)
    }

    fn withdraw_routes(self: Arc<Self>) -> Executing<'static, ()> {
        Box::pin(async move { self.routes.withdraw(&self.lowers()).await })
    }

    fn set_route(
        &self,
        operations: component::Operations,
        span: Span,
        place: Option<Location>,
    ) -> Result<(), String> {
        if let Some(Location { device, offset }) = place {
            let Some(geometry) = self.geometry(device) else {
                let devices = self.count();
                return Err(format!("there is no device {device} among its {devices}"));
            };
            let changes = [Operation::Write, Operation::Zero, Operation::Trim];
            if !geometry.capabilities.writable
                && changes.iter().any(|&one| operations.contains(one))
            {
                return Err(format!("the device {device} is not writable"));
            }
            if offset.checked_add(span.length).is_none_or(|end| end > geometry.size) {
                let size = geometry.size;
                return Err(format!(
                    "{offset} there is beyond the device {device} of {size} bytes"
                ));
            }
        }
        self.routes.set_route(Operations::of(|one| operations.contains(one)), span, place)
    }

    fn reopen(&self, device: usize) -> Executing<'static, Result<(), Error>> {
        self.lowers().reopen(device)
    }

    fn hold(&self, number: u64) -> Hold {
        self.holds.hold(number)
    }

    fn release(&self, number: u64) {
        self.holds.release(number);
    }
}

impl StackedDevice {
    async fn open(config: DiskConfig, lowers: Lowers) -> Result<Arc<Self>, OpenError> {
        let lowers = Arc::new(lowers);
        let beneath = Arc::new(Beneath::new(&lowers, config.component.withdraws_routes()));
        let sets_routes = config.component.sets_routes();
        let named = config.arguments.iter().filter(|argument| argument.value.is_device());
        let parameters = named.map(|argument| argument.name.clone()).collect();
        let guest = GuestDevice::open(config, Some(beneath.clone())).await?;
        let device = Arc::new(Self::new(Arc::new(guest), lowers, beneath, parameters));
        if let Some(rules) = device.rules.filter(|_| sets_routes) {
            device.routes().allow_setting(Shape {
                size: device.geometry.size,
                granule: rules.granule,
                routed: Operations::of(|operation| device.is_routed(operation)),
                memory: device.guest.memory().clone(),
            });
        }
        let asking = device.clone();
        let asked = device.guest.run(async move { asking.ask().await }).await;
        asked.map_err(OpenError::Threads)?.map_err(OpenError::Fault)?;
        device.routes().fix();
        Ok(device)
    }

    fn new(
        guest: Arc<GuestDevice>,
        lowers: Arc<Lowers>,
        beneath: Arc<Beneath>,
        parameters: Arc<[String]>,
    ) -> Self {
        let mut geometry = guest.geometry().clone();
        let rules = guest.rules();
        let mut maximum = MAX_TRANSFER;
        for lower in lowers.list() {
            let below = lower.device.geometry();
            maximum = maximum.min(below.block_sizes.maximum);
            // Rule 6. A component that flushes answers for what its flush covers.
            geometry.capabilities.multi_conn &= below.capabilities.multi_conn || guest.flushes();
        }
        if rules.is_some() {
            geometry.block_sizes.maximum = maximum.max(geometry.block_sizes.preferred);
        }
        let granules = Granules::new(rules.map_or(1, |rules| rules.granule));
        let copying = Semaphore::new(MAX_COPYING);
        Self { guest, lowers, beneath, parameters, geometry, rules, granules, copying }
    }

    fn lowers(&self) -> &Lowers {
        &self.lowers
    }

    fn routes(&self) -> &Arc<StableRoutes> {
        &self.beneath.routes
    }

    /// Asks the component for its stable routes.
    async fn ask(&self) -> Result<(), Fault> {
        if self.rules.is_none() || self.geometry.size == 0 {
            return Ok(());
        }
        for operation in Operation::ALL.into_iter().filter(|&one| self.is_routed(one)) {
            let generation = self.routes().generation();
            let mut list = Vec::new();
            let mut offset = 0;
            while list.len() < MAX_ROUTES && offset < self.geometry.size {
                let Some(route) = self.guest.stable_route(operation, offset).await? else { break };
                list.push(Entry { offset, length: route.length, place: route.place });
                offset += route.length;
            }
            self.routes().set(operation, list, generation);
        }
        Ok(())
    }

    /// Returns true if the device offers an operation, and routes it.
    fn is_routed(&self, operation: Operation) -> bool {
        let offers = &self.geometry.capabilities;
        match operation {
            Operation::Read => true,
            Operation::Write => offers.writable,
            Operation::Zero => self.guest.zeroes(),
            Operation::Trim => offers.trim,
            Operation::Cache => offers.cache,
            Operation::Extents => self.guest.has_extents(),
            Operation::Flush => false,
        }
    }

    /// Asks again after the component has withdrawn its routes.
    async fn ask_again(&self) -> Result<(), Error> {
        match self.routes().must_ask() {
            true => self.ask().await.map_err(|fault| self.guest.failed(&fault)),
            false => Ok(()),
        }
    }

    /// Flushes what the device stands on (rule 6).
    async fn flush(&self, cancelled: Cancelled) -> Result<(), Error> {
        if self.guest.flushes() || self.rules.is_none() {
            let order = Order::new(Command::Flush, Bytes::new(), cancelled);
            return self.execute_own(order).await.map(drop);
        }
        if self.guest.is_dead() {
            return Err(crate::block::ErrorCode::Io.into());
        }
        let token = self.guest.flush_began().await?;
        let mut flushed = Ok(());
        for device in self.lowers().writable() {
            let order = Order::new(Command::Flush, Bytes::new(), cancelled.clone());
            let result = super::lower::execute(device.clone(), order).await;
            flushed = flushed.and(result.map(drop));
        }
        if let Some(token) = token {
            let result = flushed.as_ref().err().map(|error: &Error| error.code);
            self.guest.flush_ended(token, result).await?;
        }
        flushed
    }

    /// Executes a command in the component itself.
    async fn execute_own(&self, order: Order) -> Outcome {
        self.guest.execute_order(order).await
    }

    /// Flushes for the last time what nobody else uses.
    fn last_flush_of_lowers(&self) -> Vec<Execution> {
        let own = self.lowers().list().iter().filter(|lower| lower.link.is_none());
        let own = own.map(|lower| lower.device.clone());
        own.filter(|device| device.needs_last_flush()).map(Device::last_flush).collect()
    }
}
