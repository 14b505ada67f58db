//! Image references: the grammar of distribution/reference with Docker Hub's defaults filled in.
//!
//! It parses and prints names. It resolves nothing: where a registry is reached and which image a name stands
//! for is for `registry` and `layout`.

use std::fmt;
use std::str::FromStr;

use crate::{Digest, digest::DigestError};

/// The registry of names that carry none.
pub const DOCKER_HUB: &str = "docker.io";

/// The host that serves [`DOCKER_HUB`]; docker.io itself is a web site.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The name that old clients gave Docker Hub; it still stands in credential files.
const DOCKER_HUB_LEGACY: &str = "index.docker.io";

/// The namespace of Docker Hub's official images.
const OFFICIAL: &str = "library/";

/// The tag that is meant where neither tag nor digest is given.
pub const DEFAULT_TAG: &str = "latest";

/// Longest repository name including its namespace (distribution/reference `RepositoryNameTotalLengthMax`).
const NAME_LIMIT: usize = 255;

/// Longest tag (distribution-spec, "Pulling manifests").
const TAG_LIMIT: usize = 128;

/// An image name with every default of its registry and namespace filled in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// `host` or `host:port`, such as `docker.io` or `localhost:5000`.
    pub registry: String,
    /// Path within the registry, such as `library/alpine`.
    pub repository: String,
    /// The tag as written; absent is not `latest` yet.
    pub tag: Option<String>,
    /// The digest, which wins over the tag when both are given.
    pub digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct ReferenceError {
    /// The text, cut to a length that fits a line.
    pub text: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// There is no name.
    #[error("repository name must have at least one component")]
    Empty,
    /// 64 hexadecimal digits name an image by its id, which no registry can resolve.
    #[error("cannot specify 64-byte hexadecimal strings, write NAME@sha256:<digits>")]
    Identifier,
    /// The path has upper-case letters.
    #[error("repository name must be lowercase")]
    Uppercase,
    /// The name is longer than 255 bytes.
    #[error("repository name must not be more than {NAME_LIMIT} characters")]
    TooLong,
    /// The part before the first slash is no host.
    #[error("{0:?} is not a registry host")]
    Registry(String),
    /// The port is not in 1..=65535.
    #[error("{0:?} is not a port")]
    Port(String),
    /// A component of the path has characters that it may not have.
    #[error("invalid reference format: {0:?} is not a path component (a-z, 0-9, separated by . _ __ or -)")]
    Component(String),
    /// The tag has characters that it may not have, or more than 128.
    #[error("invalid reference format: {0:?} is not a tag ([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})")]
    Tag(String),
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Returns registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the host and port to connect to for [`Self::registry`].
    pub fn registry_host(&self) -> &str {
        if self.registry == DOCKER_HUB { DOCKER_HUB_HOST } else { &self.registry }
    }

    /// Returns registry and repository, without tag and digest.
    pub fn place(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the reference with `latest` where it has neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Returns the reference that names exactly `digest` in the same repository, without a tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns what stands behind the repository in a registry's URLs: the digest, else the tag, else `latest`.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }

    /// Returns the short form that users write: `docker.io/library/alpine:3` is `alpine:3`. Where that would be
    /// read as something else (`docker.io/ghcr.io/a`), it is the full form.
    pub fn familiar(&self) -> String {
        let name = match (self.registry.as_str(), self.repository.strip_prefix(OFFICIAL)) {
            (DOCKER_HUB, Some(official)) if !official.contains('/') => official.to_owned(),
            (DOCKER_HUB, _) => self.repository.clone(),
            _ => self.name(),
        };
        let short = name + &self.suffix();
        if short.parse().as_ref() == Ok(self) { short } else { self.to_string() }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.map(|digest| format!("@{digest}"));
        tag.unwrap_or_default() + &digest.unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|reason| ReferenceError { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, Reason> {
    if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Reason::Identifier);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse()?)),
        None => (text, None),
    };
    let (registry, path) = split_registry(rest);
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(parse_tag(tag)?)),
        None => (path, None),
    };
    if path.is_empty() {
        return Err(Reason::Empty);
    }
    check_registry(&registry)?;
    check_path(path)?;
    let official = registry == DOCKER_HUB && !path.contains('/');
    let repository = if official { format!("{OFFICIAL}{path}") } else { path.to_owned() };
    if repository.len() > NAME_LIMIT {
        return Err(Reason::TooLong);
    }
    Ok(Reference { registry, repository, tag, digest })
}

/// The first component is a registry if it could not be a namespace of Docker Hub: it is `localhost`, has a dot
/// or a port, or has an upper-case letter (distribution/reference `splitDockerDomain`).
///
/// Hosts are the same in either case (RFC 9110 §4.2.3), so they are kept in lower case: credentials and settings are
/// found by them. One that is a host only for its upper-case letters stays as it is.
fn split_registry(text: &str) -> (String, &str) {
    let hub = |path| (DOCKER_HUB.to_owned(), path);
    let Some((first, path)) = text.split_once('/') else { return hub(text) };
    let lower = first.to_ascii_lowercase();
    match lower.as_str() {
        DOCKER_HUB_LEGACY => hub(path),
        "localhost" => (lower, path),
        _ if first.contains(['.', ':']) => (lower, path),
        _ if first != lower => (first.to_owned(), path),
        _ => hub(text),
    }
}

fn check_registry(registry: &str) -> Result<(), Reason> {
    let no_host = || Reason::Registry(registry.to_owned());
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or_else(no_host)?;
            let hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
            if address.is_empty() || !address.bytes().all(hex) {
                return Err(no_host());
            }
            match after.strip_prefix(':') {
                Some(port) => return check_port(port),
                None if after.is_empty() => return Ok(()),
                None => return Err(no_host()),
            }
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !host.split('.').all(label) {
        return Err(no_host());
    }
    port.map_or(Ok(()), check_port)
}

fn check_port(port: &str) -> Result<(), Reason> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(1..) if digits => Ok(()),
        _ => Err(Reason::Port(port.to_owned())),
    }
}

fn check_path(path: &str) -> Result<(), Reason> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Reason::Uppercase);
    }
    match path.split('/').find(|component| !is_component(component.as_bytes())) {
        Some(component) => Err(Reason::Component(component.chars().take(100).collect())),
        None => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9');
    let ends = component.first().is_some_and(alphanumeric) && component.last().is_some_and(alphanumeric);
    let separator = |text: &[u8]| match text {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|byte| *byte == b'-'),
    };
    ends && component.split(alphanumeric).all(separator)
}

fn parse_tag(tag: &str) -> Result<String, Reason> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let valid = tag.len() <= TAG_LIMIT
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    if valid { Ok(tag.to_owned()) } else { Err(Reason::Tag(tag.chars().take(TAG_LIMIT).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

    fn check(text: &str, full: &str, familiar: &str) {
        let reference: Reference = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
        assert_eq!(full.parse(), Ok(reference.clone()), "the full form is stable");
        assert_eq!(familiar.parse(), Ok(reference), "the short form means the same");
    }

    #[test]
    fn defaults_are_filled_in() {
        check("alpine", "docker.io/library/alpine", "alpine");
        check("docker.io/a/b:1", "docker.io/a/b:1", "a/b:1");
        check("index.docker.io/alpine", "docker.io/library/alpine", "alpine");
        check("test_com/foo", "docker.io/test_com/foo", "test_com/foo");
        check("library/x/y", "docker.io/library/x/y", "library/x/y");
        check("localhost/a", "localhost/a", "localhost/a");
        check("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c");
        check("[::1]:5000/r", "[::1]:5000/r", "[::1]:5000/r");
        check("192.168.1.1/repo:5", "192.168.1.1/repo:5", "192.168.1.1/repo:5");
        let long = format!("sha512:{}", "f".repeat(128));
        for digest in [DIGEST, &long] {
            let both = format!("a:t@{digest}");
            check(&both, &format!("docker.io/library/{both}"), &both);
        }
        check("e/a--b__c.d", "docker.io/e/a--b__c.d", "e/a--b__c.d");
        check("docker.io/ghcr.io/a", "docker.io/ghcr.io/a", "docker.io/ghcr.io/a");
        check("LocalHost/a", "localhost/a", "localhost/a");
        check("Harbor.Example:5000/a:B", "harbor.example:5000/a:B", "harbor.example:5000/a:B");
        check("Index.Docker.IO/alpine", "docker.io/library/alpine", "alpine");
        check("MyHost/a", "MyHost/a", "MyHost/a");
    }

    #[test]
    fn df_13_refuses_what_is_no_reference() {
        let long = format!("a/{}", "b".repeat(4096));
        let refused = [
            "",
            ":tag",
            &format!("a@sha512:{}", "f".repeat(64)),
            &format!("a@sha512:{}", "F".repeat(128)),
            &format!("a@sha384:{}", "f".repeat(96)),
            "a@sha256:short",
            "A/b/C",
            "Bad",
            "user:pw@h/i",
            "h:99999/i",
            "h:0/i",
            "h:x/i",
            "h:/i",
            "../../x",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "a b",
            "a\0",
            "a_",
            "a___b",
            "a..b",
            "-a/b.c",
            "ab-.com/x",
            "[::1/x",
            "[fe80::1%eth0]:5000/r",
            "[::1]x/r",
            "oci-layout://../..",
            "a:-t",
            "a:",
            "a@",
            "da304e823d8ca2b9d863a3c897baeb852ba21ea9a9f1414736394ae7fcaf9821",
            "ä/b",
            "x/ä.com",
            &long,
        ];
        for text in refused {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was accepted");
        }
        assert!(format!("a:{}", "t".repeat(129)).parse::<Reference>().is_err());
        assert!(format!("a:{}", "t".repeat(128)).parse::<Reference>().is_ok());
    }

    #[test]
    fn the_registry_is_reached_at_its_host() {
        let hub: Reference = "alpine".parse().unwrap();
        assert_eq!(hub.registry_host(), "registry-1.docker.io");
        assert_eq!(hub.version(), "latest");
        assert_eq!(hub.with_default_tag().to_string(), "docker.io/library/alpine:latest");
        let other: Reference = format!("r.io:5/a:t@{DIGEST}").parse().unwrap();
        assert_eq!(other.registry_host(), "r.io:5");
        assert_eq!(other.version(), DIGEST);
        assert_eq!(other.with_default_tag().tag.as_deref(), Some("t"));
    }
}
