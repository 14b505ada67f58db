//! Logs requests in: finds credentials, fetches tokens, keeps them until they end. Decides nothing about URLs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode, Url};

use super::challenge::{self, Challenge};
use super::client::Client;
use super::connections::shown;
use super::credentials::{self, Credential, CredentialFile, Found};
use super::endpoint::{Endpoint, host_of};
use super::error::{Offered, Problem, Refusal};
use super::event::{Event, Events};
use super::helper;
use super::settings::{Login, Settings};
use super::token::{self, Scopes, Token};

/// What is known about the doors of all registries.
#[derive(Default)]
pub(super) struct Keyring {
    doors: Mutex<BTreeMap<String, Arc<Door>>>,
    credentials: tokio::sync::Mutex<BTreeMap<String, Option<Credential>>>,
}

/// One registry's door.
#[derive(Default)]
struct Door {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<BTreeMap<Scopes, Token>>,
    /// Held while a token is fetched, so that parallel layers fetch one together.
    fetching: tokio::sync::Mutex<()>,
}

/// For whom a request is made.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// Repository whose credentials apply; empty for the registry as a whole.
    pub repository: String,
    /// What is to be done with it.
    pub scopes: Scopes,
}

/// Whether a refused request is worth another try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    /// With what the registry asks for.
    Yes,
    /// In this other way, which counts for this request only until it has worked.
    By(Challenge),
    /// There is nothing else to offer.
    No,
}

/// A 401 to a request.
pub(super) struct Refused<'a> {
    /// Headers of the answer.
    pub headers: &'a HeaderMap,
    /// What the request carried.
    pub used: Option<&'a HeaderValue>,
    /// How many of them the request has met, this one included.
    pub count: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keyring {
    fn door(&self, endpoint: &Endpoint) -> Arc<Door> {
        lock(&self.doors).entry(endpoint.base.to_string()).or_default().clone()
    }

    /// Returns the `Authorization` of a request, in the way `by` or in the registry's usual one; `None` where the
    /// registry has not asked for one yet.
    pub async fn authorization(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        subject: &Subject,
        by: Option<&Challenge>,
    ) -> Result<Option<HeaderValue>, Problem> {
        let door = self.door(endpoint);
        let challenge = by.cloned().or_else(|| lock(&door.challenge).clone());
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => match self.credential(client, endpoint, subject).await? {
                Some(Credential::Login(login)) => basic(&login, endpoint).map(Some),
                Some(Credential::RegistryToken(token)) => bearer(&token, endpoint).map(Some),
                Some(Credential::IdentityToken(_)) | None => Ok(None),
            },
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(client, endpoint, subject, &door, &realm, service.as_deref()).await?;
                bearer(&token, endpoint).map(Some)
            }
        }
    }

    /// Takes in a 401.
    ///
    /// Harbor asks for Basic as soon as a request has carried a token, whatever is wrong with the token (its
    /// v2auth middleware). So a new token is tried first, name and password only after that.
    pub async fn refused(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        subject: &Subject,
        refused: Refused<'_>,
    ) -> Again {
        let door = self.door(endpoint);
        if let Some(used) = refused.used {
            forget(&door, subject, used);
        }
        let Some(asked) = challenge::choose(refused.headers) else { return Again::No };
        let with =
            |scheme: &str| refused.used.is_some_and(|used| used.as_bytes().starts_with(scheme.as_bytes()));
        let again = refused.count > 1;
        match asked {
            Challenge::Basic if with("Basic ") => Again::No,
            Challenge::Basic if with("Bearer ") && is_bearer(&door) => match again {
                false => Again::Yes,
                true if self.has_login(client, endpoint, subject).await => Again::By(Challenge::Basic),
                true => Again::No,
            },
            // A new token for the same scopes would say the same.
            Challenge::Bearer { .. } if again && challenge::lacks_scope(refused.headers) => Again::No,
            Challenge::Basic | Challenge::Bearer { .. } => {
                *lock(&door.challenge) = Some(asked);
                Again::Yes
            }
        }
    }

    /// Keeps to a way of logging in that has worked.
    pub fn settle(&self, endpoint: &Endpoint, by: Challenge) {
        *lock(&self.door(endpoint).challenge) = Some(by);
    }

    /// Whether the registry has asked for a login.
    pub fn has_asked(&self, endpoint: &Endpoint) -> bool {
        lock(&self.door(endpoint).challenge).is_some()
    }

    async fn has_login(&self, client: &Client, endpoint: &Endpoint, subject: &Subject) -> bool {
        match self.credential(client, endpoint, subject).await {
            Ok(Some(Credential::Login(_) | Credential::RegistryToken(_))) => true,
            Ok(Some(Credential::IdentityToken(_)) | None) | Err(_) => false,
        }
    }

    /// Returns what was or would be offered to the registry, for messages.
    pub async fn offered(&self, client: &Client, endpoint: &Endpoint, subject: &Subject) -> Offered {
        match self.credential(client, endpoint, subject).await {
            Ok(Some(Credential::Login(login))) => Offered::User(login.username),
            Ok(Some(Credential::IdentityToken(_) | Credential::RegistryToken(_))) => Offered::IdentityToken,
            Ok(None) | Err(_) => Offered::Nothing,
        }
    }

    async fn token(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        subject: &Subject,
        door: &Door,
        realm: &str,
        service: Option<&str>,
    ) -> Result<String, Problem> {
        let valid = || {
            let tokens = lock(&door.tokens);
            tokens.get(&subject.scopes).filter(|token| token.renew > Instant::now()).map(|t| t.value.clone())
        };
        if let Some(value) = valid() {
            return Ok(value);
        }
        let _fetching = door.fetching.lock().await;
        if let Some(value) = valid() {
            return Ok(value);
        }
        let credential = self.credential(client, endpoint, subject).await?;
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok(token);
        }
        let token = fetch(client, endpoint, &subject.scopes, realm, service, credential.as_ref()).await?;
        let value = token.value.clone();
        lock(&door.tokens).insert(subject.scopes.clone(), token);
        Ok(value)
    }

    /// Returns the credential for the subject, looked up once: a helper may be slow.
    async fn credential(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        subject: &Subject,
    ) -> Result<Option<Credential>, Problem> {
        let key = format!("{}/{}", endpoint.registry, subject.repository);
        let mut known = self.credentials.lock().await;
        if let Some(credential) = known.get(&key) {
            return Ok(credential.clone());
        }
        let found =
            look_up(client.settings(), client.events(), &endpoint.registry, &subject.repository).await?;
        known.insert(key, found.clone());
        Ok(found)
    }
}

/// Drops the token that was refused, unless another task has fetched a newer one meanwhile.
fn forget(door: &Door, subject: &Subject, used: &HeaderValue) {
    lock(&door.tokens).retain(|scopes, token| {
        *scopes != subject.scopes || used.as_bytes() != format!("Bearer {}", token.value).as_bytes()
    });
}

fn is_bearer(door: &Door) -> bool {
    matches!(&*lock(&door.challenge), Some(Challenge::Bearer { .. }))
}

/// Looks the credential of `registry/repository` up: command line, then environment, then files, then helpers for all
/// registries.
///
/// A helper that fails is told and passed over: CI machines inherit configurations that name helpers of
/// desktops, and most images are public.
async fn look_up(
    settings: &Settings,
    events: &Events,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, Problem> {
    if let Some(login) = settings.logins.get(registry) {
        return Ok(Some(Credential::Login(login.clone())));
    }
    for (path, text) in credential_texts(settings)? {
        let file = CredentialFile::parse(&text, &path)?;
        for found in file.find(registry, repository, &path)? {
            match found {
                Found::Here(credential) => return Ok(Some(credential)),
                Found::Helper { name, server } => {
                    if let Some(credential) = ask(events, &name, &server).await {
                        return Ok(Some(credential));
                    }
                }
            }
        }
    }
    for name in &settings.helpers {
        // Unlike Docker's, containers' tools ask for Docker Hub by its name.
        if let Some(credential) = ask(events, &credentials::checked(name)?, registry).await {
            return Ok(Some(credential));
        }
    }
    Ok(None)
}

async fn ask(events: &Events, helper: &str, server: &str) -> Option<Credential> {
    helper::get(helper, server).await.unwrap_or_else(|reason| {
        events.tell(Event::Note(format!("{reason}; going on without it")));
        None
    })
}

/// The texts of all files that are there. A file named explicitly must be readable.
fn credential_texts(settings: &Settings) -> Result<Vec<(PathBuf, Vec<u8>)>, Problem> {
    let mut texts = Vec::new();
    if let Some(text) = &settings.environment.docker_auth_config {
        texts.push((PathBuf::from("DOCKER_AUTH_CONFIG"), text.clone().into_bytes()));
    }
    for path in credentials::files(&settings.environment) {
        if let Some(text) = read_optional(&path)? {
            texts.push((path, text));
        }
    }
    Ok(texts)
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(Problem::File { path: path.to_owned(), detail: error.to_string() }),
    }
}

fn bearer(token: &str, endpoint: &Endpoint) -> Result<HeaderValue, Problem> {
    sensitive(&format!("Bearer {token}"), endpoint)
}

fn basic(login: &Login, endpoint: &Endpoint) -> Result<HeaderValue, Problem> {
    let pair = format!("{}:{}", login.username, login.password);
    sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)), endpoint)
}

fn sensitive(text: &str, endpoint: &Endpoint) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Problem::Malformed {
        host: endpoint.host(),
        what: "no usable credentials".to_owned(),
        detail: "they have characters that cannot stand in a header".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Fetches a token: by GET, with name and password where there are some; by POST for an identity token
/// (distribution's token.md and oauth.md).
async fn fetch(
    client: &Client,
    endpoint: &Endpoint,
    scopes: &Scopes,
    realm: &str,
    service: Option<&str>,
    credential: Option<&Credential>,
) -> Result<Token, Problem> {
    let realm = realm_url(endpoint, realm)?;
    client.announce_token_server(endpoint, &realm);
    let mut retrier = client.retrier_at(endpoint, &realm, "token");
    loop {
        match fetch_once(client, endpoint, scopes, &realm, service, credential).await {
            Ok(token) => return Ok(token),
            Err(problem) => {
                retrier.pause(problem).await.map_err(|problem| without_token(&realm, problem))?;
            }
        }
    }
}

/// Says that it is a token server that failed. What it says of name and password is clear without that.
fn without_token(realm: &Url, problem: Problem) -> Problem {
    match problem {
        Problem::Refused(_) | Problem::Unauthorized { .. } | Problem::File { .. } => problem,
        _ => Problem::NoToken { server: shown(realm), problem: Box::new(problem) },
    }
}

fn realm_url(endpoint: &Endpoint, realm: &str) -> Result<Url, Problem> {
    // A relative realm is against the specification, but some proxies write one.
    endpoint.base.join(realm).map_err(|error| Problem::Malformed {
        host: endpoint.host(),
        what: format!("a realm {:?}", super::error::clean(realm)),
        detail: error.to_string(),
    })
}

async fn fetch_once(
    client: &Client,
    endpoint: &Endpoint,
    scopes: &Scopes,
    realm: &Url,
    service: Option<&str>,
    credential: Option<&Credential>,
) -> Result<Token, Problem> {
    let http = client.connections().client(client.settings(), endpoint, realm)?;
    let request = match credential {
        Some(Credential::IdentityToken(refresh)) => http
            .request(Method::POST, realm.clone())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(refresh_form(refresh, scopes, service)),
        Some(Credential::Login(login)) => {
            let url = token_query(realm, scopes, service, Some(&login.username));
            http.get(url).header(AUTHORIZATION, basic(login, endpoint)?)
        }
        Some(Credential::RegistryToken(_)) | None => http.get(token_query(realm, scopes, service, None)),
    };
    let mut answer = client.transmit(request, realm, None).await?;
    let status = answer.status();
    if status == StatusCode::OK || status == StatusCode::CREATED {
        let body = answer.body(client.settings().limits.token, "token answer").await?;
        return token::parse(&body, &host_of(realm), Instant::now());
    }
    if status.is_redirection() {
        // Following would send name and password wherever the token server likes (REG-03).
        let url = answer.header(LOCATION).map_or("nowhere".to_owned(), |to| told(realm, to));
        return Err(Refusal::TokenRedirect { server: shown(realm), url }.into());
    }
    let failure = answer.failure().await;
    match status.as_u16() {
        // Harbor answers 400 where the name has no project.
        400 | 401 | 403 => Err(unauthorized(failure, endpoint, credential)),
        _ => Err(failure),
    }
}

/// Returns a Location for a message.
fn told(url: &Url, location: &str) -> String {
    url.join(location).map_or_else(|_| super::error::clean(location), |url| shown(&url))
}

fn unauthorized(failure: Problem, endpoint: &Endpoint, credential: Option<&Credential>) -> Problem {
    let Problem::Status { host, status, messages, .. } = failure else { return failure };
    let offered = match credential {
        Some(Credential::Login(login)) => Offered::User(login.username.clone()),
        Some(Credential::IdentityToken(_) | Credential::RegistryToken(_)) => Offered::IdentityToken,
        None => Offered::Nothing,
    };
    Problem::Unauthorized { host, status, messages, offered, registry: endpoint.registry.clone() }
}

/// Adds our own scopes; values are percent-encoded, so nothing in them becomes another parameter (REG-06).
fn token_query(realm: &Url, scopes: &Scopes, service: Option<&str>, account: Option<&str>) -> Url {
    let mut url = realm.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes.iter() {
            query.append_pair("scope", scope);
        }
        if let Some(account) = account {
            query.append_pair("account", account);
        }
    }
    url
}

fn refresh_form(refresh: &str, scopes: &Scopes, service: Option<&str>) -> String {
    // A URL's query is written in the encoding of forms (WHATWG URL, urlencoded serializing).
    let mut form = Url::parse("form:").expect("a scheme is a URL");
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", "xbuild")
        .append_pair("service", service.unwrap_or_default())
        .append_pair("scope", &scopes.to_string())
        .append_pair("refresh_token", refresh);
    form.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reg_06_values_of_a_challenge_stay_values() {
        let realm = Url::parse("https://auth.example/token?x=1").unwrap();
        let url = token_query(&realm, &Scopes::pull("a/b"), Some("s&scope=repository:victim:push#\n"), None);
        let pairs: Vec<_> = url.query_pairs().into_owned().collect();
        assert_eq!(pairs.len(), 3);
        assert_eq!(pairs[0], ("x".to_owned(), "1".to_owned()));
        assert_eq!(pairs[1].1, "s&scope=repository:victim:push#\n");
        assert_eq!(pairs[2].1, "repository:a/b:pull");
        assert!(url.fragment().is_none());
    }

    #[test]
    fn a_refresh_token_is_traded_as_a_form() {
        let form = refresh_form("r&t", &Scopes::push("a/b", ["c"]), Some("svc"));
        assert_eq!(
            form,
            "grant_type=refresh_token&client_id=xbuild&service=svc&scope=repository%3Aa%2Fb%3Apull%2Cpush\
             +repository%3Ac%3Apull&refresh_token=r%26t"
        );
    }
}
