//! The calls of the interface `routing`.

use std::time::Duration;

use super::{Instance, breach_of};
use crate::block::{Error, ErrorCode, Operation};
use crate::component::call::Call;
use crate::component::fault::Fault;
use crate::component::route::{
    Request, Results, Route, Rules, StableRoute, check_repeat, check_route, check_rules,
    check_stable, counted, lowered,
};

impl Instance {
    /// Returns the locks of requests, or `None` if the component does not route them.
    pub(super) async fn rules(&mut self) -> Result<Option<Rules>, Fault> {
        let Some(routing) = self.functions.routing else { return Ok(None) };
        let rules = self.call(Call::Rules, routing.rules, ()).await?;
        check_rules(&rules).map(Some).map_err(breach_of(Call::Rules))
    }

    /// Asks where the bytes of a request are. Returns `None` if the component does not route such
    /// requests.
    pub async fn route(
        &mut self,
        request: &Request,
    ) -> Result<Result<Option<Route>, Error>, Fault> {
        let call = Call::Route(request.operation, request.span);
        let (Some(routing), Some(lowered)) = (self.functions.routing, request.lowered()) else {
            return Ok(Ok(None));
        };
        let route = match self.call(call, routing.route, (lowered,)).await? {
            Ok(route) => route,
            Err(error) => return Ok(Err(self.error(call, error))),
        };
        let held = counted(&route).map(|bytes| self.store.data().share().hold(bytes));
        if let Some(None) = held {
            let failed = |count| vec![Some(ErrorCode::NoMem); count];
            let copies = failed(route.copies.len());
            let results = Results { copies, segments: failed(route.segments.len()) };
            if let Some(token) = route.done {
                // Its answer would say nothing more.
                let _ = self.done(token, results, 0).await?;
            }
            return Ok(Err(ErrorCode::NoMem.into()));
        }
        let held = held.flatten();
        let below = self.store.data().below();
        let hold = route.hold;
        let route = check_route(route, request, &**below).map_err(breach_of(call))?;
        // Before the component can release it in another call.
        let hold = hold.map(|number| below.hold(number));
        Ok(Ok(Some(Route { hold, _held: held, ..route })))
    }

    /// Reports that a route is complete, which was executed again this often. Returns a time after which
    /// it is to be executed once more.
    pub async fn done(
        &mut self,
        token: u64,
        results: Results,
        repeats: u32,
    ) -> Result<Result<Option<Duration>, Error>, Fault> {
        let call = Call::Done(token);
        let Some(routing) = self.functions.routing else { return Ok(Ok(None)) };
        match self.call(call, routing.done, (token, results.into())).await? {
            Ok(again) => again
                .map(|delay| check_repeat(delay, repeats))
                .transpose()
                .map(Ok)
                .map_err(breach_of(call)),
            Err(error) => Ok(Err(self.error(call, error))),
        }
    }

    /// Asks for the route of everything from an offset on.
    pub async fn stable(
        &mut self,
        operation: Operation,
        offset: u64,
    ) -> Result<Option<StableRoute>, Fault> {
        let call = Call::Stable(operation, offset);
        let (Some(routing), Some(lowered)) = (self.functions.routing, lowered(operation)) else {
            return Ok(None);
        };
        let Some(said) = self.call(call, routing.stable, (lowered, offset)).await? else {
            return Ok(None);
        };
        let left = self.size - offset;
        let checked = check_stable(&said, operation, left, &**self.store.data().below());
        checked.map(Some).map_err(breach_of(call))
    }
}
