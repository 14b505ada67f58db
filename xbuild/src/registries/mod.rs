//! How registries are reached: what flags, the environment and files say, made into the client's settings.
//!
//! In reading order: what one place says and how places are weighed (`said`), the words that they share (`words`),
//! TOML with line numbers (`document`), and the places: xbuild's own file (`file`), containers' files
//! (`containers`), directories of certificates (`certificates`), the environment (`environment`), flags with the
//! variables that have their values (`options`). `client` makes the client when it is first needed; nothing here connects
//! to anything.

mod certificates;
mod client;
mod containers;
mod document;
pub mod environment;
mod file;
pub mod options;
pub mod said;
pub mod words;

use std::path::PathBuf;

use oci::registry::Settings;
use oci::registry::settings::Limits;

use crate::failure::Failure;
pub use client::Registries;
pub use options::RegistryOptions;
use said::Layer;

/// Where files about registries may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// The user's choice of xbuild's file, which must be there.
    pub own_chosen: Option<PathBuf>,
    /// Where xbuild's file is looked for otherwise, best first.
    pub own: Vec<PathBuf>,
    /// The user's choice of containers' file, which must be there.
    pub containers_chosen: Option<PathBuf>,
    /// Where containers' file is looked for otherwise, best first.
    pub containers: Vec<PathBuf>,
    /// Directories whose `*.conf` are added to containers' file; the later wins.
    pub containers_additions: Vec<PathBuf>,
    /// Directories with one of certificates per registry, best first.
    pub certificates: Vec<PathBuf>,
}

/// Returns the client's settings: flags before the environment, before xbuild's file, before those of others.
///
/// # Errors
/// A usage failure that names file and line.
pub fn settings(options: &RegistryOptions, paths: &Paths) -> Result<Settings, Failure> {
    let file = file::read(paths)?;
    let containers::Said { mut routes, helpers } = containers::read(paths)?;
    let certificates = certificates::read(&paths.certificates);
    let layers = [&options.flags, &options.environment, &file, &certificates];
    for route in &mut routes {
        let host = route.prefix.split('/').next().unwrap_or_default();
        let said = |layer: &&&Layer| layer.registries.get(host).is_some_and(|said| said.mirrors.is_some());
        if layers.iter().any(|layer| said(&layer)) {
            route.mirrors.clear();
        }
    }
    let mut limits = Limits::default();
    limits.parallel = layers.iter().find_map(|layer| layer.parallel).unwrap_or(limits.parallel);
    Ok(Settings {
        limits,
        registries: said::settle(&layers),
        routes,
        // A file of credentials that the command line names is all that is looked at.
        helpers: if options.credentials.is_none() { helpers } else { Vec::new() },
        ca_files: layers.iter().flat_map(|layer| layer.ca_files.iter().cloned()).collect(),
        allowed: layers.iter().flat_map(|layer| layer.allowed.iter().cloned()).collect(),
        environment: environment::of_client(options.credentials.as_deref()),
        logins: options.login()?.into_iter().collect(),
        ..Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use oci::registry::settings::{Transport, Verification};

    use super::*;

    fn paths(directory: &Path, own: &str, containers: &str) -> Paths {
        let (own_path, containers_path) =
            (directory.join("registries.toml"), directory.join("registries.conf"));
        std::fs::write(&own_path, own).unwrap();
        std::fs::write(&containers_path, containers).unwrap();
        Paths { own: vec![own_path], containers: vec![containers_path], ..Paths::default() }
    }

    fn options(flag: &str) -> RegistryOptions {
        let mut options = RegistryOptions::default();
        words::insecure(&mut options.flags, flag).unwrap();
        options
    }

    #[test]
    fn flags_win_over_files_and_files_add_what_flags_do_not_say() {
        let directory = tempfile::tempdir().unwrap();
        let own = "[registry.\"h.io\"]\ninsecure = false\nmirrors = [\"m.io\"]\n";
        let containers = "[[registry]]\nlocation = \"h.io\"\ninsecure = true\n[[registry.mirror]]\nlocation = \"other.io\"\n";
        let paths = paths(directory.path(), own, containers);
        let settled = settings(&options("h.io"), &paths).unwrap();
        assert_eq!(settled.registries["h.io"].transport, Transport::Http);
        assert_eq!(settled.registries["h.io"].mirrors, ["m.io"]);
        assert!(
            settled.routes[0].mirrors.is_empty(),
            "mirrors of xbuild's file stand for those of containers'"
        );
        let settled = settings(&RegistryOptions::default(), &paths).unwrap();
        let h = &settled.registries["h.io"];
        assert_eq!((h.transport, h.verification), (Transport::Https, Verification::Full));
    }

    #[test]
    fn the_number_of_connections_is_the_first_that_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(directory.path(), "parallel = 6\n", "");
        let mut options = RegistryOptions::default();
        let parallel = |options: &RegistryOptions| settings(options, &paths).unwrap().limits.parallel;
        assert_eq!(parallel(&options), 6);
        words::parallel(&mut options.environment, "5").unwrap();
        assert_eq!(parallel(&options), 5);
        words::parallel(&mut options.flags, "1").unwrap();
        assert_eq!(parallel(&options), 1);
        for nonsense in ["", "0", "-1", "65", "many", "1.5"] {
            assert!(words::parallel(&mut options.flags, nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn without_files_and_flags_nothing_is_set() {
        let settled = settings(&RegistryOptions::default(), &Paths::default()).unwrap();
        assert!(settled.registries.is_empty() && settled.routes.is_empty() && settled.ca_files.is_empty());
    }
}
