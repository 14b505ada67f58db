//! The command line as typed. Nothing is interpreted here; `options` says what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Builds OCI images from Dockerfiles, without a daemon.
#[derive(Debug, Parser)]
#[command(name = "xbuild", version, about, max_term_width = 110)]
#[command(after_help = "The word `build` may be left out: `xbuild -t app .` builds the directory `.`.")]
pub struct Cli {
    /// Directory of the store (default: $XBUILD_ROOT, else /var/lib/xbuild)
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Look for mistakes in a Dockerfile, and for what could be better
    Lint(LintArgs),
    /// Run an image in the sandbox of build steps
    Run(RunArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Print an image's manifest and config as JSON
    Inspect(ImageArg),
    /// Show how an image was made, layer by layer
    History(ImageArg),
    /// Give an image of the store a further name
    Tag(TagArgs),
    /// Remove names of images from the store
    Rmi(RmiArgs),
    /// Fetch an image into the store
    Pull(PullArgs),
    /// Send an image of the store to its registry
    Push(PushArgs),
    /// Write an image of the store to an archive
    Save(SaveArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Answer questions of test suites, JSON lines in and out
    #[command(hide = true)]
    Debug {
        /// Which table
        table: String,
    },
}

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
    /// A further context: a directory, a git repository or URL, docker-image://NAME or oci-layout://DIR
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Platform to build for, such as linux/amd64
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// Label of the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Annotation of the image's manifest
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Run every step, whatever the cache holds
    #[arg(long)]
    pub no_cache: bool,
    /// Stages whose steps always run
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for bases even where the store has their names
    #[arg(long)]
    pub pull: bool,
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
    /// Where the result goes: type=oci|docker|tar|local,dest=PATH (default: the store)
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
    /// Registry that may be reached by plain HTTP (repeatable; loopback always is)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}

/// Options of `xbuild lint`.
#[derive(Debug, Args)]
#[command(after_help = "A finding names its rule. `# check=skip=RULE` at the top of the file, or above an \
    instruction, switches a rule off; `# check=error=true` makes findings fail. Rules of BuildKit keep their names; \
    those that begin with xbuild/ are on here, and in builds where the file says `# check=experimental=xbuild`. \
    Exit code: 0, also with warnings; 3 with mistakes, or with findings and error=true.")]
pub struct LintArgs {
    /// The build context: a directory, a URL, or `-` for standard input
    #[arg(default_value = ".")]
    pub context: String,
    /// Dockerfile (default: CONTEXT/Dockerfile; `-` reads it from standard input)
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Look at this stage and what it needs alone
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Value of an ARG
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further context
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Platform to build for
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Vec<String>,
    /// Registry that may be reached by plain HTTP
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = LintFormat::Text)]
    pub format: LintFormat,
    /// Rules that are on
    #[arg(long, value_enum, value_name = "RULES", default_value_t = LintRules::All)]
    pub lint_rules: LintRules,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LintFormat {
    /// Source lines with carets
    Text,
    /// A JSON array
    Json,
    /// SARIF 2.1.0
    Sarif,
    /// Annotations of GitHub Actions
    Github,
    /// GitLab's Code Quality report
    Gitlab,
}

/// Which rules are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LintRules {
    /// Those of BuildKit
    Buildkit,
    /// Those of BuildKit and xbuild
    All,
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

/// Options of `xbuild run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Image of the store
    pub image: String,
    /// Command instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
    /// Environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// User instead of the image's
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Working directory instead of the image's
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Entrypoint instead of the image's
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Network: host or none
    #[arg(long, value_name = "MODE", default_value = "host")]
    pub network: String,
    /// Trust the host's CA certificates (or those of PATH)
    #[arg(long, value_name = "PATH", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub host_ca: Option<String>,
}

/// Options of `xbuild images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
}

/// An image.
#[derive(Debug, Args)]
pub struct ImageArg {
    /// Name or digest of an image of the store
    pub image: String,
}

/// Options of `xbuild tag`.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// The further name
    pub name: String,
}

/// Options of `xbuild rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Names or digests
    #[arg(required = true)]
    pub images: Vec<String>,
}

/// Options of `xbuild pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Name of the image
    pub image: String,
    /// Platform
    #[arg(long, value_name = "PLATFORM")]
    pub platform: Option<String>,
    /// Registry that may be reached by plain HTTP
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}

/// Options of `xbuild push`.
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// Name to push to, where the image's own is another
    pub name: Option<String>,
    /// Registry that may be reached by plain HTTP
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
}

/// Options of `xbuild save`.
#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Name or digest of an image of the store
    pub image: String,
    /// type=oci|docker|tar|local,dest=PATH
    #[arg(short, long, value_name = "SPEC")]
    pub output: String,
}

/// Names of the subcommands, for telling them from a context.
const COMMANDS: &[&str] = &[
    "build",
    "lint",
    "run",
    "images",
    "inspect",
    "history",
    "tag",
    "rmi",
    "pull",
    "push",
    "save",
    "completions",
    "debug",
    "help",
];

/// Parses the process's arguments. Exits with 2 on a usage error, as clap does.
pub fn parse(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Cli {
    Cli::parse_from(with_build(arguments.into_iter().collect()))
}

impl LintArgs {
    /// Returns the build whose Dockerfile is looked at.
    pub fn into_build(self) -> BuildArgs {
        let Command::Build(defaults) = Cli::parse_from(["xbuild", "build", "."]).command else {
            unreachable!("the command line says build");
        };
        BuildArgs {
            context: self.context,
            file: self.file,
            target: self.target,
            build_arg: self.build_arg,
            build_context: self.build_context,
            platform: self.platform,
            insecure_registry: self.insecure_registry,
            check: true,
            format: self.format,
            lint_rules: self.lint_rules,
            ..*defaults
        }
    }
}

/// Puts the word `build` before the arguments of a build that left it out.
fn with_build(mut arguments: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut position = 1;
    while let Some(argument) = arguments.get(position).map(|argument| argument.to_string_lossy().into_owned())
    {
        match argument.as_str() {
            "--root" => position += 2,
            other if other.starts_with("--root=") => position += 1,
            "-h" | "--help" | "-V" | "--version" => return arguments,
            other if COMMANDS.contains(&other) => return arguments,
            _ => {
                arguments.insert(position, "build".into());
                return arguments;
            }
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expect: &str) {
        let arguments = line.split(' ').map(Into::into).collect();
        let words: Vec<_> =
            with_build(arguments).into_iter().map(|word| word.into_string().unwrap()).collect();
        assert_eq!(words.join(" "), expect);
    }

    #[test]
    fn the_word_build_may_be_left_out() {
        check("xbuild -t a .", "xbuild build -t a .");
        check("xbuild --root /s .", "xbuild --root /s build .");
        check("xbuild --root=/s images", "xbuild --root=/s images");
        check("xbuild build images", "xbuild build images");
        check("xbuild ./images", "xbuild build ./images");
        check("xbuild --version", "xbuild --version");
        check("xbuild", "xbuild");
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let named: Vec<_> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        assert!(named.iter().all(|name| COMMANDS.contains(&name.as_str())), "{named:?}");
    }
}
