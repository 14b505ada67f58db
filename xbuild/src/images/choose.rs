//! Which image of a layout a user means: by tag, by name or by digest. Reads nothing.
//!
//! A layout lists images under `org.opencontainers.image.ref.name`, which most tools fill with a tag alone, and some
//! under a full name beside it (`io.containerd.image.name`). Both count, and the tag of a full name does.

use oci::document::Descriptor;
use oci::layout::{CONTAINERD_NAME, REF_NAME};
use oci::reference::Reference;

use crate::failure::{Class, Failure};
use crate::location::Version;

/// Chooses from the entries of a layout's index.
pub fn choose(entries: &[Descriptor], version: &Version, shown: &str) -> Result<Descriptor, Failure> {
    let digest = version.digest.map(|digest| digest.to_string());
    let fits = |entry: &&Descriptor| digest.as_deref().is_none_or(|digest| entry.digest().as_ref() == digest);
    let fitting: Vec<_> = entries.iter().filter(fits).collect();
    let called = |name: &str, how: fn(&Descriptor, &str) -> bool| -> Vec<&Descriptor> {
        distinct(fitting.iter().copied().filter(|entry| how(entry, name)))
    };
    let found = match &version.tag {
        Some(tag) => {
            let exact = called(tag, is_called);
            if exact.is_empty() { called(tag, is_tagged) } else { exact }
        }
        None => {
            let all = distinct(fitting.iter().copied());
            let latest = called(oci::reference::DEFAULT_TAG, is_tagged);
            if all.len() > 1 && latest.len() == 1 { latest } else { all }
        }
    };
    let names = || {
        let names: Vec<_> = entries.iter().filter_map(shown_name).take(20).collect();
        if names.is_empty() {
            "its images have no names".to_owned()
        } else {
            format!("it has {}", names.join(", "))
        }
    };
    match found[..] {
        [chosen] => Ok(chosen.clone()),
        [] if entries.is_empty() => {
            Err(Failure::new(Class::Source, &["no such image", shown, "it is empty"]))
        }
        [] => {
            let wanted = version.tag.iter().cloned().chain(digest).collect::<Vec<_>>().join("@");
            Err(Failure::new(
                Class::Source,
                &["no such image", shown, &format!("nothing is called {wanted}; {}", names())],
            ))
        }
        _ => {
            let fix = "add :TAG or @DIGEST";
            Err(Failure::new(Class::Usage, &["several images in one place", shown, &names(), fix]))
        }
    }
}

/// Entries with different digests, each once.
fn distinct<'a>(entries: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut found: Vec<&Descriptor> = Vec::new();
    for entry in entries {
        if !found.iter().any(|other| other.digest() == entry.digest()) {
            found.push(entry);
        }
    }
    found
}

fn annotation<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.annotations().as_ref()?.get(key).map(String::as_str).filter(|name| !name.is_empty())
}

fn shown_name(entry: &Descriptor) -> Option<String> {
    annotation(entry, CONTAINERD_NAME).or_else(|| annotation(entry, REF_NAME)).map(str::to_owned)
}

/// Whether an entry has exactly this name.
fn is_called(entry: &Descriptor, name: &str) -> bool {
    let full = name.parse::<Reference>().map(|name| name.with_default_tag().to_string()).unwrap_or_default();
    let own = [annotation(entry, REF_NAME), annotation(entry, CONTAINERD_NAME)];
    own.into_iter().flatten().any(|own| own == name || own == full)
}

/// Whether the name of an entry ends in this tag.
fn is_tagged(entry: &Descriptor, tag: &str) -> bool {
    let ends = |own: &str| own.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':'));
    is_called(entry, tag) || shown_name(entry).is_some_and(|own| ends(&own))
}

/// The full names that the chosen image has in a layout; a tag alone is none.
pub fn names(entries: &[Descriptor], chosen: &Descriptor, version: &Version) -> Vec<Reference> {
    let mut names: Vec<Reference> = Vec::new();
    for entry in entries.iter().filter(|entry| entry.digest() == chosen.digest()) {
        let asked = version.tag.as_deref().is_none_or(|tag| is_tagged(entry, tag));
        let name = shown_name(entry).filter(|name| asked && name.contains('/'));
        let name = name.and_then(|name| name.parse::<Reference>().ok()).map(Reference::with_default_tag);
        names.extend(name.filter(|name| !names.contains(name)));
    }
    names
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
