//! Which credentials belong to a registry: Docker's config.json and containers' auth.json. Sends nothing.
//!
//! `docker_credential` reads the same files, but runs a helper of any name for any time and reads the process'
//! environment (reliability REG-09), so the look-up is our own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use super::error::{Problem, Refusal};
use super::settings::{Environment, Login};

/// What a user proves himself with.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Name and password.
    Login(Login),
    /// An OAuth2 refresh token, traded at the token server.
    IdentityToken(String),
    /// A token that is sent to the registry as it is (`registrytoken`).
    RegistryToken(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Login(login) => login.fmt(f),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::RegistryToken(_) => f.write_str("RegistryToken"),
        }
    }
}

/// What a file says about one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The credential itself.
    Here(Credential),
    /// A program to ask, with the name under which it knows the registry.
    Helper {
        /// Checked name: the program is `docker-credential-<name>`.
        name: String,
        /// What is written to its standard input.
        server: String,
    },
}

/// One config.json or auth.json. It has passwords, so it is not for `Debug`.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialFile {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Default, Deserialize)]
struct Auth {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

/// The key of Docker Hub in every file and helper since Docker's first registry protocol.
pub const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

impl CredentialFile {
    /// Parses the text of a file; `path` names it in errors.
    ///
    /// # Errors
    /// [`Problem::File`] for anything but the expected JSON. The text is not quoted: it holds secrets.
    pub fn parse(text: &[u8], path: &Path) -> Result<Self, Problem> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let wrong = |line: usize, column: usize| Problem::File {
            path: path.to_owned(),
            detail: format!("it is no JSON of Docker's config.json (line {line}, column {column})"),
        };
        // A list would be read as the object's values.
        if !text.trim_ascii_start().starts_with(b"{") {
            return Err(wrong(1, 1));
        }
        serde_json::from_slice(text).map_err(|error| wrong(error.line(), error.column()))
    }

    /// Returns what to try for `registry/repository`, best first.
    ///
    /// The longest namespaced key wins (containers-auth.json(5)); a helper of the registry comes before stored
    /// entries, the general store after them where there is one.
    ///
    /// # Errors
    /// A helper's name that could be a path, or an `auth` that is no base64 of `name:password`.
    pub fn find(&self, registry: &str, repository: &str, path: &Path) -> Result<Vec<Found>, Problem> {
        let mut found = Vec::new();
        let server = if is_docker_hub(registry) { DOCKER_HUB_KEY } else { registry };
        let helper = self.cred_helpers.iter().find(|(key, _)| is_of(key, registry));
        if let Some((key, name)) = helper.filter(|(_, name)| !name.is_empty()) {
            let server = if is_docker_hub(key) { DOCKER_HUB_KEY } else { key };
            found.push(Found::Helper { name: checked(name)?, server: server.to_owned() });
        }
        if let Some(auth) = self.entry(registry, repository) {
            found.extend(auth.credential(path)?.map(Found::Here));
        }
        if !self.creds_store.is_empty() {
            found.push(Found::Helper { name: checked(&self.creds_store)?, server: server.to_owned() });
        }
        Ok(found)
    }

    /// Returns the registries that have a helper of their own.
    pub(super) fn registries_of_helpers(&self) -> impl Iterator<Item = &str> {
        self.cred_helpers.keys().map(String::as_str)
    }

    fn entry(&self, registry: &str, repository: &str) -> Option<&Auth> {
        let mut namespace = format!("{}/{repository}", canonical(registry));
        loop {
            if let Some(auth) = self.auths.get(&namespace) {
                return Some(auth);
            }
            namespace.truncate(namespace.rfind('/')?);
            if !namespace.contains('/') {
                break;
            }
        }
        let exact = self.auths.get(registry);
        exact.or_else(|| self.auths.iter().find(|(key, _)| is_of(key, registry)).map(|(_, auth)| auth))
    }
}

impl Auth {
    fn credential(&self, path: &Path) -> Result<Option<Credential>, Problem> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(self.registrytoken.clone())));
        }
        if !self.auth.is_empty() {
            return decode(&self.auth).map(|login| Some(Credential::Login(login))).ok_or_else(|| {
                Problem::File {
                    path: path.to_owned(),
                    detail: "an auth entry is not base64 of name:password".to_owned(),
                }
            });
        }
        if self.username.is_empty() {
            return Ok(None);
        }
        let login = Login { username: self.username.clone(), password: self.password.clone() };
        Ok(Some(Credential::Login(login)))
    }
}

fn decode(auth: &str) -> Option<Login> {
    let bytes =
        base64::engine::general_purpose::STANDARD_NO_PAD.decode(auth.trim().trim_end_matches('=')).ok()?;
    // Docker pads the password with NUL bytes in old files.
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.trim_end_matches('\0').split_once(':')?;
    Some(Login { username: username.to_owned(), password: password.to_owned() })
}

/// Checks the name of a credential helper.
///
/// # Errors
/// A refusal of what could be a path.
pub fn checked(name: &str) -> Result<String, Problem> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 100 || !name.bytes().all(valid) {
        return Err(Refusal::Helper(super::error::clean(name)).into());
    }
    Ok(name.to_owned())
}

fn is_docker_hub(name: &str) -> bool {
    canonical(key_host(name)) == "docker.io"
}

fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io",
        other => other,
    }
}

/// Whether a key of a file is for the whole of `registry`. Other tools write hosts as their users did.
pub(super) fn is_of(key: &str, registry: &str) -> bool {
    key_host(key).eq_ignore_ascii_case(canonical(registry))
}

/// Returns the registry that a key of a file is for, as references name it.
pub fn registry_of(key: &str) -> &str {
    key_host(key)
}

/// The host of a key, which may be a host, a host with a namespace, or a URL.
fn key_host(key: &str) -> &str {
    let url = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    // Without a scheme a slash makes the key a namespace, which `entry` has tried already.
    let host = match url {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => key.trim_end_matches('/'),
    };
    canonical(host)
}

/// Returns the files to look into, best first: those named explicitly, then Docker's, then containers'.
pub fn files(environment: &Environment) -> Vec<PathBuf> {
    let join = |base: &Option<PathBuf>, rest: &str| base.as_ref().map(|base| base.join(rest));
    let docker =
        join(&environment.docker_config, "config.json").or(join(&environment.home, ".docker/config.json"));
    let config = join(&environment.xdg_config_home, "containers/auth.json");
    let config = config.or(join(&environment.home, ".config/containers/auth.json"));
    let runtime = join(&environment.xdg_runtime_dir, "containers/auth.json");
    let usual = [environment.registry_auth_file.clone(), docker, runtime, config].into_iter().flatten();
    usual.chain(environment.further_credentials.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, password: &str) -> Found {
        Found::Here(Credential::Login(Login { username: username.into(), password: password.into() }))
    }

    fn helper(name: &str, server: &str) -> Found {
        Found::Helper { name: name.into(), server: server.into() }
    }

    fn check(file: &str, registry: &str, repository: &str, expected: &[Found]) {
        let file = CredentialFile::parse(file.as_bytes(), Path::new("f")).unwrap();
        assert_eq!(file.find(registry, repository, Path::new("f")).unwrap(), expected);
    }

    #[test]
    fn stored_entries_are_found_under_every_key_that_clients_write() {
        // dTpw is u:p.
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#;
        check(hub, "docker.io", "library/x", &[login("u", "p")]);
        check(hub, "registry-1.docker.io", "library/x", &[login("u", "p")]);
        check(hub, "example.com", "x", &[]);
        check(r#"{"auths":{"docker.io":{"auth":"dTpw"}}}"#, "docker.io", "a/b", &[login("u", "p")]);
        check(
            r#"{"auths":{"Harbor.Example:5":{"auth":"dTpw"}}}"#,
            "harbor.example:5",
            "x",
            &[login("u", "p")],
        );
        check(r#"{"auths":{"https://h:5/v2/":{"auth":"dTpw=="}}}"#, "h:5", "x", &[login("u", "p")]);
        check(r#"{"auths":{"h":{"username":"a","password":"b:c"}}}"#, "h", "x", &[login("a", "b:c")]);
        let token = Found::Here(Credential::IdentityToken("t".into()));
        check(r#"{"auths":{"h":{"auth":"","identitytoken":"t"}}}"#, "h", "x", &[token]);
        check(r#"{"auths":{"h":{}}}"#, "h", "x", &[]);
        check("", "h", "x", &[]);
    }

    #[test]
    fn the_longest_namespace_wins_and_siblings_get_nothing() {
        // YTox, Yjoy, Yzoz are a:1, b:2, c:3.
        let file = r#"{"auths":{"h":{"auth":"YTox"},"h/team":{"auth":"Yjoy"},"h/team/app":{"auth":"Yzoz"}}}"#;
        check(file, "h", "team/app", &[login("c", "3")]);
        check(file, "h", "team/app/sub", &[login("c", "3")]);
        check(file, "h", "team/other", &[login("b", "2")]);
        check(file, "h", "teams/app", &[login("a", "1")]);
        check(r#"{"auths":{"h/team":{"auth":"Yjoy"}}}"#, "h", "other/x", &[]);
        check(r#"{"auths":{"h.evil.com":{"auth":"Yjoy"}}}"#, "h", "x", &[]);
    }

    #[test]
    fn helpers_come_before_entries_and_stores_after() {
        let file = r#"{"auths":{"h":{"auth":"dTpw"}},"credHelpers":{"h":"ecr-login"},"credsStore":"pass"}"#;
        check(file, "h", "x", &[helper("ecr-login", "h"), login("u", "p"), helper("pass", "h")]);
        check(file, "other", "x", &[helper("pass", "other")]);
        check(r#"{"credsStore":"desktop"}"#, "docker.io", "x", &[helper("desktop", DOCKER_HUB_KEY)]);
    }

    #[test]
    fn reg_09_a_helper_is_no_path() {
        for name in ["../../evil", "a/b", "a b", "a;b", "ä"] {
            let file = serde_json::json!({ "credHelpers": { "h": name } }).to_string();
            let file = CredentialFile::parse(file.as_bytes(), Path::new("f")).unwrap();
            let error = file.find("h", "x", Path::new("f")).unwrap_err();
            assert!(matches!(error, Problem::Refused(Refusal::Helper(_))), "{name}");
        }
    }

    #[test]
    fn broken_files_are_named_and_not_quoted() {
        let error = CredentialFile::parse(b"{\"auths\": secret", Path::new("/c.json")).err().unwrap();
        assert!(error.to_string().starts_with("/c.json: "));
        assert!(!error.to_string().contains("secret"));
        let file = CredentialFile::parse(br#"{"auths":{"h":{"auth":"!!"}}}"#, Path::new("f")).unwrap();
        assert!(file.find("h", "x", Path::new("f")).is_err());
    }

    #[test]
    fn files_in_the_order_of_their_explicitness() {
        let environment = Environment {
            home: Some("/h".into()),
            registry_auth_file: Some("/r".into()),
            xdg_runtime_dir: Some("/run".into()),
            further_credentials: vec!["/kaniko/.docker/config.json".into()],
            ..Environment::default()
        };
        let expected = [
            "/r",
            "/h/.docker/config.json",
            "/run/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/kaniko/.docker/config.json",
        ];
        assert_eq!(files(&environment), expected.map(PathBuf::from));
    }
}
