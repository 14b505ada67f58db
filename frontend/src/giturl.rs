//! References to git repositories: contexts, `--build-context`, sources of ADD.
//!
//! `URL#ref:subdir` or `URL?ref=…&subdir=…`; an HTTP URL is one only if its path ends in `.git`. Nothing is
//! fetched here, and a name that could be a local path is told apart from one that could not.

use crate::graph::pattern::clean;

/// A git reference.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitReference {
    /// What is given to git: the URL without query and fragment.
    pub remote: String,
    /// Branch, tag or commit; empty for the remote's default.
    pub reference: String,
    /// Directory inside the repository, relative; empty for all of it.
    pub subdir: String,
    /// Commit, or its beginning, that the reference must have.
    pub checksum: String,
    /// Whether `.git` stays, where the reference says so.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are checked out, where the reference says so.
    pub submodules: Option<bool>,
    /// `github.com/…` without a scheme, which could also be a local directory: accepted as a context only.
    pub could_be_local: bool,
    /// `http:` or `git:`, which anybody on the way can change.
    pub unencrypted: bool,
}

/// Why a git reference cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// A key of the query has no value.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// A key of the query is given twice.
    #[error("query {0:?} has multiple values")]
    MultipleValues(String),
    /// A key of the query is unknown.
    #[error(
        "unexpected query {0:?}, expected ref, tag, branch, subdir, checksum, keep-git-dir or submodules"
    )]
    Unexpected(String),
    /// A key that other builders know and xbuild does not.
    #[error("query {0:?} is not supported")]
    Unsupported(String),
    /// A value is not of its key's kind.
    #[error("invalid {key} value: {value:?}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Two different references.
    #[error("ref conflicts: {0:?} vs {1:?}")]
    RefConflict(String, String),
    /// Two different directories.
    #[error("subdir conflicts: {0:?} vs {1:?}")]
    SubdirConflict(String, String),
    /// A tag and a branch.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A percent sign without two hexadecimal digits.
    #[error("invalid URL escape in {0:?}")]
    Escape(String),
    /// A reference that git would take for an option.
    #[error("{0:?} must not begin with a dash")]
    Dash(String),
}

/// Reads a git reference; `None` if the text is none.
///
/// # Errors
/// If it is one, but its query or fragment cannot be used.
pub fn parse(text: &str) -> Result<Option<GitReference>, GitUrlError> {
    if text.starts_with("./") || text.starts_with("../") || text.contains(|c: char| c.is_control()) {
        return Ok(None);
    }
    let found = if text.starts_with("github.com/") {
        let (head, query, fragment) = split(text);
        Some((
            GitReference { remote: head.to_owned(), could_be_local: true, ..Default::default() },
            query,
            fragment,
        ))
    } else if let Some((scheme, rest)) = scheme(text) {
        with_scheme(&scheme, rest)
    } else {
        scp_style(text)
    };
    let Some((mut reference, query, fragment)) = found else { return Ok(None) };
    read_fragment(&mut reference, fragment)?;
    read_query(&mut reference, query)?;
    for value in [&reference.remote, &reference.reference, &reference.checksum] {
        if value.starts_with('-') {
            return Err(GitUrlError::Dash(value.clone()));
        }
    }
    // git-check-ref-format(1) forbids controls in names; no argument of a command can hold NUL.
    let parts = [&reference.reference, &reference.checksum, &reference.subdir];
    if parts.iter().any(|part| part.contains(char::is_control)) {
        return Err(GitUrlError::Escape(text.to_owned()));
    }
    Ok(Some(reference))
}

/// Returns whether a text is an `http:` or `https:` URL that is no git reference.
pub fn is_http(text: &str) -> bool {
    let http = text.starts_with("http://") || text.starts_with("https://");
    http && matches!(parse(text), Ok(None))
}

/// Returns whether a source is fetched: a URL or a git repository.
pub fn is_remote(source: &str) -> bool {
    let git = parse(source);
    is_http(source) || git.is_err() || git.is_ok_and(|git| git.is_some_and(|git| !git.could_be_local))
}

/// Resolves percent escapes of a URL's part; `None` if they are malformed.
pub fn decode(text: &str) -> Option<String> {
    unescape(text, Plus::Kept).ok()
}

type Found<'a> = (GitReference, &'a str, &'a str);

/// Splits into what stands before the query, the query, and the fragment.
fn split(text: &str) -> (&str, &str, &str) {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (head, query) = rest.split_once('?').unwrap_or((rest, ""));
    (head, query, fragment)
}

fn scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then(|| (scheme.to_ascii_lowercase(), rest))
}

fn with_scheme<'a>(scheme: &str, rest: &'a str) -> Option<Found<'a>> {
    let (head, query, fragment) = split(rest);
    let is_git = match scheme {
        "http" | "https" => head.find('/').is_some_and(|at| head[at..].ends_with(".git")),
        "ssh" | "git" => true,
        _ => false,
    };
    let unencrypted = matches!(scheme, "http" | "git");
    let reference = GitReference { remote: format!("{scheme}://{head}"), unencrypted, ..Default::default() };
    is_git.then_some((reference, query, fragment))
}

/// `user@host:path`, as ssh and scp take it.
fn scp_style(text: &str) -> Option<Found<'_>> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |text: &str, extra: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    if !word(user, b"-_") || !word(host, b"-.") {
        return None;
    }
    let (path, query, fragment) = split(path);
    let remote = format!("{user}@{host}:{path}");
    Some((GitReference { remote, ..Default::default() }, query, fragment))
}

fn read_fragment(reference: &mut GitReference, fragment: &str) -> Result<(), GitUrlError> {
    let fragment = unescape(fragment, Plus::Kept)?;
    let (name, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
    name.clone_into(&mut reference.reference);
    reference.subdir = clean(&format!("/{subdir}")).split_off(1);
    Ok(())
}

fn read_query(reference: &mut GitReference, query: &str) -> Result<(), GitUrlError> {
    let mut seen: Vec<String> = Vec::new();
    let (mut tag, mut branch) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (unescape(key, Plus::Space)?, unescape(value, Plus::Space)?);
        if seen.contains(&key) {
            return Err(GitUrlError::MultipleValues(key));
        }
        match key.as_str() {
            "keep-git-dir" => reference.keep_git_dir = Some(flag(&key, &value)?),
            "submodules" => reference.submodules = Some(flag(&key, &value)?),
            "fetch-by-commit" if !flag(&key, &value)? => {}
            "mtime" if value == "checkout" => {}
            "fetch-by-commit" => return Err(GitUrlError::Unsupported(key)),
            "mtime" if value == "commit" => return Err(GitUrlError::Unsupported(pair.to_owned())),
            "mtime" => return Err(GitUrlError::Value { key, value }),
            _ if value.is_empty() => return Err(GitUrlError::NoValue(key)),
            "ref" => set_reference(reference, value)?,
            "tag" => tag = Some(prefixed("refs/tags/", &value)),
            "branch" => branch = Some(prefixed("refs/heads/", &value)),
            "subdir" => set_subdir(reference, &value)?,
            "checksum" | "commit" => reference.checksum = value,
            _ => return Err(GitUrlError::Unexpected(key)),
        }
        seen.push(key);
    }
    match (tag, branch) {
        (Some(_), Some(_)) => Err(GitUrlError::BranchAndTag),
        (Some(full), None) | (None, Some(full)) => set_reference(reference, full),
        (None, None) => Ok(()),
    }
}

fn set_reference(reference: &mut GitReference, value: String) -> Result<(), GitUrlError> {
    if !reference.reference.is_empty() && reference.reference != value {
        return Err(GitUrlError::RefConflict(reference.reference.clone(), value));
    }
    reference.reference = value;
    Ok(())
}

fn set_subdir(reference: &mut GitReference, value: &str) -> Result<(), GitUrlError> {
    let subdir = clean(&format!("/{value}")).split_off(1);
    if !reference.subdir.is_empty() && reference.subdir != subdir {
        return Err(GitUrlError::SubdirConflict(reference.subdir.clone(), subdir));
    }
    reference.subdir = subdir;
    Ok(())
}

fn prefixed(prefix: &str, value: &str) -> String {
    if value.starts_with(prefix) { value.to_owned() } else { format!("{prefix}{value}") }
}

/// Reads a boolean as Go's `strconv.ParseBool` does; an empty value is true.
fn flag(key: &str, value: &str) -> Result<bool, GitUrlError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitUrlError::Value { key: key.to_owned(), value: value.to_owned() }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    Kept,
    Space,
}

fn unescape(text: &str, plus: Plus) -> Result<String, GitUrlError> {
    let error = || GitUrlError::Escape(text.to_owned());
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let pair = digit().zip(digit()).ok_or_else(error)?;
                (pair.0 * 16 + pair.1) as u8
            }
            b'+' if plus == Plus::Space => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str, &str)>) {
        let found = parse(text).unwrap();
        let found =
            found.as_ref().map(|git| (git.remote.as_str(), git.reference.as_str(), git.subdir.as_str()));
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn fragments_and_queries() {
        check("https://h/r.git#v1:sub", Some(("https://h/r.git", "v1", "sub")));
        check("https://h/r.git#:../../sub/", Some(("https://h/r.git", "", "sub")));
        check("https://h/r.git?subdir=/s#v1", Some(("https://h/r.git", "v1", "s")));
        check("https://h/r.git?tag=v1", Some(("https://h/r.git", "refs/tags/v1", "")));
        check("git@h:a/b?branch=x", Some(("git@h:a/b", "refs/heads/x", "")));
        check("github.com/moby/buildkit#m", Some(("github.com/moby/buildkit", "m", "")));
        check("ssh://git@h:22/r", Some(("ssh://git@h:22/r", "", "")));
        check("https://h/r.git?keep-git-dir=1", Some(("https://h/r.git", "", "")));
    }

    #[test]
    fn what_is_no_git_reference() {
        for text in
            ["https://h/r", "./x.git", "../x.git", "a/b.git", ".git", "ftp://h/r.git", "https://h.git", ""]
        {
            check(text, None);
        }
        assert!(is_http("https://h/r.tar.gz") && !is_http("https://h/r.git") && !is_http("file"));
    }

    #[test]
    fn bad_queries_are_errors() {
        let bad = [
            "?ref=a#b",
            "?ref=a&tag=b",
            "?tag=a&branch=b",
            "?x=1",
            "?ref=",
            "?mtime=x",
            "?fetch-by-commit=x",
            "?keep-git-dir=maybe",
            "?ref=a&ref=a",
            "?ref=%zz",
            "?ref=a%0ab",
            "#a:b%00",
            "#--upload-pack=x",
            "?subdir=a#b:c",
        ];
        for query in bad {
            assert!(parse(&format!("https://h/r.git{query}")).is_err(), "{query}");
        }
    }
}
