//! The step graph: what a Dockerfile means, as content-hashed data.
//!
//! This is the only part of the frontend that other crates may import. It holds no Dockerfile text beyond
//! what is shown to people, and it does no IO.
//!
//! # What identifies a step
//! [`Step::op_digest`] is blake3 of the byte encoding of [`encode`]; the solver makes a cache key of it and of
//! the keys of the step's parent and inputs.
//!
//! | value | in the digest? | why |
//! |---|---|---|
//! | RUN: argv after SHELL, environment, cwd, user, heredoc files | yes | the command sees them |
//! | RUN: mounts without secret values and cache contents | yes | targets and modes are visible, contents must not leak or bust |
//! | RUN: requested network and security mode | yes | the command may behave otherwise |
//! | RUN: host name, names of extra hosts, ulimits, shm size | yes | visible to the command |
//! | RUN: proxy variables, addresses of extra hosts, CPU and memory limits, host CA | no | belong to the machine, not to the build |
//! | COPY, ADD: destination, flags, chown, chmod, excludes, inline data | yes | they land in the layer |
//! | COPY, ADD from a context: content digest of the selected files | yes, through the Local input | bytes, type, mode, owner, xattrs; not mtime |
//! | FROM: manifest digest and platform | yes | names the bytes |
//! | SOURCE_DATE_EPOCH of layer-making steps | yes | it lands in the layer |
//! | platform of RUN and of sources | yes | the command sees another machine, the image is another |
//! | platform of COPY, ADD, WORKDIR | no | the same files land on the same parent |
//! | labels, ENV after the last RUN, CMD and other metadata | no | they are no steps |
//! | progress text, Dockerfile lines, stage names | no | a comment must not bust the cache |

mod encode;
#[cfg(test)]
mod encode_tests;
mod join;
mod op;
mod parts;
pub mod pattern;
pub mod print;
mod selection;

use std::fmt;

pub use join::Joint;
use oci::{History, ImageConfig, Platform};
pub use op::{
    BindMount, CacheMount, CacheSharing, Chmod, CopyOp, CopySource, ExtraHost, GitOp, HttpOp, ImageOp,
    InlineFile, LocalOp, MkdirOp, Mount, Network, OciLayoutOp, Op, Owner, RunOp, SecretMount, Security,
    SshMount, TmpfsMount, Ulimit, Unpack,
};
pub use selection::{Selection, SelectionRequest, content_id};

/// Position of a step in its graph. Parents and inputs always have smaller ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u32);

/// blake3 of a step's own encoding, without its inputs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpDigest(pub [u8; 32]);

impl fmt::Debug for OpDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What the solver must know of an op without matching on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// Names content that exists already (image, context, URL, git): nothing is recorded for it.
    Source,
    /// Makes one layer on top of its parent; recorded in the cache.
    Layer,
}

/// One vertex of the graph.
#[derive(Debug, Clone)]
pub struct Step {
    /// What is done.
    pub op: Op,
    /// The file system state it starts from; `None` is the empty one.
    pub parent: Option<StepId>,
    /// Further inputs, which the op names by position.
    pub inputs: Vec<StepId>,
    /// The platform it runs for.
    pub platform: Platform,
    /// SOURCE_DATE_EPOCH in force, in seconds.
    pub source_date_epoch: Option<i64>,
    /// Runs even where the cache has a result (`--no-cache`, `--no-cache-filter`).
    pub no_cache: bool,
    /// How it is shown to people.
    pub label: Label,
}

/// How a step is shown to people; never hashed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// Stage name, lower-cased, or `stage-N`; empty for steps outside stages and in files of one stage. Where several
    /// platforms are built, the platform comes before it.
    pub stage: String,
    /// Position in the stage, from 1, and the stage's number of steps; `(0, 0)` outside stages.
    pub position: (u32, u32),
    /// The instruction, shortened to one line, secrets redacted.
    pub text: String,
    /// First and last line of the instruction in the Dockerfile, from 1; `(0, 0)` if there is none.
    pub lines: (u32, u32),
}

/// All steps that the target needs, in an order in which every step comes after what it needs.
#[derive(Debug, Clone, Default)]
pub struct StepGraph {
    steps: Vec<Step>,
    digests: Vec<OpDigest>,
}

impl StepGraph {
    /// Adds a step.
    ///
    /// # Panics
    /// If `step` names a parent or input that was not pushed before: the graph is acyclic by construction.
    pub fn push(&mut self, step: Step) -> StepId {
        let id = StepId(u32::try_from(self.steps.len()).expect("a Dockerfile of 16 MiB has fewer steps"));
        assert!(
            step.parent.iter().chain(&step.inputs).all(|input| *input < id),
            "inputs precede their users"
        );
        self.digests.push(encode::digest(&step));
        self.steps.push(step);
        id
    }

    /// Returns a step.
    pub fn step(&self, id: StepId) -> &Step {
        &self.steps[id.0 as usize]
    }

    /// Returns the digest of a step's own encoding.
    pub fn op_digest(&self, id: StepId) -> OpDigest {
        self.digests[id.0 as usize]
    }

    /// Iterates over all steps in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (StepId, &Step)> {
        self.steps.iter().enumerate().map(|(id, step)| (StepId(id as u32), step))
    }

    /// Returns the number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Returns whether there is no step: an image of metadata only.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Step {
    /// Returns what the solver must know of the op.
    pub fn kind(&self) -> StepKind {
        match &self.op {
            Op::Image(_) | Op::Local(_) | Op::Git(_) | Op::Http(_) | Op::OciLayout(_) => StepKind::Source,
            Op::Run(_) | Op::Copy(_) | Op::Mkdir(_) => StepKind::Layer,
        }
    }

    /// Whether the parent decides what the step makes. `COPY --link` makes the same layer on any parent, so
    /// its parent's key is left out of its own.
    pub fn depends_on_parent(&self) -> bool {
        match &self.op {
            Op::Copy(copy) => !copy.is_detached(),
            Op::Image(_)
            | Op::Local(_)
            | Op::Git(_)
            | Op::Http(_)
            | Op::OciLayout(_)
            | Op::Run(_)
            | Op::Mkdir(_) => true,
        }
    }

    /// The named parts of the step's digest, for explanations of a miss: `(name, value)`.
    pub fn components(&self) -> Vec<(String, String)> {
        parts::of(self)
    }
}

/// A Dockerfile's target stage, completely described: what to run and what becomes of it.
#[derive(Debug, Clone)]
pub struct Definition {
    /// The steps that the target needs.
    pub graph: StepGraph,
    /// The image.
    pub image: ImageDefinition,
}

/// An image of a step graph.
#[derive(Debug, Clone)]
pub struct ImageDefinition {
    /// The step whose file system state becomes the image; `None` for `FROM scratch` without layers.
    pub target: Option<StepId>,
    /// Further steps to run although the target does not need them (`--all-stages`).
    pub also: Vec<StepId>,
    /// Config of the image; its `history`, `rootfs` and `created` are those of the base (empty for scratch).
    pub config: ImageConfig,
    /// What this build adds to the history, oldest first.
    pub history: Vec<HistoryEntry>,
    /// The platform of the image.
    pub platform: Platform,
    /// SOURCE_DATE_EPOCH in force, in seconds.
    pub source_date_epoch: Option<i64>,
    /// The target stage's name or index.
    pub stage: String,
    /// Stages of the file that the target does not need, in order.
    pub skipped: Vec<String>,
}

/// A history entry of this build; times are filled in when the layers are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Text, author and comment; `created` and `empty_layer` are set at assembly.
    pub history: History,
    /// The step whose layer it describes; `None` for an empty layer.
    pub step: Option<StepId>,
}
