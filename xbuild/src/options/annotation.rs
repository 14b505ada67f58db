//! `--annotation`: what is said about an image, and in which of its documents.
//!
//! `[TYPE[,TYPE]…:]KEY=VALUE`, where a type is `manifest`, `index`, `manifest-descriptor` or `index-descriptor`; those
//! of manifests may name a platform in brackets: `manifest[linux/amd64]`. The syntax is buildx's. Outputs have keys of
//! the same meaning: `annotation.KEY=VALUE`, `annotation-TYPE[PLATFORM].KEY=VALUE`.

use std::collections::BTreeMap;

use oci::Platform;

use super::usage;
use crate::failure::Failure;

/// A document, or the descriptor of one where it is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The manifest of an image.
    Manifest,
    /// What the index, or a layout's `index.json`, says of a manifest.
    ManifestDescriptor,
    /// The index of several platforms.
    Index,
    /// What a layout's `index.json` says of the index.
    IndexDescriptor,
}

/// One annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Where it goes; none is said where the text names no type.
    pub place: Option<Place>,
    /// The platform whose manifest is meant; all of them where there is none.
    pub platform: Option<Platform>,
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
}

/// What the types are.
const TYPES: &str = "the types are manifest, manifest-descriptor, index and index-descriptor";

/// Parses the value of `--annotation`.
///
/// # Errors
/// Where there is no key or no value, and for unknown types.
pub fn parse(flag: &str, text: &str) -> Result<Vec<Annotation>, Failure> {
    let shown = format!("{flag} {text}");
    let Some((name, value)) = text.split_once('=') else {
        return Err(usage(&shown, "there is no value", "write [TYPE:]KEY=VALUE"));
    };
    let (types, key) = match name.split_once(':') {
        Some((types, key)) => (types.split(',').collect(), key),
        None => (Vec::new(), name),
    };
    if key.is_empty() {
        return Err(usage(&shown, "the key is empty", "write [TYPE:]KEY=VALUE"));
    }
    if types.is_empty() {
        let (key, value) = (key.to_owned(), value.to_owned());
        return Ok(vec![Annotation { place: None, platform: None, key, value }]);
    }
    types.into_iter().map(|text| typed(&shown, text, key, value)).collect()
}

/// Parses `annotation…=VALUE` of an output; `None` for another key.
pub fn of_output(shown: &str, name: &str, value: &str) -> Option<Result<Annotation, Failure>> {
    let rest = name.strip_prefix("annotation")?;
    if let Some(key) = rest.strip_prefix('.').filter(|key| !key.is_empty()) {
        let (key, value) = (key.to_owned(), value.to_owned());
        return Some(Ok(Annotation { place: None, platform: None, key, value }));
    }
    let (kind, key) = rest.strip_prefix('-')?.split_once('.').filter(|(_, key)| !key.is_empty())?;
    Some(typed(shown, kind, key, value))
}

/// One type of `TYPE[PLATFORM]`.
fn typed(shown: &str, text: &str, key: &str, value: &str) -> Result<Annotation, Failure> {
    let (name, platform) = match text.split_once('[') {
        Some((name, rest)) => match rest.strip_suffix(']') {
            Some(platform) => (name, Some(platform)),
            None => return Err(usage(shown, "a bracket is not closed", "write TYPE[PLATFORM]:KEY=VALUE")),
        },
        None => (text, None),
    };
    let place = match name {
        "manifest" => Place::Manifest,
        "manifest-descriptor" => Place::ManifestDescriptor,
        "index" => Place::Index,
        "index-descriptor" => Place::IndexDescriptor,
        other => return Err(usage(shown, &format!("unknown annotation type {other:?}"), TYPES)),
    };
    if platform.is_some() && matches!(place, Place::Index | Place::IndexDescriptor) {
        return Err(usage(shown, "an index has no platform", "leave the brackets out"));
    }
    let platform = platform.map(|text| super::values::one_platform(shown, text)).transpose()?;
    Ok(Annotation { place: Some(place), platform, key: key.to_owned(), value: value.to_owned() })
}

/// Returns the annotations of a place; those of a manifest for a platform. The last one of a key wins, and what names
/// the platform wins over what does not.
pub fn of(annotations: &[Annotation], place: Place, platform: Option<&Platform>) -> BTreeMap<String, String> {
    let here = || annotations.iter().filter(|one| one.place.unwrap_or(Place::Manifest) == place);
    let general = here().filter(|one| one.platform.is_none());
    let particular = here().filter(|one| one.platform.is_some() && one.platform.as_ref() == platform);
    general.chain(particular).map(|one| (one.key.clone(), one.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotation(place: Option<Place>, platform: Option<&str>) -> Annotation {
        Annotation {
            place,
            platform: platform.map(|text| text.parse::<Platform>().unwrap().normalize()),
            key: "k".to_owned(),
            value: "v=1:2".to_owned(),
        }
    }

    fn check(text: &str, expect: &[Annotation]) {
        assert_eq!(parse("--annotation", text).ok().as_deref(), Some(expect), "{text}");
    }

    #[test]
    fn types_and_platforms_stand_before_the_key() {
        check("k=v=1:2", &[annotation(None, None)]);
        check("manifest:k=v=1:2", &[annotation(Some(Place::Manifest), None)]);
        check(
            "index,manifest[linux/arm/v7]:k=v=1:2",
            &[annotation(Some(Place::Index), None), annotation(Some(Place::Manifest), Some("linux/arm"))],
        );
        check(
            "index-descriptor,manifest-descriptor[linux/amd64]:k=v=1:2",
            &[
                annotation(Some(Place::IndexDescriptor), None),
                annotation(Some(Place::ManifestDescriptor), Some("linux/amd64")),
            ],
        );
    }

    #[test]
    fn what_is_no_annotation_is_refused() {
        let refused = ["", "k", "=v", "index:=v", "nope:k=v", "index[linux/amd64]:k=v", "manifest[linux:k=v"];
        for text in refused.into_iter().chain(["manifest[nope]:k=v", ",index:k=v", "manifest,:k=v", ":k=v"]) {
            assert!(parse("--annotation", text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn outputs_spell_it_with_dots() {
        let check = |name: &str, expect: Option<Annotation>| {
            let found = of_output("-o", name, "v=1:2").and_then(Result::ok);
            assert_eq!(found, expect, "{name}");
        };
        check("annotation.k", Some(annotation(None, None)));
        check("annotation-index.k", Some(annotation(Some(Place::Index), None)));
        let arm = annotation(Some(Place::ManifestDescriptor), Some("linux/arm64"));
        check("annotation-manifest-descriptor[linux/arm64].k", Some(arm));
        for other in ["annotation", "annotation.", "annotation-index", "annotations.k", "annotation-nope.k"] {
            check(other, None);
        }
    }

    #[test]
    fn the_particular_wins_over_the_general() {
        let parsed: Vec<_> = ["manifest[linux/amd64]:a=1", "a=2", "b=3", "index:c=4"]
            .into_iter()
            .flat_map(|text| parse("--annotation", text).unwrap())
            .collect();
        let check = |place, platform: &str, expect: &[(&str, &str)]| {
            let found = of(&parsed, place, Some(&platform.parse::<Platform>().unwrap()));
            let found: Vec<_> = found.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(found, expect);
        };
        check(Place::Manifest, "linux/amd64", &[("a", "1"), ("b", "3")]);
        check(Place::Manifest, "linux/arm64", &[("a", "2"), ("b", "3")]);
        check(Place::Index, "linux/arm64", &[("c", "4")]);
    }
}
