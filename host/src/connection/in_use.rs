//! Counting connections in the transmission phase.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts connections in the transmission phase.
#[derive(Clone, Default)]
pub struct InUse(Arc<watch::Sender<Count>>);

#[derive(Default)]
struct Count {
    now: usize,
    ever: bool,
}

/// Counts as a connection while it lives.
pub(crate) struct User(InUse);

impl InUse {
    pub(crate) fn enter(&self) -> User {
        self.0.send_modify(|count| {
            count.now += 1;
            count.ever = true;
        });
        User(self.clone())
    }

    /// Waits until there is no connection.
    pub async fn none(&self) {
        // It is not an error: the sender is held here.
        let _ = self.0.subscribe().wait_for(|count| count.now == 0).await;
    }

    /// Waits until there has been a connection and all have ended.
    pub async fn ends(&self) {
        // It is not an error: the sender is held here.
        let _ = self.0.subscribe().wait_for(|count| count.ever && count.now == 0).await;
    }
}

impl Drop for User {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| count.now -= 1);
    }
}
