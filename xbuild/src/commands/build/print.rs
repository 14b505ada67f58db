//! What `--print` prints: the instructions, the step graph, the plan. It builds nothing.

use std::time::Duration;

use frontend::graph::print::{self, Mark, Note};
use frontend::graph::{Definition, StepGraph, StepId};
use solver::{LayerResult, Lookup, Plan, Records, StepPlan, StepRecord, Verdict};

use crate::worker::layer::Layers;

/// Looks results up without running anything.
pub struct PlanLookup<'a> {
    /// Step records.
    pub records: &'a Records,
    /// Layers.
    pub layers: &'a Layers,
}

impl Lookup for PlanLookup<'_> {
    fn record(&self, key: solver::CacheKey) -> Option<StepRecord> {
        self.records.get(key)
    }

    fn available(&self, layer: &LayerResult) -> bool {
        self.layers.available(layer)
    }
}

impl PlanLookup<'_> {
    /// Returns hit or miss of every step that is needed, misses explained.
    pub fn plan(&self, definition: &Definition) -> Plan {
        let targets: Vec<StepId> =
            definition.image.target.iter().chain(&definition.image.also).copied().collect();
        let mut plan = solver::plan(&definition.graph, &targets, self);
        solver::explain(&mut plan, &definition.graph, &targets, self.records);
        plan
    }

    /// How long a step ran: for its hit, else when the same op ran last.
    fn duration(&self, graph: &StepGraph, id: StepId, planned: &StepPlan) -> Option<Duration> {
        let record = match &planned.verdict {
            Verdict::Source => None,
            Verdict::Hit(record) => Some(record.duration_ms),
            Verdict::Miss(_) => {
                let last = self.records.of_op(graph.op_digest(id)).and_then(|key| self.records.get(key));
                last.map(|record| record.duration_ms)
            }
        };
        record.map(Duration::from_millis)
    }

    fn note(&self, graph: &StepGraph, plan: &Plan, id: StepId) -> Note {
        let Some(planned) = plan.get(id) else { return Note::default() };
        let (mark, reason) = match &planned.verdict {
            Verdict::Source => (Mark::Source, None),
            Verdict::Hit(_) => (Mark::Hit, None),
            Verdict::Miss(reason) => (Mark::Miss, Some(reason.describe(graph))),
        };
        Note { mark, duration: self.duration(graph, id, planned), reason }
    }

    /// The plan as JSON: a list of the steps that are needed.
    pub fn json(&self, definition: &Definition) -> String {
        let (graph, plan) = (&definition.graph, self.plan(definition));
        let steps = plan.iter().map(|(id, planned)| {
            let (note, step) = (self.note(graph, &plan, id), graph.step(id));
            let label = &step.label;
            serde_json::json!({
                "step": id.0, "stage": label.stage, "text": label.text, "line": label.lines.0,
                "platform": step.platform.full(), "verdict": note.mark.word(), "reason": note.reason,
                "key": planned.key.map(|key| key.to_string()),
                "duration_ms": note.duration.map(|duration| duration.as_millis() as u64),
            })
        });
        format!("{:#}\n", serde_json::Value::Array(steps.collect()))
    }

    /// The step graph in DOT, with the plan on it.
    pub fn dot(&self, definition: &Definition) -> String {
        let plan = self.plan(definition);
        print::dot(definition, |id| self.note(&definition.graph, &plan, id))
    }

    /// The step graph as a picture, with the plan on it.
    pub fn svg(&self, definition: &Definition) -> String {
        let plan = self.plan(definition);
        print::svg(definition, |id| self.note(&definition.graph, &plan, id))
    }
}

/// The parsed Dockerfile as JSON.
pub fn instructions(file: &frontend::File) -> String {
    format!("{:#}\n", frontend::print::instructions(file))
}

/// The step graph as JSON; of several platforms a list of theirs, in order.
pub fn graph(definitions: &[Definition]) -> String {
    match definitions {
        [only] => format!("{:#}\n", print::json(only)),
        several => {
            format!("{:#}\n", serde_json::Value::Array(several.iter().map(print::json).collect()))
        }
    }
}
