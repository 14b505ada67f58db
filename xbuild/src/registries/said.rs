//! What one place says about registries, and what holds where several places say something. Reads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use oci::registry::RegistrySettings;
use oci::registry::address::{Authority, is_loopback_host};
use oci::registry::settings::{ClientCertificate, Transport, Verification};

/// What one place (flags, the environment, a file) says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layer {
    /// Per registry, by its name in references.
    pub registries: BTreeMap<String, Said>,
    /// Authorities for every connection.
    pub ca_files: Vec<PathBuf>,
    /// Hosts inside that every registry may name.
    pub allowed: BTreeSet<Authority>,
    /// Blobs, and parts of large ones, that travel at a time.
    pub parallel: Option<usize>,
}

/// What one place says about one registry; what it does not say is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Whether it speaks plain HTTP.
    pub plain: Option<Plain>,
    /// Whether its certificate is looked at.
    pub check: Option<Verification>,
    /// Mirrors, in this order; an empty list says that there are none.
    pub mirrors: Option<Vec<String>>,
    /// Further authorities for its certificate.
    pub ca_files: Vec<PathBuf>,
    /// What it is shown.
    pub client_certificate: Option<ClientCertificate>,
    /// Hosts inside that it may name.
    pub allowed: BTreeSet<Authority>,
}

/// Whether a registry speaks plain HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// It does.
    Yes,
    /// It does not, not even on loopback.
    No,
}

impl Layer {
    /// Returns what is said about the registry, to be added to.
    pub fn registry(&mut self, name: &str) -> &mut Said {
        self.registries.entry(name.to_owned()).or_default()
    }
}

/// Returns what holds where `layers` say something, the first of which says the most.
///
/// Plain HTTP and the look at certificates come from one place, the first that says either. Authorities and allowed
/// hosts are added up.
pub fn settle(layers: &[&Layer]) -> BTreeMap<String, RegistrySettings> {
    let names: BTreeSet<&String> = layers.iter().flat_map(|layer| layer.registries.keys()).collect();
    let about =
        |name: &String| layers.iter().filter_map(|layer| layer.registries.get(name)).collect::<Vec<_>>();
    names.into_iter().map(|name| (name.clone(), one(name, &about(name)))).collect()
}

fn one(name: &str, said: &[&Said]) -> RegistrySettings {
    let first = said.iter().find(|said| said.plain.is_some() || said.check.is_some());
    let tls = said.iter().any(|said| !said.ca_files.is_empty() || said.client_certificate.is_some());
    let (transport, verification) = match first.map_or((None, None), |said| (said.plain, said.check)) {
        // Both together are what Docker calls insecure: whatever it speaks.
        (Some(Plain::Yes), Some(Verification::None)) => (Transport::Either, Verification::None),
        (Some(Plain::Yes), Some(Verification::Full) | None) => (Transport::Http, Verification::Full),
        (Some(Plain::No), check) => (Transport::Https, check.unwrap_or_default()),
        (None, Some(check)) => (Transport::Https, check),
        // Who has certificates for a registry on this machine does not mean plain HTTP.
        (None, None) if tls && is_loopback(name) => (Transport::Https, Verification::Full),
        (None, None) => (Transport::ByAddress, Verification::Full),
    };
    RegistrySettings {
        transport,
        verification,
        ca_files: said.iter().flat_map(|said| said.ca_files.iter().cloned()).collect(),
        client_certificate: said.iter().find_map(|said| said.client_certificate.clone()),
        mirrors: said.iter().find_map(|said| said.mirrors.clone()).unwrap_or_default(),
        allowed: said.iter().flat_map(|said| said.allowed.iter().cloned()).collect(),
    }
}

fn is_loopback(name: &str) -> bool {
    Authority::parse(name).is_some_and(|authority| is_loopback_host(&authority.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, said: &[Said], transport: Transport, verification: Verification) {
        let layers: Vec<Layer> = said
            .iter()
            .map(|said| Layer {
                registries: BTreeMap::from([(name.to_owned(), said.clone())]),
                ..Layer::default()
            })
            .collect();
        let settled = &settle(&layers.iter().collect::<Vec<_>>())[name];
        assert_eq!((settled.transport, settled.verification), (transport, verification), "{said:?}");
    }

    #[test]
    fn the_first_place_says_how_strict_a_registry_is_taken() {
        let said = |plain, check| Said { plain, check, ..Said::default() };
        let (yes, no) = (Some(Plain::Yes), Some(Plain::No));
        let (full, none) = (Some(Verification::Full), Some(Verification::None));
        check("h.io", &[said(yes, None)], Transport::Http, Verification::Full);
        check("h.io", &[said(None, none)], Transport::Https, Verification::None);
        check("h.io", &[said(yes, none)], Transport::Either, Verification::None);
        check("h.io", &[said(no, None), said(yes, none)], Transport::Https, Verification::Full);
        check("h.io", &[said(None, None), said(yes, None)], Transport::Http, Verification::Full);
        check("h.io", &[said(None, full), said(yes, None)], Transport::Https, Verification::Full);
        check("h.io", &[Said::default()], Transport::ByAddress, Verification::Full);
    }

    #[test]
    fn certificates_mean_https_on_loopback_too() {
        let said = Said { ca_files: vec!["ca.pem".into()], ..Said::default() };
        check("localhost:5000", std::slice::from_ref(&said), Transport::Https, Verification::Full);
        check("[::1]:5000", std::slice::from_ref(&said), Transport::Https, Verification::Full);
        // Elsewhere HTTPS is meant anyway, and what others say of the host may still count.
        check("h.io", &[said], Transport::ByAddress, Verification::Full);
    }

    #[test]
    fn authorities_are_added_and_mirrors_replaced() {
        let mut high = Layer::default();
        high.registry("h").ca_files.push("a".into());
        high.registry("h").mirrors = Some(Vec::new());
        let mut low = Layer::default();
        low.registry("h").ca_files.push("b".into());
        low.registry("h").mirrors = Some(vec!["m".to_owned()]);
        let settled = &settle(&[&high, &low])["h"];
        assert_eq!(settled.ca_files, [PathBuf::from("a"), PathBuf::from("b")]);
        assert!(settled.mirrors.is_empty());
    }
}
