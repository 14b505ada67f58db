//! Every check that a reader of documents makes, by its case.

use super::*;
use crate::Platform;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn manifest(fields: &str) -> String {
    let config = format!(r#"{{"mediaType":"{}","size":0,"digest":"{EMPTY}"}}"#, media_type::OCI_CONFIG);
    format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]{fields}}}"#)
}

fn index(entries: &[(&str, &str)]) -> ImageIndex {
    let entries: Vec<String> = entries
        .iter()
        .map(|(platform, extra)| {
            let (os, architecture) = platform.split_once('/').unwrap_or_default();
            let (architecture, variant) = architecture.split_once('/').unwrap_or((architecture, ""));
            let platform = format!(
                r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
            );
            let platform = if os.is_empty() { String::new() } else { platform };
            format!(
                r#"{{"mediaType":"{}","size":1,"digest":"{EMPTY}"{platform}{extra}}}"#,
                media_type::OCI_MANIFEST
            )
        })
        .collect();
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    match Root::parse(text.into(), Some(media_type::OCI_INDEX)).unwrap() {
        Root::Index(index) => index.parsed,
        Root::Manifest(_) => unreachable!("declared as an index"),
    }
}

fn check_refused(text: &str, declared: Option<&str>, expected: &str) {
    let error = Root::parse(text.to_owned().into(), declared).expect_err(text);
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    let message = format!("{error}: {source}");
    assert!(message.contains(expected), "{message:?} does not contain {expected:?}");
}

#[test]
fn img_03_ambiguous_documents_are_refused() {
    let oci = Some(media_type::OCI_MANIFEST);
    check_refused(&manifest(r#","manifests":[]"#), oci, "manifests as well as layers");
    check_refused(
        &manifest(r#","mediaType":"application/vnd.oci.image.index.v1+json""#),
        oci,
        "announced as",
    );
    check_refused(&manifest(r#","mediaType":"text/plain""#), oci, "no manifest's");
    check_refused(&manifest(""), None, "names a media type");
    check_refused(&manifest(""), Some(media_type::OCI_INDEX), "has no manifests");
    check_refused(r#"{"schemaVersion":2,"manifests":[]}"#, oci, "has no config");
    check_refused(&manifest(r#","layers":[]"#), oci, "duplicate");
    assert!(Root::parse(manifest("").into(), oci).is_ok());
    let docker = manifest(&format!(r#","mediaType":"{}""#, media_type::DOCKER_MANIFEST));
    assert!(Root::parse(docker.into(), None).is_ok(), "the document's own word is enough");
}

#[test]
fn img_12_schema_1_is_refused_clearly() {
    check_refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "push the image again");
    let declared = Some("application/vnd.docker.distribution.manifest.v1+prettyjws");
    check_refused(r#"{"schemaVersion":1,"name":"a"}"#, declared, "schema 1");
}

#[test]
fn img_04_and_06_limits_and_digests() {
    let oci = Some(media_type::OCI_MANIFEST);
    check_refused(&" ".repeat(4 << 20 | 1), oci, "the limit is 4194304");
    for bad in ["sha256:../../x", "sha256:00", "md5:00", ""] {
        check_refused(&manifest("").replace(EMPTY, bad), oci, "");
    }
    for (algorithm, digits) in [("sha512", 127), ("sha384", 96), ("blake3", 64)] {
        let bad = format!("{algorithm}:{}", "0".repeat(digits));
        check_refused(&manifest("").replace(EMPTY, &bad), oci, "");
    }
    let sha512 = format!("sha512:{}", "0".repeat(128));
    assert!(Root::parse(manifest("").replace(EMPTY, &sha512).into(), oci).is_ok());
    let entry = format!(r#"{{"mediaType":"a/b","size":1,"digest":"{EMPTY}"}}"#);
    let many = vec![entry; 10_001].join(",");
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{many}]}}"#);
    check_refused(&text, Some(media_type::OCI_INDEX), "the limit is 10000");
    check_refused(&manifest("").replace("\"size\":0", "\"size\":-1"), oci, "not valid");
}

#[test]
fn img_02_config_must_fit_its_manifest() {
    let parsed = |text: String| match Root::parse(text.into(), Some(media_type::OCI_MANIFEST)).unwrap() {
        Root::Manifest(manifest) => manifest.parsed,
        Root::Index(_) => unreachable!("declared as a manifest"),
    };
    let none = parsed(manifest(""));
    let layer =
        format!(r#""layers":[{{"mediaType":"{}","size":0,"digest":"{EMPTY}"}}]"#, media_type::OCI_LAYER);
    let one = parsed(manifest("").replace(r#""layers":[]"#, &layer));
    let config = |rootfs: &str, history: &str| {
        Bytes::from(format!(
            r#"{{"os":"linux","architecture":"amd64","rootfs":{rootfs},"history":{history}}}"#
        ))
    };
    let layers = |ids: &str| format!(r#"{{"type":"layers","diff_ids":[{ids}]}}"#);
    let id = format!(r#""{EMPTY}""#);
    assert!(Config::parse(config(&layers(""), "[]"), &none).is_ok());
    assert!(Config::parse(config(&layers(&id), "[]"), &one).is_ok(), "no history is no mistake");
    assert!(Config::parse(config(&layers(&id), r#"[{},{"empty_layer":true}]"#), &one).is_ok());
    for (raw, manifest, expected) in [
        (config(&layers(""), "[]"), &one, "1 layers, but 0 diff_ids"),
        (config(&layers(&id), "[]"), &none, "0 layers, but 1 diff_ids"),
        (config(&layers(&id), "[{},{}]"), &one, "history of 2 layers"),
        (config(r#"{"type":"odd","diff_ids":[]}"#, "[]"), &none, "odd"),
    ] {
        let message = Config::parse(raw, manifest).expect_err(expected).to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn img_07_platforms_are_selected_and_listed() {
    let attestation = r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    let list = index(&[
        ("linux/arm/v6", ""),
        ("linux/arm/v7", ""),
        ("linux/amd64", attestation),
        ("unknown/unknown", ""),
    ]);
    let wanted = |text: &str| text.parse::<Platform>().unwrap();
    let found = select(&list, &wanted("linux/arm64")).unwrap();
    assert_eq!(platform_of(found).unwrap().variant, "v7", "the nearest variant wins");
    let message = select(&list, &wanted("linux/amd64")).unwrap_err().to_string();
    assert!(message.ends_with("available: linux/arm/v6, linux/arm/v7"), "{message}");
    let message = select(&index(&[]), &wanted("linux/amd64")).unwrap_err().to_string();
    assert!(message.ends_with("available: none"), "{message}");
    assert!(select(&index(&[("", "")]), &wanted("linux/amd64")).is_ok(), "an entry without platform");
}

#[test]
fn img_10_other_artifacts_are_named() {
    let helm = manifest("").replace(media_type::OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json");
    let helm = Manifest::parse(helm.into(), Some(media_type::OCI_MANIFEST)).unwrap();
    assert!(helm.require_image().unwrap_err().to_string().contains("helm"));
    let layer = format!(r#""layers":[{{"mediaType":"a/b","size":0,"digest":"{EMPTY}"}}]"#);
    let odd = manifest("").replace(r#""layers":[]"#, &layer);
    let odd = Manifest::parse(odd.into(), Some(media_type::OCI_MANIFEST)).unwrap();
    assert!(odd.require_image().unwrap_err().to_string().starts_with("layer 1 has"));
}

#[test]
fn written_documents_have_sorted_keys() {
    let text = manifest(r#","annotations":{"d":"1","b":"2","c":"3","a":"4","e":"5"}"#);
    let parsed = Manifest::parse(text.into(), Some(media_type::OCI_MANIFEST)).unwrap().parsed;
    let written = Document::new(parsed);
    let text = std::str::from_utf8(&written.raw).unwrap();
    assert!(text.contains(r#"{"annotations":{"a":"4","b":"2","c":"3","d":"1","e":"5"},"config":"#), "{text}");
    assert_eq!(written.descriptor("x").size(), written.raw.len() as u64);
}

#[test]
fn the_version_of_a_platform_is_read_and_written_as_image_spec_calls_it() {
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","size":1,"digest":"{EMPTY}","platform":{{"os":"windows","architecture":"amd64","os.version":"10.0.1","os.features":["win32k"]}}}}]}}"#,
        media_type::OCI_MANIFEST
    );
    let Ok(Root::Index(index)) = Root::parse(text.clone().into(), Some(media_type::OCI_INDEX)) else {
        panic!("no index: {text}")
    };
    let entry = &index.parsed.manifests()[0];
    assert_eq!(platform_of(entry).unwrap().full(), "windows(10.0.1)/amd64");
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(to_value(entry), value["manifests"][0]);
    assert_eq!(from_value(&value["manifests"][0]).unwrap(), *entry);
}
