//! The exports of `events` for a type that implements [`Events`].

use super::{Component, Opened};
use crate::bindings::events::exports::memnbd::block::events as contract;
use crate::bindings::memnbd::block::types;
use crate::{ErrorCode, Events};

impl<E: Opened + Events> contract::Guest for Component<E> {
    fn flush_began() -> u64 {
        Self::with(|disk| disk.flush_began())
    }

    fn flush_ended(token: u64, result: Option<types::ErrorCode>) {
        Self::with(|disk| disk.flush_ended(token, result.map(ErrorCode::from)));
    }

    fn closing() {
        Self::with(|disk| disk.closing());
    }
}
