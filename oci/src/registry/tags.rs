//! The list of a repository's tags, page by page (distribution-spec, "Listing Tags"). Reads no manifest.

use reqwest::header::LINK;
use reqwest::{Method, StatusCode, Url};

use super::client::{Client, Request, error, join};
use super::connections::shown;
use super::endpoint::{Endpoint, host_of};
use super::error::{Action, Error, Problem, Refusal};
use super::pull::pull_subject;
use crate::Reference;

/// Most pages of tags that are read.
const MAX_PAGES: usize = 10_000;

/// Bytes of one page of tags.
const PAGE_LIMIT: u64 = 4 << 20;

impl Client {
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
