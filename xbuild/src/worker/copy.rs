//! COPY, ADD and WORKDIR: plans over trees, streamed into the packer.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use executor::copy::{self, CopyError, CopyPlan, MissingLayer, Options, Source, SourceKind};
use executor::layers::Flavour;
use executor::tree::{Content, Merged, Node, Selected, Tree, TreeError, open_beneath};
use frontend::graph::{CopyOp, MkdirOp, Step, Unpack};
use oci::layer::{ContentHash, LayerIndex, Limits};
use oci::pack::{self, Item};
use solver::{StepContext, Stream};

use super::error::StepError;
use super::layer::{Layer, Stack, blocking};
use super::{BuildWorker, Snapshot, now, planned_content};

/// Plans and packs a COPY or ADD.
pub async fn copy(
    worker: &BuildWorker,
    op: &CopyOp,
    step: &Step,
    parent: &Stack,
    inputs: &[Snapshot],
    context: &StepContext,
) -> Result<Arc<Layer>, StepError> {
    let mut below = below(worker, op, parent).await?;
    let mut unpacked = BTreeSet::new();
    let plan = loop {
        let trees = trees(worker, inputs, &unpacked).await?;
        match plan(worker, op, step, &below, &trees) {
            Ok(plan) => break plan,
            Err(error) => match error.missing_layer() {
                Some(MissingLayer::Source(layer)) if unpacked.insert(layer) => {}
                Some(MissingLayer::Parent(_)) => below = worker.layers.readable_tree(parent).await?,
                Some(MissingLayer::Source(_)) | None => return Err(error.into()),
            },
        }
    };
    for pattern in &plan.unmatched {
        context.log(Stream::Note, format!("{pattern:?} matches nothing\n").as_bytes());
    }
    for pattern in &plan.replaced {
        let note =
            format!("{pattern:?} matches several files and the destination is one: the last is kept\n");
        context.log(Stream::Note, note.as_bytes());
    }
    for warning in &plan.warnings {
        context.log(Stream::Note, format!("{warning:?}\n").as_bytes());
    }
    pack_plan(worker, plan, context)
}

/// Plans and packs a WORKDIR.
pub async fn mkdir(
    worker: &BuildWorker,
    op: &MkdirOp,
    step: &Step,
    parent: &Stack,
    context: &StepContext,
) -> Result<Arc<Layer>, StepError> {
    let below = worker.layers.tree(parent).await?;
    let staging = worker.store.root().join("tmp");
    let plan = match copy::plan_workdir(op, &below, &options(step, &staging)) {
        Err(error) if error.missing_layer().is_some() => {
            let below = worker.layers.readable_tree(parent).await?;
            copy::plan_workdir(op, &below, &options(step, &staging))?
        }
        plan => plan?,
    };
    if let Some(unknown) = &plan.unknown_owner {
        context.log(Stream::Note, format!("the directory belongs to root: {unknown}\n").as_bytes());
    }
    pack_plan(worker, plan, context)
}

/// Returns a digest of the layer that the step would make: its entries with the hashes of their bytes. Only for
/// steps that take from stages and images, where it may be known although what those were made of is new.
pub async fn content_digest(
    worker: &BuildWorker,
    op: &CopyOp,
    step: &Step,
    parent: &Stack,
    inputs: &[Snapshot],
) -> Result<Option<ContentHash>, StepError> {
    let from_stages = inputs.iter().all(|input| input.stack().is_some());
    if !from_stages || inputs.is_empty() || op.unpack != Unpack::Never {
        return Ok(None);
    }
    let below = below(worker, op, parent).await?;
    let mut trees = Vec::new();
    for stack in inputs.iter().filter_map(Snapshot::stack) {
        trees.push(Unread(worker.layers.hashed_tree(stack).await?));
    }
    let (op, step) = (op.clone(), step.clone());
    let staging = worker.store.root().join("tmp");
    blocking(move || {
        let sources: Vec<_> = trees.iter().map(|tree| Source { tree, kind: SourceKind::Rootfs }).collect();
        // A plan that fails will fail again, and be told, when the step runs.
        let Ok(plan) = copy::plan(&op, &sources, &below, &options(&step, &staging)) else { return Ok(None) };
        let entries: Vec<_> = plan.entries.iter().map(|planned| &planned.entry).collect();
        Ok(planned_content(&entries))
    })
    .await
}

/// Copies a directory of an input to `to`.
pub async fn directory(
    worker: &BuildWorker,
    input: &Snapshot,
    source: &str,
    to: &Path,
) -> Result<(), StepError> {
    let op = CopyOp {
        sources: vec![frontend::graph::CopySource::Input {
            input: 0,
            path: source.trim_start_matches('/').to_owned(),
            wildcards: false,
        }],
        dest: "/content".to_owned(),
        dest_is_dir: true,
        chown: None,
        chmod: None,
        link: true,
        parents: false,
        excludes: Vec::new(),
        unpack: Unpack::Never,
    };
    let tree = input_tree(worker, input, None).await?;
    let (staging, to) = (worker.store.root().join("tmp"), to.to_owned());
    let made = worker.scratch_directory()?;
    blocking(move || {
        let options = Options {
            source_date_epoch: None,
            now: now(),
            staging: &staging,
            limits: Limits::default(),
            devices: copy::Devices::Refuse,
        };
        let sources = [Source { tree: &*tree.0, kind: tree.1 }];
        let plan = Arc::new(copy::plan(&op, &sources, &executor::tree::Empty, &options)?);
        let index = index(&plan)?;
        let root = executor::tree::open_root(&made).map_err(StepError::io("open", &made))?;
        let mut contents: std::collections::BTreeMap<_, _> =
            items(&plan).into_iter().map(|item| (item.entry.path, item.content)).collect();
        executor::unpack::unpack_index(
            std::os::fd::AsFd::as_fd(&root),
            &index,
            Flavour::Root,
            &mut |entry| Ok(contents.remove(&entry.path).unwrap_or(pack::Content::None)),
        )?;
        let from = made.join("content");
        std::fs::rename(&from, &to).map_err(StepError::io("rename", &from))
    })
    .await
}

/// The parent, of which a detached copy sees nothing.
async fn below(worker: &BuildWorker, op: &CopyOp, parent: &Stack) -> Result<Merged, StepError> {
    if op.is_detached() {
        return Ok(Merged::new(Vec::new()));
    }
    worker.layers.tree(parent).await
}

type InputTree = (Arc<dyn Tree>, SourceKind);

async fn trees(
    worker: &BuildWorker,
    inputs: &[Snapshot],
    unpacked: &BTreeSet<usize>,
) -> Result<Vec<InputTree>, StepError> {
    let mut trees = Vec::with_capacity(inputs.len());
    for input in inputs {
        trees.push(input_tree(worker, input, Some(unpacked)).await?);
    }
    Ok(trees)
}

/// Returns an input as a tree; of a stack, the layers of `unpacked` (all, if absent) can be read.
async fn input_tree(
    worker: &BuildWorker,
    input: &Snapshot,
    unpacked: Option<&BTreeSet<usize>>,
) -> Result<InputTree, StepError> {
    Ok(match input {
        Snapshot::Layers(stack) => {
            let tree = match unpacked {
                Some(unpacked) => worker.layers.partly_readable_tree(stack, unpacked).await?,
                None => worker.layers.readable_tree(stack).await?,
            };
            (Arc::new(tree), SourceKind::Rootfs)
        }
        Snapshot::Local(local) => {
            let tree = Selected::new(Arc::clone(&local.selection), Arc::clone(&local.root));
            (Arc::new(tree), local.kind)
        }
    })
}

/// Plans on this thread: a large COPY has it walk trees in memory for a while.
fn plan(
    worker: &BuildWorker,
    op: &CopyOp,
    step: &Step,
    below: &Merged,
    trees: &[InputTree],
) -> Result<CopyPlan, CopyError> {
    let staging = worker.store.root().join("tmp");
    tokio::task::block_in_place(|| {
        let sources: Vec<_> =
            trees.iter().map(|(tree, kind)| Source { tree: &**tree, kind: *kind }).collect();
        let options = Options { devices: worker.options.steps.devices, ..options(step, &staging) };
        copy::plan(op, &sources, below, &options)
    })
}

fn options<'a>(step: &Step, staging: &'a Path) -> Options<'a> {
    Options {
        source_date_epoch: step.source_date_epoch,
        now: now(),
        staging,
        limits: Limits::default(),
        devices: copy::Devices::Refuse,
    }
}

fn pack_plan(worker: &BuildWorker, plan: CopyPlan, context: &StepContext) -> Result<Arc<Layer>, StepError> {
    let plan = Arc::new(plan);
    let index = index(&plan)?;
    Ok(worker.layers.pack_plan(index, context.earlier.clone(), move || items(&plan)))
}

fn index(plan: &CopyPlan) -> Result<LayerIndex, StepError> {
    let entries: Vec<_> = plan.entries.iter().map(|planned| planned.entry.clone()).collect();
    let content = |entry: &oci::layer::Entry| {
        let at = plan.entries.binary_search_by(|planned| planned.entry.path.cmp(&entry.path)).ok()?;
        plan.entries[at].content.clone()
    };
    let inline = executor::owner::inline(&entries, content)
        .map_err(StepError::io("read", "the account files that the step copies"))?;
    LayerIndex::new(entries, inline).map_err(|error| StepError::Layer {
        layer: "the step's layer".to_owned(),
        why: crate::failure::chain(&error),
    })
}

fn items(plan: &CopyPlan) -> Vec<Item> {
    plan.entries
        .iter()
        .map(|planned| Item { entry: planned.entry.clone(), content: content(planned.content.as_ref()) })
        .collect()
}

fn content(content: Option<&Content>) -> pack::Content {
    match content {
        None => pack::Content::None,
        Some(Content::Bytes(bytes)) => pack::Content::Bytes(bytes.to_vec()),
        Some(Content::Beneath { root, path }) => {
            let (root, path) = (Arc::clone(root), path.clone());
            pack::Content::open_with(move || open_beneath(&root, &path))
        }
        Some(range @ Content::Range { .. }) => match range.open() {
            Ok(reader) => pack::Content::Stream(reader),
            Err(error) => pack::Content::open_with(move || Err(error)),
        },
    }
}

/// A tree whose files are known by their hashes alone.
struct Unread(Merged);

impl Tree for Unread {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        self.0.lstat(path)
    }

    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError> {
        self.0.children(directory)
    }

    fn content(&self, _: &Path) -> Result<Content, TreeError> {
        Ok(Content::Bytes(Arc::from([])))
    }
}
