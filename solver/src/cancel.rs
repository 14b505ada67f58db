//! Stopping a solve from outside, and telling what runs that it should stop.

use tokio::sync::watch;

/// Stops what watches it. Cheap to clone; clones stop the same things.
#[derive(Debug, Clone)]
pub struct Cancel(watch::Sender<bool>);

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}

impl Cancel {
    /// Makes one that nobody has used yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Says stop. More than once is the same as once.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Returns whether somebody said stop.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once somebody says stop.
    pub async fn cancelled(&self) {
        let mut watch = self.0.subscribe();
        // The sender lives in `self`, so waiting can only end with the value.
        let _ = watch.wait_for(|stop| *stop).await;
    }
}
