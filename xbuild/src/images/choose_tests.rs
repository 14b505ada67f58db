//! Choosing an image of a layout by what a user wrote.

use oci::{Digest, document, media_type};

use super::*;

fn entry(number: u8, full: &str, ref_name: &str) -> Descriptor {
    let mut descriptor = document::descriptor(media_type::OCI_MANIFEST, Digest::of(&[number]), 1);
    let annotations = [(CONTAINERD_NAME, full), (REF_NAME, ref_name)];
    let annotations = annotations.into_iter().filter(|(_, value)| !value.is_empty());
    descriptor
        .set_annotations(Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()));
    descriptor
}

/// The number of the chosen entry; 0 where none is, and 255 where several could be.
fn check(entries: &[Descriptor], tag: Option<&str>, digest: Option<u8>, expect: u8) {
    let version = Version { tag: tag.map(str::to_owned), digest: digest.map(|number| Digest::of(&[number])) };
    let found = match choose(entries, &version, "oci-layout://d") {
        Ok(chosen) => (0..=9).find(|number| chosen.digest().as_ref() == Digest::of(&[*number]).to_string()),
        Err(failure) if failure.class == Class::Usage => Some(255),
        Err(_) => Some(0),
    };
    assert_eq!(found, Some(expect), "{version:?}");
}

#[test]
fn an_image_of_a_layout_is_chosen_by_name_tag_or_digest() {
    let exported = [
        entry(1, "docker.io/library/a:1", "1"),
        entry(2, "r.io:5/b:2", "2"),
        entry(3, "", "three"),
        entry(1, "docker.io/library/a:one", "one"),
    ];
    check(&exported, Some("1"), None, 1);
    check(&exported, Some("one"), None, 1);
    check(&exported, Some("a:1"), None, 1);
    check(&exported, Some("r.io:5/b:2"), None, 2);
    check(&exported, Some("three"), None, 3);
    check(&exported, Some("4"), None, 0);
    check(&exported, None, Some(2), 2);
    check(&exported, None, Some(4), 0);
    check(&exported, Some("1"), Some(2), 0);
    check(&exported, None, None, 255);
    check(&exported[..1], None, None, 1);
    check(&[], None, None, 0);
}

#[test]
fn of_a_store_the_tag_alone_may_be_ambiguous_and_latest_is_the_default() {
    let name = |number, name: &str| entry(number, name, name);
    let store = [
        name(1, "docker.io/library/a:1"),
        name(2, "docker.io/library/b:1"),
        name(3, "docker.io/library/c:latest"),
    ];
    check(&store, Some("1"), None, 255);
    check(&store, Some("b:1"), None, 2);
    check(&store, Some("docker.io/library/a:1"), None, 1);
    check(&store, Some("c"), None, 3);
    check(&store, None, None, 3);
}

#[test]
fn names_come_from_what_is_called_so() {
    let entries = [
        entry(1, "docker.io/library/a:1", "1"),
        entry(1, "docker.io/library/a:2", "2"),
        entry(3, "", "three"),
    ];
    let of = |number: usize, tag: Option<&str>| {
        let version = Version { tag: tag.map(str::to_owned), digest: None };
        names(&entries, &entries[number], &version).iter().map(Reference::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of(0, None), ["docker.io/library/a:1", "docker.io/library/a:2"]);
    assert_eq!(of(0, Some("2")), ["docker.io/library/a:2"]);
    assert_eq!(of(2, None), [""; 0]);
}
