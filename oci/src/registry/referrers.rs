//! The list of what refers to an image, for registries that keep none: an index under the tag `<alg>-<hex>` of the
//! subject (distribution-spec, "Pushing Manifests with Subject"). Reads and writes that one tag.

use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_TYPE, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::auth::Subject;
use super::body::Payload;
use super::client::{Client, Request};
use super::endpoint::Endpoint;
use super::error::Problem;
use super::pull::manifest_request;
use super::push::PushDocument;
use super::retry::random;
use crate::document::DOCUMENT_LIMIT;
use crate::media_type::{ManifestKind, OCI_INDEX, manifest_kind};
use crate::{Digest, Reference};

/// What a registry says that keeps the list itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Times that a list is read, of which most follow because somebody else wrote at the same moment.
const MAX_ROUNDS: u32 = 20;

/// How our entry in a list is.
#[derive(Debug, Clone, Copy)]
enum Entry {
    /// Not ours: nobody who writes now can have missed it for our sake.
    Old,
    /// Just written.
    Written {
        /// How long others may need who have read the list before.
        pause: Duration,
    },
    /// Read again after it was written.
    Seen,
}

/// Returns how long to wait for others, of whom each needs as long to read and write as we did, or a little longer.
fn pause(own: Duration, random: u64) -> Duration {
    let own = own.clamp(Duration::from_millis(25), Duration::from_millis(500));
    let jitter = u64::try_from(own.as_micros()).map_or(0, |most| random % (most + 1));
    own * 2 + Duration::from_micros(jitter)
}

/// A manifest that refers to another.
pub(super) struct Referrer {
    /// What it refers to.
    subject: Digest,
    /// Its own digest.
    digest: Digest,
    /// Its entry in the list.
    entry: Value,
}

impl Referrer {
    /// Reads what `document` refers to; `None` for nothing.
    pub fn of(document: &PushDocument) -> Option<Self> {
        let parsed: Value = serde_json::from_slice(&document.raw).ok()?;
        let subject = parsed.pointer("/subject/digest")?.as_str()?.parse().ok()?;
        let mut entry = json!({
            "mediaType": document.media_type, "digest": document.digest.to_string(), "size": document.raw.len(),
        });
        let is_image = manifest_kind(&document.media_type) == Some(ManifestKind::Manifest);
        let filled = |pointer: &str| {
            parsed.pointer(pointer).filter(|text| text.as_str().is_some_and(|t| !t.is_empty()))
        };
        // An image without a type of its own has its config's; an index has none.
        let kind = filled("/artifactType").or_else(|| filled("/config/mediaType").filter(|_| is_image));
        if let Some(kind) = kind {
            entry["artifactType"] = kind.clone();
        }
        if let Some(annotations) = parsed.get("annotations").filter(|value| value.is_object()) {
            entry["annotations"] = annotations.clone();
        }
        Some(Self { subject, digest: document.digest, entry })
    }

    /// Returns the list's tag: both parts are cut to what fits a tag (distribution-spec, "Referrers Tag Schema").
    fn tag(&self) -> String {
        let hex = self.subject.hex();
        format!("{}-{}", self.subject.algorithm(), &hex[..hex.len().min(64)])
    }
}

impl Client {
    /// Adds `referrer`, which is stored already, to its subject's list, unless the registry's `answer` says that it
    /// has done so.
    ///
    /// The list is written on the condition that it has not changed meanwhile. Many registries ignore conditions, and
    /// whoever has read the list before it was written here then writes one without our entry. So it is read again at
    /// once, and after a pause in which such a one comes to its end; an entry that is gone is added again.
    pub(super) async fn list_referrer(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        target: &Reference,
        referrer: &Referrer,
        answer: &Answer,
    ) -> Result<(), Problem> {
        if answer.headers().contains_key(SUBJECT) {
            return Ok(());
        }
        let tag = Reference { tag: Some(referrer.tag()), digest: None, ..target.clone() };
        let mut entry = Entry::Old;
        for _ in 0..MAX_ROUNDS {
            let begun = Instant::now();
            let mut list = self.referrers(endpoint, subject, &tag).await?;
            match (append(&mut list.index, referrer), entry) {
                (true, _) => {
                    self.put_referrers(endpoint, subject, &tag, &list).await?;
                    entry = Entry::Written { pause: pause(begun.elapsed(), random()) };
                }
                (false, Entry::Old | Entry::Seen) => return Ok(()),
                (false, Entry::Written { pause }) => {
                    tokio::time::sleep(pause).await;
                    entry = Entry::Seen;
                }
            }
        }
        let detail = "others keep overwriting it".to_owned();
        Err(Problem::Malformed {
            host: endpoint.host(),
            what: format!("the list {}", referrer.tag()),
            detail,
        })
    }

    async fn referrers(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        tag: &Reference,
    ) -> Result<List, Problem> {
        let request = manifest_request(Method::GET, endpoint, subject, tag)?;
        let mut answer = self.send(endpoint, &request).await?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                answer.discard().await;
                let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
                return Ok(List { index, version: Version::None });
            }
            _ => return Err(self.rejected(endpoint, subject, answer).await),
        }
        let version = answer.headers().get(ETAG).cloned().map_or(Version::Unknown, Version::Known);
        let body = answer.body(self.settings().limits.manifest, "list of referrers").await?;
        let parsed: Option<Value> = serde_json::from_slice(&body).ok();
        // Writing over an image that somebody has tagged so would lose it.
        let index = parsed.filter(|index| index["manifests"].is_array());
        let index = index.ok_or_else(|| Problem::Malformed {
            host: answer.host(),
            what: format!("what is tagged {}", tag.version()),
            detail: "it is no index, so what refers to the image cannot be listed there".to_owned(),
        })?;
        Ok(List { index, version })
    }

    /// Writes the list; that it has changed meanwhile is no error, the next round sees it.
    async fn put_referrers(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        tag: &Reference,
        list: &List,
    ) -> Result<(), Problem> {
        let raw = serde_json::to_vec(&list.index).expect("a value serialises");
        if raw.len() as u64 > DOCUMENT_LIMIT {
            let what = format!("the list of referrers {}", tag.version());
            return Err(Problem::TooLarge { host: endpoint.host(), what, limit: DOCUMENT_LIMIT });
        }
        let url = endpoint.url(&tag.repository, &format!("manifests/{}", tag.version()))?;
        let mut request = Request::new(Method::PUT, url, subject, "list of referrers");
        request.headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        match &list.version {
            Version::Known(version) => drop(request.headers.insert(IF_MATCH, version.clone())),
            Version::None => drop(request.headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"))),
            Version::Unknown => {}
        }
        request.payload = Payload::Bytes(raw.into());
        let answer = self.send(endpoint, &request).await?;
        match answer.status() {
            status if status.is_success() || status == StatusCode::PRECONDITION_FAILED => {
                answer.discard().await;
                Ok(())
            }
            _ => Err(self.rejected(endpoint, subject, answer).await),
        }
    }
}

/// A list as the registry has it.
struct List {
    index: Value,
    version: Version,
}

/// By what a registry tells one list from the next (RFC 9110 §8.8.3).
enum Version {
    /// There is no list yet.
    None,
    /// Its entity tag.
    Known(HeaderValue),
    /// The registry gives none.
    Unknown,
}

/// Adds the entry; returns whether it was missing. Keys that we do not know stay.
fn append(index: &mut Value, referrer: &Referrer) -> bool {
    let digest = referrer.digest.to_string();
    let entries = index["manifests"].as_array_mut().expect("the caller has looked");
    if entries.iter().any(|entry| entry["digest"] == digest.as_str()) {
        return false;
    }
    entries.push(referrer.entry.clone());
    if let Some(root) = index.as_object_mut().filter(|root| !has_type(root)) {
        root.insert("mediaType".to_owned(), OCI_INDEX.into());
    }
    true
}

fn has_type(index: &Map<String, Value>) -> bool {
    index.get("mediaType").and_then(Value::as_str) == Some(OCI_INDEX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::digest::Algorithm;
    use crate::media_type::OCI_MANIFEST;

    fn referrer(manifest: &Value, media_type: &str) -> Option<Referrer> {
        let raw: Bytes = serde_json::to_vec(manifest).unwrap().into();
        Referrer::of(&PushDocument {
            digest: Digest::of(&raw),
            raw,
            media_type: media_type.to_owned(),
            tags: Vec::new(),
        })
    }

    fn check(mut manifest: Value, media_type: &str, kind: Option<&str>) {
        manifest["subject"] = json!({ "digest": Digest::of(b"x").to_string() });
        let found = referrer(&manifest, media_type).unwrap();
        assert_eq!(found.entry["artifactType"].as_str(), kind, "{manifest}");
        assert_eq!(found.entry.get("annotations"), manifest.get("annotations"));
    }

    #[test]
    fn entries_have_the_type_of_the_artifact() {
        check(json!({ "artifactType": "a/b", "config": { "mediaType": "c/d" } }), OCI_MANIFEST, Some("a/b"));
        check(json!({ "artifactType": "", "config": { "mediaType": "c/d" } }), OCI_MANIFEST, Some("c/d"));
        check(
            json!({ "config": { "mediaType": "c/d" }, "annotations": { "k": "v" } }),
            OCI_MANIFEST,
            Some("c/d"),
        );
        check(json!({ "manifests": [] }), OCI_INDEX, None);
        check(json!({ "manifests": [], "artifactType": "a/b" }), OCI_INDEX, Some("a/b"));
        assert!(referrer(&json!({ "config": {} }), OCI_MANIFEST).is_none());
    }

    #[test]
    fn others_are_given_the_time_that_we_needed_twice_and_never_long() {
        let milliseconds = Duration::from_millis;
        for (own, least, most) in [(0, 50, 75), (100, 200, 300), (60_000, 1000, 1500)] {
            for random in [0, 1, 12_345, u64::MAX] {
                let pause = pause(milliseconds(own), random);
                assert!((milliseconds(least)..=milliseconds(most)).contains(&pause), "{own}: {pause:?}");
            }
        }
    }

    #[test]
    fn tags_are_cut_to_64_digits() {
        for (algorithm, name) in [(Algorithm::Sha256, "sha256"), (Algorithm::Sha512, "sha512")] {
            let digest = algorithm.digest(b"x");
            let manifest = json!({ "subject": { "digest": digest.to_string() } });
            let tag = referrer(&manifest, OCI_MANIFEST).unwrap().tag();
            assert_eq!(tag, format!("{name}-{}", &digest.hex()[..64]));
        }
    }
}
