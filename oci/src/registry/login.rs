//! Keeps credentials for later and forgets them: what `login` and `logout` do to config.json and to helpers.
//!
//! Keys of the file that are not ours stay as they are.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::credentials::{self, CredentialFile, DOCKER_HUB_KEY, Found};
use super::error::Problem;
use super::helper;
use super::settings::{Environment, Login};
use crate::reference::DOCKER_HUB;

/// Where a credential was put or taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The file, in which passwords are merely encoded.
    File(PathBuf),
    /// The helper of this name.
    Helper(String),
}

/// Keeps `login` for `registry`: in the helper that the file of credentials names for it, else in that file, which is
/// the one of `REGISTRY_AUTH_FILE`, else Docker's config.json.
///
/// # Errors
/// A file that cannot be read or written, no home directory, or a helper that fails.
pub async fn store(environment: &Environment, registry: &str, login: &Login) -> Result<Place, Problem> {
    let path = config_path(environment)?;
    if let Some((name, server)) = helper_of(&path, registry)? {
        let entry = json!({ "ServerURL": server, "Username": login.username, "Secret": login.password });
        helper::tell(&name, "store", &entry.to_string()).await.map_err(|detail| failed(&path, detail))?;
        // An older entry of the file would win over the general store. The empty one lists the registry, as
        // Docker's own does.
        change(&path, |auths| {
            auths.retain(|key, _| key != registry);
            auths.insert(key_of(registry).to_owned(), json!({}));
        })?;
        return Ok(Place::Helper(name));
    }
    let pair = format!("{}:{}", login.username, login.password);
    let entry = json!({ "auth": base64::engine::general_purpose::STANDARD.encode(pair) });
    change(&path, |auths| {
        auths.retain(|key, _| key != registry);
        auths.insert(key_of(registry).to_owned(), entry);
    })?;
    Ok(Place::File(path))
}

/// Forgets what is kept for `registry`; returns from where, or nothing where nothing was kept.
///
/// # Errors
/// As for [`store`].
pub async fn erase(environment: &Environment, registry: &str) -> Result<Option<Place>, Problem> {
    let path = config_path(environment)?;
    let mut place = None;
    if let Some((name, server)) = helper_of(&path, registry)? {
        let kept = helper::get(&name, &server).await.map_err(|detail| failed(&path, detail))?;
        if kept.is_some() {
            helper::tell(&name, "erase", &server).await.map_err(|detail| failed(&path, detail))?;
            place = Some(Place::Helper(name));
        }
    }
    let is_of = |key: &str| credentials::is_of(key, registry);
    if logins(&path)?.iter().any(|key| is_of(key)) {
        change(&path, |auths| auths.retain(|key, _| !is_of(key)))?;
        place = place.or(Some(Place::File(path)));
    }
    Ok(place)
}

/// Returns the registries of which something is kept, as the file names them.
///
/// # Errors
/// A file that cannot be read.
pub fn kept(environment: &Environment) -> Result<Vec<String>, Problem> {
    let path = config_path(environment)?;
    let mut registries = logins(&path)?;
    let file = CredentialFile::parse(&read(&path)?, &path)?;
    registries.extend(file.registries_of_helpers().map(str::to_owned));
    registries.sort();
    registries.dedup();
    Ok(registries)
}

/// The keys of the file's `auths`.
fn logins(path: &Path) -> Result<Vec<String>, Problem> {
    let text = read(path)?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Vec::new());
    }
    let config: Value = serde_json::from_slice(&text)
        .map_err(|_| failed(path, "no JSON object with an object of auths".to_owned()))?;
    let auths = config.get("auths").and_then(Value::as_object);
    Ok(auths.map(|auths| auths.keys().cloned().collect()).unwrap_or_default())
}

fn key_of(registry: &str) -> &str {
    if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry }
}

fn failed(path: &Path, detail: String) -> Problem {
    Problem::File { path: path.to_owned(), detail }
}

fn config_path(environment: &Environment) -> Result<PathBuf, Problem> {
    if let Some(path) = &environment.registry_auth_file {
        return Ok(path.clone());
    }
    let directory = environment.docker_config.clone();
    let directory = directory.or_else(|| environment.home.as_ref().map(|home| home.join(".docker")));
    let directory = directory.ok_or_else(|| {
        failed(Path::new("config.json"), "neither DOCKER_CONFIG nor HOME says where it is".to_owned())
    })?;
    Ok(directory.join("config.json"))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    match std::fs::read(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(path, error.to_string())),
    }
}

fn helper_of(path: &Path, registry: &str) -> Result<Option<(String, String)>, Problem> {
    let file = CredentialFile::parse(&read(path)?, path)?;
    let found = file.find(registry, "", path)?;
    Ok(found.into_iter().find_map(|found| match found {
        Found::Helper { name, server } => Some((name, server)),
        Found::Here(_) => None,
    }))
}

/// Changes the `auths` of the file at `path`, which is replaced as a whole: a reader sees the old or the new one.
fn change(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<(), Problem> {
    let text = read(path)?;
    let not_ours = || failed(path, "no JSON object with an object of auths".to_owned());
    let mut config: Value = match text.iter().all(u8::is_ascii_whitespace) {
        true => json!({}),
        false => serde_json::from_slice(&text).map_err(|_| not_ours())?,
    };
    let auths = config.as_object_mut().ok_or_else(not_ours)?.entry("auths").or_insert_with(|| json!({}));
    edit(auths.as_object_mut().ok_or_else(not_ours)?);
    let mut text = serde_json::to_vec_pretty(&config).expect("a value serialises");
    text.push(b'\n');
    replace(path, &text).map_err(|error| failed(path, error.to_string()))
}

fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    // A symbolic link stays one: users keep their configuration elsewhere.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("."));
    if !directory.exists() {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    let temporary = directory.join(format!(".config.json.{:016x}", super::retry::random()));
    let written = (|| {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::credentials::Credential;

    #[tokio::test]
    async fn a_login_is_kept_privately_and_forgotten() {
        let home = tempfile::tempdir().unwrap();
        let environment = Environment { home: Some(home.path().to_owned()), ..Environment::default() };
        let path = home.path().join(".docker/config.json");
        let login = Login { username: "robot$ci".to_owned(), password: "p:w".to_owned() };
        for registry in ["docker.io", "harbor.example:8443"] {
            assert_eq!(store(&environment, registry, &login).await.unwrap(), Place::File(path.clone()));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let find = |registry: &str| {
            let file = CredentialFile::parse(&std::fs::read(&path).unwrap(), &path).unwrap();
            file.find(registry, "a/b", &path).unwrap()
        };
        let expected = [Found::Here(Credential::Login(login))];
        assert_eq!(find("docker.io"), expected);
        assert_eq!(find("harbor.example:8443"), expected);
        assert_eq!(kept(&environment).unwrap(), ["harbor.example:8443", DOCKER_HUB_KEY]);
        assert_eq!(erase(&environment, "docker.io").await.unwrap(), Some(Place::File(path.clone())));
        assert_eq!(erase(&environment, "docker.io").await.unwrap(), None);
        assert_eq!(find("docker.io"), []);
        assert_eq!(find("harbor.example:8443"), expected);
    }

    #[tokio::test]
    async fn what_is_not_ours_stays() {
        let home = tempfile::tempdir().unwrap();
        let environment =
            Environment { docker_config: Some(home.path().to_owned()), ..Environment::default() };
        let path = home.path().join("config.json");
        std::fs::write(&path, r#"{"HttpHeaders":{"X":"y"},"auths":{"h":{"auth":"dTpw","email":"e"}}}"#)
            .unwrap();
        let login = Login { username: "u".to_owned(), password: "p".to_owned() };
        let file = home.path().join("auth.json");
        let named = Environment { registry_auth_file: Some(file.clone()), ..environment.clone() };
        assert_eq!(store(&named, "h", &login).await.unwrap(), Place::File(file));
        store(&environment, "other", &login).await.unwrap();
        let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(config["HttpHeaders"]["X"], "y");
        assert_eq!(config["auths"]["h"]["email"], "e");
        std::fs::write(&path, "[]").unwrap();
        assert!(store(&environment, "other", &login).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"[]");
    }
}
