//! Tests of devices that stand on others.

mod access;
mod breaches;
mod chain;
mod control;
mod copies;
mod events;
mod held;
mod late;
mod located;
mod lower;
mod lower_memory;
pub(in crate::device) mod native;
mod reopen;
mod rules;
mod set;
mod source;
mod stable;
mod user;
mod withdraw;

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::super::guest::{Budgets, DiskConfig, OpenError};
use super::super::lower::Lowers;
use super::super::tests::Requests;
use super::StackedDevice;
use crate::block::{Chunk, Command, ErrorCode, Extent, Span};
use crate::component::tests::LONG;
use crate::component::tests::guest::{Called, Guest, can};
use crate::component::{Component, Engine};
use crate::device::{Answer, Cancelled, Chunks, Device, Lower, Order};
use crate::parameters::Link;
use crate::parameters::{Argument, Value};
use native::Native;

const MIB: u64 = 1 << 20;

/// A component writes to its devices.
const WRITES: Link = Link { writes: true, unshared: false, scratch: false };

/// A client of a device.
#[derive(Clone)]
struct Client(Arc<StackedDevice>);

/// The argument that names the lower device of a number.
fn device_argument(number: usize) -> Argument {
    Argument { name: format!("device-{number}"), value: Value::Device("other".into(), WRITES) }
}

async fn load(guest: &Guest) -> Component {
    Engine::new(LONG).load("guest", &guest.wasm()).await.unwrap()
}

async fn open(guest: &Guest, lowers: &[Arc<dyn Device>]) -> Result<Client, OpenError> {
    open_component(load(guest).await, 64 << 20, lowers).await
}

fn config(component: Component, max_memory: u64) -> DiskConfig {
    DiskConfig {
        component,
        export_name: "export".into(),
        read_only: false,
        arguments: Vec::new(),
        budgets: Budgets::alone(max_memory),
        lowers: Vec::new(),
        client: None,
    }
}

async fn open_component(
    component: Component,
    max_memory: u64,
    lowers: &[Arc<dyn Device>],
) -> Result<Client, OpenError> {
    let lower = |device: &Arc<dyn Device>| (Lower { device: device.clone(), link: None }, WRITES);
    let arguments = (0..lowers.len()).map(device_argument).collect();
    let config = DiskConfig { arguments, ..config(component, max_memory) };
    let lowers = Lowers::new(lowers.iter().map(lower).collect());
    StackedDevice::open(config, lowers).await.map(Client)
}

/// A client of a guest that stands on these devices, and opens.
async fn client(guest: &Guest, lowers: &[&Arc<Native>]) -> Client {
    let lowers: Vec<Arc<dyn Device>> =
        lowers.iter().map(|&device| device.clone() as Arc<dyn Device>).collect();
    open(guest, &lowers).await.unwrap()
}

impl Client {
    /// Spawns a task that uses the device.
    fn spawn<F>(&self, run: impl FnOnce(Self) -> F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        tokio::spawn(run(self.clone()))
    }

    async fn execute_for(
        &self,
        command: Command,
        payload: Vec<u8>,
        cancelled: Cancelled,
    ) -> Result<Answer, ErrorCode> {
        let order = Order::new(command, payload.into(), cancelled);
        let outcome = self.0.clone().execute(order, None).await;
        outcome.map(Answer::into_copy).map_err(|error| error.code)
    }

    async fn zero_fast(&self, offset: u64, length: u64) -> Result<(), ErrorCode> {
        let span = Span { offset, length };
        let zero = Command::Zero { span, fua: false, keep_allocated: false, fast: true };
        self.execute(zero, Vec::new()).await.map(drop)
    }

    /// The calls that the component got since this was last asked.
    async fn log(&self) -> Vec<(Called, u64, u64)> {
        self.0.guest.take_log().await
    }

    fn is_dead(&self) -> bool {
        self.0.guest.is_dead()
    }
}

impl Requests for Client {
    type Error = ErrorCode;

    async fn execute(&self, command: Command, payload: Vec<u8>) -> Result<Answer, ErrorCode> {
        self.execute_for(command, payload, Cancelled::default()).await
    }
}

/// The body of a `route` that passes everything to lower device 0 at the same offset.
const PASS: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 0) (local.get $offset) (local.get $length))
    (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 0))";

/// The body of a `route` that passes everything to lower device 0, with the token 7.
const PASS_AND_TELL: &str = "
    (call $segment (i32.const 0) (i32.const 0) (i32.const 0) (local.get $offset) (local.get $length))
    (call $routed (i32.const 1) (i32.const 0) (i64.const 0) (i64.const 7))";

/// The body of a `stable` that passes everything to lower device 0 at the same offset.
const STABLE: &str = "
    (call $passed (i32.const 0) (local.get $offset)
      (i64.sub (i64.const 0x100000) (local.get $offset)))";

/// A guest without a flush of its own that routes.
fn routing(granule: u64, locks: [u8; 5], route: impl Into<String>) -> Guest {
    let guest = Guest::new().routing(granule, locks, route);
    guest.opened(|disk| disk.capabilities = can::EVERYTHING & !can::FLUSH & !can::FUA)
}
