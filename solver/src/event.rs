//! What happens during a solve, for whoever shows it. Nothing here decides anything.

use std::time::Duration;

use frontend::graph::StepId;

use crate::record::LayerResult;

/// Which of a step's outputs bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// xbuild itself, about this step.
    Note,
}

/// How a step that ran ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Its own result is used.
    New,
    /// It made what an earlier run made; the earlier result is used.
    Unchanged,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The cache was asked: this many layer steps there are, this many of them are cached so far.
    Planned {
        /// Layer steps that the targets need.
        steps: usize,
        /// How many are cached.
        cached: usize,
    },
    /// A step began.
    Started(StepId),
    /// A step's result was in the cache.
    Cached(StepId),
    /// A step ended well.
    Done {
        /// Which.
        step: StepId,
        /// How.
        finish: Finish,
        /// How long it ran.
        took: Duration,
    },
    /// A step's layer is packed and its record written.
    Settled {
        /// Which.
        step: StepId,
        /// Uncompressed bytes of the layer.
        size: u64,
    },
    /// A step failed.
    Failed {
        /// Which.
        step: StepId,
        /// The error's text.
        message: String,
        /// How long it ran.
        took: Duration,
    },
    /// A running step was stopped because another one failed or the build was interrupted.
    Cancelled(StepId),
    /// A step wrote something.
    Log {
        /// Which.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// Bytes as they came: any encoding, cut anywhere.
        bytes: Vec<u8>,
    },
    /// A step waits for somebody else, for example another build that runs the same step.
    Waiting {
        /// Which.
        step: StepId,
        /// Whom or what for.
        on: String,
    },
    /// Bytes come or go on behalf of a step.
    Transfer {
        /// Which.
        step: StepId,
        /// What, for example a shortened layer digest.
        name: String,
        /// Bytes so far.
        done: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
}

/// Who is told.
pub trait Observer: Send + Sync + 'static {
    /// Takes an event, `at` after the solve began. Called from many threads; must not block for long.
    fn event(&self, at: Duration, event: Event);

    /// Hears which layer a step's result is, as soon as that is certain: it is in the cache, or it is packed. Other
    /// steps may still run. Called again with another layer where a cached one turns out to be gone.
    fn layer(&self, _step: StepId, _layer: &LayerResult) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _at: Duration, _event: Event) {}
}
