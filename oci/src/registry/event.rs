//! What the client tells while it works, so that a progress display can say what it waits for. Prints nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::Digest;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request failed and is tried again after `delay`.
    Waiting {
        /// Host that is waited for.
        host: String,
        /// What is being done, such as `layer sha256:…`.
        what: String,
        /// Why the last attempt failed.
        reason: String,
        /// Time until the next attempt.
        delay: Duration,
        /// Number of the attempt that failed, from 1.
        attempt: u32,
        /// Attempts in total.
        attempts: u32,
    },
    /// Credentials or a request for a token go to a host other than the registry, for the first time.
    TokenServer {
        /// The registry.
        registry: String,
        /// Host of its token server.
        host: String,
    },
    /// A mirror could not serve and the next source is asked.
    MirrorFailed {
        /// The mirror.
        mirror: String,
        /// Why.
        reason: String,
    },
    /// Something the user should know, which stops nothing.
    Note(String),
    /// Bytes of a blob arrived. Whether they are right shows when all of them are there.
    Received {
        /// The blob.
        digest: Digest,
        /// Registry and repository that it was asked of.
        from: String,
        /// Bytes in addition to those told before.
        bytes: u64,
        /// Bytes of the whole blob.
        size: u64,
    },
    /// All bytes of a blob have arrived and were right.
    Pulled {
        /// The blob.
        digest: Digest,
        /// Registry and repository that it was asked of.
        from: String,
        /// Its bytes.
        size: u64,
    },
    /// Bytes of a blob were handed to the connection.
    Sent {
        /// The blob.
        digest: Digest,
        /// Registry and repository that it goes to.
        to: String,
        /// Bytes in addition to those told before; more than the size in sum where some were sent twice.
        bytes: u64,
        /// Where in the blob they end.
        end: u64,
        /// Bytes of the whole blob.
        size: u64,
    },
    /// A blob is in the target repository now.
    Pushed {
        /// The blob.
        digest: Digest,
        /// Registry and repository.
        to: String,
        /// Its bytes.
        size: u64,
        /// How it got there.
        way: Way,
    },
}

/// How a blob got into the target repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// It was there.
    Existed,
    /// The registry linked it from another of its repositories.
    Mounted {
        /// That repository.
        from: String,
    },
    /// Its bytes were sent.
    Uploaded,
}

/// Where events go. Called from many tasks at once; must not block.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    /// Sends every event to `sink`.
    pub fn new(sink: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    /// Drops every event.
    pub fn none() -> Self {
        Self::new(|_| ())
    }

    /// Tells `event`.
    pub fn tell(&self, event: Event) {
        (self.0)(event);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
