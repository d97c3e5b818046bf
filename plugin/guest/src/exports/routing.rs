//! The exports of `routing` for a type that implements [`Filter`].

use core::time::Duration;

use super::{Component, Opened};
use crate::bindings::memnbd::block::types;
use crate::bindings::routing::exports::memnbd::block::routing as contract;
use crate::{
    ErrorCode, Filter, Location, Lock, Operation, Place, RangeCopy, Request, Results, Route, Rules,
    Segment, StableRoute,
};

impl<F: Opened + Filter> contract::Guest for Component<F> {
    fn rules() -> contract::LockRules {
        Self::with(|filter| filter.rules().into())
    }

    fn route(request: contract::Request) -> Result<contract::Plan, types::Error> {
        Self::call(|filter| filter.route(&request.into())).map(contract::Plan::from)
    }

    fn done(token: u64, results: contract::Results) -> Result<Option<u64>, types::Error> {
        Self::call(|filter| filter.repeat(token, &results.into()))
            .map(|again| again.map(nanoseconds))
    }

    fn stable(operation: contract::Operation, offset: u64) -> Option<contract::StableRoute> {
        Self::with(|filter| filter.stable(operation.into(), offset)).map(Into::into)
    }
}

impl From<contract::Operation> for Operation {
    fn from(operation: contract::Operation) -> Self {
        match operation {
            contract::Operation::Read => Self::Read,
            contract::Operation::Write => Self::Write,
            contract::Operation::Zero => Self::Zero,
            contract::Operation::Trim => Self::Trim,
            contract::Operation::Cache => Self::Cache,
            contract::Operation::Extents => Self::Extents,
        }
    }
}

impl From<contract::Request> for Request {
    fn from(request: contract::Request) -> Self {
        Self {
            operation: request.operation.into(),
            offset: request.offset,
            length: request.length,
            fua: request.fua,
            keep_allocated: request.keep_allocated,
            fast: request.fast,
        }
    }
}

impl From<Lock> for contract::Lock {
    fn from(lock: Lock) -> Self {
        match lock {
            Lock::None => Self::None,
            Lock::Shared => Self::Shared,
            Lock::Exclusive => Self::Exclusive,
        }
    }
}

impl From<Rules> for contract::LockRules {
    fn from(rules: Rules) -> Self {
        Self {
            granule: rules.granule,
            read: rules.read.into(),
            write: rules.write.into(),
            zero: rules.zero.into(),
            trim: rules.trim.into(),
            cache: rules.cache.into(),
        }
    }
}

impl From<Location> for contract::Location {
    fn from(location: Location) -> Self {
        Self { device: location.device.number(), offset: location.offset }
    }
}

impl From<Place> for contract::Place {
    fn from(place: Place) -> Self {
        match place {
            Place::Lower(location) => Self::Lower(location.into()),
            Place::Own => Self::Own,
            Place::Hole => Self::Hole,
        }
    }
}

impl From<Segment> for contract::Segment {
    fn from(segment: Segment) -> Self {
        Self { place: segment.place.into(), length: segment.length }
    }
}

impl From<RangeCopy> for contract::Copy {
    fn from(copy: RangeCopy) -> Self {
        Self { from: copy.from.into(), to: copy.to.into(), length: copy.length }
    }
}

impl From<Route> for contract::Plan {
    fn from(route: Route) -> Self {
        Self {
            copies: route.copies.into_iter().map(contract::Copy::from).collect(),
            segments: route.segments.into_iter().map(contract::Segment::from).collect(),
            delay: nanoseconds(route.delay),
            done: route.done,
            hold: route.hold,
        }
    }
}

/// Returns a time in the unit of the contract.
fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

impl From<StableRoute> for contract::StableRoute {
    fn from(route: StableRoute) -> Self {
        Self { length: route.length, place: route.place.into() }
    }
}

impl From<contract::Results> for Results {
    fn from(results: contract::Results) -> Self {
        let codes = |codes: alloc::vec::Vec<Option<types::ErrorCode>>| {
            codes.into_iter().map(|code| code.map(ErrorCode::from)).collect()
        };
        Self { copies: codes(results.copies), segments: codes(results.segments) }
    }
}
