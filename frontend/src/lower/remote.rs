//! Sources of ADD that are fetched: URLs and git repositories.

use oci::Digest;

use super::command::Command;
use super::copy::{Expanded, Keyword};
use super::sources::Missing;
use super::text;
use super::{GitNeed, KnownGit, Lowering, SourceTime, UrlNeed};
use crate::graph::{GitOp, HttpOp, Op, StepId};
use crate::instruction::{Span, Spanned};
use crate::{Diagnostic, giturl};

impl Lowering<'_> {
    /// Returns step and path of a source that is a URL or a git repository.
    pub(super) fn remote(
        &mut self,
        command: &Command<'_>,
        copy: &Expanded<'_>,
        source: &Spanned<String>,
    ) -> Result<Option<(StepId, String)>, Missing> {
        let span = command.at(source.span);
        if copy.written.from.is_some() {
            return Ok(None);
        }
        let git = giturl::parse(&source.value).map_err(|error| {
            self.error(Diagnostic::error(span, error.to_string()));
            Missing
        })?;
        let git = git.filter(|git| !git.could_be_local);
        let what = match (&git, giturl::is_http(&source.value)) {
            (None, false) => return Ok(None),
            (Some(_), _) => "a git ref",
            (None, true) => "a URL",
        };
        if copy.keyword == Keyword::Copy {
            let diagnostic = Diagnostic::error(span, format!("source can't be {what} for COPY"));
            self.error(diagnostic.with_help("use ADD"));
            return Err(Missing);
        }
        match git {
            Some(git) => self.git_source(copy, git, span).map(|step| Some((step, String::new()))),
            None => self.url_source(copy, &source.value, span).map(Some),
        }
    }

    fn url_source(
        &mut self,
        copy: &Expanded<'_>,
        url: &str,
        span: Span,
    ) -> Result<(StepId, String), Missing> {
        let checksum = match &copy.checksum {
            None => None,
            Some(text) => Some(text.value.parse::<Digest>().map_err(|error| {
                self.error(Diagnostic::error(text.span, error.to_string()));
                Missing
            })?),
        };
        let known = self
            .url(UrlNeed { url: url.to_owned(), checksum, time: SourceTime::Unused }, span)
            .ok_or(Missing)?;
        // A checksum of another algorithm cannot be compared here; whoever answers the need verifies it.
        let differs =
            |wanted: &Digest| wanted.algorithm() == known.digest.algorithm() && *wanted != known.digest;
        if let Some(wanted) = checksum.filter(differs) {
            let message = format!("digest mismatch {}: expected {wanted}", known.digest);
            self.error(Diagnostic::error(span, message));
            return Err(Missing);
        }
        let filename = filename(url);
        let shown = text::without_credentials(url);
        let label = format!("download {shown}");
        let op = Op::Http(HttpOp {
            url: shown,
            digest: known.digest,
            filename: filename.clone(),
            last_modified: known.last_modified,
        });
        let platform = self.options.build_platform.clone();
        Ok((self.source_step(op, &platform, label), filename))
    }

    fn git_source(
        &mut self,
        copy: &Expanded<'_>,
        git: giturl::GitReference,
        span: Span,
    ) -> Result<StepId, Missing> {
        let mut refuse = |message: String| {
            self.errors.push(Diagnostic::error(span, message));
            Missing
        };
        let keep = match (copy.written.keep_git_dir, git.keep_git_dir) {
            (Some(a), Some(b)) if a != b => {
                return Err(refuse("inconsistent keep-git-dir configuration".to_owned()));
            }
            (a, b) => b.or(a).unwrap_or(false),
        };
        let checksum = match copy.checksum.as_ref().map(|checksum| checksum.value.as_str()) {
            Some(flag) if !git.checksum.is_empty() && git.checksum != flag => {
                return Err(refuse(format!("checksum mismatch {flag:?} != {:?}", git.checksum)));
            }
            Some(flag) => flag.to_owned(),
            None => git.checksum.clone(),
        };
        let time = SourceTime::Unused;
        let need = GitNeed { remote: git.remote.clone(), reference: git.reference.clone(), time };
        let known = self.git(need, span).ok_or(Missing)?;
        if let Some(message) = mismatch(&checksum, &known) {
            self.error(Diagnostic::error(span, message));
            return Err(Missing);
        }
        let op = Op::Git(GitOp {
            remote: known.remote,
            commit: known.commit,
            subdir: git.subdir,
            keep_git_dir: keep,
            submodules: git.submodules.unwrap_or(true),
        });
        let platform = self.options.build_platform.clone();
        Ok(self.source_step(op, &platform, format!("git {}", text::without_credentials(&git.remote))))
    }
}

/// Returns what is wrong with a checksum, which is the beginning of the commit or of the tag that names it.
fn mismatch(checksum: &str, known: &KnownGit) -> Option<String> {
    if !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Some(format!("invalid checksum {checksum}, expected hex commit hash"));
    }
    let expected = checksum.to_ascii_lowercase();
    let fits = known.commit.starts_with(&expected) || known.object.starts_with(&expected);
    let found = match known.object == known.commit {
        true => known.commit.clone(),
        false => format!("{} or {}", known.object, known.commit),
    };
    (!fits).then(|| format!("expected checksum to match {checksum}, got {found}"))
}

/// Returns the last part of a URL's path, which names the file.
fn filename(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    let name = giturl::decode(name.rsplit('/').next().unwrap_or_default()).unwrap_or_default();
    if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) {
        "__unnamed__".to_owned()
    } else {
        name
    }
}
