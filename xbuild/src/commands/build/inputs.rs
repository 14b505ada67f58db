//! The contexts of a build as directories: those of the user, and those that were fetched for this build.
//!
//! A Dockerfile may come instead of a context. An ignore file of a fetched context is not read, as in BuildKit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::fetch::Fetcher;
use crate::options::{BuildOptions, Context, NamedContext};
use crate::sources::context::{Argument, Origin, Prepared};
use crate::worker::error::StepError;

/// Whose a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The user's: its ignore file counts, its links are trusted, its hashes are worth remembering.
    User,
    /// It was fetched: what is in it is a stranger's, and it is gone after the build.
    Fetched,
}

/// A context on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub owner: Owner,
}

/// All contexts that are directories.
#[derive(Debug)]
pub struct Inputs {
    /// The main one.
    pub main: Input,
    /// The Dockerfile that came instead of it.
    pub dockerfile: Option<Vec<u8>>,
    /// Those with names.
    pub named: BTreeMap<String, Input>,
    /// Times of those that were fetched, the main one under the empty name.
    pub times: BTreeMap<String, Option<i64>>,
}

impl Inputs {
    /// Returns the contexts of a build that need not be fetched; `None` if one must be.
    pub fn at_hand(options: &BuildOptions) -> Option<Self> {
        let Context::Directory(main) = &options.context else { return None };
        let mut named = BTreeMap::new();
        for (name, context) in &options.contexts {
            match context {
                NamedContext::Directory(path) => named.insert(name.clone(), user(path)),
                NamedContext::Image(_) | NamedContext::Layout(_) => None,
                NamedContext::Fetched(_) => return None,
            };
        }
        Some(Self { main: user(main), dockerfile: None, named, times: BTreeMap::new() })
    }

    /// Fetches what must be.
    ///
    /// # Errors
    /// A source failure that names the context.
    pub async fn fetch(options: &BuildOptions, fetcher: &Fetcher) -> Result<Self, Failure> {
        if let Some(at_hand) = Self::at_hand(options) {
            return Ok(at_hand);
        }
        let mut times = BTreeMap::new();
        let (main, dockerfile) = directory(fetcher, "", &options.context, &mut times).await?;
        let mut named = BTreeMap::new();
        for (name, context) in &options.contexts {
            let argument = match context {
                NamedContext::Directory(path) => &Argument::Directory(path.clone()),
                NamedContext::Fetched(argument) => argument,
                NamedContext::Image(_) | NamedContext::Layout(_) => continue,
            };
            let (input, file) = directory(fetcher, name, argument, &mut times).await?;
            if let Some(file) = file {
                // BuildKit's name of a named context that is one file.
                let path = input.path.join("context");
                std::fs::write(&path, file)
                    .map_err(|error| Failure::from(&StepError::io("write", &path)(error)))?;
            }
            named.insert(name.clone(), input);
        }
        Ok(Self { main, dockerfile, named, times })
    }
}

fn user(path: &Path) -> Input {
    Input { path: path.to_owned(), owner: Owner::User }
}

/// Returns a context's directory, and the file that it is instead.
async fn directory(
    fetcher: &Fetcher,
    name: &str,
    argument: &Argument,
    times: &mut BTreeMap<String, Option<i64>>,
) -> Result<(Input, Option<Vec<u8>>), Failure> {
    if let Argument::Directory(path) = argument {
        return Ok((user(path), None));
    }
    let prepared = fetcher.context(argument).await.map_err(|error| named_failure(name, &error))?;
    times.insert(name.to_owned(), time(&prepared));
    Ok((Input { path: prepared.directory, owner: Owner::Fetched }, prepared.dockerfile))
}

fn named_failure(name: &str, error: &StepError) -> Failure {
    let failure = Failure::from(error);
    let what = match name {
        "" => "build context".to_owned(),
        name => format!("build context {name:?}"),
    };
    Failure { line: format!("{what} — {}", failure.line), ..failure }
}

/// The time of a commit, else what the server says, else that of the newest member.
fn time(prepared: &Prepared) -> Option<i64> {
    match &prepared.origin {
        Origin::Git { time, .. } => Some(*time),
        Origin::Url { last_modified, .. } => last_modified.or(prepared.newest_entry),
        Origin::Stdin => prepared.newest_entry,
        Origin::Directory => None,
    }
}
