//! xbuild's own file, `registries.toml`. `docs/registries.md` describes it.

use std::path::Path;

use oci::registry::settings::{ClientCertificate, Verification};
use toml::de::DeTable;

use super::Paths;
use super::document::{Document, Value};
use super::said::{Layer, Plain};
use super::words;
use crate::failure::Failure;

/// Reads the file that is chosen, or the first that is there.
///
/// # Errors
/// A usage failure with the line.
pub fn read(paths: &Paths) -> Result<Layer, Failure> {
    if let Some(path) = &paths.own_chosen {
        return parse(&Document::read_chosen(path, super::environment::OWN_FILE)?);
    }
    for path in &paths.own {
        if let Some(document) = Document::read(path)? {
            return parse(&document);
        }
    }
    Ok(Layer::default())
}

fn parse(document: &Document) -> Result<Layer, Failure> {
    let table = document.table()?;
    document.check_keys(&table, &["registry", "ca", "allow", "parallel"])?;
    let mut layer = Layer::default();
    if let Some(value) = table.get("ca") {
        for (path, span) in document.strings(value)? {
            let path =
                words::readable(&beside(document, path)).map_err(|wrong| document.wrong(span, &wrong))?;
            layer.ca_files.push(path);
        }
    }
    if let Some(value) = table.get("allow") {
        for (text, span) in document.strings(value)? {
            words::allow(&mut layer, text).map_err(|wrong| document.wrong(span, &wrong))?;
        }
    }
    if let Some(value) = table.get("parallel") {
        let number = words::connections(document.number(value)?);
        layer.parallel = Some(number.map_err(|wrong| document.wrong(value.span(), &wrong))?);
    }
    let Some(registries) = table.get("registry") else { return Ok(layer) };
    const FORM: &str = "a table per registry, [registry.\"docker.io\"],";
    for (name, value) in document.subtable(registries, FORM)? {
        let host = words::host(name.get_ref()).map_err(|wrong| document.wrong(name.span(), &wrong))?;
        one(document, &mut layer, &host, document.subtable(value, FORM)?)?;
    }
    Ok(layer)
}

const KEYS: &[&str] = &["mirrors", "insecure", "skip-verify", "ca", "client-cert", "client-key", "allow"];

fn one(document: &Document, layer: &mut Layer, host: &str, table: &DeTable<'_>) -> Result<(), Failure> {
    document.check_keys(table, KEYS)?;
    if let Some(value) = table.get("mirrors") {
        layer.registry(host).mirrors.get_or_insert_default();
        for (text, span) in document.strings(value)? {
            words::add_mirror(layer, host, text).map_err(|wrong| document.wrong(span, &wrong))?;
        }
    }
    let said = layer.registry(host);
    if let Some(value) = table.get("insecure") {
        said.plain = Some(if document.flag(value)? { Plain::Yes } else { Plain::No });
    }
    if let Some(value) = table.get("skip-verify") {
        said.check = Some(if document.flag(value)? { Verification::None } else { Verification::Full });
    }
    if let Some(value) = table.get("ca") {
        for (path, span) in document.strings(value)? {
            let path =
                words::readable(&beside(document, path)).map_err(|wrong| document.wrong(span, &wrong))?;
            said.ca_files.push(path);
        }
    }
    if let Some(value) = table.get("allow") {
        for (text, span) in document.strings(value)? {
            said.allowed.insert(words::authority(text).map_err(|wrong| document.wrong(span, &wrong))?);
        }
    }
    said.client_certificate = client_certificate(document, table)?.or(said.client_certificate.take());
    Ok(())
}

fn client_certificate(
    document: &Document,
    table: &DeTable<'_>,
) -> Result<Option<ClientCertificate>, Failure> {
    let path = |value: &Value<'_>| {
        let path = beside(document, document.string(value)?);
        words::readable(&path).map_err(|wrong| document.wrong(value.span(), &wrong))
    };
    match (table.get("client-cert"), table.get("client-key")) {
        (Some(certificate), key) => {
            let certificate_path = path(certificate)?;
            let key = key.map(path).transpose()?.unwrap_or_else(|| certificate_path.clone());
            Ok(Some(ClientCertificate { certificate: certificate_path, key }))
        }
        (None, Some(key)) => {
            Err(document.failure(key.span(), "there is no client-cert for this key", "name both"))
        }
        (None, None) => Ok(None),
    }
}

/// A relative path is relative to the file.
fn beside(document: &Document, path: &str) -> std::path::PathBuf {
    document.path.parent().unwrap_or(Path::new(".")).join(path)
}

#[cfg(test)]
mod tests {
    use oci::reference::DOCKER_HUB;

    use super::*;

    fn read_text(text: &str) -> Result<Layer, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.toml");
        std::fs::write(&path, text).unwrap();
        for name in ["ca.pem", "c.pem", "k.pem"] {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        read(&Paths { own_chosen: Some(path), ..Paths::default() })
    }

    #[test]
    fn every_key_is_read_and_paths_are_beside_the_file() {
        let layer = read_text(
            "ca = \"ca.pem\"\nallow = [\"10.0.0.1\"]\n[registry.\"docker.io\"]\nmirrors = [\"m.io/hub\", \"http://n.io\"]\n\
             [registry.\"h.io\"]\ninsecure = true\nskip-verify = true\nca = [\"ca.pem\"]\nclient-cert = \"c.pem\"\n\
             client-key = \"k.pem\"\nallow = [\"auth.inside:8443\"]\n",
        )
        .unwrap();
        assert_eq!(layer.registries["docker.io"].mirrors.as_deref().unwrap(), ["m.io/hub", "n.io"]);
        assert_eq!(layer.registries["n.io"].plain, Some(Plain::Yes));
        let h = &layer.registries["h.io"];
        assert_eq!((h.plain, h.check), (Some(Plain::Yes), Some(Verification::None)));
        assert!(h.ca_files[0].ends_with("ca.pem") && h.ca_files[0].is_absolute());
        assert!(h.client_certificate.as_ref().unwrap().key.ends_with("k.pem"));
        assert_eq!(h.allowed.iter().next().unwrap().to_string(), "auth.inside:8443");
        assert_eq!((layer.ca_files.len(), layer.allowed.len()), (1, 1));
        assert_eq!(read_text("").unwrap(), Layer::default());
    }

    #[track_caller]
    fn refuses(text: &str, parts: &[&str]) {
        let line = read_text(text).unwrap_err().line;
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line:?}");
        }
    }

    #[test]
    fn mistakes_are_told_with_line_and_suggestion() {
        refuses(
            "\n[registry.\"h.io\"]\nmirors = []\n",
            &["registries.toml:3", "did you mean mirrors?", "skip-verify"],
        );
        refuses("[registery.\"h.io\"]\n", &[":1", "did you mean registry?"]);
        refuses("[[registry]]\nlocation = \"h.io\"\n", &[":1", "[registry.\"docker.io\"]"]);
        refuses("parallel = 0\n", &[":1", "write 1 to 64"]);
        refuses("parallel = \"4\"\n", &[":1", "a number"]);
        refuses("[registry]\nmirrors = []\n", &[":2", "neither dot nor port"]);
        refuses("[registry.\"https://h.io\"]\n", &[":1", "write h.io"]);
        refuses("[registry.\"h.io\"]\ninsecure = \"yes\"\n", &[":2", "true or false"]);
        refuses("[registry.\"h.io\"]\nmirrors = [1]\n", &[":2", "a string is expected"]);
        refuses("[registry.\"h.io\"]\nmirrors = [\n\"m.io\",\n\"m\"]\n", &[":4", "neither dot nor port"]);
        refuses("[registry.\"h.io\"]\nca = \"absent.pem\"\n", &[":2", "absent.pem: No such file"]);
        refuses("[registry.\"h.io\"]\nclient-key = \"k.pem\"\n", &[":2", "client-cert"]);
        refuses("a = \n", &[":1", "it is no TOML"]);
    }

    #[test]
    fn the_first_file_that_is_there_counts_and_a_chosen_one_must_be() {
        let directory = tempfile::tempdir().unwrap();
        let second = directory.path().join("second.toml");
        std::fs::write(&second, "[registry.\"h.io\"]\ninsecure = true\n").unwrap();
        let own = vec![directory.path().join("first.toml"), second];
        let found = read(&Paths { own, ..Paths::default() }).unwrap();
        assert!(found.registries.contains_key("h.io"));
        let own_chosen = Some(directory.path().join("absent.toml"));
        let failure = read(&Paths { own_chosen, ..Paths::default() }).unwrap_err();
        assert!(
            failure.line.contains("absent.toml") && failure.line.contains("XBUILD_REGISTRIES"),
            "{failure}"
        );
    }

    #[test]
    fn docker_hub_has_one_name() {
        let layer = read_text("[registry.\"index.docker.io\"]\nmirrors = []\n").unwrap();
        assert_eq!(layer.registries[DOCKER_HUB].mirrors.as_deref(), Some(&[][..]));
    }
}
