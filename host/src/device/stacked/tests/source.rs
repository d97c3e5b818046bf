//! A source of lower devices.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;
use crate::component::{self, Executing};
use crate::device::{LowerError, LowerSource};

/// Opens one device after the other, and fails when there are no more.
pub(super) struct Source {
    devices: Mutex<VecDeque<Lower>>,
    pub(super) opened: AtomicUsize,
    /// Taken by each opening, and put back.
    pub(super) held: Semaphore,
}

impl Source {
    pub(super) fn new<D: Device>(devices: &[&Arc<D>]) -> Arc<Self> {
        let own = |device: &&Arc<D>| Lower { device: (*device).clone(), link: None };
        Self::of(devices.iter().map(own))
    }

    pub(super) fn of(devices: impl IntoIterator<Item = Lower>) -> Arc<Self> {
        let devices = Mutex::new(devices.into_iter().collect());
        let opened = AtomicUsize::new(0);
        Arc::new(Self { devices, opened, held: Semaphore::new(1) })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a source of the tests")
    }
}

impl LowerSource for Source {
    fn open<'a>(
        &'a self,
        _: Option<&'a component::Client>,
    ) -> Executing<'a, Result<Lower, LowerError>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let next = self.devices.lock().unwrap().pop_front();
        let gone = || LowerError { message: "it is gone".into(), may_pass: true };
        Box::pin(async move {
            drop(self.held.acquire().await);
            next.ok_or_else(gone)
        })
    }
}
