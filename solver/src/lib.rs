//! Brings step graphs about: cache keys, records, plans, misses explained, and a parallel scheduler.
//!
//! This crate knows steps by their digests and kinds. It holds no Dockerfile, no op, no mount, no registry and
//! no file system: a [`Worker`] has those. Nothing here reads the time of day.
//!
//! [`Solver::solve`] is the door; [`key`] is the page to read first.

mod cancel;
mod event;
mod explain;
pub mod key;
mod plan;
mod record;
mod records;
mod run;
mod slot;
mod solve;
mod step;
mod topology;
mod worker;

pub use cancel::Cancel;
pub use event::{Event, Finish, Observer, Silent, Stream};
pub use explain::explain;
pub use key::{Below, CacheKey};
pub use plan::{Lookup, MissReason, Plan, StepPlan, Verdict, plan};
pub use record::{LayerResult, StepRecord, VERSION, Why};
pub use records::{RecordError, Records};
pub use solve::{How, Outcome, SolveError, Solved, Solver, Wanted};
pub use topology::Topology;
pub use worker::{Execution, StepContext, Worker};
