//! Where files come from: the context, the Dockerfile, named contexts.

use std::path::{Path, PathBuf};

use oci::reference::Reference;

use super::{Context, usage};
use crate::args::RegistryArgs;
use crate::failure::{Class, Failure};
use crate::location::Location;
use crate::sources::context as sources;

/// Where the Dockerfile is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile`, else `dockerfile`, in the context.
    Default,
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// A named context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory.
    Directory(PathBuf),
    /// An image of the store or a registry.
    Image(Reference),
    /// An image in a layout or an archive.
    Layout(Location),
    /// Files of a URL or a git repository.
    Fetched(Context),
}

impl DockerfileSource {
    /// Says what `--file` means.
    pub fn new(file: Option<&Path>) -> Self {
        match file {
            None => Self::Default,
            Some(path) if path.as_os_str() == "-" => Self::Stdin,
            Some(path) => Self::File(path.to_owned()),
        }
    }
}

/// Refuses two readers of standard input.
pub fn check_standard_input(
    context: &Context,
    dockerfile: &DockerfileSource,
    registry: &RegistryArgs,
) -> Result<(), Failure> {
    let readers = (*context == Context::Stdin, *dockerfile == DockerfileSource::Stdin);
    match readers {
        (true, true) => {
            let why = "standard input cannot be both the context and the Dockerfile";
            Err(usage("-f -", why, "give one of them another way"))
        }
        (true, false) | (false, true) if registry.password_stdin => {
            let why = "standard input is the context or the Dockerfile already";
            Err(usage("--password-stdin", why, "set XBUILD_PASSWORD instead"))
        }
        (true, false) | (false, true) | (false, false) => Ok(()),
    }
}

/// Parses the place of a context; a directory must be there.
pub fn context(text: &str) -> Result<Context, Failure> {
    let context = sources::classify(text).map_err(|error| Failure::from(&error))?;
    let Context::Directory(path) = &context else { return Ok(context) };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(context),
        Ok(_) => Err(source_failure(text, "it is not a directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(source_failure(text, "no such directory"))
        }
        Err(error) => Err(source_failure(text, &error.to_string())),
    }
}

fn source_failure(text: &str, why: &str) -> Failure {
    Failure::new(
        Class::Source,
        &["cannot read the build context", text, why, "give the directory that holds the Dockerfile"],
    )
}

/// Parses `NAME=SOURCE` of `--build-context`.
pub fn named(text: &str) -> Result<(String, NamedContext), Failure> {
    let flag = format!("--build-context {text}");
    let Some((name, source)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(usage(&flag, "there is no name", "write NAME=SOURCE"));
    };
    let context = match Location::explicit(source)? {
        Some(Location::Registry(image)) => NamedContext::Image(image),
        Some(
            image @ (Location::Named(_)
            | Location::Layout(..)
            | Location::OciArchive(..)
            | Location::DockerArchive(..)),
        ) => NamedContext::Layout(image),
        None => match context(source)? {
            Context::Directory(path) => NamedContext::Directory(path),
            Context::Stdin => {
                return Err(usage(
                    &flag,
                    "a named context does not come from standard input",
                    "give a directory",
                ));
            }
            fetched @ (Context::Git(_) | Context::Url(_)) => NamedContext::Fetched(fetched),
        },
    };
    Ok((name.to_owned(), context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_directory_as_context() {
        let scratch = tempfile::tempdir().expect("a scratch directory");
        for path in [scratch.path().to_str().expect("a path of text"), ".", "./src", "src/../src"] {
            let (name, context) = named(&format!("lib={path}")).expect("the directory is there");
            assert_eq!((name.as_str(), context), ("lib", NamedContext::Directory(path.into())));
        }
        let (_, context) = named("lib=oci-layout://d").expect("the layout is looked for later");
        assert!(matches!(context, NamedContext::Layout(_)), "{context:?}");
        assert!(named("lib=/nowhere/at/all").is_err());
    }
}
