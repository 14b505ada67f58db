//! How a TLS connection begins: whom we believe, whom we say we are, what we speak. Reads the files that the user named;
//! connects to nothing and knows no registry.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::error::{Problem, clean};
use super::settings::{ClientCertificate, Verification};
use super::verify;

/// What is said of a server that answers, but not in TLS.
pub(super) const NO_TLS: &str = "it does not answer in TLS";

/// What is agreed on before anything is sent.
pub(super) struct Handshake<'a> {
    /// How the server's certificate is checked.
    pub verification: Verification,
    /// Files with authorities beside the host's.
    pub authorities: Vec<PathBuf>,
    /// The certificate that we show.
    pub identity: Option<&'a ClientCertificate>,
    /// Protocols above TLS, best first (RFC 7301).
    pub protocols: Vec<Vec<u8>>,
}

/// The authorities of the host, read when they are needed first.
#[derive(Default)]
pub(super) struct Roots(OnceLock<Arc<RootCertStore>>);

impl Roots {
    /// Returns rustls' configuration of a handshake.
    ///
    /// # Errors
    /// [`Problem::File`] where a certificate or key cannot be used.
    pub fn config(&self, handshake: &Handshake<'_>) -> Result<ClientConfig, Problem> {
        let builder = ClientConfig::builder_with_provider(verify::provider())
            .with_safe_default_protocol_versions()
            .expect("ring has all suites of TLS 1.2 and 1.3");
        let files = &handshake.authorities;
        let builder = match handshake.verification {
            Verification::None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verify::Nothing::new()))
            }
            Verification::Full if files.is_empty() => builder.with_root_certificates(self.of_host()),
            Verification::Full => {
                let named =
                    files.iter().map(|path| read_certificates(path)).collect::<Result<Vec<_>, _>>()?;
                let verifier = verify::Named::new(self.with(files, &named)?, named.concat());
                builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
            }
        };
        let mut config = match handshake.identity {
            Some(identity) => {
                let (chain, private) = read_identity(identity)?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| bad_file(&identity.certificate, &error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&handshake.protocols);
        Ok(config)
    }

    fn of_host(&self) -> Arc<RootCertStore> {
        Arc::clone(self.0.get_or_init(|| Arc::new(system_roots())))
    }

    /// The host's, and what was read from `files`.
    fn with(
        &self,
        files: &[PathBuf],
        read: &[Vec<CertificateDer<'static>>],
    ) -> Result<Arc<RootCertStore>, Problem> {
        let mut roots = RootCertStore::clone(&self.of_host());
        for (path, certificates) in files.iter().zip(read) {
            for certificate in certificates {
                roots.add(certificate.clone()).map_err(|error| bad_file(path, &error))?;
            }
        }
        Ok(Arc::new(roots))
    }
}

/// The host's bundle; SSL_CERT_FILE and SSL_CERT_DIR are honoured by the reader. A certificate that cannot be
/// parsed is left out, as every client does.
fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// Returns the configuration of a client that is used for http:// only; it trusts nobody and reads no file.
pub(super) fn nobody() -> ClientConfig {
    ClientConfig::builder_with_provider(verify::provider())
        .with_safe_default_protocol_versions()
        .expect("ring has all suites of TLS 1.2 and 1.3")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

fn bad_file(path: &Path, error: &dyn std::fmt::Display) -> Problem {
    Problem::File { path: path.to_owned(), detail: error.to_string() }
}

/// Looks whether the file at `path` holds certificates, before anybody is connected to.
///
/// # Errors
/// [`Problem::File`] where it cannot be read or holds none.
pub fn check_certificates(path: &Path) -> Result<(), Problem> {
    read_certificates(path).map(drop)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let text = std::fs::read(path).map_err(|error| bad_file(path, &error))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| bad_file(path, &error))?;
    if certificates.is_empty() {
        return Err(bad_file(path, &"no PEM certificate in it"));
    }
    Ok(certificates)
}

fn read_identity(
    identity: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Problem> {
    let chain = read_certificates(&identity.certificate)?;
    let text = std::fs::read(&identity.key).map_err(|error| bad_file(&identity.key, &error))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => bad_file(&identity.key, &"no PEM key in it"),
        error => bad_file(&identity.key, &error),
    })?;
    Ok((chain, key))
}

/// Says in words why a handshake failed. rustls' own name Rust's variants where there is more than one thing to blame.
pub(super) fn told(error: &rustls::Error) -> String {
    use rustls::{CertificateError, InvalidMessage};
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => NO_TLS.to_owned(),
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => "its certificate is signed by nobody known here".to_owned(),
            // webpki's name for it does not come out of its box.
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                "its certificate is signed by itself".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            CertificateError::NotValidForName => "its certificate is not valid for its name".to_owned(),
            other => format!("its certificate does not hold: {other}"),
        },
        other => clean(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::UnixTime;
    use rustls::{CertificateError, Error, InvalidMessage};

    use super::*;

    fn check(error: &Error, expected: &str) {
        assert_eq!(told(error), expected);
    }

    #[test]
    fn reg_18_failed_handshakes_are_told_in_words() {
        check(&Error::InvalidMessage(InvalidMessage::InvalidContentType), NO_TLS);
        check(&Error::DecryptError, "cannot decrypt peer's message");
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        for (certificate, expected) in [
            (CertificateError::UnknownIssuer, "is signed by nobody known here"),
            (CertificateError::Expired, "has expired"),
            (CertificateError::ExpiredContext { time: at(1), not_after: at(0) }, "has expired"),
            (CertificateError::NotValidYet, "is not valid yet"),
            (CertificateError::Revoked, "does not hold: Revoked"),
        ] {
            check(&Error::InvalidCertificate(certificate), &format!("its certificate {expected}"));
        }
    }
}
