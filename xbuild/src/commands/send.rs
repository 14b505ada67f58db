//! Sending an image of the store to registries under several names, and what a failure tells. Reads no image;
//! `images` says what goes along.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use oci::reference::Reference;
use oci::registry::{PushImage, Pushed, plan_push};
use oci::{Digest, Store};

use crate::failure::{Class, Failure};
use crate::images::{check_digest, damage};
use crate::registries::Registries;
use crate::whereabouts;

/// Blobs that are known to be in repositories, by [`Reference::place`].
pub type There = BTreeMap<String, BTreeSet<Digest>>;

/// A repository and the tags that the image gets in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Registry and repository, without a tag.
    pub place: Reference,
    /// The names that were given.
    pub names: Vec<Reference>,
}

/// Returns the repositories of `names`, those of one registry together.
pub fn by_registry(names: &[Reference]) -> Vec<Vec<Repository>> {
    let mut registries: BTreeMap<&str, BTreeMap<&str, Repository>> = BTreeMap::new();
    for name in names {
        let place = Reference { tag: None, digest: None, ..name.clone() };
        let repositories = registries.entry(&name.registry).or_default();
        let repository =
            repositories.entry(&name.repository).or_insert(Repository { place, names: Vec::new() });
        let name = name.clone().with_default_tag();
        if !repository.names.contains(&name) {
            repository.names.push(name);
        }
    }
    registries.into_values().map(|repositories| repositories.into_values().collect()).collect()
}

/// Sends `image` under all of `names`: registries at once, repositories of one registry one after the other, so that
/// each blob is linked into the second instead of sent again. `there` need not be asked for.
///
/// # Errors
/// Push failures, after all that could be sent was; they name the command that repeats only the push.
pub async fn send(
    store: &Store,
    registries: &Registries,
    image: &PushImage,
    names: &[Reference],
    there: &There,
) -> Result<Vec<Pushed>, Failure> {
    let client = registries.client()?;
    check_digests(image, names)?;
    let by_registry = by_registry(names);
    let sends = by_registry.iter().map(|repositories| async move {
        let mut image = image.clone();
        let registry = repositories.first().map_or("", |repository| &repository.place.registry);
        for blob in &mut image.blobs {
            blob.found_in.extend(whereabouts::pushed(store, registry, &blob.digest));
        }
        let mut results = Vec::new();
        for repository in repositories {
            let none = BTreeSet::new();
            if let Some(root) = image.documents.last_mut() {
                root.tags = repository.names.iter().filter_map(|name| name.tag.clone()).collect();
            }
            let plan = plan_push(&repository.place, &image);
            let known = there.get(&repository.place.place()).unwrap_or(&none);
            let result = client.push_rest(&plan, known).await;
            if result.is_ok() {
                repository.names.iter().for_each(|name| registries.tell(format!("pushed {name}")));
                for blob in &mut image.blobs {
                    blob.found_in.insert(0, repository.place.clone());
                    // Without the note, a push to another repository sends what it could link.
                    let _ = whereabouts::note_pushed(store, &repository.place, &blob.digest);
                }
            }
            results.push((repository, result));
        }
        results
    });
    let mut pushed = Vec::new();
    let mut lost: Vec<(&Repository, Failure)> = Vec::new();
    for (repository, result) in join_all(sends).await.into_iter().flatten() {
        match result {
            Ok(done) => pushed.push(done),
            Err(error) => lost.push((repository, damage::pushed(store, error))),
        }
    }
    match lost.is_empty() {
        true => Ok(pushed),
        false => Err(repeatable(store, registries, image, lost)),
    }
}

/// Refuses names that say which image they mean, and mean another.
fn check_digests(image: &PushImage, names: &[Reference]) -> Result<(), Failure> {
    let Some(root) = image.documents.last() else { return Ok(()) };
    names.iter().try_for_each(|name| match name.digest {
        Some(digest) => check_digest(&name.to_string(), digest, root.digest),
        None => Ok(()),
    })
}

/// Adds to the failures of a push that the image is kept, and what repeats the push.
fn repeatable(
    store: &Store,
    registries: &Registries,
    image: &PushImage,
    mut lost: Vec<(&Repository, Failure)>,
) -> Failure {
    let digest = image.documents.last().map(|root| root.digest.to_string()).unwrap_or_default();
    let names = lost.iter().flat_map(|(repository, _)| &repository.names);
    let program = |name: &Reference| {
        let mut words = vec!["xbuild".to_owned()];
        words.extend(root_flag(store));
        words.extend(["push".to_owned(), digest.clone(), name.to_string()]);
        words.extend(registries.flags().iter().cloned());
        words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
    };
    let commands: Vec<_> = names.map(program).collect();
    let lines: Vec<_> = lost.iter().map(|(_, failure)| failure.line.as_str()).collect();
    // A part of the image is gone: nothing repeats the push before that is there again.
    if let Some(at) = lost.iter().position(|(_, failure)| failure.class == Class::Store) {
        let line = lines.join("; ");
        return Failure { line, ..lost.swap_remove(at).1 };
    }
    // What is wrong with the command itself stays wrong.
    let again = match lost.iter().all(|(_, failure)| failure.class == Class::Usage) {
        true => format!("`xbuild push {digest}` pushes it alone then"),
        false => format!("`{}` repeats the push alone", commands.join(" && ")),
    };
    let line = format!("{} — {digest} is kept in the store; {again}", lines.join("; "));
    // Whatever stood in the way, it is the push that failed; only refusals of our own are told apart.
    let class = lost.iter().map(|(_, failure)| failure.class).find(|class| *class == Class::Push);
    let first = lost.into_iter().next().map(|(_, failure)| failure);
    let failure = first.unwrap_or_else(|| Failure::new(Class::Push, &[]));
    Failure { class: class.unwrap_or(failure.class), line, ..failure }
}

/// Returns `--root DIR` where the store is not the one that a command finds by itself.
fn root_flag(store: &Store) -> Vec<String> {
    match crate::root_directory(None) {
        Ok(usual) if usual == store.root() => Vec::new(),
        Ok(_) | Err(_) => vec!["--root".to_owned(), store.root().display().to_string()],
    }
}

/// Returns a word as a shell reads it.
fn quoted(word: &str) -> String {
    match word.chars().all(|char| char.is_ascii_alphanumeric() || "/._-+@:,=".contains(char))
        && !word.is_empty()
    {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_words_in_a_shell() {
        let words = ["--root", "/var/lib/x", "a b", "robot$ci", "it's", ""];
        let shown: Vec<_> = words.iter().map(|word| quoted(word)).collect();
        assert_eq!(shown, ["--root", "/var/lib/x", "'a b'", "'robot$ci'", r"'it'\''s'", "''"]);
    }

    #[test]
    fn names_of_one_repository_are_one_push() {
        let names = ["r:1/a:1", "q:1/a", "r:1/b:1", "r:1/a:2", "r:1/a:1", "q:1/a:latest"];
        let names: Vec<Reference> = names.iter().map(|name| name.parse().expect("a name")).collect();
        let shown: Vec<Vec<Vec<String>>> = by_registry(&names)
            .iter()
            .map(|registry| {
                let tags = |names: &[Reference]| names.iter().map(Reference::to_string).collect();
                registry.iter().map(|repository| tags(&repository.names)).collect()
            })
            .collect();
        let expected: &[&[&[&str]]] = &[&[&["q:1/a:latest"]], &[&["r:1/a:1", "r:1/a:2"], &["r:1/b:1"]]];
        assert_eq!(shown, expected);
    }
}
