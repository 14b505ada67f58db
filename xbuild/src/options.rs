//! The command line as meant: values parsed, environment read once, contradictions refused.
//!
//! In reading order: values of single flags (`values`, `annotation`, `output`, `image_output`), and what several flags
//! mean together: where files come from (`contexts`), what steps get (`steps`), what becomes of the image
//! (`destinations`). How registries are reached is for `registries` to say.

pub mod annotation;
mod contexts;
mod destinations;
mod image_output;
pub mod output;
mod steps;
mod values;

use std::path::PathBuf;

use frontend::lint::RuleSet;
use oci::Platform;
use oci::reference::Reference;

use crate::args::{BuildArgs, LintFormat, LintRules, Print, Progress, PullWhen};
use crate::bases::Pull;
pub use crate::environment::variable;
use crate::failure::Failure;
pub use crate::failure::usage;
pub use crate::registries::RegistryOptions;
pub use crate::sources::context::Argument as Context;
pub use annotation::{Annotation, Place};
pub use contexts::{DockerfileSource, NamedContext};
use destinations::Destinations;
pub use destinations::Form;
pub use output::{Output, OutputKind};
pub use steps::{Secret, SecretSource, StepOptions, host_ca};
use values::each;

/// What `xbuild build` is asked for.
#[derive(Debug)]
pub struct BuildOptions {
    /// Where COPY and ADD take files from.
    pub context: Context,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// Stage.
    pub target: Option<String>,
    /// Build arguments, the last one of a name wins.
    pub build_args: Vec<(String, String)>,
    /// Named contexts.
    pub contexts: Vec<(String, NamedContext)>,
    /// Platforms of the image; the base decides where there is none.
    pub platforms: Vec<Platform>,
    /// What the result is.
    pub form: Form,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Annotations.
    pub annotations: Vec<Annotation>,
    /// Run everything.
    pub no_cache: bool,
    /// Run these stages.
    pub no_cache_filter: Vec<String>,
    /// Ask registries although the store has the name.
    pub pull: Pull,
    /// What steps get.
    pub steps: StepOptions,
    /// Where the result goes besides the store.
    pub outputs: Vec<Output>,
    /// Repositories that get the image without a tag.
    pub by_digest: Vec<Reference>,
    /// Push to the registries of the tags.
    pub push: bool,
    /// Load into docker or podman.
    pub load: bool,
    /// File that gets the digest.
    pub iidfile: Option<PathBuf>,
    /// File that gets the JSON description.
    pub metadata_file: Option<PathBuf>,
    /// How progress is shown.
    pub progress: Progress,
    /// Print the digest alone.
    pub quiet: bool,
    /// Print instead of building.
    pub print: Option<Print>,
    /// Print findings instead of building, in this form.
    pub check: Option<LintFormat>,
    /// Lint rules that are on.
    pub lint_rules: RuleSet,
    /// Say why steps run.
    pub explain: bool,
    /// Build stages that the target does not need.
    pub all_stages: bool,
    /// Steps at once.
    pub jobs: usize,
    /// SOURCE_DATE_EPOCH.
    pub source_date_epoch: Option<i64>,
    /// How registries are reached.
    pub registry: RegistryOptions,
}

impl BuildOptions {
    /// Says what the arguments mean.
    ///
    /// # Errors
    /// A usage failure that names the flag.
    pub fn new(args: BuildArgs) -> Result<Self, Failure> {
        let context = contexts::context(&args.context)?;
        let dockerfile = DockerfileSource::new(args.file.as_deref());
        let build_args: Vec<_> = each(&args.build_arg, build_arg)?.into_iter().flatten().collect();
        contexts::check_standard_input(&context, &dockerfile, &args.registry)?;
        let tags = each(&args.tag, |name| values::tag("-t", name))?;
        let Destinations { tags, by_digest, push, outputs, annotations } =
            destinations::together(&args, tags)?;
        let platforms = destinations::platforms(&args.platform)?;
        let form = destinations::form(&platforms, &build_args)?;
        destinations::check_outputs(form, &outputs, args.load)?;
        Ok(Self {
            annotations: destinations::annotations(form, &args.annotation, annotations)?,
            contexts: each(&args.build_context, contexts::named)?,
            labels: each(&args.label, |text| values::pair("--label", text))?,
            steps: StepOptions::new(&args)?,
            source_date_epoch: values::source_date_epoch(&build_args)?,
            registry: RegistryOptions::new(&args.registry)?.for_images(tags.iter().chain(&by_digest))?,
            context,
            dockerfile,
            tags,
            by_digest,
            push,
            outputs,
            platforms,
            form,
            build_args,
            pull: pull(args.pull),
            lint_rules: lint_rules(args.lint_rules),
            progress: if args.quiet { Progress::Quiet } else { args.progress },
            check: args.check.then_some(args.format),
            jobs: args.jobs.unwrap_or_else(default_jobs).max(1),
            target: args.target,
            no_cache: args.no_cache,
            no_cache_filter: args.no_cache_filter,
            load: args.load,
            iidfile: args.iidfile,
            metadata_file: args.metadata_file,
            quiet: args.quiet,
            print: args.print,
            explain: args.explain,
            all_stages: args.all_stages,
        })
    }

    /// Returns the platforms to lower for; none stands for that of the base.
    pub fn each_platform(&self) -> impl Iterator<Item = Option<&Platform>> {
        let unnamed = self.platforms.is_empty().then_some(None);
        self.platforms.iter().map(Some).chain(unnamed)
    }

    /// Returns where the result is pushed to: names with a tag, and repositories where it gets none.
    pub fn pushed(&self) -> Vec<Reference> {
        let tags = self.tags.iter().filter(|_| self.push).cloned().map(Reference::with_default_tag);
        tags.chain(self.by_digest.iter().cloned()).collect()
    }
}

/// Steps wait for networks and disks more than they compute, so that few processors are no reason for few of them.
fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(2, |count| count.get() * 2).max(16)
}

fn pull(when: PullWhen) -> Pull {
    match when {
        PullWhen::Always => Pull::Always,
        PullWhen::Missing => Pull::Missing,
        PullWhen::Never => Pull::Never,
    }
}

fn lint_rules(rules: LintRules) -> RuleSet {
    match rules {
        LintRules::Buildkit => RuleSet::BuildKit,
        LintRules::All => RuleSet::All,
    }
}

fn build_arg(text: &str) -> Result<Option<(String, String)>, Failure> {
    match text.split_once('=') {
        Some(("", _)) => Err(usage(&format!("--build-arg {text}"), "the name is empty", "write NAME=VALUE")),
        Some((name, value)) => Ok(Some((name.to_owned(), value.to_owned()))),
        None if text.is_empty() => Err(usage("--build-arg ''", "the name is empty", "write NAME=VALUE")),
        None => Ok(variable(text).map(|value| (text.to_owned(), value))),
    }
}
