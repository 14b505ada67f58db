//! `-o type=image` and `-o type=registry`: names in the store, pushes by tag and by digest, as buildx spells them.
//!
//! What is built is always kept in the store, so `type=image` alone changes nothing.

use oci::reference::Reference;

use super::annotation::{self, Annotation};
use super::{usage, values};
use crate::failure::Failure;

/// An output that is no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOutput {
    /// Names; where there are none, those of `-t`.
    pub names: Vec<Reference>,
    /// Whether it is pushed.
    pub push: PushBy,
    /// What it says about the image.
    pub annotations: Vec<Annotation>,
}

/// How an image is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushBy {
    /// Not at all.
    Nothing,
    /// Under the tags of its names.
    Tag,
    /// Without a tag.
    Digest,
}

/// Parses the fields of an output whose type is `image` or `registry`.
///
/// # Errors
/// Unknown keys and values that cannot be had.
pub fn parse(place: &str, kind: &str, fields: &[String]) -> Result<ImageOutput, Failure> {
    let (mut names, mut annotations) = (Vec::new(), Vec::new());
    let (mut push, mut by_digest) = (kind == "registry", false);
    for field in fields {
        let (key, value) = field.split_once('=').unwrap_or((field, "true"));
        if let Some(annotation) = annotation::of_output(place, key, value) {
            annotations.push(annotation?);
            continue;
        }
        match (key, value) {
            ("type", _) => {}
            ("name", value) => {
                for name in value.split(',') {
                    names.push(values::tag(place, name)?);
                }
            }
            ("push", value) => push = truth(place, key, value)?,
            ("push-by-digest", value) => by_digest = truth(place, key, value)?,
            // Everything in the store can be named by its digest.
            ("name-canonical", value) => drop(truth(place, key, value)?),
            // What is always so.
            ("store" | "oci-mediatypes", "true") | ("compression", "gzip") | ("unpack", "false") => {}
            ("rewrite-timestamp", "true") => {}
            _ => {
                let why = format!("unknown or unsupported {field:?}");
                let fix = "the keys are type, name, push, push-by-digest and annotation.KEY";
                return Err(usage(place, &why, fix));
            }
        }
    }
    let push = match (push, by_digest) {
        (false, false) => PushBy::Nothing,
        (false, true) => return Err(usage(place, "nothing is pushed", "add push=true")),
        (true, false) => PushBy::Tag,
        (true, true) => PushBy::Digest,
    };
    match names.iter().find(|name| push == PushBy::Digest && name.tag.is_some()) {
        Some(tagged) => {
            Err(usage(place, &format!("{tagged} has a tag, but is pushed by digest"), "leave the tag out"))
        }
        None => Ok(ImageOutput { names, push, annotations }),
    }
}

fn truth(place: &str, key: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(usage(place, &format!("{key}={other} is neither true nor false"), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<(&[&str], PushBy)>) {
        let fields = super::super::output::fields(text);
        let kind = if text.contains("type=registry") { "registry" } else { "image" };
        let found = parse("-o", kind, &fields)
            .ok()
            .map(|output| (output.names.iter().map(ToString::to_string).collect::<Vec<_>>(), output.push));
        let expect =
            expect.map(|(names, push)| (names.iter().map(|name| (*name).to_owned()).collect(), push));
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn images_are_named_and_pushed() {
        check("type=image", Some((&[], PushBy::Nothing)));
        check("type=registry", Some((&[], PushBy::Tag)));
        check("type=image,push=true", Some((&[], PushBy::Tag)));
        check("type=image,\"name=r:5/a:1,r:5/b\",push=true", Some((&["r:5/a:1", "r:5/b"], PushBy::Tag)));
        let canonical = "type=image,name=r:5/a,push-by-digest=true,name-canonical=true,push=true";
        check(canonical, Some((&["r:5/a"], PushBy::Digest)));
        check("type=image,oci-mediatypes=true,compression=gzip", Some((&[], PushBy::Nothing)));
    }

    #[test]
    fn what_cannot_be_had_is_refused() {
        for text in [
            "type=image,push=maybe",
            "type=image,push-by-digest=true",
            "type=image,name=r:5/a:1,push=true,push-by-digest=true",
            "type=image,name=a/B",
            "type=image,store=false",
            "type=image,oci-mediatypes=false",
            "type=image,compression=zstd",
            "type=image,dest=x",
        ] {
            check(text, None);
        }
    }
}
