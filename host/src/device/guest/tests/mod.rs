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

use super::{Budgets, DiskConfig, GuestDevice, OpenError};
use crate::block::{Chunk, Command, ErrorCode, Extent, Span};
use crate::component::tests::LONG;
use crate::component::tests::guest::{Called, Guest, take_log};
use crate::component::{Component, Engine};
use crate::device::{Answer, Chunks, Content, Gate, Port};

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
        Ok(Self { gate: Gate::new(Port::alone(disk.clone())), disk })
    }

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

    /// That of a dead disk is, on other threads.
    async fn until_memory_is_given_back(&self) {
        let given_back = async {
            while self.disk.memory().used() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, given_back).await.expect("memory of a dead disk is given back");
    }

    async fn read(&self, offset: u64, length: u64) -> Result<Vec<u8>, ErrorCode> {
        let command = Command::Read { span: Span { offset, length } };
        let Answer::Read(content) = self.execute(command, Vec::new()).await? else {
            panic!("a read answers with content");
        };
        let mut bytes = Vec::new();
        for chunk in content.chunks() {
            assert!(chunk.len() > 0);
            match chunk {
                Chunk::Data(data) => bytes.extend_from_slice(data),
                Chunk::Hole(length) => bytes.resize(bytes.len() + length as usize, 0),
            }
        }
        assert_eq!(bytes.len() as u64, length);
        Ok(bytes)
    }

    async fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        let span = Span { offset, length: data.len() as u64 };
        self.execute(Command::Write { span, fua }, data.to_vec()).await.map(drop)
    }

    /// Neither durable nor allocated nor fast.
    async fn zero(&self, offset: u64, length: u64) -> Result<(), ErrorCode> {
        let span = Span { offset, length };
        let zero = Command::Zero { span, fua: false, keep_allocated: false, fast: false };
        self.execute(zero, Vec::new()).await.map(drop)
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<(), ErrorCode> {
        let span = Span { offset, length };
        self.execute(Command::Trim { span, fua: false }, Vec::new()).await.map(drop)
    }

    async fn flush(&self) -> Result<(), ErrorCode> {
        self.execute(Command::Flush, Vec::new()).await.map(drop)
    }

    async fn cache(&self, offset: u64, length: u64) -> Result<(), ErrorCode> {
        let span = Span { offset, length };
        self.execute(Command::Cache { span }, Vec::new()).await.map(drop)
    }

    async fn extents(
        &self,
        offset: u64,
        length: u64,
        limit: usize,
    ) -> Result<Vec<Extent>, ErrorCode> {
        let span = Span { offset, length };
        match self.execute(Command::Extents { span, limit }, Vec::new()).await? {
            Answer::Extents(extents) => Ok(extents.as_slice().to_vec()),
            _ => panic!("extents are answered with extents"),
        }
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

    /// Any command that the function of a name is needed for.
    async fn call(&self, function: &str) -> Result<(), ErrorCode> {
        match function {
            "read" => self.read(0, 4096).await.map(drop),
            "write" => self.write(0, &[1; 4096], false).await,
            "zero" | "stored" => self.zero(0, 4096).await,
            "trim" => self.trim(0, 4096).await,
            "flush" => self.flush().await,
            "extents" => self.extents(0, 4096, 1).await.map(drop),
            "cache" => self.cache(0, 4096).await,
            _ => unreachable!("{function} is not a function of an open disk"),
        }
    }
}
