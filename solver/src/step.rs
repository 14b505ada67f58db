//! One open step: looked up again, run if it must be, adopted if it made nothing new, recorded.
//!
//! [`start`] ends when others may build on the step; what it returns is the rest (content id, packing, record),
//! which goes on beside them.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use frontend::graph::{StepId, StepKind};
use oci::layer::ContentHash;

use crate::event::{Event, Finish};
use crate::explain;
use crate::key::{self, Below, CacheKey};
use crate::plan::Stand;
use crate::record::{LayerResult, StepRecord, VERSION};
use crate::records::RecordError;
use crate::run::{Run, Stop, set};
use crate::solve::How;
use crate::worker::{Execution, StepContext, Worker};

/// What is left to do of a step that others may build on already.
pub(crate) type Rest<E> = Pin<Box<dyn Future<Output = Result<(), Stop<E>>> + Send>>;

/// Brings a step to where others may build on it.
pub(crate) async fn start<W: Worker>(run: Arc<Run<W>>, id: StepId) -> Result<Rest<W::Error>, Stop<W::Error>> {
    let result = resolve(&run, id).await;
    if result.is_err() {
        run.node(id).lose();
    }
    result
}

async fn resolve<W: Worker>(run: &Arc<Run<W>>, id: StepId) -> Result<Rest<W::Error>, Stop<W::Error>> {
    let stand = run.stand(id);
    if let Some(record) = look_up(run, id, stand.key) {
        return Ok(hit(run, id, stand, record, None));
    }
    let begun = Instant::now();
    let context = run.context(id);
    let guard = run.unless_cancelled(run.worker.lock_step(run.topology.definition(id), &context)).await?;
    let guard = guard.map_err(|error| run.failed(id, error, begun))?;
    if let Some(record) = look_up(run, id, stand.key) {
        return Ok(hit(run, id, stand, record, Some(guard)));
    }
    let (parent, inputs) = run.needed(id).await?;
    let selected = if inputs.is_empty() {
        None
    } else {
        // It may have to wait for what an input is made of.
        let digest = run.worker.content_digest(run.graph.step(id), parent.as_ref(), &inputs);
        run.unless_cancelled(digest).await?.map_err(|error| run.failed(id, error, begun))?
    };
    let selection = stand
        .below
        .zip(selected)
        .map(|(below, selected)| key::selection_key(run.graph.op_digest(id), below, selected));
    if let Some(record) = look_up(run, id, selection) {
        return Ok(hit(run, id, stand, record, Some(guard)));
    }
    let permit = run.unless_cancelled(run.jobs.acquire()).await?.expect("the semaphore is never closed");
    if run.cancel.is_cancelled() {
        return Err(Stop::Cancelled);
    }
    let begun = Instant::now();
    run.report.tell(Event::Started(id));
    let context = StepContext { earlier: earlier_of_op(run, id), ..context };
    let execution = run.worker.execute(run.graph.step(id), parent.as_ref(), &inputs, &context).await;
    drop(permit);
    let execution = execution.map_err(|error| run.failed(id, error, begun))?;
    let ran = Ran { id, begun, took: begun.elapsed(), stand, selected, parent };
    ran.conclude(run, execution, guard).await
}

/// Returns the usable record of a key, if the step may use it.
fn look_up<W: Worker>(run: &Run<W>, id: StepId, key: Option<CacheKey>) -> Option<StepRecord> {
    if run.overrides.forbids(id, run.graph.step(id)).is_some() {
        return None;
    }
    run.records.get(key?).filter(|record| run.worker.available(&record.layer))
}

/// Returns what the step's op made last, if the step may use it.
fn earlier_of_op<W: Worker>(run: &Run<W>, id: StepId) -> Option<LayerResult> {
    if run.overrides.forbids(id, run.graph.step(id)).is_some() {
        return None;
    }
    let last = run.records.of_op(run.graph.op_digest(id))?;
    run.records.get(last).map(|record| record.layer)
}

/// Takes a recorded result. The rest writes it under the step's own key too, where it was found under another.
fn hit<W: Worker>(
    run: &Arc<Run<W>>,
    id: StepId,
    stand: Stand,
    record: StepRecord,
    guard: Option<W::Guard>,
) -> Rest<W::Error> {
    let node = run.node(id);
    let effective = record.effective;
    set(&node.record, Arc::new(record.clone()));
    set(&node.how, How::Cached);
    run.report.cached(id, &record.layer);
    if let Some(state) = stand.state(effective) {
        node.state.set(state);
    }
    let run = Arc::clone(run);
    Box::pin(async move {
        let result = async {
            let stand = all_known(&run, id).await?;
            run.node(id).state.set(stand.state(effective).expect("all that it stands on is known"));
            let key = stand.key.expect("all that it stands on is known");
            if record.key != key {
                write_why(&run, id, key).await?;
                write(&run, id, StepRecord { key, text: text(&run, id), ..record }, Extra::None).await?;
            }
            run.node(id).written.set(());
            drop(guard);
            Ok(())
        };
        lose_on_error(&run, id, result.await)
    })
}

/// A step that has just run.
struct Ran<W: Worker> {
    id: StepId,
    begun: Instant,
    took: Duration,
    stand: Stand,
    selected: Option<ContentHash>,
    parent: Option<W::Snapshot>,
}

impl<W: Worker> Ran<W> {
    /// Decides whether the result is new. Where results are known on the state below and may be used, this waits
    /// for the content id, so that what follows has its key; elsewhere nothing that follows can be in the cache.
    async fn conclude(
        self,
        run: &Arc<Run<W>>,
        execution: Execution<W::Snapshot, W::Error>,
        guard: W::Guard,
    ) -> Result<Rest<W::Error>, Stop<W::Error>> {
        let Execution { snapshot, created, content, settled } = execution;
        let node = run.node(self.id);
        let content: Content<W::Error> = match self.stand.below {
            Some(below) if Self::matters(run) && run.records.has_results(below) => {
                let content = content.await.map_err(|error| run.failed(self.id, error, self.begun))?;
                if let Some((earlier, snapshot)) = self.earlier(run, below, content).await {
                    return Ok(self.adopt(run, earlier, snapshot, guard));
                }
                if let Some(state) = self.stand.state(key::result_key(below, content)) {
                    node.state.set(state);
                }
                Box::pin(async move { Ok(content) })
            }
            Some(_) | None => content,
        };
        let kept = node.snapshot.set(snapshot).is_ok();
        debug_assert!(kept, "nobody asks for the snapshot of a step that is not resolved");
        set(&node.how, How::Ran);
        run.report.tell(Event::Done { step: self.id, finish: Finish::New, took: self.took });
        let run = Arc::clone(run);
        Ok(Box::pin(async move {
            let id = self.id;
            let result = self.settle(&run, created, content, settled).await;
            drop(guard);
            lose_on_error(&run, id, result)
        }))
    }

    /// Whether any step may use what is known on its state: with `no_cache` everywhere, packing goes on beside
    /// what follows.
    fn matters(run: &Run<W>) -> bool {
        let mut layers = run.topology.steps().filter(|id| run.graph.step(*id).kind() == StepKind::Layer);
        layers.any(|id| run.overrides.forbids(id, run.graph.step(id)).is_none())
    }

    /// Returns an earlier result of equal content that can still be had.
    async fn earlier(
        &self,
        run: &Run<W>,
        below: Below,
        content: ContentHash,
    ) -> Option<(StepRecord, W::Snapshot)> {
        let step = run.graph.step(self.id);
        if step.no_cache {
            return None;
        }
        let earlier = run.records.with_content(below, step.source_date_epoch, content)?;
        if !run.worker.available(&earlier.layer) {
            return None;
        }
        let snapshot = run.worker.restore(step, self.parent.as_ref(), &earlier).await?;
        Some((earlier, snapshot))
    }

    /// Uses an earlier result instead of the new one.
    fn adopt(
        self,
        run: &Arc<Run<W>>,
        earlier: StepRecord,
        snapshot: W::Snapshot,
        guard: W::Guard,
    ) -> Rest<W::Error> {
        let node = run.node(self.id);
        let kept = node.snapshot.set(snapshot).is_ok();
        debug_assert!(kept, "nobody asks for the snapshot of a step that is not resolved");
        set(&node.record, Arc::new(earlier.clone()));
        set(&node.how, How::Unchanged);
        run.report.observer.layer(self.id, &earlier.layer);
        if let Some(state) = self.stand.state(earlier.effective) {
            node.state.set(state);
        }
        run.report.tell(Event::Done { step: self.id, finish: Finish::Unchanged, took: self.took });
        let run = Arc::clone(run);
        Box::pin(async move {
            let result = async {
                let stand = all_known(&run, self.id).await?;
                let state = stand.state(earlier.effective).expect("all that it stands on is known");
                run.node(self.id).state.set(state);
                let key = stand.key.expect("all that it stands on is known");
                let record =
                    StepRecord { key, duration_ms: millis(self.took), text: text(&run, self.id), ..earlier };
                write_why(&run, self.id, key).await?;
                write(&run, self.id, record, self.extra(&run, stand)).await
            };
            let result = result.await;
            drop(guard);
            lose_on_error(&run, self.id, result)
        })
    }

    async fn settle(
        self,
        run: &Arc<Run<W>>,
        created: i64,
        content: Content<W::Error>,
        settled: impl Future<Output = Result<LayerResult, W::Error>> + Send,
    ) -> Result<(), Stop<W::Error>> {
        let id = self.id;
        let content = content.await.map_err(|error| run.failed(id, error, self.begun))?;
        let stand = states_known(run, id).await?;
        let below = stand.below.expect("all that it stands on is known");
        let effective = key::result_key(below, content);
        run.node(id).state.set(stand.state(effective).expect("all that it stands on is known"));
        let key = stand.key.expect("all that it stands on is known");
        let (why, layer) = tokio::join!(write_why(run, id, key), settled);
        let layer = layer.map_err(|error| run.failed(id, error, self.begun))?;
        why?;
        let record = StepRecord {
            version: VERSION,
            key,
            effective,
            layer,
            created,
            duration_ms: millis(self.took),
            text: text(run, id),
        };
        let size = record.layer.size;
        set(&run.node(id).record, Arc::new(record.clone()));
        run.report.observer.layer(id, &record.layer);
        all_known(run, id).await?;
        write(run, id, record, self.extra(run, stand)).await?;
        run.report.tell(Event::Settled { step: id, size });
        Ok(())
    }

    fn extra(&self, run: &Run<W>, stand: Stand) -> Extra {
        let below = stand.below.expect("all that it stands on is known");
        let op = run.graph.op_digest(self.id);
        Extra::Ran { below, selection: self.selected.map(|selected| key::selection_key(op, below, selected)) }
    }
}

type Content<E> = futures_util::future::BoxFuture<'static, Result<ContentHash, E>>;

/// What is written beside a record.
enum Extra {
    /// Nothing: it is a further name of a result.
    None,
    /// What lets others find it.
    Ran {
        /// State that it stands on.
        below: Below,
        /// Its key by selected content.
        selection: Option<CacheKey>,
    },
}

/// Writes a record with what belongs to it.
async fn write<W: Worker>(
    run: &Arc<Run<W>>,
    id: StepId,
    record: StepRecord,
    extra: Extra,
) -> Result<(), Stop<W::Error>> {
    blocking(run, move |run| {
        run.records.put(&record)?;
        if let Extra::Ran { below, selection } = extra {
            run.records.put_content(below, run.graph.step(id).source_date_epoch, &record)?;
            if let Some(key) = selection {
                run.records.put(&StepRecord { key, ..record })?;
            }
        }
        Ok(())
    })
    .await?;
    run.ran.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
    run.node(id).written.set(());
    Ok(())
}

/// Writes what a key is made of: for a COPY of many files that takes as long as packing some of them.
async fn write_why<W: Worker>(run: &Arc<Run<W>>, id: StepId, key: CacheKey) -> Result<(), Stop<W::Error>> {
    blocking(run, move |run| {
        let why = explain::components(&run.graph, &run.topology, id, |need| run.node(need).state.get());
        run.records.put_why(key, run.graph.op_digest(id), &why)
    })
    .await
}

async fn blocking<W: Worker>(
    run: &Arc<Run<W>>,
    work: impl FnOnce(&Run<W>) -> Result<(), RecordError> + Send + 'static,
) -> Result<(), Stop<W::Error>> {
    let task = Arc::clone(run);
    let done = tokio::task::spawn_blocking(move || work(&task)).await;
    done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())).map_err(Stop::Record)
}

/// Waits until the states of all that a step stands on are known.
async fn states_known<W: Worker>(run: &Run<W>, id: StepId) -> Result<Stand, Stop<W::Error>> {
    for need in run.topology.needs(id) {
        run.node(need).state.wait().await.ok_or(Stop::Cancelled)?;
    }
    Ok(run.stand(id))
}

/// Waits until the records of all that a step stands on are written: a record never precedes them.
async fn all_known<W: Worker>(run: &Run<W>, id: StepId) -> Result<Stand, Stop<W::Error>> {
    for need in run.topology.needs(id) {
        run.node(need).written.wait().await.ok_or(Stop::Cancelled)?;
    }
    states_known(run, id).await
}

fn lose_on_error<W: Worker>(
    run: &Run<W>,
    id: StepId,
    result: Result<(), Stop<W::Error>>,
) -> Result<(), Stop<W::Error>> {
    if result.is_err() {
        run.node(id).lose();
    }
    result
}

fn text<W: Worker>(run: &Run<W>, id: StepId) -> String {
    run.graph.step(id).label.text.clone()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
