//! Options of `xbuild lint`.

use std::path::PathBuf;

use clap::{Args, Parser as _, ValueEnum};

use super::{BuildArgs, Cli, Command, RegistryArgs};

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
    /// How registries are reached
    #[command(flatten)]
    pub registry: RegistryArgs,
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
            registry: self.registry,
            check: true,
            format: self.format,
            lint_rules: self.lint_rules,
            ..*defaults
        }
    }
}
