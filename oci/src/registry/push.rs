//! Writing to registries: what has to go there as data, then the doing. Reads no store: blobs come as sources.
//!
//! Blobs before the manifests that name them, manifests before the index that names those, tags at the very end:
//! a tag never points to an incomplete image (distribution-spec, "Pushing manifests").

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};

use super::auth::Subject;
use super::body::{BlobSource, Payload};
use super::client::{Client, Request, error};
use super::endpoint::Endpoint;
use super::error::{Action, Error, Problem};
use super::event::{Event, Way};
use super::message;
use super::pull::CONTENT_DIGEST;
use super::referrers::Referrer;
use super::restricted;
use super::token::Scopes;
use crate::digest::Algorithm;
use crate::{Digest, Reference};

/// A blob of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type, which may say that it is not to be distributed.
    pub media_type: String,
    /// Where else its descriptor says that it can be had.
    pub urls: Vec<String>,
    /// Where its bytes are.
    pub source: BlobSource,
    /// Repositories that are known to hold it, such as the base image's.
    pub found_in: Vec<Reference>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushDocument {
    /// The exact bytes.
    pub raw: Bytes,
    /// Their digest.
    pub digest: Digest,
    /// What they are sent as.
    pub media_type: String,
    /// Tags to set; a document without one is stored under its digest.
    pub tags: Vec<String>,
}

/// All that makes an image: blobs in any order, documents with each one before those that name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushImage {
    /// Layers and configs.
    pub blobs: Vec<PushBlob>,
    /// Manifests, then the index where there is one.
    pub documents: Vec<PushDocument>,
}

/// What will be asked of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushPlan {
    /// Registry and repository; tag and digest do not count.
    pub target: Reference,
    /// Blobs, each once, the largest first: the longest transfer decides when all are done.
    pub uploads: Vec<Upload>,
    /// Layers that are marked as not to be distributed, whether they are sent or not.
    pub restricted: BTreeSet<Digest>,
    /// Documents in the order in which they are stored.
    pub documents: Vec<PushDocument>,
}

/// One blob that must be in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where its bytes are, should they be needed.
    pub source: BlobSource,
    /// Repositories of the same registry that it may be linked from.
    pub mounts: Vec<String>,
}

/// What a push has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the last document: what the tags stand for now.
    pub digest: Digest,
    /// Bytes of blobs whose content was sent.
    pub uploaded: u64,
}

/// Repositories that are tried as sources of one blob; each costs a request.
const MAX_MOUNTS: usize = 3;

/// Plans how `image` gets into the repository of `target`.
pub fn plan_push(target: &Reference, image: &PushImage) -> PushPlan {
    let mut seen = BTreeSet::new();
    let mut uploads: Vec<Upload> = image
        .blobs
        .iter()
        .filter(|blob| !restricted::is_elsewhere(blob) && seen.insert(blob.digest))
        .map(|blob| upload(target, blob))
        .collect();
    uploads.sort_by(|a, b| b.size.cmp(&a.size).then(a.digest.cmp(&b.digest)));
    let target = Reference { tag: None, digest: None, ..target.clone() };
    let restricted = restricted::layers(&image.blobs);
    PushPlan { target, uploads, restricted, documents: image.documents.clone() }
}

fn upload(target: &Reference, blob: &PushBlob) -> Upload {
    let own = match &blob.source {
        BlobSource::Remote(reference) => Some(reference),
        BlobSource::File(_) | BlobSource::Part { .. } | BlobSource::Bytes(_) => None,
    };
    let mut mounts = Vec::new();
    for place in own.into_iter().chain(&blob.found_in) {
        let other = place.registry == target.registry && place.repository != target.repository;
        if other && !mounts.contains(&place.repository) && mounts.len() < MAX_MOUNTS {
            mounts.push(place.repository.clone());
        }
    }
    Upload { digest: blob.digest, size: blob.size, source: blob.source.clone(), mounts }
}

/// Whether the registry's word that it has a blob is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// It is.
    Head,
    /// It said so before and then refused the manifest (reliability REG-15).
    Distrust,
}

/// What is believed of the repository.
#[derive(Debug, Clone, Copy)]
enum Known<'a> {
    /// These blobs are in it, others if it says so.
    There(&'a BTreeSet<Digest>),
    /// Nothing that it says.
    Nothing,
}

/// Whether tags are all that was missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retagged {
    Yes,
    No,
}

impl Client {
    /// Carries out `plan`.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Push`]. What was uploaded stays, so that the same plan continues there.
    pub async fn push(&self, plan: &PushPlan) -> Result<Pushed, Error> {
        self.push_rest(plan, &BTreeSet::new()).await
    }

    /// Carries out what is left of `plan`: the blobs `there` were put into the repository ahead of it. Should the
    /// registry not know them after all, they are sent again.
    ///
    /// # Errors
    /// As [`Client::push`].
    pub async fn push_rest(&self, plan: &PushPlan, there: &BTreeSet<Digest>) -> Result<Pushed, Error> {
        self.push_inner(plan, there).await.map_err(|problem| error(Action::Push, shown(plan), problem))
    }

    async fn push_inner(&self, plan: &PushPlan, there: &BTreeSet<Digest>) -> Result<Pushed, Problem> {
        let endpoint = Endpoint::origin(self.settings(), &plan.target)?;
        let subject = push_subject(&plan.target, &plan.uploads);
        let Some(root) = plan.documents.last() else {
            let uploaded = self.push_blobs(&endpoint, &subject, plan, Known::There(there)).await?;
            return Ok(Pushed { digest: Digest::of(b""), uploaded });
        };
        let missing = self.missing_tags(&endpoint, &subject, plan, root).await?;
        let done = match root.tags.is_empty() {
            true => self.is_there(&endpoint, &subject, plan, root).await?,
            false => missing.is_empty(),
        };
        if done {
            return Ok(Pushed { digest: root.digest, uploaded: 0 });
        }
        if self.retag(&endpoint, &subject, plan, there, &missing).await? == Retagged::Yes {
            return Ok(Pushed { digest: root.digest, uploaded: 0 });
        }
        let mut uploaded = self.push_blobs(&endpoint, &subject, plan, Known::There(there)).await?;
        let digest = match self.put_documents(&endpoint, &subject, plan, &missing).await {
            Err(problem) if restricted::are_named(plan, &problem) => {
                return Err(restricted::refused(plan, problem));
            }
            Err(problem) if names_unknown_blob(&problem) => {
                uploaded += self.push_blobs(&endpoint, &subject, plan, Known::Nothing).await?;
                self.put_documents(&endpoint, &subject, plan, &missing).await?
            }
            result => result?,
        };
        Ok(Pushed { digest, uploaded })
    }

    /// Gives an image that the repository has by its digest the `missing` tags: what has a manifest has its blobs, so
    /// none of them is asked for. A registry that then says otherwise is not believed.
    async fn retag(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        there: &BTreeSet<Digest>,
        missing: &[String],
    ) -> Result<Retagged, Problem> {
        let (root, before) = plan.documents.split_last().expect("the caller has looked at the last");
        let blobs = plan.uploads.iter().filter(|upload| !there.contains(&upload.digest)).count();
        // The question must cost less than it saves.
        let is_worth_it = blobs + before.len() > 1 && before.iter().all(|document| document.tags.is_empty());
        if missing.is_empty() || !is_worth_it || !self.is_there(endpoint, subject, plan, root).await? {
            return Ok(Retagged::No);
        }
        for tag in missing {
            match self.put_document(endpoint, subject, plan, root, tag).await {
                Err(problem) if names_unknown_blob(&problem) => return Ok(Retagged::No),
                result => result?,
            }
        }
        Ok(Retagged::Yes)
    }

    /// Returns whether the repository has `root` under its digest.
    async fn is_there(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        root: &PushDocument,
    ) -> Result<bool, Problem> {
        let found = self.remote_digest(endpoint, subject, &plan.target.with_digest(root.digest)).await?;
        Ok(found.is_some_and(|found| found.is_of(&root.raw)))
    }

    /// Returns the tags of `root` that stand for something else or for nothing.
    async fn missing_tags(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        root: &PushDocument,
    ) -> Result<Vec<String>, Problem> {
        let mut missing = Vec::new();
        for tag in &root.tags {
            let reference = Reference { tag: Some(tag.clone()), ..plan.target.clone() };
            let found = self.remote_digest(endpoint, subject, &reference).await?;
            if !found.is_some_and(|found| found.is_of(&root.raw)) {
                missing.push(tag.clone());
            }
        }
        Ok(missing)
    }

    /// Puts one blob into the repository of `target`, ahead of the image that it belongs to.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Push`].
    pub async fn push_blob(&self, target: &Reference, upload: &Upload) -> Result<Way, Error> {
        let run = async {
            let endpoint = Endpoint::origin(self.settings(), target)?;
            let subject = push_subject(target, std::slice::from_ref(upload));
            self.ensure_blob(&endpoint, &subject, target, upload, Check::Head).await
        };
        run.await.map_err(|problem| error(Action::Push, target, problem))
    }

    /// Finds one blob in the repository of `target`, or has it linked from another of the registry; `None` where
    /// it must be sent. No byte of it is.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Push`].
    pub async fn find_blob(&self, target: &Reference, upload: &Upload) -> Result<Option<Way>, Error> {
        let run = async {
            let endpoint = Endpoint::origin(self.settings(), target)?;
            let subject = push_subject(target, std::slice::from_ref(upload));
            self.find_or_link(&endpoint, &subject, target, upload).await
        };
        run.await.map_err(|problem| error(Action::Push, target, problem))
    }

    /// Asks whether we may write into the repository of `target`, by opening an upload and giving it back.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Push`]; [`Error::is_denied`] says whether it is a definite no.
    pub async fn check_push(&self, target: &Reference) -> Result<(), Error> {
        let run = async {
            let endpoint = Endpoint::origin(self.settings(), target)?;
            self.try_upload(&endpoint, &push_subject(target, &[]), target).await
        };
        run.await.map_err(|problem| error(Action::Push, target, problem))
    }

    async fn push_blobs(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        known: Known<'_>,
    ) -> Result<u64, Problem> {
        let parallel = self.settings().limits.parallel.max(1);
        let (check, there) = match known {
            Known::There(there) => (Check::Head, Some(there)),
            Known::Nothing => (Check::Distrust, None),
        };
        let left =
            plan.uploads.iter().filter(|upload| !there.is_some_and(|there| there.contains(&upload.digest)));
        let sizes = futures_util::stream::iter(left).map(|upload| async move {
            let way = self.ensure_blob(endpoint, subject, &plan.target, upload, check).await?;
            Ok::<u64, Problem>(if way == Way::Uploaded { upload.size } else { 0 })
        });
        sizes.buffer_unordered(parallel).try_fold(0, |sum, size| async move { Ok(sum + size) }).await
    }

    /// Returns the digest by which the registry knows the last document.
    async fn put_documents(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        tags: &[String],
    ) -> Result<Digest, Problem> {
        let (last, before) = plan.documents.split_last().expect("the caller has looked at the last");
        for document in before {
            self.put_document(endpoint, subject, plan, document, &document.digest.to_string()).await?;
            for tag in &document.tags {
                self.put_document(endpoint, subject, plan, document, tag).await?;
            }
        }
        if last.tags.is_empty() {
            self.put_document(endpoint, subject, plan, last, &last.digest.to_string()).await?;
            return Ok(last.digest);
        }
        let known_by = self.put_by_digest(endpoint, subject, plan, last).await?;
        for tag in tags {
            self.put_document(endpoint, subject, plan, last, tag).await?;
        }
        Ok(known_by)
    }

    /// A registry knows what is sent under a tag by sha256. An image with another digest is sent under that one
    /// first; a registry that keeps none such knows the image by sha256 alone.
    async fn put_by_digest(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        root: &PushDocument,
    ) -> Result<Digest, Problem> {
        let algorithm = root.digest.algorithm();
        if algorithm == Algorithm::Sha256 {
            return Ok(root.digest);
        }
        match self.put_document(endpoint, subject, plan, root, &root.digest.to_string()).await {
            Ok(()) => Ok(root.digest),
            Err(problem @ Problem::Status { status, .. })
                if status.is_client_error() && !names_unknown_blob(&problem) =>
            {
                let known_by = Digest::of(&root.raw);
                let text =
                    format!("{problem}: it keeps no images by {algorithm}; this one is {known_by} there");
                self.events().tell(Event::Note(text));
                Ok(known_by)
            }
            Err(problem) => Err(problem),
        }
    }

    async fn put_document(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        plan: &PushPlan,
        document: &PushDocument,
        version: &str,
    ) -> Result<(), Problem> {
        let url = endpoint.url(&plan.target.repository, &format!("manifests/{version}"))?;
        let mut request = Request::new(Method::PUT, url, subject, "manifest");
        request.payload = Payload::Bytes(document.raw.clone());
        let media_type = HeaderValue::from_str(&document.media_type).map_err(|error| Problem::Malformed {
            host: endpoint.host(),
            what: "no media type of a manifest".to_owned(),
            detail: error.to_string(),
        })?;
        request.headers.insert(CONTENT_TYPE, media_type);
        let answer = self.send(endpoint, &request).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => {}
            _ => return Err(self.rejected(endpoint, subject, answer).await),
        }
        if let Some(actual) = answer.header(CONTENT_DIGEST).and_then(|text| text.parse::<Digest>().ok())
            && !actual.is_of(&document.raw)
        {
            return Err(Problem::digest(answer.host(), "stored manifest", document.digest, actual));
        }
        match Referrer::of(document) {
            Some(referrer) => self.list_referrer(endpoint, subject, &plan.target, &referrer, &answer).await,
            None => Ok(()),
        }
    }
}

fn names_unknown_blob(problem: &Problem) -> bool {
    let messages = match problem {
        Problem::Exhausted { last, .. } => return names_unknown_blob(last),
        Problem::Status { messages, .. } => messages,
        _ => return false,
    };
    message::name_unknown_blob(messages)
}

fn push_subject(target: &Reference, uploads: &[Upload]) -> Subject {
    let sources = uploads.iter().flat_map(|upload| upload.mounts.iter().map(String::as_str));
    Subject { repository: target.repository.clone(), scopes: Scopes::push(&target.repository, sources) }
}

fn shown(plan: &PushPlan) -> String {
    let tag = plan.documents.last().and_then(|root| root.tags.first().cloned());
    Reference { tag, ..plan.target.clone() }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str, size: u64, source: BlobSource, found_in: &[&str]) -> PushBlob {
        PushBlob {
            digest: Digest::of(text.as_bytes()),
            size,
            media_type: crate::media_type::OCI_LAYER_GZIP.to_owned(),
            urls: Vec::new(),
            source,
            found_in: found_in.iter().map(|name| name.parse().unwrap()).collect(),
        }
    }

    fn check(blobs: Vec<PushBlob>, expected: &[(u64, &[&str])]) {
        let target: Reference = "r.example/team/app:1".parse().unwrap();
        let plan = plan_push(&target, &PushImage { blobs, documents: Vec::new() });
        let found: Vec<(u64, Vec<&str>)> = plan
            .uploads
            .iter()
            .map(|upload| (upload.size, upload.mounts.iter().map(String::as_str).collect()))
            .collect();
        let expected: Vec<(u64, Vec<&str>)> =
            expected.iter().map(|(size, from)| (*size, from.to_vec())).collect();
        assert_eq!(found, expected);
    }

    fn file() -> BlobSource {
        BlobSource::File("/x".into())
    }

    #[test]
    fn the_largest_blob_goes_first_and_each_goes_once() {
        let blobs = vec![blob("a", 1, file(), &[]), blob("b", 9, file(), &[]), blob("a", 1, file(), &[])];
        check(blobs, &[(9, &[]), (1, &[])]);
    }

    #[test]
    fn blobs_are_linked_from_repositories_of_the_same_registry_only() {
        let remote = BlobSource::Remote("r.example/base/debian:12".parse().unwrap());
        let found = ["r.example/a/b", "other.example/c", "r.example/team/app", "r.example/base/debian"];
        check(vec![blob("a", 1, remote, &found)], &[(1, &["base/debian", "a/b"])]);
        let foreign = BlobSource::Remote("docker.io/library/debian".parse().unwrap());
        check(vec![blob("a", 1, foreign, &[])], &[(1, &[])]);
    }
}
