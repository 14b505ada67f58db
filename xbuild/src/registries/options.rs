//! How registries are reached and who asks: what flags and the environment say. Files are read later, when a registry
//! is asked for the first time.

use std::io::Read as _;
use std::path::PathBuf;

use oci::reference::Reference;
use oci::registry::Login;

use super::said::Layer;
use super::words::{self, Say};
use crate::args::{ReachArgs, RegistryArgs};
use crate::environment::variable;
use crate::failure::{Class, Failure, usage};

/// What the user says about registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// What flags say.
    pub flags: Layer,
    /// What variables say.
    pub environment: Layer,
    /// The file of credentials that the command line names.
    pub credentials: Option<PathBuf>,
    /// The command line's user, and the registry that this is for, where that is known.
    given: Option<(Option<String>, Login)>,
    /// What the user should know once a registry is asked.
    pub notes: Vec<String>,
    /// The flags as they were typed, for a command that repeats a part of this one.
    pub again: Vec<String>,
}

/// Longest password or token that is read.
const PASSWORD_LIMIT: u64 = 64 << 10;

impl RegistryOptions {
    /// Says what the arguments mean. `--username` is for nobody yet, see [`Self::for_images`].
    ///
    /// # Errors
    /// A usage failure that names the flag or the variable.
    pub fn new(args: &RegistryArgs) -> Result<Self, Failure> {
        let mut options = Self::reaching(&args.reach)?;
        if let Some(path) = &options.credentials {
            words::readable(path)
                .map_err(|wrong| usage("--authfile", &wrong.why, "xbuild login makes one"))?;
        }
        options.given = given(args, &mut options.notes)?;
        options.again = args.again();
        Ok(options)
    }

    /// Says what the arguments mean that tell how registries are reached; the file of credentials may be absent.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn reaching(args: &ReachArgs) -> Result<Self, Failure> {
        Ok(Self {
            flags: flags(args)?,
            environment: environment(variable)?,
            credentials: args.authfile.clone(),
            ..Self::default()
        })
    }

    /// Says that the command is about these images: `--username` is for their registry.
    ///
    /// # Errors
    /// A usage failure where they are of several registries and none is said.
    pub fn for_images<'a>(
        mut self,
        images: impl IntoIterator<Item = &'a Reference>,
    ) -> Result<Self, Failure> {
        let Some((named @ None, _)) = &mut self.given else { return Ok(self) };
        let mut registries: Vec<&str> = images.into_iter().map(|image| image.registry.as_str()).collect();
        registries.sort_unstable();
        registries.dedup();
        match registries[..] {
            [one] => *named = Some(one.to_owned()),
            [] => {}
            [..] => {
                let why = format!("it could be for {}", registries.join(" or "));
                return Err(usage("--username", &why, "say which with --login-registry"));
            }
        }
        Ok(self)
    }

    /// Says that the command is about `registry`, as this user.
    pub fn log_in(&mut self, registry: &str, login: Login) {
        self.given = Some((Some(registry.to_owned()), login));
    }

    /// Returns the registry that the command line's user is for.
    ///
    /// # Errors
    /// A usage failure where that is not known.
    pub fn login(&self) -> Result<Option<(String, Login)>, Failure> {
        match &self.given {
            None => Ok(None),
            Some((Some(registry), login)) => Ok(Some((registry.clone(), login.clone()))),
            Some((None, _)) => {
                let why = "no image of the command says for which registry";
                Err(usage("--username", why, "say it with --login-registry"))
            }
        }
    }
}

fn flags(args: &ReachArgs) -> Result<Layer, Failure> {
    let mut layer = Layer::default();
    let all: [(&str, &[String], Say); 7] = [
        ("--insecure-registry", &args.insecure_registry, words::insecure),
        ("--registry-skip-verify", &args.registry_skip_verify, words::skip_verify),
        ("--registry-mirror", &args.registry_mirror, words::mirror_of),
        ("--registry-ca", &args.registry_ca, words::ca),
        ("--registry-cert", &args.registry_cert, words::certificate),
        ("--allow-registry-address", &args.allow_registry_address, words::allow),
        ("--registry-parallel", args.registry_parallel.as_slice(), words::parallel),
    ];
    for (flag, values, say) in all {
        for text in values {
            say(&mut layer, text)
                .map_err(|wrong| usage(&format!("{flag} {text}"), &wrong.why, &wrong.fix))?;
        }
    }
    Ok(layer)
}

/// The variables have the flags' values, with commas between them.
fn environment(variable: impl Fn(&str) -> Option<String>) -> Result<Layer, Failure> {
    let mut layer = Layer::default();
    let all: [(&str, Say); 7] = [
        ("XBUILD_INSECURE_REGISTRIES", words::insecure),
        ("XBUILD_REGISTRY_SKIP_VERIFY", words::skip_verify),
        ("XBUILD_REGISTRY_MIRRORS", words::mirror_of),
        ("XBUILD_REGISTRY_CA", words::ca),
        ("XBUILD_REGISTRY_CERT", words::certificate),
        ("XBUILD_ALLOW_REGISTRY_ADDRESS", words::allow),
        ("XBUILD_REGISTRY_PARALLEL", words::parallel),
    ];
    for (name, say) in all {
        for text in split(name, &variable(name).unwrap_or_default()) {
            say(&mut layer, &text).map_err(|wrong| {
                let value = format!("{name}={text}");
                Failure::new(Class::Usage, &["unusable variable", &value, &wrong.why, &wrong.fix])
            })?;
        }
    }
    Ok(layer)
}

/// Splits at commas. The comma between a client certificate and its key is none: every entry of that list has a `=`.
fn split(name: &str, value: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match entries.last_mut() {
            Some(last) if name == "XBUILD_REGISTRY_CERT" && !part.contains('=') => {
                last.push(',');
                last.push_str(part);
            }
            Some(_) | None => entries.push(part.to_owned()),
        }
    }
    entries
}

fn given(args: &RegistryArgs, notes: &mut Vec<String>) -> Result<Option<(Option<String>, Login)>, Failure> {
    let registry = match &args.login_registry {
        Some(text) => Some(registry("--login-registry", text)?),
        None => None,
    };
    let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
    if args.username.is_none() && !args.password_stdin {
        if registry.is_some() && filled("XBUILD_USERNAME").is_none() {
            return Err(usage("--login-registry", "there is no user", "add --username and --password-stdin"));
        }
        return from_environment(registry, notes);
    }
    let username = args.username.clone().or_else(|| filled("XBUILD_USERNAME"));
    let Some(username) = username.filter(|name| !name.is_empty()) else {
        return Err(usage("--password-stdin", "there is no user", "add --username NAME"));
    };
    let password = match args.password_stdin {
        true => read_password()?,
        false => filled("XBUILD_PASSWORD").ok_or_else(|| {
            usage(
                "--username",
                "there is no password",
                "pipe it in: --password-stdin, or set XBUILD_PASSWORD",
            )
        })?,
    };
    Ok(Some((registry, login(username, password)?)))
}

/// A user of the environment is for one named registry: every other that a job asks would get the password.
fn from_environment(
    flag: Option<String>,
    notes: &mut Vec<String>,
) -> Result<Option<(Option<String>, Login)>, Failure> {
    let filled = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (username, password) = match (filled("XBUILD_USERNAME"), filled("XBUILD_PASSWORD")) {
        (Some(username), Some(password)) => (username, password),
        (Some(_), None) => {
            notes.push("XBUILD_USERNAME is not used: XBUILD_PASSWORD is not set, or empty".to_owned());
            return Ok(None);
        }
        (None, Some(_)) => {
            notes.push("XBUILD_PASSWORD is not used: XBUILD_USERNAME is not set, or empty".to_owned());
            return Ok(None);
        }
        (None, None) => return Ok(None),
    };
    let named = match filled("XBUILD_LOGIN_REGISTRY") {
        Some(text) => Some(registry("XBUILD_LOGIN_REGISTRY", &text)?),
        None => None,
    };
    match flag.or(named) {
        Some(registry) => Ok(Some((Some(registry), login(username, password)?))),
        None => {
            notes.push("XBUILD_USERNAME is not used: XBUILD_LOGIN_REGISTRY names no registry".to_owned());
            Ok(None)
        }
    }
}

fn registry(place: &str, text: &str) -> Result<String, Failure> {
    words::host(text).map_err(|wrong| usage(&format!("{place} {text}"), &wrong.why, &wrong.fix))
}

/// Makes a login of what the user gave.
///
/// # Errors
/// A usage failure where a colon in the name would become part of the password (RFC 7617 §2).
pub fn login(username: String, password: String) -> Result<Login, Failure> {
    if username.contains(':') {
        return Err(usage(
            "--username",
            "a name has no colon",
            "give the name alone, the password by --password-stdin",
        ));
    }
    Ok(Login { username, password })
}

/// Reads a password to the end of standard input; a line's end is not part of it.
///
/// # Errors
/// A usage failure where there is none.
pub fn read_password() -> Result<String, Failure> {
    let wrong = |why: &str| usage("--password-stdin", why, "pipe the password in");
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(PASSWORD_LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|error| wrong(&format!("standard input: {error}")))?;
    if bytes.len() as u64 > PASSWORD_LIMIT {
        return Err(wrong("it is longer than 64 KiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(wrong("standard input is empty"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use oci::registry::settings::Verification;

    use super::*;

    fn given(registry: Option<&str>) -> RegistryOptions {
        let login = Login { username: "u".to_owned(), password: "p".to_owned() };
        RegistryOptions { given: Some((registry.map(str::to_owned), login)), ..RegistryOptions::default() }
    }

    fn check(options: RegistryOptions, images: &[&str], expect: Result<Option<&str>, &str>) {
        let images: Vec<Reference> = images.iter().map(|image| image.parse().unwrap()).collect();
        let found = options.for_images(&images).and_then(|options| options.login());
        match (found, expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found.map(|(registry, _)| registry).as_deref(), expect),
            (Err(failure), Err(part)) => assert!(failure.line.contains(part), "{failure}"),
            (found, expect) => panic!("{found:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn a_user_is_for_the_registry_of_the_images() {
        check(given(None), &["h.io/a:1", "h.io/b"], Ok(Some("h.io")));
        check(given(None), &["alpine"], Ok(Some("docker.io")));
        check(given(None), &["h.io/a", "alpine"], Err("docker.io or h.io"));
        check(given(None), &[], Err("--login-registry"));
        check(given(Some("x.io")), &["h.io/a", "alpine"], Ok(Some("x.io")));
        check(RegistryOptions::default(), &["h.io/a", "alpine"], Ok(None));
    }

    #[test]
    fn variables_have_the_flags_values() {
        let read = |wanted: &'static str, value: &'static str| {
            environment(move |name| (name == wanted).then(|| value.to_owned()))
        };
        let layer = read("XBUILD_REGISTRY_SKIP_VERIFY", "h.io, g.io:5 ,").unwrap();
        let names: Vec<_> = layer.registries.keys().collect();
        assert_eq!(names, ["g.io:5", "h.io"]);
        assert_eq!(layer.registries["h.io"].check, Some(Verification::None));
        let layer = read("XBUILD_REGISTRY_MIRRORS", "m.io,quay.io=m.io/quay").unwrap();
        assert_eq!(layer.registries["quay.io"].mirrors.as_deref().unwrap(), ["m.io/quay"]);
        let failure = read("XBUILD_ALLOW_REGISTRY_ADDRESS", "a b").unwrap_err();
        assert!(failure.line.contains("XBUILD_ALLOW_REGISTRY_ADDRESS=a b"), "{failure}");
        let split = split("XBUILD_REGISTRY_CERT", "h.io=c.pem,k.pem,g.io=b.pem");
        assert_eq!(split, ["h.io=c.pem,k.pem", "g.io=b.pem"]);
    }

    #[test]
    fn a_name_with_a_colon_is_no_name() {
        assert!(login("a:b".to_owned(), "c".to_owned()).is_err());
        assert!(login("robot$ci+team".to_owned(), "c:d".to_owned()).is_ok());
    }
}
