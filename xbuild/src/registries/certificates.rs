//! Directories of certificates per registry, as Docker and containers have them: `HOST[:PORT]/*.crt` are authorities,
//! `*.cert` with the `*.key` of the same name is what the registry is shown. Reads names only, no certificate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci::registry::settings::ClientCertificate;

use super::said::{Layer, Said};
use super::words;

/// Returns what `directories` say. Of a registry that several have, the first counts (containers-certs.d(5)).
///
/// A directory that cannot be listed is passed over, as the tools do whose it is: those of other users are no
/// reason to fail.
pub fn read(directories: &[PathBuf]) -> Layer {
    let mut registries = BTreeMap::new();
    for directory in directories {
        for entry in entries(directory) {
            let name = entry.file_name().and_then(|name| name.to_str()).map(words::host);
            let Some(Ok(name)) = name else { continue };
            registries.entry(name).or_insert_with(|| said(&entry));
        }
    }
    registries.retain(|_, said| *said != Said::default());
    Layer { registries, ..Layer::default() }
}

fn said(directory: &Path) -> Said {
    let mut said = Said::default();
    for path in entries(directory) {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => said.ca_files.push(path),
            Some("cert") if said.client_certificate.is_none() => {
                // Where the key is missing, the registry that asks for it gets an error that names it.
                let key = path.with_extension("key");
                said.client_certificate = Some(ClientCertificate { certificate: path, key });
            }
            Some(_) | None => {}
        }
    }
    said
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_has_a_directory_and_the_first_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for name in ["u/h.io:5/ca.crt", "s/h.io:5/other.crt", "s/g.io/client.cert", "s/g.io/client.key"] {
            write(name);
        }
        for name in ["s/README", "s/e.io/notes.txt", "s/docker.io/b.crt", "s/docker.io/a.crt"] {
            write(name);
        }
        let directories = ["absent", "u", "s"].map(|name| root.path().join(name));
        let layer = read(&directories);
        let names: Vec<_> = layer.registries.keys().map(String::as_str).collect();
        assert_eq!(names, ["docker.io", "g.io", "h.io:5"]);
        assert_eq!(layer.registries["h.io:5"].ca_files, [root.path().join("u/h.io:5/ca.crt")]);
        let files = ["a.crt", "b.crt"].map(|name| root.path().join("s/docker.io").join(name));
        assert_eq!(layer.registries["docker.io"].ca_files, files);
        let client = layer.registries["g.io"].client_certificate.as_ref().unwrap();
        assert_eq!(client.key, root.path().join("s/g.io/client.key"));
    }
}
