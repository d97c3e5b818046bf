//! The trait of components that are told of flushes and of the end of their disk.

use crate::{Backend, ErrorCode};

/// A disk that is told what happens to it beside requests, to log it or to count it.
///
/// Such a disk has one instance, so it must not be
/// [`INTERCHANGEABLE`](crate::Capabilities::INTERCHANGEABLE). The macro [`events!`](crate::events!)
/// exports the trait, next to [`backend!`](crate::backend!) or [`filter!`](crate::filter!).
/// `wit/events.wit` has the complete contract.
pub trait Events: Backend {
    /// Notes that the host begins to flush the lower devices. It does so if the disk does not have
    /// [`FLUSH`](crate::Capabilities::FLUSH). Returns a token for [`flush_ended`](Self::flush_ended).
    fn flush_began(&mut self) -> u64 {
        0
    }

    /// Notes that the flush with this token has ended. `None` is success.
    fn flush_ended(&mut self, token: u64, result: Option<ErrorCode>) {
        let _ = (token, result);
    }

    /// Notes that the disk is about to be closed. There may be requests after this, but no second call.
    fn closing(&mut self) {}
}
