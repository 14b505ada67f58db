//! Instructions as meant: typed, expanded by nobody yet, each with the place it stands at.
//!
//! The parser produces these from logical lines; lowering consumes them. Texts are as written (quotes kept)
//! where the instruction expands variables, because expansion and quote removal are one pass
//! ([`crate::expand`]).

use oci::config::Healthcheck;

use crate::graph::{CacheSharing, InlineFile, Network, Security};

/// A range of bytes in the Dockerfile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub span: Span,
}

/// One instruction with its place and its text for the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What it is.
    pub kind: InstructionKind,
    /// The keyword as written, such as `RUN` or `run`.
    pub keyword: Spanned<String>,
    /// The whole instruction with continuations and heredocs.
    pub span: Span,
    /// First and last physical line, from 1.
    pub lines: (u32, u32),
    /// The logical line: continuations joined, comments dropped, heredoc bodies left out.
    pub original: String,
    /// Lint rules that a `# check=skip=…` comment above it switches off.
    pub skipped_rules: Vec<String>,
    /// Experimental lint rules that such a comment switches on.
    pub experimental_rules: Vec<String>,
    /// Comment lines directly above it, without `#`, directives left out.
    pub comments: Vec<String>,
    /// Its arguments are a JSON array of strings.
    pub json: bool,
    /// Its arguments begin like a JSON array but are none, so they were taken as words or shell text.
    pub json_fallback: bool,
}

/// The closed set of instructions.
#[derive(Debug, Clone, PartialEq)]
pub enum InstructionKind {
    /// FROM.
    From(From),
    /// ARG.
    Arg(Vec<ArgDefinition>),
    /// ENV.
    Env(Vec<KeyValue>),
    /// LABEL.
    Label(Vec<KeyValue>),
    /// RUN.
    Run(Run),
    /// COPY.
    Copy(Copy),
    /// ADD.
    Add(Copy),
    /// WORKDIR.
    Workdir(Spanned<String>),
    /// USER.
    User(Spanned<String>),
    /// CMD.
    Cmd(Command),
    /// ENTRYPOINT.
    Entrypoint(Command),
    /// EXPOSE, each port or range as written.
    Expose(Vec<Spanned<String>>),
    /// VOLUME, each path as written.
    Volume(Vec<Spanned<String>>),
    /// STOPSIGNAL.
    StopSignal(Spanned<String>),
    /// SHELL.
    Shell(Vec<String>),
    /// HEALTHCHECK, `NONE` included.
    Healthcheck(Healthcheck),
    /// MAINTAINER.
    Maintainer(Spanned<String>),
    /// ONBUILD: the trigger's text as it goes into the config, and the trigger parsed.
    Onbuild {
        /// What is stored.
        text: String,
        /// The instruction, for checks.
        trigger: Box<Instruction>,
    },
}

/// What an instruction does with files; the others only say something about the image.
#[derive(Debug, Clone, Copy)]
pub enum FileWork<'a> {
    /// COPY and ADD.
    Copies(&'a Copy),
    /// RUN.
    Runs(&'a Run),
    /// Nothing with files that it names.
    Nothing,
}

impl InstructionKind {
    /// Returns what the instruction does with files.
    pub fn file_work(&self) -> FileWork<'_> {
        match self {
            Self::Copy(copy) | Self::Add(copy) => FileWork::Copies(copy),
            Self::Run(run) => FileWork::Runs(run),
            Self::From(_)
            | Self::Arg(_)
            | Self::Env(_)
            | Self::Label(_)
            | Self::Workdir(_)
            | Self::User(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Expose(_)
            | Self::Volume(_)
            | Self::StopSignal(_)
            | Self::Shell(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild { .. } => FileWork::Nothing,
        }
    }
}

/// FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// Image, stage or context as written.
    pub image: Spanned<String>,
    /// `--platform` as written.
    pub platform: Option<Spanned<String>>,
    /// Stage name after AS, lower-cased.
    pub name: Option<Spanned<String>>,
    /// The stage name as written.
    pub name_as_written: String,
    /// The word AS as written.
    pub as_keyword: String,
}

/// One argument of ARG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDefinition {
    /// Name.
    pub name: Spanned<String>,
    /// Default as written.
    pub default: Option<Spanned<String>>,
}

/// One pair of ENV or LABEL, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: Spanned<String>,
    /// Value.
    pub value: Spanned<String>,
    /// `KEY value` form without equals sign.
    pub legacy: bool,
}

/// Shell or exec form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// One text for the shell.
    Shell(String),
    /// argv.
    Exec(Vec<String>),
}

/// RUN.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What is run. For heredocs this is what BuildKit runs: text rebuilt for the shell, or argv of the script.
    pub command: Command,
    /// The command as written, before heredocs were worked in.
    pub written: Command,
    /// Heredoc scripts that are mounted under `/dev/pipes`.
    pub files: Vec<InlineFile>,
    /// All heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Spanned<MountSpec>>,
    /// `--network`, variables not expanded (BuildKit does not).
    pub network: Option<Spanned<Network>>,
    /// `--security`.
    pub security: Option<Spanned<Security>>,
}

/// `--mount`. What the parser makes of a text with variables is only what is certain without them;
/// [`MountSpec::expand`] reads it again with their values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountSpec {
    /// The flag's value as written.
    pub text: String,
    /// Which type; keys that do not belong to it were refused by the parser.
    pub kind: MountKind,
    /// `from`.
    pub from: Option<String>,
    /// `source`.
    pub source: Option<String>,
    /// `target`.
    pub target: Option<String>,
    /// `id`.
    pub id: Option<String>,
    /// `env` of a secret.
    pub env: Option<String>,
    /// `sharing` of a cache.
    pub sharing: Option<CacheSharing>,
    /// `ro`/`rw`: `Some(true)` is read-only.
    pub read_only: Option<bool>,
    /// `required`.
    pub required: bool,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
    /// `size` of a tmpfs in bytes.
    pub size: Option<u64>,
}

/// The type of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MountKind {
    /// bind, the default.
    #[default]
    Bind,
    /// cache.
    Cache,
    /// tmpfs.
    Tmpfs,
    /// secret.
    Secret,
    /// ssh.
    Ssh,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// Sources as written, without heredocs.
    pub sources: Vec<Spanned<String>>,
    /// Heredoc sources, in order; they come after `sources`.
    pub inline: Vec<Heredoc>,
    /// Destination as written.
    pub dest: Spanned<String>,
    /// `--from`.
    pub from: Option<Spanned<String>>,
    /// `--chown`.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`.
    pub chmod: Option<Spanned<String>>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<Spanned<String>>,
    /// `--checksum` of ADD.
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir` of ADD.
    pub keep_git_dir: Option<bool>,
    /// `--unpack` of ADD.
    pub unpack: Option<bool>,
}

/// A heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter: the file's name.
    pub name: String,
    /// The body, leading tabs removed for `<<-`.
    pub content: String,
    /// Whether variables are expanded (the delimiter was not quoted).
    pub expand: bool,
    /// Written with `<<-`.
    pub chomp: bool,
    /// File descriptor number as written before `<<`; 0 if none.
    pub fd: u32,
    /// Where the body stands.
    pub span: Span,
}
