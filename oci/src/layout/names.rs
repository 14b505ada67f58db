//! The names in `index.json`: read-modify-write under a lock, replaced as a whole.
//!
//! Entries are kept as JSON values, so that what other tools wrote there survives our changes. The lock is on
//! the file `oci-layout`, which every layout has and nobody replaces.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{INDEX_LIMIT, Layout};
use crate::document::{self, digest_of, to_value};
use crate::error::{Error, Result};
use crate::lock::TemporaryFile;
use crate::{Descriptor, Digest, Reference, json};

/// The annotation by which OCI tools find an image in a layout (image-spec annotations.md).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation that holds a full, normalised name; containerd and BuildKit write it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

pub(super) const EMPTY_INDEX: &str =
    r#"{"manifests":[],"mediaType":"application/vnd.oci.image.index.v1+json","schemaVersion":2}"#;

/// An entry of a layout's index.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// The full name, or whatever a foreign tool wrote; empty where the entry has no name.
    pub name: String,
    /// What it stands for.
    pub descriptor: Descriptor,
}

/// Whether an edit changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edited {
    Yes,
    No,
}

impl Layout {
    /// Returns all entries of the index in its order.
    ///
    /// # Errors
    /// [`Error::NoLayout`] where `index.json` is missing or damaged.
    pub fn names(&self) -> Result<Vec<Named>> {
        let index = self.read_index()?;
        let entry = |value: &Value| {
            let descriptor =
                document::from_value(value).map_err(|error| self.bad_index(error.to_string()))?;
            digest_of(&descriptor)?;
            Ok(Named { name: name_of(value).unwrap_or_default().to_owned(), descriptor })
        };
        let manifests = index.get("manifests").and_then(Value::as_array);
        let manifests = manifests.ok_or_else(|| self.bad_index("it has no manifests".to_owned()))?;
        manifests.iter().map(entry).collect()
    }

    /// Returns what `name` stands for: a full name, a short one, or the text of an entry's `ref.name`.
    ///
    /// # Errors
    /// As [`Self::names`]; an unknown name is `None`, whether or not it could be one.
    pub fn resolve(&self, name: &str) -> Result<Option<Descriptor>> {
        let names = self.names()?;
        let listed = listed_as(names.iter().map(|entry| entry.name.as_str()), name);
        let found = listed.and_then(|name| names.iter().find(|entry| entry.name == name));
        Ok(found.map(|entry| entry.descriptor.clone()))
    }

    /// Gives `reference` (with `latest` where it has no tag) to the manifest or index of `descriptor`, taking it
    /// from whatever had it. The index is fsynced; it is not written where nothing changes.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn tag(&self, reference: &Reference, descriptor: &Descriptor) -> Result<()> {
        let name = reference.clone().with_default_tag().to_string();
        self.tag_as(&[(name.clone(), name)], descriptor)
    }

    /// Lists `descriptor` under each (full name, `ref.name`), as exports of one image do.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn tag_as(&self, names: &[(String, String)], descriptor: &Descriptor) -> Result<()> {
        self.edit(|manifests| {
            let wanted: Vec<Value> =
                names.iter().map(|(full, short)| entry(descriptor, full, short)).collect();
            if wanted.iter().all(|entry| manifests.contains(entry)) {
                return Edited::No;
            }
            manifests.retain(|old| !names.iter().any(|(full, _)| name_of(old) == Some(full)));
            manifests.extend(wanted);
            Edited::Yes
        })
    }

    /// Lists `descriptor` under a `ref.name` that is no full name, taking it from whatever had it.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn tag_ref(&self, ref_name: &str, descriptor: &Descriptor) -> Result<()> {
        self.edit(|manifests| {
            let mut wanted = to_value(descriptor);
            let annotations = wanted.as_object_mut().map(|entry| entry.entry("annotations"));
            if let Some(annotations) = annotations {
                annotations.or_insert_with(|| json!({}))[REF_NAME] = ref_name.into();
            }
            if manifests.contains(&wanted) {
                return Edited::No;
            }
            let has = |entry: &Value| {
                entry.get("annotations").and_then(|annotations| annotations.get(REF_NAME)?.as_str())
                    == Some(ref_name)
            };
            manifests.retain(|old| !has(old));
            manifests.push(wanted);
            Edited::Yes
        })
    }

    /// Lists `descriptor` without a name, where it is not listed yet.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn list(&self, descriptor: &Descriptor) -> Result<()> {
        self.edit(|manifests| {
            let digest = descriptor.digest().as_ref();
            if manifests.iter().any(|old| old.get("digest").and_then(Value::as_str) == Some(digest)) {
                return Edited::No;
            }
            manifests.push(to_value(descriptor));
            Edited::Yes
        })
    }

    /// Takes a name away; returns what it stood for.
    ///
    /// # Errors
    /// [`Error::UnknownName`], and as [`Self::tag`].
    pub fn untag(&self, name: &str) -> Result<Descriptor> {
        let mut removed = None;
        self.edit(|manifests| {
            let Some(name) = listed_as(manifests.iter().filter_map(name_of), name) else {
                return Edited::No;
            };
            removed = manifests.iter().find(|entry| name_of(entry) == Some(&name)).cloned();
            manifests.retain(|entry| name_of(entry) != Some(&name));
            Edited::Yes
        })?;
        let unknown = || Error::UnknownName { name: name.to_owned(), layout: self.root.clone() };
        document::from_value(&removed.ok_or_else(unknown)?).map_err(|error| self.bad_index(error.to_string()))
    }

    /// Takes away the entry without a name that [`Self::list`] makes; one that is not there is gone already.
    ///
    /// # Errors
    /// As [`Self::tag`].
    pub fn unlist(&self, digest: &Digest) -> Result<()> {
        let digest = digest.to_string();
        self.edit(|manifests| {
            let before = manifests.len();
            manifests.retain(|entry| {
                let is_named = name_of(entry).is_some_and(|name| !name.is_empty());
                is_named || entry.get("digest").and_then(Value::as_str) != Some(&digest)
            });
            if manifests.len() == before { Edited::No } else { Edited::Yes }
        })
    }

    fn edit(&self, change: impl FnOnce(&mut Vec<Value>) -> Edited) -> Result<()> {
        let path = self.index_path();
        let _lock = self.lock_index()?;
        let mut index = self.read_index()?;
        let manifests = index.get_mut("manifests").and_then(Value::as_array_mut);
        let manifests = manifests.ok_or_else(|| self.bad_index("it has no manifests".to_owned()))?;
        if change(manifests) == Edited::No {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&index).expect("a value serialises");
        let mut temporary = TemporaryFile::create(&self.blobs())?;
        temporary.file.write_all(&bytes).map_err(Error::io("write", &path))?;
        temporary.file.sync_all().map_err(Error::io("fsync", &path))?;
        temporary.persist(&path)
    }

    pub(super) fn lock_index(&self) -> Result<File> {
        let path = self.root.join("oci-layout");
        let file = self.open_file("oci-layout")?;
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(Error::io("lock", &path))?;
        Ok(file)
    }

    fn read_index(&self) -> Result<Value> {
        let mut bytes = Vec::new();
        let file = match self.open_file("index.json") {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(self.bad_index("the file is missing".to_owned()));
            }
            other => other?,
        };
        file.take(INDEX_LIMIT + 1).read_to_end(&mut bytes).map_err(Error::io("read", &self.index_path()))?;
        if bytes.len() as u64 > INDEX_LIMIT {
            return Err(self.bad_index(format!("it is larger than {INDEX_LIMIT} bytes")));
        }
        json::check_unique_keys(&bytes).map_err(|error| self.bad_index(error.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|error| self.bad_index(error.to_string()))
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn bad_index(&self, what: String) -> Error {
        Error::NoLayout { path: self.root.clone(), what: format!("index.json: {what}") }
    }
}

/// The name under which an index lists what `asked` means: its full form, else the very text, as foreign tools write
/// `ref.name`. An entry without a name is meant by no text, also not by one that is no reference and has no full form.
fn listed_as<'a>(names: impl Iterator<Item = &'a str> + Clone, asked: &str) -> Option<String> {
    let full = asked.parse::<Reference>().ok().map(|reference| reference.with_default_tag().to_string());
    let mut meant = full.into_iter().chain([asked.to_owned()]).filter(|name| !name.is_empty());
    meant.find(|meant| names.clone().any(|name| name == meant))
}

fn name_of(entry: &Value) -> Option<&str> {
    let annotations = entry.get("annotations")?;
    let name = annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME))?;
    name.as_str()
}

/// The entry for `descriptor` under a name; annotations of the descriptor itself are kept.
fn entry(descriptor: &Descriptor, full: &str, short: &str) -> Value {
    let mut entry = to_value(descriptor);
    let object = entry.as_object_mut().expect("a descriptor is an object");
    let annotations = object.entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(CONTAINERD_NAME.to_owned(), full.into());
        annotations.insert(REF_NAME.to_owned(), short.into());
    }
    entry
}
