//! Finds and reads the Dockerfile.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use executor::tree::{open_beneath, open_root};

use super::inputs::{Input, Inputs, Owner};
use crate::failure::{Class, Failure};
use crate::options::{BuildOptions, DockerfileSource, usage};

/// The most bytes of a Dockerfile.
const LIMIT: u64 = 16 << 20;

/// Without it, opening a pipe would wait for its writer.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// What to do about a link that is not followed.
const ITSELF: &str = "give the file itself with -f";

/// A Dockerfile's text.
pub struct Dockerfile {
    /// How it is called in messages.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
    /// Where its ignore file may be, relative to the context.
    pub ignore_names: Vec<PathBuf>,
}

/// Reads the Dockerfile that the options name.
///
/// # Errors
/// A Dockerfile failure where it is missing, empty, too large or no file; a refusal of a link that leads out of the
/// context.
pub fn read(options: &BuildOptions, inputs: &Inputs) -> Result<Dockerfile, Failure> {
    let main = &inputs.main;
    let dockerfile = match (&options.dockerfile, &inputs.dockerfile) {
        (DockerfileSource::Default, Some(text)) => named("Dockerfile".to_owned(), text.clone(), Vec::new())?,
        (DockerfileSource::Stdin | DockerfileSource::File(_), Some(_)) => {
            let why = "the context is a Dockerfile itself";
            return Err(usage("-f", why, "leave -f out, or give a context with files"));
        }
        (DockerfileSource::Stdin, None) => stdin()?,
        (DockerfileSource::File(path), None) if main.owner == Owner::Fetched => within(main, path)?,
        (DockerfileSource::File(path), None) => file(path, &main.path)?,
        (DockerfileSource::Default, None) if main.owner == Owner::Fetched => default_within(main)?,
        (DockerfileSource::Default, None) => default(&main.path)?,
    };
    let is_blank = |line: &&[u8]| {
        let line = line.trim_ascii();
        line.is_empty() || line.starts_with(b"#")
    };
    let text = dockerfile.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&dockerfile.text);
    if text.split(|byte| *byte == b'\n').all(|line| is_blank(&line)) {
        let why = "it holds no instruction";
        return Err(failure(&dockerfile.name, why, "start it with FROM"));
    }
    Ok(dockerfile)
}

fn default(context: &Path) -> Result<Dockerfile, Failure> {
    for name in ["Dockerfile", "dockerfile"] {
        let path = context.join(name);
        match open_linked(&path, &[context]) {
            Ok(Some(text)) => {
                return named(name.to_owned(), text, vec![format!("{name}.dockerignore").into()]);
            }
            Ok(None) => return Err(leads_out(&path.display().to_string(), ITSELF)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failure(&path.display().to_string(), &error.to_string(), "")),
        }
    }
    let place = context.join("Dockerfile").display().to_string();
    Err(failure(&place, "there is no such file", "name another one with -f"))
}

/// A path is taken as given; where nothing is there, relative to the context, as buildah does.
fn file(path: &Path, context: &Path) -> Result<Dockerfile, Failure> {
    let shown = path.display().to_string();
    let within = context.join(path);
    let (found, text) = match open_given(path, context) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && within.is_file() => {
            (within.as_path(), open_given(&within, context))
        }
        other => (path, other),
    };
    let text = text.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failure(&shown, "there is no such file", "check the path after -f"),
        _ => failure(&shown, &error.to_string(), ""),
    })?;
    let text = text.ok_or_else(|| leads_out(&shown, ITSELF))?;
    // Its ignore file counts where it lies inside the context.
    let inside = std::fs::canonicalize(found).ok().and_then(|found| {
        let context = std::fs::canonicalize(context).ok()?;
        found.strip_prefix(context).ok().map(Path::to_owned)
    });
    let ignore = inside.map(|path| PathBuf::from(format!("{}.dockerignore", path.display())));
    named(
        found.file_name().map_or(shown, |name| name.to_string_lossy().into_owned()),
        text,
        ignore.into_iter().collect(),
    )
}

fn default_within(main: &Input) -> Result<Dockerfile, Failure> {
    let name = ["Dockerfile", "dockerfile"].into_iter().find(|name| main.path.join(name).exists());
    within(main, Path::new(name.unwrap_or("Dockerfile")))
}

/// A Dockerfile of a fetched context. Its links are a stranger's: they end inside.
fn within(main: &Input, path: &Path) -> Result<Dockerfile, Failure> {
    let shown = path.display().to_string();
    let told = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            failure(&shown, "there is no such file in the context", "name another one with -f")
        }
        _ => failure(&shown, &error.to_string(), ""),
    };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let text = open_linked(&main.path.join(relative), &[&main.path]).map_err(told)?;
    let text = text.ok_or_else(|| leads_out(&shown, ""))?;
    named(path.file_name().map_or(shown, |name| name.to_string_lossy().into_owned()), text, Vec::new())
}

fn stdin() -> Result<Dockerfile, Failure> {
    let mut text = Vec::new();
    let read = std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut text);
    read.map_err(|error| failure("standard input", &error.to_string(), ""))?;
    named("Dockerfile".to_owned(), text, Vec::new())
}

fn named(name: String, text: Vec<u8>, mut ignore_names: Vec<PathBuf>) -> Result<Dockerfile, Failure> {
    if text.len() as u64 > LIMIT {
        return Err(failure(&name, &format!("it is larger than {} MiB", LIMIT >> 20), ""));
    }
    ignore_names.push(".dockerignore".into());
    Ok(Dockerfile { name, text, ignore_names })
}

/// Opens a file that the user named. It may be a link within its own directory, as BuildKit has it, or into the context.
fn open_given(path: &Path, context: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Links that the kernel makes up are in no repository: `-f /dev/stdin`.
    if std::fs::canonicalize(directory)?.starts_with("/dev") || path.starts_with("/proc") {
        return read_file(std::fs::File::options().read(true).custom_flags(NONBLOCK).open(path)?).map(Some);
    }
    open_linked(path, &[directory, context])
}

/// Opens a file that may be a link into one of `roots`; `None` where it leads elsewhere: excerpts of mistakes would
/// show a file of this machine to whoever wrote the repository. (CTX-05)
fn open_linked(path: &Path, roots: &[&Path]) -> std::io::Result<Option<Vec<u8>>> {
    let real = std::fs::canonicalize(path)?;
    for root in roots {
        let root = std::fs::canonicalize(root)?;
        if let Ok(relative) = real.strip_prefix(&root) {
            // No link is followed any more, so that a path which is exchanged meanwhile leads nowhere else.
            return read_file(open_beneath(open_root(&root)?, relative)?).map(Some);
        }
    }
    Ok(None)
}

fn read_file(file: std::fs::File) -> std::io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn leads_out(place: &str, fix: &str) -> Failure {
    let why = "it is a link that leads out of the context";
    Failure::new(Class::Refused, &["cannot read the Dockerfile", place, why, fix])
}

fn failure(place: &str, why: &str, fix: &str) -> Failure {
    Failure::new(Class::Dockerfile, &["cannot read the Dockerfile", place, why, fix])
}
