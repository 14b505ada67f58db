//! `xbuild login` and `xbuild logout`: credentials are checked with the registry, kept and forgotten.

use std::path::Path;

use oci::reference::DOCKER_HUB;
use oci::registry::credentials::{CredentialFile, registry_of};
use oci::registry::login::{self, Place};
use oci::registry::{Entrance, Environment, Login, Problem};

use super::prompt;
use super::{print, tell};
use crate::args::{LoginArgs, LogoutArgs};
use crate::failure::{Class, Failure};
use crate::options::{RegistryOptions, usage, variable};
use crate::registries::Registries;
use crate::registries::options::{login as make_login, read_password};
use crate::registries::{environment, words};

/// Checks a user's password with the registry and keeps it.
///
/// # Errors
/// Usage failures; a source failure where the registry cannot be asked or refuses the user.
pub fn login(args: &LoginArgs) -> Result<(), Failure> {
    if args.password.is_some() {
        let why = "every process of this machine can read the command line";
        return Err(usage(
            "--password",
            why,
            "pipe the password in: --password-stdin, or set XBUILD_PASSWORD",
        ));
    }
    let registry = registry(args.registry.as_deref())?;
    let mut options = RegistryOptions::reaching(&args.reach)?;
    let environment = environment::of_client(args.reach.authfile.as_deref());
    let runtime = crate::runtime()?;
    let kept = runtime.block_on(super::interruptible(async {
        let login = who(args, &registry).await?;
        options.log_in(&registry, login.clone());
        let registries = Registries::new(options, |note| tell(&note));
        let entrance = registries.client()?.check_login(&registry).await?;
        let place =
            login::store(&environment, &registry, &login).await.map_err(|problem| not_kept(&problem))?;
        Ok((entrance, place))
    }));
    // After an interrupt a thread may still wait for a line.
    runtime.shutdown_background();
    let (entrance, place) = kept?;
    if entrance == Entrance::Open {
        tell(&format!("note: {registry} asks nobody who they are, so the password is not checked"));
    }
    tell(&where_kept(&place));
    if let Some(name) = before(&environment, &registry) {
        tell(&format!("warning: {name} has credentials for {registry} too, and those are used"));
    }
    print("Login Succeeded\n")
}

/// Forgets the credentials of a registry, or of all.
///
/// # Errors
/// A file or a helper that cannot be changed.
pub fn logout(args: &LogoutArgs) -> Result<(), Failure> {
    let environment = environment::of_client(args.authfile.as_deref());
    let registries = match args.all {
        true => all(&environment)?,
        false => vec![registry(args.registry.as_deref())?],
    };
    let runtime = crate::runtime()?;
    if registries.is_empty() {
        return print("Not logged in to any registry\n");
    }
    for registry in registries {
        let erase =
            async { login::erase(&environment, &registry).await.map_err(|problem| not_kept(&problem)) };
        match runtime.block_on(super::interruptible(erase))? {
            Some(_) => print(&format!("Removed login credentials for {registry}\n"))?,
            None => print(&format!("Not logged in to {registry}\n"))?,
        }
        if let Some(name) = before(&environment, &registry) {
            tell(&format!("warning: {name} has credentials for {registry} still"));
        }
    }
    Ok(())
}

fn all(environment: &Environment) -> Result<Vec<String>, Failure> {
    let kept = login::kept(environment).map_err(|problem| not_kept(&problem))?;
    let mut registries: Vec<String> = kept.iter().map(|key| registry_of(key).to_owned()).collect();
    registries.sort();
    registries.dedup();
    Ok(registries)
}

/// Returns the registry that is meant; docker's users also write its URL.
fn registry(text: Option<&str>) -> Result<String, Failure> {
    let Some(text) = text else { return Ok(DOCKER_HUB.to_owned()) };
    let bare = match text.strip_prefix("https://") {
        Some(url) => url.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
        None => text,
    };
    words::host(bare)
        .map_err(|wrong| Failure::new(Class::Usage, &["unusable registry", text, &wrong.why, &wrong.fix]))
}

/// Returns user and password: from the command line, the environment, or whoever sits there.
async fn who(args: &LoginArgs, registry: &str) -> Result<Login, Failure> {
    let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
    let given = args.username.clone().or_else(|| filled("XBUILD_USERNAME"));
    // Standard input is asked for the name only where it is not the password.
    let username = match given {
        Some(username) => username,
        None if !args.password_stdin && prompt::is_possible() => {
            prompt::line(&format!("User of {registry}: "), prompt::Echo::On).await?
        }
        None => return Err(usage("--username", "there is no user", "add --username NAME")),
    };
    if username.is_empty() {
        return Err(usage("--username", "the name is empty", "give the user's name"));
    }
    let password = match (args.password_stdin, filled("XBUILD_PASSWORD")) {
        (true, _) => prompt::aside(read_password).await?,
        (false, Some(password)) => password,
        (false, None) if prompt::is_possible() => {
            prompt::line(&format!("Password of {username}: "), prompt::Echo::Off).await?
        }
        (false, None) => {
            let why = "standard input is no terminal to ask for the password";
            return Err(usage("login", why, "pipe the password in: --password-stdin"));
        }
    };
    if password.is_empty() {
        return Err(usage("login", "the password is empty", "give a password or a token"));
    }
    make_login(username, password)
}

fn where_kept(place: &Place) -> String {
    match place {
        Place::File(path) => format!(
            "warning: the password is kept in {}, merely encoded; a credential helper keeps it safer",
            path.display()
        ),
        Place::Helper(name) => format!("the password is kept by docker-credential-{name}"),
    }
}

fn not_kept(problem: &Problem) -> Failure {
    let text = problem.to_string();
    let fix = match text.contains("credential helper") {
        true => "install the helper, or take it out of that file",
        false => "mend that file, or name another with --authfile",
    };
    // A file about registries is wrong, or the home directory in which it would be.
    Failure::new(Class::Usage, &["cannot change the credentials", "", &text, fix])
}

/// Returns what is asked before the file that `login` writes, where it knows the registry.
fn before(environment: &Environment, registry: &str) -> Option<&'static str> {
    const NAME: &str = "DOCKER_AUTH_CONFIG";
    let text = environment.docker_auth_config.as_ref()?;
    let file = CredentialFile::parse(text.as_bytes(), Path::new(NAME)).ok()?;
    let found = file.find(registry, "", Path::new(NAME)).ok()?;
    (!found.is_empty()).then_some(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: Option<&str>, expect: Option<&str>) {
        assert_eq!(registry(text).ok().as_deref(), expect, "{text:?}");
    }

    #[test]
    fn docker_hub_is_the_default_and_urls_are_understood() {
        check(None, Some("docker.io"));
        check(Some("https://index.docker.io/v1/"), Some("docker.io"));
        check(Some("https://harbor.example.com"), Some("harbor.example.com"));
        check(Some("localhost:5000"), Some("localhost:5000"));
        check(Some("http://harbor.example.com"), None);
        check(Some("quay.io/team"), None);
        check(Some("alice"), None);
    }
}
