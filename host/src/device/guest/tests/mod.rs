//! Disks over scripted components.

mod death;
mod emulation;
mod known;
mod model;
mod pressure;
mod spread;
mod striped;

use std::sync::Arc;
use std::time::Duration;

use super::super::tests::Requests;
use super::{Budgets, DiskConfig, GuestDevice, OpenError};
use crate::block::{Command, ErrorCode};
use crate::component::tests::LONG;
use crate::component::tests::guest::{Called, Guest, take_log};
use crate::component::{Component, Engine};
use crate::device::{Answer, Content, Gate, Port};

/// Enough for as many shards as there can be of 1 MiB in stripes of 64 KiB.
const AMPLE: u64 = 1 << 30;

const MIB: u64 = 1 << 20;

/// A client of a disk.
#[derive(Clone)]
struct Client {
    disk: Arc<GuestDevice>,
    gate: Arc<Gate>,
}

fn config(component: Component, max_memory: u64) -> DiskConfig {
    let export_name = "export".into();
    let budgets = Budgets::alone(max_memory);
    DiskConfig {
        component,
        export_name,
        read_only: false,
        arguments: Vec::new(),
        budgets,
        lowers: Vec::new(),
        client: None,
    }
}

async fn load(guest: &Guest, deadline: Duration) -> Component {
    Engine::new(deadline).load("guest", &guest.wasm()).await.unwrap()
}

async fn open(guest: &Guest) -> Client {
    open_within(guest, AMPLE).await.unwrap()
}

async fn open_within(guest: &Guest, max_memory: u64) -> Result<Client, OpenError> {
    Client::open(config(load(guest, LONG).await, max_memory)).await
}

impl Client {
    async fn open(config: DiskConfig) -> Result<Self, OpenError> {
        let disk = Arc::new(GuestDevice::open(config, None).await?);
        Ok(Self { gate: Gate::new(Port::alone(disk.clone()), false), disk })
    }

    /// That of a dead disk is, on other threads.
    async fn until_memory_is_given_back(&self) {
        let given_back = async {
            while self.disk.memory().used() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, given_back).await.expect("memory of a dead disk is given back");
    }

    /// The calls that each shard got since this was last asked; none for those not started.
    async fn logs(&self) -> Vec<Option<Vec<(Called, u64, u64)>>> {
        let mut logs = Vec::new();
        for index in 0..self.disk.shards.count() {
            let mut shard = self.disk.shards.lock(index).await;
            logs.push(match shard.is_started() {
                true => Some(take_log(shard.instance_mut()).await),
                false => None,
            });
        }
        logs
    }

    /// The calls that the only shard got.
    async fn log(&self) -> Vec<(Called, u64, u64)> {
        let mut logs = self.logs().await;
        assert_eq!(logs.len(), 1);
        logs.remove(0).expect("the only shard is started")
    }
}

impl Requests for Client {
    type Error = ErrorCode;

    async fn execute(&self, command: Command, payload: Vec<u8>) -> Result<Answer, ErrorCode> {
        match command {
            Command::Read { span } => {
                if let Some(lease) = self.gate.try_read(span) {
                    return Ok(Answer::Read(Content::copy_of(&lease)));
                }
            }
            Command::Write { span, fua } if self.gate.try_write(span, &payload, fua) => {
                return Ok(Answer::Done);
            }
            _ => {}
        }
        let execution = self.gate.execute(command, payload.into(), None, false);
        self.gate.finish(execution).await.map_err(|error| error.code)
    }
}
