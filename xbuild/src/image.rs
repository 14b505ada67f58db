//! Images of the store, as commands name them: a name, a short name, a digest or the start of one.

use oci::digest::Algorithm;
use oci::document::{self, Config, Descriptor, Manifest, Root};
use oci::layout::Layout;
use oci::reference::{Reason, Reference, ReferenceError};
use oci::{Digest, Platform};

use crate::failure::{Class, Failure};

/// An image with its documents read.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// What the name stands for: a manifest, or an index of several platforms.
    pub descriptor: Descriptor,
    /// The manifest of the platform.
    pub manifest: Manifest,
    /// Its config.
    pub config: Config,
}

/// Finds an image by what a user typed.
///
/// # Errors
/// A source failure where nothing in the store is called so, store failures where it is damaged.
pub fn load(layout: &Layout, name: &str, platform: &Platform) -> Result<StoredImage, Failure> {
    read(layout, find(layout, name)?, platform)
}

/// Returns the descriptor of what a user typed.
///
/// # Errors
/// As [`load`].
pub fn find(layout: &Layout, name: &str) -> Result<Descriptor, Failure> {
    if let Some(descriptor) = layout.resolve(name)? {
        return Ok(descriptor);
    }
    // As a base, an image by name and digest is that one, whatever tag the name has here.
    if let Some((_, descriptor)) = called(layout, name)?.into_iter().next() {
        return Ok(descriptor);
    }
    let named = Algorithm::ALL.into_iter().find_map(|algorithm| {
        name.strip_prefix(algorithm.name())?.strip_prefix(':').map(|hex| (Some(algorithm), hex))
    });
    let (algorithm, hex) = named.unwrap_or((None, name));
    let is_id = (6..=128).contains(&hex.len()) && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found: Vec<Descriptor> = Vec::new();
    for entry in layout.names()?.into_iter().filter(|_| is_id) {
        let digest = document::digest_of(&entry.descriptor).map_err(oci::Error::from)?;
        let known = found.iter().any(|other| other.digest() == entry.descriptor.digest());
        let is_of = algorithm.is_none_or(|algorithm| algorithm == digest.algorithm());
        if is_of && digest.hex().starts_with(hex) && !known {
            found.push(entry.descriptor);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(unknown(name)),
        count => Err(Failure::new(
            Class::Usage,
            &["ambiguous image", name, &format!("{count} images start so"), "give more digits"],
        )),
    }
}

/// Returns the names of the repository of `NAME[:TAG]@DIGEST` that stand for that digest, with what they stand for;
/// none where `name` is none such.
///
/// # Errors
/// Store failures.
pub fn called(layout: &Layout, name: &str) -> Result<Vec<(Reference, Descriptor)>, Failure> {
    let wanted = name.parse::<Reference>().ok();
    let Some((wanted, digest)) = wanted.and_then(|wanted| Some((wanted.place(), wanted.digest?))) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in layout.names()? {
        let named = entry.name.parse::<Reference>().ok().filter(|named| named.place() == wanted);
        if let Some(named) = named
            && entry.descriptor.digest().to_string() == digest.to_string()
        {
            found.push((named, entry.descriptor));
        }
    }
    Ok(found)
}

/// Reads the documents of an image.
///
/// # Errors
/// Store failures.
pub fn read(layout: &Layout, descriptor: Descriptor, platform: &Platform) -> Result<StoredImage, Failure> {
    let mut root = layout.read_root(&descriptor)?;
    // The last turn is for the manifest below.
    for _ in 0..=document::INDEX_DEPTH {
        match root {
            Root::Manifest(manifest) => {
                let config = config(layout, &manifest)?;
                return Ok(StoredImage { descriptor, manifest, config });
            }
            Root::Index(index) => {
                let chosen = document::select(&index.parsed, platform)
                    .map_err(|source| oci::Error::document(format!("index {}", index.digest), source))?;
                root = layout.read_root(chosen)?;
            }
        }
    }
    let origin = descriptor.digest().to_string();
    Err(oci::Error::document(origin, document::DocumentError::TooDeep).into())
}

/// Reads the config that a manifest names.
///
/// # Errors
/// Where it is missing or damaged.
pub fn config(layout: &Layout, manifest: &Manifest) -> Result<Config, oci::Error> {
    let raw = layout.read_verified(manifest.parsed.config(), document::DOCUMENT_LIMIT)?;
    Config::parse(raw, &manifest.parsed)
        .map_err(|source| oci::Error::document(format!("config of {}", manifest.digest), source))
}

/// Returns the digest of an image: what `-q` prints and what a registry knows it by.
pub fn digest(descriptor: &Descriptor) -> Result<Digest, Failure> {
    Ok(document::digest_of(descriptor).map_err(oci::Error::from)?)
}

/// Says that the store has no image of that name.
pub fn unknown(name: &str) -> Failure {
    let what = "no such image in the store";
    match name.parse::<Reference>() {
        Err(ReferenceError { reason, .. }) if reason != Reason::Identifier => {
            let fix = "write NAME[:TAG], or a digest, of `xbuild images`";
            Failure::new(Class::Usage, &[what, name, &reason.to_string(), fix])
        }
        Ok(_) | Err(_) => {
            let fix = "see `xbuild images`, or `xbuild pull` it";
            Failure::new(Class::Source, &[what, name, "nothing is tagged so", fix])
        }
    }
}
