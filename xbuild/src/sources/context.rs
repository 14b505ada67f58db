//! The CONTEXT argument and named contexts to directories: standard input, URLs and git repositories.
//!
//! Reads no Dockerfile; where one takes the place of a context, its bytes are handed on.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use frontend::giturl::{self, GitReference};
use oci::Digest;

use super::archive::{self, Content};
use super::{SourceError, Sources, blocking, git, http};

/// What a context's text means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// `-`.
    Stdin,
    /// A git repository.
    Git(GitReference),
    /// A URL of an archive or a Dockerfile.
    Url(String),
    /// A directory on this machine.
    Directory(PathBuf),
}

/// A context that is a directory now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The directory; empty where a Dockerfile took the place of the context.
    pub directory: PathBuf,
    /// The Dockerfile that took the place of the context.
    pub dockerfile: Option<Vec<u8>>,
    /// Time of the newest member of an archive, in seconds since the epoch.
    pub newest_entry: Option<i64>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a context came from, for provenance and `SOURCE_DATE_EPOCH=context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// It was a directory before.
    Directory,
    /// Standard input.
    Stdin,
    /// A URL.
    Url {
        /// sha256 of the body.
        digest: Digest,
        /// Last-Modified in seconds since the epoch.
        last_modified: Option<i64>,
    },
    /// A repository.
    Git {
        /// The commit that was checked out.
        commit: String,
        /// Its time in seconds since the epoch.
        time: i64,
    },
}

/// Returns what `text` means: a directory wherever it could be one, as docker has it.
///
/// # Errors
/// [`SourceError::Url`] for a git reference with an unusable query.
pub fn classify(text: &str) -> Result<Argument, SourceError> {
    if text == "-" {
        return Ok(Argument::Stdin);
    }
    let bad =
        |error: giturl::GitUrlError| SourceError::Url { url: git::redacted(text), why: error.to_string() };
    if let Some(reference) = giturl::parse(text).map_err(bad)?
        && !(reference.could_be_local && Path::new(text).is_dir())
    {
        return Ok(Argument::Git(reference));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Argument::Url(text.to_owned()));
    }
    Ok(Argument::Directory(PathBuf::from(text)))
}

/// Makes a directory of a context, in the empty directory `scratch` unless it is one.
///
/// # Errors
/// Those of [`from_stdin`], [`from_url`] and [`from_git`].
pub async fn prepare(
    sources: &Sources,
    argument: &Argument,
    scratch: PathBuf,
) -> Result<Prepared, SourceError> {
    match argument {
        Argument::Stdin => from_stdin(sources, io::stdin(), scratch).await,
        Argument::Git(reference) => from_git(sources, reference, scratch).await,
        Argument::Url(url) => from_url(sources, url, scratch).await,
        Argument::Directory(directory) => {
            let (directory, dockerfile) = (directory.clone(), None);
            Ok(Prepared { directory, dockerfile, newest_entry: None, origin: Origin::Directory })
        }
    }
}

/// Fetches what a URL serves and makes a context of it in the empty directory `scratch`.
///
/// # Errors
/// Those of [`http::fetch`], and [`SourceError::Archive`], [`SourceError::NoContext`].
pub async fn from_url(sources: &Sources, url: &str, scratch: PathBuf) -> Result<Prepared, SourceError> {
    let fetched = http::fetch(sources, url, None).await?;
    let what = url.split(['?', '#']).next().unwrap_or_default().to_owned();
    let what = git::redacted(&what);
    let (store, limits) = (sources.store.clone(), sources.limits.clone());
    blocking(move || {
        let file = store.layout().open_blob(&fetched.digest)?;
        let origin = Origin::Url { digest: fetched.digest, last_modified: fetched.last_modified };
        from_file(&what, file, scratch, origin, &limits)
    })
    .await
}

/// Reads `input`, which is standard input, and makes a context of it in the empty directory `scratch`.
///
/// # Errors
/// [`SourceError::Archive`], [`SourceError::NoContext`], [`SourceError::TooLarge`], [`SourceError::Io`].
pub async fn from_stdin(
    sources: &Sources,
    input: impl Read + Send + 'static,
    scratch: PathBuf,
) -> Result<Prepared, SourceError> {
    let limits = sources.limits.clone();
    blocking(move || {
        let file = spool(input, &scratch, limits.bytes)?;
        from_file("standard input", file, scratch, Origin::Stdin, &limits)
    })
    .await
}

/// Checks a repository out into the empty directory `scratch`.
///
/// # Errors
/// Those of [`git::resolve`] and [`git::checkout`].
pub async fn from_git(
    sources: &Sources,
    reference: &GitReference,
    scratch: PathBuf,
) -> Result<Prepared, SourceError> {
    let remote = git::Remote::parse(&reference.remote)?;
    let resolved = git::resolve(sources, &remote, &reference.reference).await?;
    resolved.check(&remote, &reference.checksum)?;
    let checkout = git::Checkout {
        remote: &remote,
        commit: &resolved.commit,
        reference: resolved.name.as_deref(),
        subdir: &reference.subdir,
        git_directory: git::GitDirectory::of(reference.keep_git_dir.unwrap_or(false)),
        // On by default, as in BuildKit.
        submodules: git::Submodules::of(reference.submodules.unwrap_or(true)),
    };
    let done = git::checkout(sources, &checkout, scratch).await?;
    let origin = Origin::Git { commit: done.commit, time: done.time };
    Ok(Prepared { directory: done.directory, dockerfile: None, newest_entry: None, origin })
}

/// Copies `input` to a file that can be read twice and has no name.
fn spool(mut input: impl Read, scratch: &Path, limit: u64) -> Result<File, SourceError> {
    let path = scratch.join("stdin");
    let failed = |action| SourceError::io(action, &path);
    let mut file =
        File::options().read(true).write(true).create_new(true).open(&path).map_err(failed("create"))?;
    std::fs::remove_file(&path).map_err(failed("remove"))?;
    let mut buffer = vec![0; 256 * 1024];
    let mut size = 0;
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SourceError::io("read", Path::new("standard input"))(error)),
        };
        size += read as u64;
        if size > limit {
            return Err(SourceError::TooLarge { what: "standard input".to_owned(), limit });
        }
        file.write_all(&buffer[..read]).map_err(failed("write"))?;
    }
    file.rewind().map_err(failed("rewind"))?;
    Ok(file)
}

fn from_file(
    what: &str,
    mut file: File,
    scratch: PathBuf,
    origin: Origin,
    limits: &super::Limits,
) -> Result<Prepared, SourceError> {
    let unreadable = || SourceError::io("read", Path::new(what));
    let start = archive::start_of(&mut file).map_err(unreadable())?;
    let (mut dockerfile, mut newest_entry) = (None, None);
    match archive::recognise(&start) {
        Content::Empty => {
            return Err(SourceError::NoContext { what: what.to_owned(), why: "it is empty" });
        }
        Content::Archive => newest_entry = archive::unpack(what, &mut file, &scratch, limits.archive)?,
        Content::Text => {
            let limit = limits.dockerfile;
            let mut text = Vec::new();
            file.take(limit + 1).read_to_end(&mut text).map_err(unreadable())?;
            if text.len() as u64 > limit {
                return Err(SourceError::TooLarge { what: format!("Dockerfile from {what}"), limit });
            }
            dockerfile = Some(text);
        }
    }
    Ok(Prepared { directory: scratch, dockerfile, newest_entry, origin })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::testing::{Fixture, Reply, Server, TarEntry, gzip, tar};

    #[test]
    fn what_a_context_argument_means() {
        let directory = |text: &str| Argument::Directory(PathBuf::from(text));
        let git = |text: &str| matches!(classify(text), Ok(Argument::Git(_)));
        assert_eq!(classify("-").unwrap(), Argument::Stdin);
        assert_eq!(classify(".").unwrap(), directory("."));
        assert_eq!(classify("a/b.git").unwrap(), directory("a/b.git"));
        assert_eq!(classify("https://h/x.tar").unwrap(), Argument::Url("https://h/x.tar".to_owned()));
        assert_eq!(classify("http://h").unwrap(), Argument::Url("http://h".to_owned()));
        assert!(git("https://h/r.git#main:sub") && git("git@h:r") && git("github.com/a/b"));
        assert_eq!(classify("file:///r.git").unwrap(), directory("file:///r.git"));
        let error = classify("https://user:secret@h/r.git?what=1").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    async fn check_stdin(bytes: Vec<u8>) -> (Fixture, Result<Prepared, SourceError>) {
        let fixture = Fixture::new();
        let scratch = fixture.scratch("context");
        let prepared = from_stdin(&fixture.sources, io::Cursor::new(bytes), scratch).await;
        (fixture, prepared)
    }

    #[tokio::test]
    async fn standard_input_is_an_archive_or_a_dockerfile() {
        let archive = tar(&[TarEntry::File("Dockerfile", "FROM scratch\n"), TarEntry::File("d/f", "x")]);
        for bytes in [archive.clone(), gzip(&archive)] {
            let (_fixture, prepared) = check_stdin(bytes).await;
            let prepared = prepared.unwrap();
            assert_eq!(prepared.dockerfile, None);
            assert_eq!(std::fs::read(prepared.directory.join("d/f")).unwrap(), b"x");
            assert!(!prepared.directory.join("stdin").exists());
        }
        let (_fixture, prepared) = check_stdin(b"FROM scratch\n".to_vec()).await;
        let prepared = prepared.unwrap();
        assert_eq!(prepared.dockerfile.as_deref(), Some(&b"FROM scratch\n"[..]));
        assert_eq!(std::fs::read_dir(&prepared.directory).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn standard_input_that_is_neither() {
        let (_fixture, prepared) = check_stdin(Vec::new()).await;
        assert_eq!(prepared.unwrap_err().to_string(), "standard input is no build context — it is empty");
        let (_fixture, prepared) = check_stdin(vec![b'#'; (16 << 20) + 1]).await;
        assert!(prepared.unwrap_err().is_refusal());
        let (_fixture, prepared) = check_stdin(gzip(b"FROM scratch\n")).await;
        assert!(prepared.is_err());
    }

    #[tokio::test]
    async fn urls_are_archives_or_dockerfiles() {
        let server = Server::start(|request| match request.path.as_str() {
            "/tar" => Reply::new(200, tar(&[TarEntry::File("mydockerfile", "FROM scratch\n")])),
            "/cut" => Reply::new(200, &tar(&[TarEntry::Symlink("Dockerfile", "/canary")])[..700]),
            "/df" => Reply::new(200, "FROM busybox\n"),
            _ => Reply::new(404, ""),
        });
        let fixture = Fixture::new();
        let prepare = async |path: &str| {
            let scratch = fixture.scratch(path.trim_start_matches('/'));
            from_url(&fixture.sources, &server.url(path), scratch).await
        };
        let prepared = prepare("/tar").await.unwrap();
        assert_eq!(std::fs::read(prepared.directory.join("mydockerfile")).unwrap(), b"FROM scratch\n");
        assert_eq!(prepare("/df").await.unwrap().dockerfile.as_deref(), Some(&b"FROM busybox\n"[..]));
        assert!(prepare("/nothing").await.is_err());
        // CTX-11: a second request could be answered with something else, so none is made.
        assert!(prepare("/cut").await.is_err());
        assert_eq!(server.requests().iter().filter(|request| request.path == "/cut").count(), 1);
    }
}
