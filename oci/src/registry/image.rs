//! Images as what a push needs: from documents at hand, or from another repository. Sends no blob.

use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};

use super::body::BlobSource;
use super::client::{Client, Request, error, join};
use super::connections::shown;
use super::endpoint::{Endpoint, host_of};
use super::error::{Action, Error, Problem, Refusal};
use super::pull::{digest_of, pull_subject};
use super::push::{PushBlob, PushDocument, PushImage};
use crate::document::{Descriptor, DocumentError, Index, Manifest, Root};
use crate::{Digest, Reference};

impl PushImage {
    /// Adds `manifest` with its config and layers; `source_of` says where each blob's bytes are.
    ///
    /// # Errors
    /// Whatever `source_of` returns.
    pub fn add_manifest<E>(
        &mut self,
        manifest: &Manifest,
        tags: &[String],
        mut source_of: impl FnMut(&Descriptor, Digest) -> Result<BlobSource, E>,
    ) -> Result<(), E> {
        for descriptor in manifest.parsed.layers().iter().chain([manifest.parsed.config()]) {
            let digest = digest_of(descriptor).expect("the descriptors of a parsed manifest are checked");
            self.blobs.push(PushBlob {
                digest,
                size: descriptor.size(),
                media_type: descriptor.media_type().to_string(),
                source: source_of(descriptor, digest)?,
                found_in: Vec::new(),
            });
        }
        self.add_document(&Root::Manifest(manifest.clone()), tags);
        Ok(())
    }

    /// Adds `index`; the manifests that it names must have been added before.
    pub fn add_index(&mut self, index: &Index, tags: &[String]) {
        self.add_document(&Root::Index(index.clone()), tags);
    }

    fn add_document(&mut self, root: &Root, tags: &[String]) {
        self.documents.push(PushDocument {
            raw: root.raw().clone(),
            digest: root.digest(),
            media_type: root.media_type().to_owned(),
            tags: tags.to_vec(),
        });
    }
}

/// Most pages of tags that are read.
const MAX_PAGES: usize = 10_000;

/// Bytes of one page of tags.
const PAGE_LIMIT: u64 = 4 << 20;

impl Client {
    /// Describes all of `source` (every platform of an index) so that it can be pushed elsewhere under `tags`.
    /// Its blobs stay where they are until a push finds no other way to them.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn remote_image(&self, source: &Reference, tags: &[String]) -> Result<PushImage, Error> {
        let mut image = PushImage::default();
        // Indexes are walked by a stack; each document is stored after those that it names.
        let root = self.root(source).await?;
        let mut pending = vec![(root, tags.to_vec(), Expanded::No)];
        while let Some((root, tags, expanded)) = pending.pop() {
            match (root, expanded) {
                (Root::Manifest(manifest), _) => {
                    let from = |_: &Descriptor, _| Ok::<_, Error>(BlobSource::Remote(source.clone()));
                    image.add_manifest(&manifest, &tags, from)?;
                }
                (Root::Index(index), Expanded::Yes) => image.add_index(&index, &tags),
                (Root::Index(index), Expanded::No) => {
                    let children = index.parsed.manifests().clone();
                    pending.push((Root::Index(index), tags, Expanded::Yes));
                    if pending.len() > 1000 {
                        let problem = Problem::Document { source: DocumentError::TooDeep };
                        return Err(error(Action::Pull, source, problem));
                    }
                    for child in &children {
                        let digest =
                            digest_of(child).map_err(|problem| error(Action::Pull, source, problem))?;
                        let child = self.root(&source.with_digest(digest)).await?;
                        pending.push((child, Vec::new(), Expanded::No));
                    }
                }
            }
        }
        Ok(image)
    }

    /// Returns the tags of `reference`'s repository, as the registry orders them.
    ///
    /// # Errors
    /// [`Error`] with action [`Action::Pull`].
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        self.tags_inner(reference).await.map_err(|problem| error(Action::Pull, reference.name(), problem))
    }

    async fn tags_inner(&self, reference: &Reference) -> Result<Vec<String>, Problem> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let endpoint = Endpoint::read_origin(self.settings(), reference)?;
        let subject = pull_subject(&endpoint, reference);
        let mut tags = Vec::new();
        let mut next = Some(endpoint.url(&reference.repository, "tags/list")?);
        for _ in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            let request = Request::new(Method::GET, url, &subject, "tags");
            let mut answer = self.send(&endpoint, &request).await?;
            match answer.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND => {
                    let name = endpoint.repository(&reference.repository);
                    return Err(Problem::ManifestUnknown { host: answer.host(), name });
                }
                _ => return Err(self.rejected(&endpoint, &subject, answer).await),
            }
            let body = answer.body(PAGE_LIMIT, "list of tags").await?;
            let page: Page = serde_json::from_slice(&body).map_err(|error| Problem::Malformed {
                host: answer.host(),
                what: "a list of tags".to_owned(),
                detail: error.to_string(),
            })?;
            tags.extend(page.tags.unwrap_or_default().iter().map(|tag| super::error::clean(tag)));
            next = match answer.header(LINK).and_then(next_link) {
                Some(link) => Some(next_page(&answer.url, link)?),
                None => None,
            };
        }
        Ok(tags)
    }
}

/// Whether the children of an index have been added.
#[derive(Clone, Copy)]
enum Expanded {
    No,
    Yes,
}

/// The target of `<…>; rel="next"` (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let (target, parameters) = header.trim().strip_prefix('<')?.split_once('>')?;
    parameters.replace(['"', ' '], "").contains("rel=next").then_some(target)
}

/// A next page is on the same server: a link elsewhere would take our credentials along (reliability REG-08).
fn next_page(url: &Url, link: &str) -> Result<Url, Problem> {
    let next = join(url, link)?;
    if next.scheme() != url.scheme() || host_of(&next) != host_of(url) {
        return Err(Refusal::Elsewhere { registry: host_of(url), url: shown(&next) }.into());
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reg_08_pages_stay_on_their_server() {
        let url = Url::parse("https://r.example/v2/a/tags/list").unwrap();
        let page =
            |header: &str| next_link(header).map(|link| next_page(&url, link).map(|url| url.to_string()));
        let expected = "https://r.example/v2/a/tags/list?n=2&last=b";
        assert_eq!(page(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#).unwrap().unwrap(), expected);
        assert!(page(r#"<https://evil.example/>; rel=next"#).unwrap().is_err());
        assert!(page(r#"<http://r.example/>; rel="next""#).unwrap().is_err());
        assert!(page(r#"<https://r.example:8443/>; rel="next""#).unwrap().is_err());
        assert!(page("nonsense").is_none());
        assert!(page(r#"</x>; rel="prev""#).is_none());
    }
}
