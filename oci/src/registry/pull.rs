//! Reading documents from registries: names to manifests and configs. Stores nothing.

use base64::Engine as _;
use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};

use super::answer::Answer;
use super::auth::Subject;
use super::client::{Client, Request, error};
use super::endpoint::{Endpoint, Role};
use super::error::{Action, Error, Problem};
use super::event::Event;
use super::nature::{is_break, is_nobody_there};
use super::token::Scopes;
use crate::digest::Algorithm;
use crate::document::{self, Config, INDEX_DEPTH, Index, Manifest, Root};
use crate::media_type::ACCEPTED_MANIFESTS;
use crate::{Digest, Platform, Reference};

/// The digest that a registry claims for what it sends or has stored.
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// An image of one platform, without its layers.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The repository with the digest of [`Self::manifest`].
    pub reference: Reference,
    /// The index that the name stands for, where it is one.
    pub index: Option<Index>,
    /// The image's manifest.
    pub manifest: Manifest,
    /// The image's config.
    pub config: Config,
}

impl Client {
    /// Finds the image of `platform` that `reference` stands for.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn resolve(&self, reference: &Reference, platform: &Platform) -> Result<ResolvedImage, Error> {
        self.resolve_inner(reference, platform)
            .await
            .map_err(|problem| error(Action::Pull, reference, problem))
    }

    async fn resolve_inner(&self, name: &Reference, platform: &Platform) -> Result<ResolvedImage, Problem> {
        let root = self.root_inner(name, None).await?;
        let (index, manifest) = match root {
            Root::Manifest(manifest) => (None, manifest),
            Root::Index(index) => {
                let manifest = self.descend(name, &index, platform).await?;
                (Some(index), manifest)
            }
        };
        manifest.require_image().map_err(|source| Problem::Document { source })?;
        let descriptor = manifest.parsed.config();
        let limit = self.settings().limits.config;
        let raw = self.document_blob(name, descriptor, limit, "config").await?;
        let config = Config::parse(raw, &manifest.parsed).map_err(|source| Problem::Document { source })?;
        Ok(ResolvedImage { reference: name.with_digest(manifest.digest), index, manifest, config })
    }

    async fn descend(
        &self,
        name: &Reference,
        index: &Index,
        platform: &Platform,
    ) -> Result<Manifest, Problem> {
        let mut index = index.clone();
        for _ in 0..INDEX_DEPTH {
            let entry =
                document::select(&index.parsed, platform).map_err(|source| Problem::Document { source })?;
            let digest = digest_of(entry)?;
            let wanted = name.with_digest(digest);
            match self.root_inner(&wanted, Some(entry)).await? {
                Root::Manifest(manifest) => return Ok(manifest),
                Root::Index(inner) => index = inner,
            }
        }
        Err(Problem::Document { source: document::DocumentError::TooDeep })
    }

    /// Returns the manifest or index that `reference` stands for.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn root(&self, reference: &Reference) -> Result<Root, Error> {
        self.root_inner(reference, None).await.map_err(|problem| error(Action::Pull, reference, problem))
    }

    /// Returns the digest that `reference` stands for; `None` where there is no such image.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn digest(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let run = async {
            let endpoint = Endpoint::read_origin(self.settings(), reference)?;
            let subject = pull_subject(&endpoint, reference);
            self.remote_digest(&endpoint, &subject, reference).await
        };
        run.await.map_err(|problem| error(Action::Pull, reference, problem))
    }

    /// Asks by HEAD what a tag or digest stands for.
    pub(super) async fn remote_digest(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        reference: &Reference,
    ) -> Result<Option<Digest>, Problem> {
        let request = manifest_request(Method::HEAD, endpoint, subject, reference)?;
        let answer = self.send(endpoint, &request).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::OK => match claimed_digest(&answer) {
                Some(digest) => Ok(Some(digest)),
                None => self.digest_by_get(endpoint, subject, reference).await,
            },
            // An answer to HEAD has no words, and some servers do not know the method.
            _ => self.digest_by_get(endpoint, subject, reference).await,
        }
    }

    async fn digest_by_get(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        reference: &Reference,
    ) -> Result<Option<Digest>, Problem> {
        let request = manifest_request(Method::GET, endpoint, subject, reference)?;
        let mut answer = self.send(endpoint, &request).await?;
        match answer.status() {
            StatusCode::OK => {
                let raw = answer.body(self.settings().limits.manifest, "manifest").await?;
                // What answers so to everything also "has" every blob, and "takes" every manifest.
                if super::message::starts_a_page(&raw) {
                    return Err(Problem::WebPage { host: answer.host() });
                }
                let asked = reference.digest.map_or(Algorithm::Sha256, |digest| digest.algorithm());
                Ok(Some(asked.digest(&raw)))
            }
            StatusCode::NOT_FOUND => {
                answer.discard().await;
                Ok(None)
            }
            _ => Err(self.rejected(endpoint, subject, answer).await),
        }
    }

    /// Asks every source in turn.
    async fn root_inner(
        &self,
        reference: &Reference,
        descriptor: Option<&document::Descriptor>,
    ) -> Result<Root, Problem> {
        let (origin, mirrors) = sources(self, reference)?;
        for mirror in mirrors {
            match self.root_at(&mirror, reference, descriptor).await {
                Ok(root) => return Ok(root),
                Err(problem) => self.tell_mirror_failed(&mirror, &problem),
            }
        }
        self.root_at(&origin, reference, descriptor).await
    }

    pub(super) fn tell_mirror_failed(&self, mirror: &Endpoint, problem: &Problem) {
        // What else is asked there would break as well, each after its own attempts.
        if is_nobody_there(problem) || is_break(problem) {
            self.is_absent_from_now(mirror);
        }
        self.events().tell(Event::MirrorFailed { mirror: mirror.host(), reason: problem.to_string() });
    }

    /// Returns whether mirrors would be asked for what belongs to `reference`.
    pub fn has_mirrors(&self, reference: &Reference) -> bool {
        sources(self, reference).is_ok_and(|(_, mirrors)| !mirrors.is_empty())
    }

    /// After wrong bytes, which may be those of any mirror of the image: none of them is asked again.
    pub(super) fn distrust_mirrors(&self, reference: &Reference, problem: &Problem) {
        let Ok((_, mirrors)) = sources(self, reference) else { return };
        for mirror in mirrors {
            self.tell_mirror_failed(&mirror, problem);
            self.is_absent_from_now(&mirror);
        }
    }

    async fn root_at(
        &self,
        endpoint: &Endpoint,
        reference: &Reference,
        descriptor: Option<&document::Descriptor>,
    ) -> Result<Root, Problem> {
        let subject = pull_subject(endpoint, reference);
        let request = manifest_request(Method::GET, endpoint, &subject, reference)?;
        let mut retrier = self.retrier_at(endpoint, &request.url, "manifest");
        let (raw, media_type, algorithm) = loop {
            let answer = self.send(endpoint, &request).await?;
            // A body that breaks off is asked for again as a whole.
            match self.manifest_body(endpoint, &subject, reference, answer).await {
                Ok(body) => break body,
                Err(problem) => retrier.pause(problem).await?,
            }
        };
        if let Some(descriptor) = descriptor {
            check_size(endpoint, raw.len() as u64, descriptor.size())?;
        }
        let declared =
            descriptor.map(|descriptor| descriptor.media_type().as_ref()).or(media_type.as_deref());
        let root = Root::parse(raw, declared).map_err(|source| Problem::Document { source })?;
        Ok(root.digested_by(algorithm))
    }

    async fn manifest_body(
        &self,
        endpoint: &Endpoint,
        subject: &Subject,
        reference: &Reference,
        mut answer: Answer,
    ) -> Result<(Bytes, Option<String>, Algorithm), Problem> {
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let name =
                    format!("{}{}", endpoint.repository(&reference.repository), version_suffix(reference));
                return Err(Problem::ManifestUnknown { host: answer.host(), name });
            }
            _ => return Err(self.rejected(endpoint, subject, answer).await),
        }
        let raw = answer.body(self.settings().limits.manifest, "manifest").await?;
        if let Some(length) = answer.content_length().filter(|length| *length != raw.len() as u64) {
            let (host, received) = (answer.host(), raw.len() as u64);
            return Err(Problem::Truncated { host, what: "manifest".to_owned(), received, size: length });
        }
        if super::message::starts_a_page(&raw) {
            return Err(Problem::WebPage { host: answer.host() });
        }
        if !raw.trim_ascii_start().starts_with(b"{")
            && let Some(encoded) = answer.encoded("a manifest")
        {
            return Err(encoded);
        }
        let claims = [reference.digest, claimed_digest(&answer)];
        for expected in claims.into_iter().flatten() {
            let actual = expected.algorithm().digest(&raw);
            if expected != actual {
                let host = answer.host();
                return Err(Problem::digest(host, "manifest", expected, actual));
            }
        }
        let known_by = claims.into_iter().flatten().next();
        let algorithm = known_by.map_or(Algorithm::Sha256, |digest| digest.algorithm());
        Ok((raw, answer.header(CONTENT_TYPE).map(str::to_owned), algorithm))
    }

    /// Reads the whole of a small blob that a manifest of `reference`'s repository names.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`]; also where the blob is larger than `limit`.
    pub async fn blob_bytes(
        &self,
        reference: &Reference,
        descriptor: &document::Descriptor,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let bytes = self.document_blob(reference, descriptor, limit, "blob").await;
        bytes.map_err(|problem| error(Action::Pull, reference, problem))
    }

    async fn document_blob(
        &self,
        reference: &Reference,
        descriptor: &document::Descriptor,
        limit: u64,
        what: &'static str,
    ) -> Result<Bytes, Problem> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        if size > limit {
            let host = reference.registry_host().to_owned();
            return Err(Problem::TooLarge { host, what: what.to_owned(), limit });
        }
        if let Some(bytes) = inline(reference, descriptor, digest, what)? {
            return Ok(bytes);
        }
        let mirrored = self.has_mirrors(reference);
        match self.whole_blob(reference, digest, size, what).await {
            // The mirrors are left.
            Err(Problem::Digest { .. }) if mirrored => self.whole_blob(reference, digest, size, what).await,
            done => done,
        }
    }

    async fn whole_blob(
        &self,
        reference: &Reference,
        digest: Digest,
        size: u64,
        what: &'static str,
    ) -> Result<Bytes, Problem> {
        let mut stream = self.blob_stream(reference, digest, size)?;
        stream.call(what);
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next_chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.into())
    }
}

/// Returns the content that the descriptor carries itself (image-spec descriptor.md, "Embedded Content"); it must be
/// what the digest says, because readers that fetch the blob see the other.
fn inline(
    reference: &Reference,
    descriptor: &document::Descriptor,
    expected: Digest,
    what: &str,
) -> Result<Option<Bytes>, Problem> {
    let Some(data) = descriptor.data() else { return Ok(None) };
    let (host, what) = (reference.registry_host().to_owned(), format!("{what} inside a manifest"));
    let decoded = base64::engine::general_purpose::STANDARD.decode(data);
    let bytes: Bytes = match decoded {
        Ok(bytes) => bytes.into(),
        Err(error) => return Err(Problem::Malformed { host, what, detail: error.to_string() }),
    };
    let actual = expected.algorithm().digest(&bytes);
    if actual != expected || bytes.len() as u64 != descriptor.size() {
        return Err(Problem::digest(host, &what, expected, actual));
    }
    Ok(Some(bytes))
}

pub(super) fn sources(client: &Client, reference: &Reference) -> Result<(Endpoint, Vec<Endpoint>), Problem> {
    let all = Endpoint::sources(client.settings(), reference)?;
    let (mut origin, mut mirrors): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|source| source.role == Role::Origin);
    mirrors.retain(|mirror| !client.is_absent(mirror));
    Ok((origin.pop().expect("the registry itself is a source"), mirrors))
}

pub(super) fn pull_subject(endpoint: &Endpoint, reference: &Reference) -> Subject {
    let repository = endpoint.repository(&reference.repository);
    Subject { scopes: Scopes::pull(&repository), repository }
}

pub(super) fn digest_of(descriptor: &document::Descriptor) -> Result<Digest, Problem> {
    document::digest_of(descriptor).map_err(|source| Problem::Document {
        source: document::DocumentError::Digest { what: "manifest", source },
    })
}

pub(super) fn manifest_request(
    method: Method,
    endpoint: &Endpoint,
    subject: &Subject,
    reference: &Reference,
) -> Result<Request, Problem> {
    let url = endpoint.url(&reference.repository, &format!("manifests/{}", reference.version()))?;
    let mut request = Request::new(method, url, subject, "manifest");
    let accept = HeaderValue::from_str(&ACCEPTED_MANIFESTS.join(", ")).expect("media types are a header");
    request.headers.insert(ACCEPT, accept);
    Ok(request)
}

/// The digest a registry claims, where it is one that can be verified.
fn claimed_digest(answer: &Answer) -> Option<Digest> {
    answer.header(CONTENT_DIGEST)?.parse().ok()
}

fn version_suffix(reference: &Reference) -> String {
    match reference.digest {
        Some(digest) => format!("@{digest}"),
        None => format!(":{}", reference.version()),
    }
}

fn check_size(endpoint: &Endpoint, actual: u64, expected: u64) -> Result<(), Problem> {
    let (host, what) = (endpoint.host(), "manifest".to_owned());
    match actual.cmp(&expected) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(Problem::Truncated { host, what, received: actual, size: expected }),
        std::cmp::Ordering::Greater => Err(Problem::TooLarge { host, what, limit: expected }),
    }
}
