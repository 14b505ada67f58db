//! Options of `xbuild build`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{LintFormat, LintRules, RegistryArgs};

/// Options of `xbuild build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Where COPY and ADD take files from: a directory, a git repository or archive by URL, `-` for standard input
    pub context: String,
    /// Name of the image, `name[:tag]` (repeatable)
    #[arg(short, long = "tag", value_name = "NAME")]
    pub tag: Vec<String>,
    /// Dockerfile (default: CONTEXT/Dockerfile; `-` reads it from standard input)
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG; without `=VALUE` it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further context: a directory, a git repository or URL, or an image by its place, such as docker-image://NAME
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Platforms to build for, such as linux/amd64,linux/arm64 (repeatable); several make an index
    #[arg(long, value_name = "PLATFORM[,PLATFORM]")]
    pub platform: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Annotation; the types are manifest, index, manifest-descriptor and index-descriptor
    #[arg(long, value_name = "[TYPE[[PLATFORM]],…:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Run every step, whatever the cache holds
    #[arg(long)]
    pub no_cache: bool,
    /// Stages whose steps always run
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// When registries are asked for bases: always (--pull alone), missing: where the store lacks them, never
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value_t = PullWhen::Missing,
        default_missing_value = "always"
    )]
    pub pull: PullWhen,
    /// Network of RUN steps: default, host or none
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: String,
    /// Let RUN steps trust the host's CA certificates (or those of PATH)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub host_ca: Option<String>,
    /// Secret for RUN --mount=type=secret: id=ID[,src=PATH|,env=NAME]
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// Agent or keys for RUN --mount=type=ssh: default or ID[=SOCKET]
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
    /// Line for /etc/hosts of RUN steps
    #[arg(long, value_name = "HOST:IP")]
    pub add_host: Vec<String>,
    /// Resource limit of RUN steps
    #[arg(long, value_name = "TYPE=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Size of /dev/shm in RUN steps, such as 64m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Memory limit of a RUN step, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// CPU time in microseconds that a RUN step gets per period
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_quota: Option<u64>,
    /// Length of the period in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    pub cpu_period: Option<u64>,
    /// CPUs of RUN steps, such as 0-3 or 0,1
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Where the result goes besides the store: type=oci|docker|tar|local,dest=PATH, or type=image|registry with
    /// name=NAME, push=true, push-by-digest=true
    #[arg(short, long, value_name = "SPEC")]
    pub output: Vec<String>,
    /// Push the image to its registry
    #[arg(long)]
    pub push: bool,
    /// Load the image into docker or podman
    #[arg(long)]
    pub load: bool,
    /// Write the image's digest to a file
    #[arg(long, value_name = "PATH")]
    pub iidfile: Option<PathBuf>,
    /// Write what was built to a file as JSON
    #[arg(long, value_name = "PATH")]
    pub metadata_file: Option<PathBuf>,
    /// Print nothing but the image's digest
    #[arg(short, long)]
    pub quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    pub progress: Progress,
    /// Entitlement to grant: network.host or security.insecure
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Make the device nodes that archives of ADD hold
    #[arg(long)]
    pub allow_devices: bool,
    /// Print what the build would work on instead of building
    #[arg(long, value_enum, value_name = "WHAT")]
    pub print: Option<Print>,
    /// Look for mistakes and for what could be better, instead of building
    #[arg(long)]
    pub check: bool,
    /// How --check prints what it found
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LintFormat::Text)]
    pub format: LintFormat,
    /// Lint rules that are on, besides those that the Dockerfile asks for
    #[arg(long, value_enum, value_name = "RULES", default_value_t = LintRules::Buildkit)]
    pub lint_rules: LintRules,
    /// Say for every step that is not cached why it runs
    #[arg(long)]
    pub explain: bool,
    /// Also build the stages that the target does not need
    #[arg(long)]
    pub all_stages: bool,
    /// Steps that run at once (default: twice the processors, at least 16)
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Processes that a RUN step may have
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub pids_limit: u64,
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// When a registry is asked for a base. Docker's flag takes truth values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PullWhen {
    /// Even where the store has its name
    #[value(aliases = ["true", "1"])]
    Always,
    /// Where the store does not have it
    #[value(aliases = ["false", "0"])]
    Missing,
    /// Not at all: what the store lacks is an error
    Never,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// tty on a terminal, plain otherwise
    Auto,
    /// Moving lines
    Tty,
    /// A line per event
    Plain,
    /// A JSON object per event
    Json,
    /// Errors only
    Quiet,
}

/// What `--print` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Print {
    /// The parsed instructions, as JSON
    Instructions,
    /// The step graph, as JSON
    Graph,
    /// The step graph with the plan on it, as DOT
    Dot,
    /// The step graph with the plan on it, as a picture
    Svg,
    /// Hit or miss of every step, why, and how long it ran last, as JSON
    Plan,
}
