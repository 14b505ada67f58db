//! Where an image is: what a user names a source or a target of images with. Opens nothing.
//!
//! | text | place |
//! |---|---|
//! | `NAME[:TAG][@DIGEST]`, digest or start of one | the store; what is not there, its registry |
//! | `docker://NAME[:TAG][@DIGEST]` | a registry, whatever the store holds |
//! | `oci-layout://DIR[:TAG][@DIGEST]` | an OCI image layout directory |
//! | `oci-archive:FILE[:TAG][@DIGEST]` | the same as a tar file |
//! | `docker-archive:FILE[:NAME[:TAG]]` | what `docker save` writes |
//!
//! The spellings are those of BuildKit's contexts and of containers-transports(5), whose `oci:` and `dir:` are left out:
//! an image may be called so, and a directory be meant. Both are told how to be written.

use std::path::PathBuf;

use oci::Digest;
use oci::digest::Algorithm;
use oci::reference::Reference;

use crate::failure::{Class, Failure};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// By a name or a digest: in the store, or in the registry of the name.
    Named(String),
    /// In a registry.
    Registry(Reference),
    /// In an OCI image layout directory.
    Layout(PathBuf, Version),
    /// In a tar file of an OCI image layout.
    OciArchive(PathBuf, Version),
    /// In a tar file as `docker save` writes it, under this name.
    DockerArchive(PathBuf, Option<Reference>),
}

/// Which image of a layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Version {
    /// By name: `org.opencontainers.image.ref.name`.
    pub tag: Option<String>,
    /// By digest.
    pub digest: Option<Digest>,
}

/// Spellings of the places, the longer ones of a beginning first.
const SCHEMES: &[(&str, Scheme)] = &[
    ("docker://", Scheme::Registry),
    ("docker-image://", Scheme::Registry),
    ("oci-layout://", Scheme::Layout),
    ("oci-layout:", Scheme::Layout),
    ("oci-archive:", Scheme::OciArchive),
    ("docker-archive:", Scheme::DockerArchive),
];

/// Directories of containers-transports(5). `oci` and `dir` may be images, but nobody means these where a tag follows.
const PATHS: &[&str] = &["oci:", "dir:"];

/// Places of containers-transports(5) that need a daemon, or a library of the tool whose storage it is.
const DAEMONS: &[&str] = &["docker-daemon:", "containers-storage:"];

#[derive(Debug, Clone, Copy)]
enum Scheme {
    Registry,
    Layout,
    OciArchive,
    DockerArchive,
}

impl Location {
    /// Says what a user means with `text`.
    ///
    /// # Errors
    /// A usage failure where the path is empty, or name, tag or digest are none.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        Self::explicit(text)?.map_or_else(|| named(text), Ok)
    }

    /// Returns the place that `text` names by its scheme; `None` where it has none of ours.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn explicit(text: &str) -> Result<Option<Self>, Failure> {
        let found = SCHEMES.iter().find_map(|(prefix, scheme)| Some((text.strip_prefix(prefix)?, *scheme)));
        let Some((rest, scheme)) = found else { return Ok(None) };
        let unusable = |why: &str| {
            let fix = "write oci-layout://DIR[:TAG][@DIGEST], docker-archive:FILE[:NAME] or NAME[:TAG]";
            Failure::new(Class::Usage, &["unusable image", text, why, fix])
        };
        let reference = |name: &str| name.parse::<Reference>().map_err(|error| unusable(&error.to_string()));
        match scheme {
            Scheme::Registry => Ok(Some(Self::Registry(reference(rest)?))),
            Scheme::Layout | Scheme::OciArchive => {
                let (path, version) = version(rest).map_err(|why| unusable(&why))?;
                if path.as_os_str().is_empty() {
                    return Err(unusable("there is no path"));
                }
                Ok(Some(match scheme {
                    Scheme::OciArchive => Self::OciArchive(path, version),
                    Scheme::Layout | Scheme::Registry | Scheme::DockerArchive => Self::Layout(path, version),
                }))
            }
            Scheme::DockerArchive => {
                let (path, name) =
                    rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
                if path.is_empty() {
                    return Err(unusable("there is no path"));
                }
                Ok(Some(Self::DockerArchive(path.into(), name.map(reference).transpose()?)))
            }
        }
    }
}

impl Location {
    /// Returns the name whose registry the place is in, or would be.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Self::Named(name) => name.parse().ok(),
            Self::Registry(reference) => Some(reference.clone()),
            Self::Layout(..) | Self::OciArchive(..) | Self::DockerArchive(..) => None,
        }
    }
}

/// A name, unless it is none and looks like what others write for a place, or like a path.
fn named(text: &str) -> Result<Location, Failure> {
    let unusable = |why: &str, fix: &str| Failure::new(Class::Usage, &["unusable image", text, why, fix]);
    if DAEMONS.iter().any(|scheme| text.starts_with(scheme)) {
        let why = "images of a daemon or of another tool's storage are not read";
        return Err(unusable(why, "save it there, and name the file: docker-archive:FILE"));
    }
    let reference = text.parse::<Reference>();
    if let Some(scheme) = PATHS.iter().find(|scheme| text.starts_with(**scheme)) {
        // `oci:5000/app` is of a registry at that host.
        return match &reference {
            Ok(reference) if reference.registry.starts_with(scheme) => Ok(Location::Named(text.to_owned())),
            Ok(reference) => Err(unusable(
                "other tools mean a directory by it",
                &format!("{}; the image of that name is {reference}", in_our_words(scheme, text)),
            )),
            Err(_) => Err(unusable("a directory is named by another word", &in_our_words(scheme, text))),
        };
    }
    match reference {
        Err(_) if text.starts_with(['/', '.', '~']) => Err(unusable(
            "a path alone is no image",
            &format!("write oci-layout://{text}, oci-archive:{text} or docker-archive:{text}"),
        )),
        Ok(_) | Err(_) => Ok(Location::Named(text.to_owned())),
    }
}

/// What to write instead of a place of [`PATHS`].
fn in_our_words(scheme: &str, text: &str) -> String {
    match text.strip_prefix("oci:") {
        Some(path) => format!("write oci-layout://{path}"),
        None => format!(
            "what skopeo keeps in {scheme} is not read: copy it to oci:DIR and write oci-layout://DIR"
        ),
    }
}

/// Splits `DIR[:TAG][@DIGEST]`. The path of a layout may hold colons where a slash follows them.
fn version(text: &str) -> Result<(PathBuf, Version), String> {
    // A path may hold an '@' too, as Jenkins' second workspace of a job does.
    let is_digest = |digest: &str| {
        digest
            .split_once(':')
            .is_some_and(|(name, _)| Algorithm::ALL.iter().any(|known| known.name() == name))
    };
    let (text, digest) = match text.rsplit_once('@').filter(|(_, digest)| is_digest(digest)) {
        Some((text, digest)) => (text, Some(digest.parse().map_err(|error| format!("{error}"))?)),
        None => (text, None),
    };
    // `host:port/name:tag` is a name that exports write as `ref.name` too.
    let (path, tag) = match text.split_once(':').filter(|(path, _)| !path.is_empty()) {
        Some((path, tag)) => (path, Some(tag)),
        None => (text, None),
    };
    if tag.is_some_and(str::is_empty) {
        return Err("the tag is empty".to_owned());
    }
    Ok((path.into(), Version { tag: tag.map(str::to_owned), digest }))
}

/// Parses the name of an image.
///
/// # Errors
/// A usage failure.
pub fn reference(name: &str) -> Result<Reference, Failure> {
    match Location::parse(name)? {
        Location::Named(_) => {}
        Location::Registry(_)
        | Location::Layout(..)
        | Location::OciArchive(..)
        | Location::DockerArchive(..) => {
            let fix = "`xbuild copy IMAGE PLACE` writes there";
            return Err(Failure::new(Class::Usage, &["unusable image name", name, "it is a place", fix]));
        }
    }
    name.parse().map_err(|error| {
        Failure::new(Class::Usage, &["unusable image name", name, &format!("{error}"), "write NAME[:TAG]"])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<Location>) {
        assert_eq!(Location::parse(text).ok(), expect, "{text}");
    }

    fn layout(path: &str, tag: Option<&str>) -> Option<Location> {
        Some(Location::Layout(path.into(), Version { tag: tag.map(str::to_owned), digest: None }))
    }

    #[test]
    fn places_are_told_by_their_scheme() {
        check("app", Some(Location::Named("app".to_owned())));
        check("localhost:5000/app", Some(Location::Named("localhost:5000/app".to_owned())));
        check("docker://h/app:1", Some(Location::Registry("h/app:1".parse().unwrap())));
        check("oci-layout://d", layout("d", None));
        check("oci-layout:///abs/d:1", layout("/abs/d", Some("1")));
        check("oci-layout:d:1", layout("d", Some("1")));
        check("oci:5000/app", Some(Location::Named("oci:5000/app".to_owned())));
        check("oci", Some(Location::Named("oci".to_owned())));
        check("oci-layout:ws/job@2", layout("ws/job@2", None));
        check("oci-layout:ws/job@2:1", layout("ws/job@2", Some("1")));
        check("oci-layout://d:h:5000/app:1", layout("d", Some("h:5000/app:1")));
        check("docker-archive:a.tar", Some(Location::DockerArchive("a.tar".into(), None)));
        let named = Some("h:5000/app:1".parse().unwrap());
        check("docker-archive:a.tar:h:5000/app:1", Some(Location::DockerArchive("a.tar".into(), named)));
    }

    #[test]
    fn digests_choose_from_a_layout() {
        let digest = Digest::of(b"x");
        let version = Version { tag: None, digest: Some(digest) };
        check(&format!("oci-layout://d@{digest}"), Some(Location::Layout("d".into(), version)));
    }

    fn check_hint(text: &str, part: &str) {
        let failure = Location::parse(text).unwrap_err();
        assert!(failure.class == Class::Usage && failure.line.contains(part), "{failure}");
    }

    #[test]
    fn what_others_write_for_places_is_told_in_our_words() {
        check_hint("oci:out:1", "write oci-layout://out:1");
        check_hint("oci:/abs/out", "write oci-layout:///abs/out");
        check_hint("dir:/abs/out", "oci-layout://DIR");
        check_hint("oci:foo", "write oci-layout://foo; the image of that name is docker.io/library/oci:foo");
        check_hint("dir:foo", "the image of that name is docker.io/library/dir:foo");
        check_hint("/tmp/x.tar", "docker-archive:/tmp/x.tar");
        check_hint("./x", "oci-layout://./x");
        check_hint("docker-daemon:app:1", "docker-archive:FILE");
        check("Not A Name", Some(Location::Named("Not A Name".to_owned())));
    }

    #[test]
    fn unusable_places_are_refused() {
        for text in [
            "docker://",
            "docker://a/B",
            "oci-layout://",
            "oci-layout://d:",
            "oci-layout://d@sha256:1",
            "docker-archive:",
            "docker-archive:a.tar:B@",
            "docker-daemon:app:1",
            "containers-storage:app",
        ] {
            check(text, None);
        }
    }
}
