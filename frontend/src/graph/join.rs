//! Definitions of one Dockerfile for several platforms become one graph, in which a step that several of them need
//! stands once. Nothing is lowered here, and nothing that is hashed changes.

use std::collections::BTreeMap;

use oci::Platform;

use super::{Definition, HistoryEntry, ImageDefinition, OpDigest, Step, StepGraph, StepId, StepKind};

/// Images of several platforms and the steps of all of them.
#[derive(Debug, Clone)]
pub struct Joint {
    /// All steps.
    pub graph: StepGraph,
    /// The images, in the order of the definitions.
    pub images: Vec<ImageDefinition>,
}

impl Joint {
    /// Joins definitions. A single one keeps its graph as it is; of several, labels name the platform: that of the
    /// step, and after an arrow that of the image where it is another and the step is made for it alone.
    pub fn new(mut definitions: Vec<Definition>) -> Self {
        if definitions.len() == 1
            && let Some(Definition { graph, image }) = definitions.pop()
        {
            return Self { graph, images: vec![image] };
        }
        let mut joining = Joining::default();
        let images = definitions.into_iter().map(|definition| joining.add(definition)).collect();
        Self { graph: joining.finish(), images }
    }

    /// Returns all steps to bring about.
    pub fn targets(&self) -> Vec<StepId> {
        self.images.iter().flat_map(|image| image.target.iter().chain(&image.also)).copied().collect()
    }

    /// Returns the joint graph as a definition, for pictures: the first image's, which also wants the others.
    pub fn definition(&self) -> Option<Definition> {
        let (first, others) = self.images.split_first()?;
        let others = others.iter().flat_map(|image| image.target.iter().chain(&image.also));
        let also = first.also.iter().chain(others).copied().collect();
        Some(Definition { graph: self.graph.clone(), image: ImageDefinition { also, ..first.clone() } })
    }
}

/// What makes two steps one: their own digest, what they stand on and take from, and whether the cache counts.
type Identity = (OpDigest, Option<StepId>, Vec<StepId>, bool);

/// A joint graph while definitions are added.
#[derive(Default)]
struct Joining {
    graph: StepGraph,
    known: BTreeMap<Identity, StepId>,
    /// The image that brought each step, with its number; none once another image has the step too.
    alone: Vec<(usize, Option<Platform>)>,
    images: usize,
}

impl Joining {
    fn add(&mut self, definition: Definition) -> ImageDefinition {
        let Definition { graph, image } = definition;
        let mut places: Vec<StepId> = Vec::with_capacity(graph.len());
        for (step, digest) in graph.steps.into_iter().zip(graph.digests) {
            let place = self.place(step, digest, &places, &image.platform);
            places.push(place);
        }
        self.images += 1;
        placed(image, |id| places[id.0 as usize])
    }

    fn place(&mut self, mut step: Step, digest: OpDigest, places: &[StepId], target: &Platform) -> StepId {
        step.parent = step.parent.map(|parent| places[parent.0 as usize]);
        step.inputs.iter_mut().for_each(|input| *input = places[input.0 as usize]);
        let identity = (digest, step.parent, step.inputs.clone(), step.no_cache);
        if let Some(known) = self.known.get(&identity) {
            let (image, alone) = &mut self.alone[known.0 as usize];
            if *image != self.images {
                *alone = None;
            }
            return *known;
        }
        let id = StepId(u32::try_from(self.graph.steps.len()).expect("fewer steps than bytes of the file"));
        self.graph.steps.push(step);
        self.graph.digests.push(digest);
        self.alone.push((self.images, Some(target.clone())));
        self.known.insert(identity, id);
        id
    }

    fn finish(mut self) -> StepGraph {
        for (step, (_, target)) in self.graph.steps.iter_mut().zip(&self.alone) {
            let is_context = step.kind() == StepKind::Source && !step.op.is_image();
            if !is_context {
                let prefix = prefix(&step.platform, target.as_ref());
                let stage = std::mem::take(&mut step.label.stage);
                step.label.stage = if stage.is_empty() { prefix } else { format!("{prefix} {stage}") };
            }
        }
        self.graph
    }
}

/// BuildKit's words: `linux/amd64`, and `linux/amd64->arm64` for what is made there for another machine.
fn prefix(platform: &Platform, target: Option<&Platform>) -> String {
    let (platform, target) = (platform.normalize(), target.map(Platform::normalize));
    let Some(target) = target.filter(|target| *target != platform) else { return platform.full() };
    let other = target.full();
    let other = other.strip_prefix(&format!("{}/", platform.os)).unwrap_or(&other);
    format!("{}->{other}", platform.full())
}

/// Puts an image on the steps of another graph.
fn placed(image: ImageDefinition, place: impl Fn(StepId) -> StepId) -> ImageDefinition {
    let entry = |entry: HistoryEntry| HistoryEntry { step: entry.step.map(&place), ..entry };
    ImageDefinition {
        target: image.target.map(&place),
        also: image.also.iter().copied().map(&place).collect(),
        history: image.history.into_iter().map(entry).collect(),
        ..image
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oci::ImageConfig;

    use super::*;
    use crate::graph::{ImageOp, Label, LocalOp, MkdirOp, Op, Selection};

    fn platform(text: &str) -> Platform {
        text.parse().expect("a platform")
    }

    fn mkdir(path: &str, at: &str, parent: Option<u32>, stage: &str) -> Step {
        Step {
            op: Op::Mkdir(MkdirOp { path: path.to_owned(), user: String::new() }),
            parent: parent.map(StepId),
            inputs: Vec::new(),
            platform: platform(at),
            source_date_epoch: None,
            no_cache: false,
            label: Label { stage: stage.to_owned(), text: path.to_owned(), ..Label::default() },
        }
    }

    fn definition(target: &str, steps: Vec<Step>) -> Definition {
        let mut graph = StepGraph::default();
        let ids: Vec<StepId> = steps.into_iter().map(|step| graph.push(step)).collect();
        let history = ids.last().map(|id| HistoryEntry { history: oci::History::default(), step: Some(*id) });
        let image = ImageDefinition {
            target: ids.last().copied(),
            also: Vec::new(),
            config: ImageConfig::default(),
            history: history.into_iter().collect(),
            platform: platform(target),
            source_date_epoch: None,
            stage: "app".to_owned(),
            skipped: Vec::new(),
        };
        Definition { graph, image }
    }

    fn stages(joint: &Joint) -> Vec<&str> {
        joint.graph.iter().map(|(_, step)| step.label.stage.as_str()).collect()
    }

    #[test]
    fn steps_of_all_platforms_stand_once() {
        let cross = |target: &str| {
            definition(
                target,
                vec![
                    mkdir("/tools", "linux/amd64", None, "build"),
                    mkdir(&format!("/for/{target}"), "linux/amd64", Some(0), "build"),
                    mkdir(&format!("/app/{target}"), target, None, "app"),
                ],
            )
        };
        let joint = Joint::new(vec![cross("linux/amd64"), cross("linux/arm64"), cross("linux/arm/v7")]);
        assert_eq!(
            stages(&joint),
            [
                "linux/amd64 build",
                "linux/amd64 build",
                "linux/amd64 app",
                "linux/amd64->arm64 build",
                "linux/arm64 app",
                "linux/amd64->arm/v7 build",
                "linux/arm/v7 app",
            ]
        );
        assert_eq!(joint.targets(), [StepId(2), StepId(4), StepId(6)]);
        assert_eq!(joint.images[1].history[0].step, Some(StepId(4)));
        for (id, step) in joint.graph.iter() {
            assert_eq!(crate::graph::encode::digest(step), joint.graph.op_digest(id));
        }
    }

    #[test]
    fn a_single_definition_stays_as_it_is() {
        let joint = Joint::new(vec![definition("linux/arm64", vec![mkdir("/a", "linux/arm64", None, "")])]);
        assert_eq!(stages(&joint), [""]);
        assert_eq!(joint.targets(), [StepId(0)]);
    }

    #[test]
    fn contexts_belong_to_no_platform_and_bases_do() {
        let source = |op: Op, at: &str| Step { op, ..mkdir("", at, None, "") };
        let local =
            || Op::Local(LocalOp { context: String::new(), selection: Arc::new(Selection::default()) });
        let base = |at: &str| {
            let manifest = oci::Digest::of(at.as_bytes());
            Op::Image(ImageOp { reference: "debian".to_owned(), manifest, platform: platform(at) })
        };
        let build = |at: &str| definition(at, vec![source(local(), "linux/amd64"), source(base(at), at)]);
        let joint = Joint::new(vec![build("linux/amd64"), build("linux/arm64")]);
        assert_eq!(stages(&joint), ["", "linux/amd64", "linux/arm64"]);
    }
}
