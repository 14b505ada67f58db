//! Which repositories are talked to, and their credentials apart from their names (SRC-01, SRC-05).

use std::fmt;

use super::SourceError;

/// A repository's address without credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct Remote {
    url: String,
    host: String,
    scheme: Scheme,
    login: Option<Login>,
}

/// How a repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// `http:` or `https:`.
    Http,
    /// `ssh:`, or as scp writes it.
    Ssh,
    /// `git:`.
    Git,
}

/// What stood before the `@` of an HTTP URL, decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub user: String,
    pub password: String,
}

impl Remote {
    /// Reads the address of a repository. `github.com/…` without a scheme is taken as `https:`.
    ///
    /// # Errors
    /// [`SourceError::Remote`] for anything but https, ssh, http and git, and for what git, ssh or a shell could
    /// take for an option.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let refuse = |why| SourceError::Remote { remote: redacted(text), why };
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(refuse("it has spaces or control characters in it"));
        }
        let full = match text.starts_with("github.com/") {
            true => format!("https://{text}"),
            false => text.to_owned(),
        };
        let parsed = match full.split_once("://") {
            Some((scheme, rest)) => with_scheme(&scheme.to_ascii_lowercase(), rest),
            None => scp_style(&full),
        };
        let remote = parsed.map_err(refuse)?;
        let parts = [remote.host.as_str(), remote.user().unwrap_or_default()];
        match parts.iter().any(|part| part.starts_with('-')) || remote.path().starts_with('-') {
            true => Err(refuse("a part of it starts with a dash")),
            false => Ok(remote),
        }
    }

    /// Returns the address for git and for people.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns `host[:port]`, the last part of the ids of secrets for this repository.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    fn user(&self) -> Option<&str> {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.split_once('@').map(|(user, _)| user)
    }

    /// What ssh hands to a program on the other side.
    fn path(&self) -> &str {
        match self.url.split_once("://") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            None => self.url.split_once(':').map_or("", |(_, path)| path),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({:?})", self.url)
    }
}

fn with_scheme(name: &str, rest: &str) -> Result<Remote, &'static str> {
    let scheme = match name {
        "http" | "https" => Scheme::Http,
        "ssh" => Scheme::Ssh,
        "git" => Scheme::Git,
        _ => return Err("only https, ssh, http and git are talked to"),
    };
    let (authority, path) = rest.split_once('/').ok_or("it has no path")?;
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if host.is_empty() || host.starts_with(':') {
        return Err("it has no host");
    }
    let (user, login) = match (scheme, user) {
        (Scheme::Http, Some(user)) => (String::new(), Some(login(user))),
        // ssh has no passwords in URLs; one that is there is a secret all the same.
        (_, Some(user)) => (format!("{}@", user.split(':').next().unwrap_or_default()), None),
        (_, None) => (String::new(), None),
    };
    let url = format!("{name}://{user}{host}/{path}");
    Ok(Remote { url, host: host.to_ascii_lowercase(), scheme, login })
}

/// `user@host:path`, with the words that giturl accepts. `ext::…` and a path on this machine are none.
fn scp_style(text: &str) -> Result<Remote, &'static str> {
    let none = "it is neither a URL nor user@host:path";
    let (user, rest) = text.split_once('@').ok_or(none)?;
    let (host, path) = rest.split_once(':').ok_or(none)?;
    let word = |text: &str, extra: &[u8]| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    if !word(user, b"-_") || !word(host, b"-.") || path.is_empty() {
        return Err(none);
    }
    Ok(Remote { url: text.to_owned(), host: host.to_ascii_lowercase(), scheme: Scheme::Ssh, login: None })
}

fn login(text: &str) -> Login {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Login { user: unescape(user), password: unescape(password) }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low).to_le_bytes()[0]);
                &tail[2..]
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns a text in which the user and password of every URL are left out.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        shown += head;
        let end = tail.find(|c: char| c == '/' || c.is_whitespace() || c == '\'').unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(at) => &tail[at + 1..],
            None => tail,
        };
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn src_05_credentials_are_apart_from_the_address() {
        let remote = Remote::parse("https://us%40er:p%3Aw@Host.example:8443/r.git").unwrap();
        assert_eq!(remote.url(), "https://Host.example:8443/r.git");
        assert_eq!(remote.host(), "host.example:8443");
        assert!(remote.login().is_some_and(|login| login.user == "us@er" && login.password == "p:w"));
        assert_eq!(Remote::parse("ssh://git:pw@h:22/r").unwrap().url(), "ssh://git@h:22/r");
        assert_eq!(Remote::parse("git@h:a/b").unwrap().url(), "git@h:a/b");
        assert_eq!(Remote::parse("github.com/a/b").unwrap().url(), "https://github.com/a/b");
        assert_eq!(redacted("at 'https://u:p@h/r' and ssh://k@h/x@y"), "at 'https://h/r' and ssh://h/x@y");
        assert_eq!(redacted("https://u:p@h"), "https://h");
        assert_eq!(redacted("git@h:a"), "git@h:a");
    }

    #[test]
    fn src_01_what_is_not_talked_to() {
        for text in [
            "ext::sh -c id",
            "ext::sh",
            "fd::3",
            "--upload-pack=touch",
            "-oProxyCommand=id",
            "ssh://-oProxyCommand=id/x",
            "ssh://-oX@h/x",
            "-x@h:a",
            "a@-h:a",
            "a@h:-x",
            "ssh://h/-x",
            "file:///etc",
            "/srv/repo.git",
            "../repo.git",
            "repo",
            "ftp://h/r",
            "https://",
            "https:///r",
            "https://:80/r",
            "https://h",
            "https://h/r\nx",
            "https://h/ r",
            "",
        ] {
            let error = Remote::parse(text).expect_err(text);
            assert!(error.is_refusal(), "{text}: {error}");
        }
    }
}
