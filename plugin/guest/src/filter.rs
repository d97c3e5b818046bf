//! The trait that a filter implements.

use core::time::Duration;

use crate::{Backend, Error, Operation, Request, Results, Route, Rules, StableRoute};

/// A disk that stands on others: it says where the bytes of requests are, and the host moves them.
///
/// A filter is a [`Backend`] that implements `describe`, `open` and `disk`, mostly with
/// [`Disk::above`](crate::Disk::above). The other functions of `Backend` are called for parts of
/// requests that the filter routes to itself ([`Place::Own`](crate::Place::Own)), and `flush` if
/// the disk has [`FLUSH`](crate::Capabilities::FLUSH); such a `flush` has to flush the lower
/// devices as well. `wit/routing.wit` has the complete contract.
///
/// ```
/// use memnbd_guest::{
///     Backend, Description, Disk, Error, Filter, Lower, OpenRequest, Parameter, Request, Route,
/// };
///
/// /// The second half of a disk.
/// struct Half {
///     base: Lower,
///     size: u64,
/// }
///
/// impl Backend for Half {
///     fn describe() -> Description {
///         Description::new("half", env!("CARGO_PKG_VERSION"), "the second half of a disk")
///             .parameter(Parameter::device("base", "the device beneath").required())
///     }
///
///     fn open(request: &OpenRequest) -> Result<Self, Error> {
///         let base = request.device("base").ok_or(Error::EINVAL)?;
///         Ok(Self { base, size: base.geometry().size / 2 })
///     }
///
///     fn disk(&self) -> Disk {
///         Disk { size: self.size, ..Disk::above(&self.base.geometry()) }
///     }
/// }
///
/// impl Filter for Half {
///     fn route(&mut self, request: &Request) -> Result<Route, Error> {
///         Ok(Route::lower(self.base.at(self.size + request.offset), request.length))
///     }
/// }
///
/// memnbd_guest::filter!(Half);
/// ```
pub trait Filter: Backend {
    /// Returns the locks that requests take. The host asks once, after `open`. By default there are
    /// none.
    fn rules(&self) -> Rules {
        Rules::NONE
    }

    /// Returns where the bytes of a request are.
    ///
    /// # Errors
    ///
    /// An error is the answer to the client. Nothing is executed, and [`done`](Self::done) is not
    /// called.
    fn route(&mut self, request: &Request) -> Result<Route, Error>;

    /// Handles the completion of a route with a token, which [`Route::token`] set. By default this
    /// does nothing.
    ///
    /// The call is for the instance that gave the route, or for any if the disk is
    /// [`INTERCHANGEABLE`](crate::Capabilities::INTERCHANGEABLE).
    ///
    /// # Errors
    ///
    /// An error makes the request fail.
    fn done(&mut self, token: u64, results: &Results) -> Result<(), Error> {
        let _ = (token, results);
        Ok(())
    }

    /// Like [`done`](Self::done), which it calls by default, for a filter that tries again what failed:
    /// if it returns a time, at most [`MAX_DELAY`](crate::MAX_DELAY), the host executes the route again
    /// after that, without its delay and hold, and calls this function again. The host does so not more
    /// than 1000 times for a request, and not if its client has gone away.
    ///
    /// # Errors
    ///
    /// An error makes the request fail.
    fn repeat(&mut self, token: u64, results: &Results) -> Result<Option<Duration>, Error> {
        self.done(token, results).map(|()| None)
    }

    /// Returns the route of everything of an operation from `offset` on, as far as it holds for
    /// good: such requests take no lock and cost no call. By default all requests are routed one by
    /// one.
    ///
    /// The route holds until [`withdraw_routes`](crate::withdraw_routes).
    fn stable(&mut self, operation: Operation, offset: u64) -> Option<StableRoute> {
        let _ = (operation, offset);
        None
    }
}
