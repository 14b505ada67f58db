//! One run of the host's git: its environment, its limits, its last words.
//!
//! Nothing of the user's or the system's configuration is read, nothing is asked, no hook is run, and secrets are
//! given in the environment, which only our own user can read, never in arguments, which everybody can.

use std::ffi::OsStr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};

use super::remote::{Remote, Scheme, redacted};
use super::{SourceError, Sources};

/// Bytes of output that are kept.
const MAX_OUTPUT: usize = 4 << 20;

/// Bytes of the last words that are kept, and characters that are shown.
const MAX_WORDS: usize = 16 << 10;
const SHOWN: usize = 600;

/// Configuration of every run; it holds against the repository's own.
const CONFIGURATION: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.logAllRefUpdates=false",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "init.defaultBranch=master",
    "advice.detachedHead=false",
    "protocol.version=2",
    // Fewer than 1000 bytes a second for a minute are a dead connection.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    // What arrives is checked (CVE-2018-11235 and later); what old and wide-spread repositories have wrong
    // without danger is not refused.
    "transfer.fsckObjects=true",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.badTimezone=ignore",
    "fetch.fsck.badDate=ignore",
    "fetch.fsck.badDateOverflow=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.missingEmail=ignore",
    "fetch.fsck.badEmail=ignore",
    "fetch.fsck.missingSpaceBeforeEmail=ignore",
    "fetch.fsck.missingNameBeforeEmail=ignore",
    "fetch.fsck.multipleAuthors=ignore",
    "fetch.fsck.badTagName=ignore",
    "fetch.fsck.missingTaggerEntry=ignore",
];

/// Who git may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocols {
    /// Servers.
    Network,
    /// Our own cached repository.
    Own,
}

impl Protocols {
    const fn allowed(self) -> &'static str {
        match self {
            Self::Network => "https:ssh:http:git",
            Self::Own => "file",
        }
    }
}

/// Runs git for one remote.
#[derive(Clone)]
pub(super) struct Git<'a> {
    sources: &'a Sources,
    remote: &'a Remote,
    home: PathBuf,
    git_directory: Option<PathBuf>,
    work_tree: Option<PathBuf>,
    protocols: Protocols,
    authorization: Option<String>,
}

impl<'a> Git<'a> {
    /// Prepares to run git outside of any repository.
    pub fn new(sources: &'a Sources, remote: &'a Remote) -> Result<Self, SourceError> {
        let home = sources.store.root().join("sources/git");
        std::fs::create_dir_all(&home).map_err(SourceError::io("create", &home))?;
        let authorization = authorization(sources, remote)?;
        let (git_directory, work_tree) = (None, None);
        Ok(Self {
            sources,
            remote,
            home,
            git_directory,
            work_tree,
            protocols: Protocols::Network,
            authorization,
        })
    }

    /// Returns the same for a repository.
    pub fn in_repository(&self, directory: &Path) -> Self {
        Self { git_directory: Some(directory.to_owned()), ..self.clone() }
    }

    /// Returns the same for a repository's files.
    pub fn with_work_tree(&self, directory: &Path) -> Self {
        Self { work_tree: Some(directory.to_owned()), ..self.clone() }
    }

    /// Returns the same for our own cached repository: it has no network and no credentials.
    pub fn own(&self) -> Self {
        Self { protocols: Protocols::Own, authorization: None, ..self.clone() }
    }

    /// Returns the directory that holds all repositories.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Runs `git ls-remote`.
    pub async fn list(&self, arguments: &[&str]) -> Result<String, SourceError> {
        let arguments: Vec<_> = ["ls-remote"].iter().chain(arguments).copied().collect();
        let mut failures = 0;
        loop {
            match self.run("list", &arguments, self.sources.limits.listing).await {
                Err(error) if is_transient(&error) && failures < 2 => {
                    failures += 1;
                    tokio::time::sleep(Duration::from_secs(failures)).await;
                }
                other => return other,
            }
        }
    }

    /// Runs git and returns its output as text.
    pub async fn run(
        &self,
        action: &'static str,
        arguments: &[impl AsRef<OsStr>],
        patience: Duration,
    ) -> Result<String, SourceError> {
        let mut output = Vec::new();
        let mut keep = |bytes: &[u8]| {
            output.extend_from_slice(bytes);
            if output.len() > MAX_OUTPUT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        self.stream(action, arguments, patience, &mut keep).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs git and hands its output to `take` as it comes; stops it where `take` breaks.
    pub async fn stream(
        &self,
        action: &'static str,
        arguments: &[impl AsRef<OsStr>],
        patience: Duration,
        take: &mut (dyn FnMut(&[u8]) -> ControlFlow<()> + Send),
    ) -> Result<(), SourceError> {
        let mut child = self.command(arguments).spawn().map_err(|source| SourceError::NoGit { source })?;
        let group = Group::of(&child, self.sources.limits.bytes);
        let ended = tokio::time::timeout(patience, converse(&mut child, take)).await;
        let (success, words) = match ended {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => return Err(self.failed(action, &error.to_string())),
            Err(_) => {
                let (remote, seconds) = (self.remote.to_string(), patience.as_secs());
                return Err(SourceError::GitTimeout { action, remote, seconds });
            }
        };
        match success {
            Some(true) => {
                group.ended();
                Ok(())
            }
            Some(false) => {
                group.ended();
                Err(self.failed(action, &String::from_utf8_lossy(&words)))
            }
            None => Err(self.failed(action, "it says more than a build can take in")),
        }
    }

    fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let environment = &self.sources.git;
        let mut command = Command::new("git");
        command.env_clear().current_dir(&self.home).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for setting in CONFIGURATION {
            command.args(["-c", setting]);
        }
        if let Some(directory) = &self.git_directory {
            command.arg("--git-dir").arg(directory);
        }
        if let Some(directory) = &self.work_tree {
            command.arg("--work-tree").arg(directory).current_dir(directory);
        }
        command.args(arguments);
        command.envs([
            ("PATH", environment.path.as_str()),
            ("LC_ALL", "C"),
            ("HOME", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_SSH_VARIANT", "ssh"),
            ("GIT_ALLOW_PROTOCOL", self.protocols.allowed()),
        ]);
        // A store inside of somebody's repository must not make that repository's configuration count.
        command.env("GIT_CEILING_DIRECTORIES", self.home.parent().unwrap_or(&self.home));
        command.env("GIT_SSH_COMMAND", self.ssh());
        command.envs(environment.proxies.iter().map(|(name, value)| (name, value)));
        let paths = [
            ("SSH_AUTH_SOCK", &environment.ssh_agent),
            ("GIT_SSL_CAINFO", &environment.ca_file),
            ("GIT_SSL_CAPATH", &environment.ca_directory),
        ];
        command.envs(paths.into_iter().filter_map(|(name, path)| Some((name, path.as_deref()?))));
        if let Some(header) = &self.authorization {
            command.env("GIT_CONFIG_COUNT", "1");
            command.env("GIT_CONFIG_KEY_0", format!("http.{}.extraHeader", scope(self.remote.url())));
            command.env("GIT_CONFIG_VALUE_0", format!("Authorization: {header}"));
        }
        command
    }

    /// The user's ssh configuration could run programs (ProxyCommand, LocalCommand) and is left out, as in
    /// BuildKit.
    fn ssh(&self) -> String {
        let base = "ssh -F /dev/null -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15";
        match &self.sources.git.known_hosts {
            Some(file) => {
                let option = quoted(&format!("UserKnownHostsFile=\"{}\"", file.display()));
                format!("{base} -o StrictHostKeyChecking=yes -o {option}")
            }
            None => {
                let own = self.home.join("known_hosts");
                let option = quoted(&format!("UserKnownHostsFile=\"{}\" ~/.ssh/known_hosts", own.display()));
                format!("{base} -o StrictHostKeyChecking=accept-new -o {option}")
            }
        }
    }

    fn failed(&self, action: &'static str, words: &str) -> SourceError {
        let mut shown = redacted(words);
        let login = self.remote.login().map(|login| login.password.as_str());
        let header = self.authorization.as_deref().and_then(|header| header.split(' ').next_back());
        for secret in [login, header].into_iter().flatten().filter(|secret| secret.len() > 3) {
            shown = shown.replace(secret, "***");
        }
        SourceError::Git { action, remote: self.remote.to_string(), detail: last_words(&shown) }
    }
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A token of github.com is good for all its repositories, so that submodules come too; others are for the
/// repository only (as actions/checkout and BuildKit have it).
fn scope(url: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"]
        .into_iter()
        .find(|prefix| url.starts_with(prefix))
        .unwrap_or(url)
}

/// The value of the Authorization header: a secret for this host, a secret for all, or what the URL has.
fn authorization(sources: &Sources, remote: &Remote) -> Result<Option<String>, SourceError> {
    if remote.scheme() != Scheme::Http {
        return Ok(None);
    }
    let basic = |user: &str, password: &str| {
        let pair = format!("{user}:{password}");
        format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    };
    for suffix in [format!(".{}", remote.host()), String::new()] {
        if let Some(header) = sources.secrets.text(&format!("GIT_AUTH_HEADER{suffix}"))? {
            return Ok(Some(header.to_owned()));
        }
        if let Some(token) = sources.secrets.text(&format!("GIT_AUTH_TOKEN{suffix}"))? {
            return Ok(Some(basic("x-access-token", token)));
        }
    }
    Ok(remote.login().map(|login| basic(&login.user, &login.password)))
}

/// Reads both outputs until the process ends. `None` for its success where `take` broke.
async fn converse(
    child: &mut Child,
    take: &mut (dyn FnMut(&[u8]) -> ControlFlow<()> + Send),
) -> std::io::Result<(Option<bool>, Vec<u8>)> {
    let missing = || std::io::Error::other("no output");
    let mut output = child.stdout.take().ok_or_else(missing)?;
    let mut errors = child.stderr.take().ok_or_else(missing)?;
    let reading = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = output.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(ControlFlow::Continue(()));
            }
            if take(&buffer[..read]).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    };
    let listening = async {
        let (mut buffer, mut words) = (vec![0; 16 << 10], Vec::new());
        loop {
            let read = errors.read(&mut buffer).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(words);
            }
            words.extend_from_slice(&buffer[..read]);
            let surplus = words.len().saturating_sub(MAX_WORDS);
            words.drain(..surplus);
        }
    };
    tokio::pin!(listening);
    tokio::pin!(reading);
    let mut heard = None;
    let flow = loop {
        tokio::select! {
            flow = &mut reading => break flow?,
            words = &mut listening, if heard.is_none() => heard = Some(words?),
        }
    };
    if flow.is_break() {
        return Ok((None, Vec::new()));
    }
    let words = match heard {
        Some(words) => words,
        None => listening.await?,
    };
    Ok((Some(child.wait().await?.success()), words))
}

/// The processes of one run; they end when it is dropped, unless they are known to have ended.
struct Group(Option<Pid>);

impl Group {
    /// Takes the group that the child leads, and limits the size of files that it writes (SRC-09).
    fn of(child: &Child, bytes: u64) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
            // A git that has ended already needs none.
            let _ = rustix::process::prlimit(Some(pid), Resource::Fsize, limit);
        }
        Self(pid)
    }

    fn ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // The child was not waited for, so its number is still its own.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Returns the lines that say why, as one line.
fn last_words(words: &str) -> String {
    let lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with("hint:") && !line.starts_with("Cloning into"));
    let lines: Vec<_> = lines.collect();
    let text = lines[lines.len().saturating_sub(6)..].join("; ");
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.is_empty() {
        return "it failed without a word".to_owned();
    }
    let surplus = text.chars().count().saturating_sub(SHOWN);
    text.chars().skip(surplus).collect()
}

/// Returns whether the same may succeed a moment later.
pub(super) fn is_transient(error: &SourceError) -> bool {
    let SourceError::Git { detail, .. } = error else { return false };
    [
        "Could not resolve host",
        "Connection reset",
        "Connection timed out",
        "early EOF",
        "RPC failed",
        "unexpected disconnect",
        "returned error: 429",
        "returned error: 50",
    ]
    .iter()
    .any(|text| detail.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_one_clean_line() {
        assert_eq!(last_words("hint: x\nfatal: a\x1b[2J\n\nb\n"), "fatal: a [2J; b");
        assert_eq!(last_words(" \n"), "it failed without a word");
        assert!(last_words(&"x".repeat(10_000)).len() <= SHOWN);
    }

    #[test]
    fn a_token_is_for_its_repository() {
        assert_eq!(scope("https://github.com/a/b"), "https://github.com/");
        assert_eq!(scope("https://gitlab.example/a/b.git"), "https://gitlab.example/a/b.git");
        assert_eq!(scope("https://github.com.evil.example/a"), "https://github.com.evil.example/a");
    }

    #[test]
    fn texts_are_one_word_of_a_shell() {
        assert_eq!(quoted("/a b/$(x)'y"), r"'/a b/$(x)'\''y'");
    }
}
