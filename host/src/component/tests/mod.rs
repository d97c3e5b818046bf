//! Hostile and peculiar components.

pub(crate) mod guest;
pub(crate) mod logs;

mod answers;
mod arguments;
mod control;
mod direct;
mod memory;
pub(crate) mod messages;
pub(crate) mod opening;
mod outputs;
mod runaway;
pub(crate) mod wasi;
mod worlds;

use std::time::Duration;

use super::{Component, Engine, Fault, Instance, LoadError, MemoryBudget};
use crate::block::{ErrorCode, Span};
use guest::Guest;

/// Never reached by a guest that is no loop.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What a guest that loops is given.
pub(crate) const SHORT: Duration = Duration::from_millis(50);

/// More than a good guest takes.
const BUDGET: u64 = 64 << 20;

const SPAN: Span = Span { offset: 0, length: 4096 };

pub(crate) async fn load(guest: &Guest, deadline: Duration) -> Result<Component, LoadError> {
    Engine::new(deadline).load("guest", &guest.wasm()).await
}

async fn started(guest: &Guest, deadline: Duration) -> Instance {
    let component = load(guest, deadline).await.unwrap();
    component.start(MemoryBudget::new(BUDGET)).await.unwrap()
}

/// An instance that has opened its disk.
async fn opened(guest: &Guest, deadline: Duration) -> Instance {
    let mut instance = started(guest, deadline).await;
    instance.open("", false, &[]).await.unwrap().unwrap();
    instance
}

/// Calls the function of a name with arguments that are in order.
async fn call(instance: &mut Instance, function: &str) -> Result<Result<(), ErrorCode>, Fault> {
    let answer = match function {
        "read" => instance.read(0, 4096).await,
        "write" => instance.write(0, &[1; 4096], false).await,
        "zero" => instance.zero(SPAN, false, false, false).await,
        "trim" => instance.trim(SPAN, false).await,
        "flush" => instance.flush().await,
        "extents" => Ok(instance.extents(SPAN).await?.map(drop)),
        "cache" => instance.cache(SPAN).await,
        "stored" => instance.stored().await.map(|_| Ok(())),
        _ => unreachable!("{function} is not a function of an open disk"),
    };
    Ok(answer?.map_err(|error| error.code))
}

#[tokio::test]
async fn good_guest_is_good() {
    let guest = Guest::new();
    let mut instance = opened(&guest, LONG).await;
    for function in guest::FUNCTIONS {
        call(&mut instance, function).await.unwrap().unwrap();
    }
    let log = guest::take_log(&mut instance).await;
    let functions = ["read", "write", "zero", "trim", "flush", "extents", "cache"];
    assert_eq!(log.len(), functions.len(), "{log:?}");
}
