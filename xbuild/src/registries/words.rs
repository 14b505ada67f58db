//! The words in which flags, variables and files speak of registries: hosts, mirrors, certificates. Looks into files
//! only to say at once that they are not what they should be.

use std::path::{Path, PathBuf};

use frontend::suggest;
use oci::reference::{DOCKER_HUB, Reference};
use oci::registry::address::Authority;
use oci::registry::settings::{ClientCertificate, Verification};

use super::said::{Layer, Plain};

/// Why a text is unusable, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
}

fn wrong(why: impl Into<String>, fix: impl Into<String>) -> Wrong {
    Wrong { why: why.into(), fix: fix.into() }
}

/// Adds something to what a place says.
pub type Say = fn(&mut Layer, &str) -> Result<(), Wrong>;

/// `HOST[:PORT]`: it speaks plain HTTP.
pub fn insecure(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    layer.registry(&host(text)?).plain = Some(Plain::Yes);
    Ok(())
}

/// `HOST[:PORT]`: its certificate is not looked at.
pub fn skip_verify(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    layer.registry(&host(text)?).check = Some(Verification::None);
    Ok(())
}

/// `[HOST=]MIRROR[/PREFIX]`: a mirror of the registry, of Docker Hub where none is named.
pub fn mirror_of(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    let (registry, mirror) = match text.split_once('=') {
        Some((registry, mirror)) => (host(registry)?, mirror),
        None => (DOCKER_HUB.to_owned(), text),
    };
    add_mirror(layer, &registry, mirror)
}

/// `MIRROR[/PREFIX]` of `registry`, where a scheme may stand as dockerd's `--registry-mirror` has it.
pub fn add_mirror(layer: &mut Layer, registry: &str, text: &str) -> Result<(), Wrong> {
    let (location, plain) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        (None, None) => (text, false),
    };
    let location = location.trim_end_matches('/');
    let name = match location.split_once('/') {
        Some((mirror, path)) => format!("{}/{}", host(mirror)?, path_of(mirror, path)?),
        None => host(location)?,
    };
    if name == registry {
        return Err(wrong(format!("{registry} is no mirror of itself"), "name another host"));
    }
    if plain {
        layer.registry(name.split('/').next().unwrap_or(&name)).plain = Some(Plain::Yes);
    }
    layer.registry(registry).mirrors.get_or_insert_default().push(name);
    Ok(())
}

/// `[HOST=]PATH`: authorities for the registry's certificate, or for all.
pub fn ca(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    let (registry, path) = match text.split_once('=').map(|(registry, path)| (host(registry), path)) {
        Some((Ok(registry), path)) => (Some(registry), path),
        // A path may have a '=' too.
        Some((Err(error), _)) if !Path::new(text).is_file() => return Err(error),
        Some((Err(_), _)) | None => (None, text),
    };
    let path = authorities(Path::new(path))?;
    match registry {
        Some(registry) => layer.registry(&registry).ca_files.push(path),
        None => layer.ca_files.push(path),
    }
    Ok(())
}

/// `HOST=CERT[,KEY]`: what the registry is shown; the key may stand in the certificate's file.
pub fn certificate(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    let Some((registry, files)) = text.split_once('=') else {
        return Err(wrong("there is no registry", "write HOST=CERT[,KEY]"));
    };
    let (certificate, key) = files.split_once(',').unwrap_or((files, files));
    let certificate =
        ClientCertificate { certificate: readable(Path::new(certificate))?, key: readable(Path::new(key))? };
    layer.registry(&host(registry)?).client_certificate = Some(certificate);
    Ok(())
}

/// `HOST[:PORT]`: registries may lead there although its address is private.
pub fn allow(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    layer.allowed.insert(authority(text)?);
    Ok(())
}

/// A number: how many blobs, and parts of large ones, travel at a time.
pub fn parallel(layer: &mut Layer, text: &str) -> Result<(), Wrong> {
    layer.parallel = Some(connections(text.trim().parse().ok())?);
    Ok(())
}

/// More connections than this make no line faster, and look like an attack.
const MOST_CONNECTIONS: i64 = 64;

/// Checks a number of connections.
pub fn connections(number: Option<i64>) -> Result<usize, Wrong> {
    let number = number.filter(|number| (1..=MOST_CONNECTIONS).contains(number));
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| wrong("it is no number of connections", format!("write 1 to {MOST_CONNECTIONS}")))
}

/// Parses a host that a registry may lead to; it may be a name without a dot.
pub fn authority(text: &str) -> Result<Authority, Wrong> {
    let plain = !text.is_empty() && !text.contains(['/', '@', '?', '#', ' ']);
    let authority = Authority::parse(text).filter(|_| plain);
    authority.ok_or_else(|| wrong(format!("{text:?} is no host"), "write HOST[:PORT]"))
}

/// Names that people take for Docker Hub's.
const NOT_THE_HUB: &[&str] = &["docker.com", "hub.docker.com", "www.docker.com", "registry.docker.com"];

/// Registries that are common enough to be mistyped.
const KNOWN: &[&str] =
    &["docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.gitlab.com", "public.ecr.aws", "localhost"];

/// Parses the name of a registry as it stands in references: `HOST[:PORT]`.
pub fn host(text: &str) -> Result<String, Wrong> {
    const FIX: &str = "write HOST[:PORT], such as harbor.example.com or localhost:5000";
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split('/').next().unwrap_or_default();
        return Err(wrong("a registry is named without a scheme", format!("write {bare}")));
    }
    if let Some((bare, _)) = text.split_once('/') {
        return Err(wrong("a path follows the host", format!("write {bare}")));
    }
    let lower = text.to_ascii_lowercase();
    if NOT_THE_HUB.contains(&lower.as_str()) {
        return Err(wrong(format!("{text} is no registry"), "Docker Hub's name is docker.io"));
    }
    if matches!(lower.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        return Ok(DOCKER_HUB.to_owned());
    }
    match format!("{text}/x").parse::<Reference>() {
        Ok(reference) if reference.registry.eq_ignore_ascii_case(text) => Ok(reference.registry),
        Ok(_) => {
            let hint = suggest::did_you_mean(text, KNOWN);
            Err(wrong(
                format!(
                    "{text:?} has neither dot nor port: image names that begin so are Docker Hub's{hint}"
                ),
                FIX,
            ))
        }
        Err(error) => {
            let reason =
                if text.is_empty() { "there is no host".to_owned() } else { error.reason.to_string() };
            Err(wrong(format!("{reason}{}", suggest::did_you_mean(text, KNOWN)), FIX))
        }
    }
}

/// Parses the path of a mirror or of a part of a registry.
fn path_of<'a>(host: &str, path: &'a str) -> Result<&'a str, Wrong> {
    let name = format!("{host}/{path}");
    match name.parse::<Reference>() {
        Ok(reference) if reference.tag.is_none() && reference.digest.is_none() => Ok(path),
        Ok(_) => Err(wrong("a tag follows the path", "write HOST[:PORT][/PATH]")),
        Err(error) => Err(wrong(error.reason.to_string(), "write HOST[:PORT][/PATH]")),
    }
}

/// Parses `HOST[:PORT][/PATH]`.
pub fn location(text: &str) -> Result<String, Wrong> {
    let text = text.trim_end_matches('/');
    match text.split_once('/') {
        Some((name, path)) if !text.contains("://") => {
            Ok(format!("{}/{}", host(name)?, path_of(name, path)?))
        }
        _ => host(text),
    }
}

/// Checks that a file is there, while the place that names it can still be told.
pub fn readable(path: &Path) -> Result<PathBuf, Wrong> {
    if path.as_os_str().is_empty() {
        return Err(wrong("there is no path", "name a PEM file"));
    }
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Ok(metadata) if metadata.is_dir() => {
            Err(wrong(format!("{} is a directory", path.display()), "name a PEM file"))
        }
        Ok(_) => Ok(path.to_owned()),
        Err(error) => Err(wrong(format!("{}: {error}", path.display()), "name a PEM file")),
    }
}

/// Checks that a file holds certificates, before anything is built that is to be pushed.
fn authorities(path: &Path) -> Result<PathBuf, Wrong> {
    let path = readable(path)?;
    let checked = oci::registry::check_certificates(&path);
    checked.map_err(|problem| {
        wrong(problem.to_string(), "name a PEM file that begins with -----BEGIN CERTIFICATE-----")
    })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        match (host(text), expect) {
            (Ok(host), Ok(expect)) => assert_eq!(host, expect),
            (Err(wrong), Err(part)) => {
                let line = format!("{} — {}", wrong.why, wrong.fix);
                assert!(line.contains(part), "{part:?} is not in {line:?}");
            }
            (got, expect) => panic!("{text}: {got:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn registries_are_named_as_in_references() {
        check("harbor.example.com", Ok("harbor.example.com"));
        check("localhost", Ok("localhost"));
        check("harbor:5000", Ok("harbor:5000"));
        check("[::1]:5000", Ok("[::1]:5000"));
        check("index.docker.io", Ok("docker.io"));
        check("registry-1.docker.io", Ok("docker.io"));
        check("LOCALHOST:5603", Ok("localhost:5603"));
        check("Docker.IO", Ok("docker.io"));
    }

    #[test]
    fn what_is_no_registry_is_said_with_what_to_write() {
        check("https://harbor.example.com/v2/", Err("write harbor.example.com"));
        check("harbor.example.com/team", Err("write harbor.example.com"));
        check("harbor", Err("neither dot nor port"));
        check("localhos", Err("did you mean localhost?"));
        check("hub.docker.com", Err("docker.io"));
        check("h.io:99999", Err("\"99999\" is not a port"));
        check("", Err("there is no host"));
        check("user:pw@h.io", Err("h.io"));
        check("a b.c", Err("is not a registry host"));
    }

    fn check_mirror(text: &str, registry: &str, mirrors: &[&str], plain: &[&str]) {
        let mut layer = Layer::default();
        mirror_of(&mut layer, text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
        assert_eq!(layer.registries[registry].mirrors.as_deref().unwrap(), mirrors);
        let spoken: Vec<_> =
            layer.registries.iter().filter(|(_, said)| said.plain.is_some()).map(|(name, _)| name).collect();
        assert_eq!(spoken, plain);
    }

    #[test]
    fn mirrors_are_of_docker_hub_unless_a_registry_is_named() {
        check_mirror("mirror.gcr.io", "docker.io", &["mirror.gcr.io"], &[]);
        check_mirror("https://mirror.gcr.io/", "docker.io", &["mirror.gcr.io"], &[]);
        check_mirror("http://m.inside:5000", "docker.io", &["m.inside:5000"], &["m.inside:5000"]);
        check_mirror("quay.io=harbor.example/quay", "quay.io", &["harbor.example/quay"], &[]);
        for text in
            ["", "h", "a.b=", "=m.io", "m.io/UP", "m.io/a:tag", "docker.io", "m.io=m.io", "h.io=m.io/a//b"]
        {
            assert!(mirror_of(&mut Layer::default(), text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn files_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a=b.pem");
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let mut layer = Layer::default();
        let text = path.to_str().unwrap();
        ca(&mut layer, text).unwrap();
        ca(&mut layer, &format!("h.io={text}")).unwrap();
        certificate(&mut layer, &format!("h.io={text}")).unwrap();
        assert_eq!(layer.ca_files, std::slice::from_ref(&path));
        assert_eq!(layer.registries["h.io"].ca_files, std::slice::from_ref(&path));
        assert_eq!(layer.registries["h.io"].client_certificate.as_ref().unwrap().key, path);
        assert!(ca(&mut layer, "/absent.pem").unwrap_err().why.contains("/absent.pem"));
        assert!(ca(&mut layer, "/").unwrap_err().why.contains("directory"));
        let none = directory.path().join("none.pem");
        std::fs::write(&none, "no certificate").unwrap();
        let none = ca(&mut layer, none.to_str().unwrap()).unwrap_err();
        assert!(none.why.contains("none.pem") && none.fix.contains("BEGIN CERTIFICATE"), "{none:?}");
        assert!(certificate(&mut layer, "/x.pem").unwrap_err().why.contains("no registry"));
        assert!(certificate(&mut layer, &format!("h.io={text},/absent")).is_err());
    }

    #[test]
    fn hosts_inside_may_be_bare_names() {
        assert_eq!(authority("gitlab").unwrap().to_string(), "gitlab:443");
        assert_eq!(authority("10.0.0.1:8443").unwrap().to_string(), "10.0.0.1:8443");
        for text in ["", "https://h", "a/b", "u@h", "h:99999"] {
            assert!(authority(text).is_err(), "{text:?}");
        }
    }
}
