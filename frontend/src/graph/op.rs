//! Ops: the closed set of things that a step can do.

use std::sync::Arc;

use oci::{Digest, Platform};

use super::Selection;

/// What a step does. Positions called `input` index into [`super::Step::inputs`].
#[derive(Debug, Clone)]
pub enum Op {
    /// A base image (`FROM`, `--from=image`).
    Image(ImageOp),
    /// Selected files of a local context.
    Local(LocalOp),
    /// A commit of a git repository.
    Git(GitOp),
    /// A downloaded file.
    Http(HttpOp),
    /// An image in an OCI layout directory.
    OciLayout(OciLayoutOp),
    /// RUN.
    Run(RunOp),
    /// COPY and ADD.
    Copy(CopyOp),
    /// WORKDIR: makes a directory with its parents.
    Mkdir(MkdirOp),
}

impl Op {
    /// Whether this is an image, which is of one platform; other sources are of none.
    pub fn is_image(&self) -> bool {
        match self {
            Self::Image(_) | Self::OciLayout(_) => true,
            Self::Local(_) | Self::Git(_) | Self::Http(_) | Self::Run(_) | Self::Copy(_) | Self::Mkdir(_) => {
                false
            }
        }
    }
}

/// A base image, named by its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOp {
    /// The normalised name, for people and to find the registry; not hashed.
    pub reference: String,
    /// Digest of the platform's manifest.
    pub manifest: Digest,
    /// The platform that was asked for.
    pub platform: Platform,
}

/// Files of a local directory.
#[derive(Debug, Clone)]
pub struct LocalOp {
    /// Name of the context: empty for the main one, else that of `--build-context`.
    pub context: String,
    /// The files, already filtered and hashed.
    pub selection: Arc<Selection>,
}

/// A git checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitOp {
    /// URL without credentials.
    pub remote: String,
    /// Full commit id, sha1 or sha256 in hexadecimal.
    pub commit: String,
    /// Directory inside the repository; empty for all of it.
    pub subdir: String,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// Whether submodules are checked out.
    pub submodules: bool,
}

/// A downloaded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOp {
    /// Where from, without credentials.
    pub url: String,
    /// sha256 of the body.
    pub digest: Digest,
    /// Name of the file.
    pub filename: String,
    /// Last-Modified in seconds since the epoch, where the server told it.
    pub last_modified: Option<i64>,
}

/// An image in an OCI layout directory (`--build-context n=oci-layout://…`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciLayoutOp {
    /// Path of the layout as the user gave it; not hashed.
    pub path: String,
    /// Digest of the platform's manifest.
    pub manifest: Digest,
}

/// A file whose bytes stand in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// File name.
    pub name: String,
    /// The bytes.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// RUN.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunOp {
    /// argv, after SHELL.
    pub args: Vec<String>,
    /// Environment: ENV and ARG as in force, in order, each name once.
    pub env: Vec<(String, String)>,
    /// Proxy variables: set in the step, not hashed.
    pub proxy_env: Vec<(String, String)>,
    /// Absolute working directory.
    pub cwd: String,
    /// `user[:group]` as written; empty is root.
    pub user: String,
    /// Mounts in order.
    pub mounts: Vec<Mount>,
    /// Heredoc scripts, visible read-only under `/dev/pipes`.
    pub files: Vec<InlineFile>,
    /// Requested network.
    pub network: Network,
    /// Requested security mode.
    pub security: Security,
    /// Lines added to /etc/hosts.
    pub extra_hosts: Vec<ExtraHost>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Size of /dev/shm in bytes; 64 MiB where absent.
    pub shm_size: Option<u64>,
    /// Host name; empty is the builder's.
    pub hostname: String,
}

/// `--add-host name:address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtraHost {
    /// Host name.
    pub name: String,
    /// Its address as text; not hashed.
    pub address: String,
}

/// `--ulimit name=soft[:hard]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Name such as `nofile`.
    pub name: String,
    /// Soft limit; -1 is unlimited.
    pub soft: i64,
    /// Hard limit; -1 is unlimited.
    pub hard: i64,
}

/// A RUN step's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Network {
    /// The builder's choice (`--network=default`).
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// A RUN step's security mode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// Confined.
    #[default]
    Sandbox,
    /// All capabilities, no seccomp; needs the entitlement `security.insecure`.
    Insecure,
}

/// `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// Files of a context, stage or image.
    Bind(BindMount),
    /// A directory that outlives the build.
    Cache(CacheMount),
    /// Memory.
    Tmpfs(TmpfsMount),
    /// A secret as file, variable or both.
    Secret(SecretMount),
    /// An ssh agent's socket.
    Ssh(SshMount),
}

/// `type=bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// Which input.
    pub input: usize,
    /// Path inside it, cleaned and absolute.
    pub source: String,
    /// Absolute target.
    pub target: String,
    /// Writes are allowed and discarded.
    pub writable: bool,
}

/// `type=cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Identity; never a path.
    pub id: String,
    /// Absolute target.
    pub target: String,
    /// What two builds at once do.
    pub sharing: CacheSharing,
    /// Input with the initial content, and the path inside it.
    pub from: Option<(usize, String)>,
    /// Mode of a new directory.
    pub mode: u32,
    /// Owner of a new directory.
    pub uid: u32,
    /// Group of a new directory.
    pub gid: u32,
    /// Writes are refused.
    pub read_only: bool,
}

/// What two builds at once do with one cache mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// Both write.
    #[default]
    Shared,
    /// The second gets a directory of its own.
    Private,
    /// The second waits.
    Locked,
}

/// `type=tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Absolute target.
    pub target: String,
    /// Limit in bytes.
    pub size: Option<u64>,
}

/// `type=secret`. The value is never part of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// Which secret.
    pub id: String,
    /// Absolute target of the file; `None` where only a variable is set.
    pub target: Option<String>,
    /// Variable to set.
    pub env: Option<String>,
    /// Whether its absence is an error.
    pub required: bool,
    /// Mode of the file.
    pub mode: u32,
    /// Owner of the file.
    pub uid: u32,
    /// Group of the file.
    pub gid: u32,
}

/// `type=ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshMount {
    /// Which agent.
    pub id: String,
    /// Absolute target of the socket.
    pub target: String,
    /// Whether its absence is an error.
    pub required: bool,
    /// Mode of the socket.
    pub mode: u32,
    /// Owner of the socket.
    pub uid: u32,
    /// Group of the socket.
    pub gid: u32,
}

/// COPY and ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOp {
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Absolute, cleaned destination without trailing slash (`/` for the root).
    pub dest: String,
    /// Written with a trailing slash, or several sources: the destination is a directory.
    pub dest_is_dir: bool,
    /// `--chown`, or the default 0:0 for contexts; `None` keeps the source's owner (`--from`).
    pub chown: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`, in order.
    pub excludes: Vec<String>,
    /// What happens to archives.
    pub unpack: Unpack,
}

/// One source of a COPY or ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopySource {
    /// Paths of an input, possibly with wildcards; cleaned, relative to its root.
    Input {
        /// Which input.
        input: usize,
        /// The path or pattern.
        path: String,
        /// Whether wildcards are special (`false` for paths that are taken literally).
        wildcards: bool,
    },
    /// A heredoc.
    Inline(InlineFile),
}

/// Who shall own what is copied or made: names or numbers, resolved against the step's parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// User name or number.
    pub user: String,
    /// Group name or number; by default the user's primary group, or the same number.
    pub group: Option<String>,
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// The bits to set, `0o7777` at most.
    Octal(u32),
    /// Clauses as in chmod(1), validated by [`super::pattern::chmod`].
    Symbolic(String),
}

/// What ADD does with archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// Files are copied as they are (COPY, `--unpack=false`, URLs).
    Never,
    /// Archives are recognised by content and unpacked (ADD of local files, `--unpack`).
    Archives,
}

/// WORKDIR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MkdirOp {
    /// Absolute, cleaned path.
    pub path: String,
    /// `user[:group]` that owns what is created; empty is root.
    pub user: String,
}

impl CopyOp {
    /// Whether the layer is the same on any parent: `--link` without names to resolve and without `--chmod`,
    /// which BuildKit too applies in the merged tree.
    pub fn is_detached(&self) -> bool {
        let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let owner_is_numeric = self
            .chown
            .as_ref()
            .is_none_or(|owner| numeric(&owner.user) && owner.group.as_deref().is_none_or(numeric));
        self.link && self.chmod.is_none() && owner_is_numeric
    }
}
