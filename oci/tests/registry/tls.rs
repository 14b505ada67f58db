//! The real registry behind TLS: a private authority, client certificates, and signed tokens.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use oci::media_type::Types;
use oci::registry::address::Authority;
use oci::registry::settings::{ClientCertificate, Transport, Verification};
use oci::registry::{Error, Problem, RegistrySettings, Settings, plan_push};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use crate::fixture::{DockerRegistry, client, image, noise, read_blob, settings, skip};
use crate::server::{Reply, Request, Server};

/// A private authority with one server and one client certificate.
pub struct Certificates {
    directory: tempfile::TempDir,
    /// What openssl makes keys of.
    keys: &'static str,
}

impl Certificates {
    /// Keys of RSA, which signed tokens need.
    pub fn make() -> Option<Self> {
        Self::with_keys("rsa:2048")
    }

    /// Keys that are made in no time.
    pub fn make_quickly() -> Option<Self> {
        Self::with_keys("ec -pkeyopt ec_paramgen_curve:prime256v1")
    }

    fn with_keys(keys: &'static str) -> Option<Self> {
        if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
            return skip("openssl is not installed");
        }
        let made = Self { directory: tempfile::tempdir().unwrap(), keys };
        made.openssl(&format!(
            "req -x509 -newkey {keys} -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"
        ));
        for (name, extensions) in
            [("server", "subjectAltName=IP:127.0.0.1"), ("client", "keyUsage=digitalSignature")]
        {
            made.add(name, extensions, "2");
        }
        Some(made)
    }

    /// Makes one more certificate of a server, signed by the authority.
    fn add(&self, name: &str, extensions: &str, days: &str) {
        let keys = self.keys;
        std::fs::write(self.path("ext"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey {keys} -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile ext -out {name}.pem"
        ));
    }

    /// Makes a certificate that is its own authority, as registries' manuals tell their readers to.
    fn self_signed(&self, name: &str, alternative: &str) {
        let keys = self.keys;
        self.openssl(&format!(
            "req -x509 -newkey {keys} -nodes -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name} -addext \
             subjectAltName={alternative}"
        ));
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.directory.path()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {arguments}");
    }
}

async fn try_push(registry: &DockerRegistry, own: RegistrySettings) -> Result<(), Error> {
    let mut settings = settings();
    let target = registry.reference("team/app:1");
    settings.registries.insert(target.registry.clone(), own);
    let (client, _) = client(settings);
    let layer = noise(1, 200_000);
    client.push(&plan_push(&target, &image(std::slice::from_ref(&layer), Types::Oci, &["1"]))).await?;
    assert_eq!(read_blob(&client, &target, &layer).await?, layer);
    Ok(())
}

pub fn https(ca_files: &[PathBuf]) -> RegistrySettings {
    RegistrySettings {
        transport: Transport::Https,
        ca_files: ca_files.to_vec(),
        ..RegistrySettings::default()
    }
}

#[tokio::test]
async fn reg_18_a_private_authority_must_be_named() {
    let Some(made) = Certificates::make_quickly() else { return };
    let tls = format!(
        "  tls: {{certificate: {}, key: {}}}",
        made.path("server.pem").display(),
        made.path("server.key").display()
    );
    let Some(registry) = DockerRegistry::start(&tls) else { return };
    let error = try_push(&registry, https(&[])).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Tls { .. }), "{error}");
    assert!(error.to_string().contains("CA bundle"), "{error}");
    try_push(&registry, https(&[made.path("ca.pem")])).await.unwrap();
    try_push(&registry, RegistrySettings { verification: Verification::None, ..https(&[]) }).await.unwrap();
    let error = try_push(&registry, https(&[made.path("ca.key")])).await.unwrap_err();
    assert!(error.to_string().contains("ca.key: no PEM certificate"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let Some(made) = Certificates::make_quickly() else { return };
    let [certificate, key, authority] = ["server.pem", "server.key", "ca.pem"].map(|name| made.path(name));
    let tls = format!(
        "  tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
        certificate.display(),
        key.display(),
        authority.display()
    );
    let Some(registry) = DockerRegistry::start(&tls) else { return };
    let own = https(&[authority]);
    assert!(try_push(&registry, own.clone()).await.is_err());
    let identity = ClientCertificate { certificate: made.path("client.pem"), key: made.path("client.key") };
    try_push(&registry, RegistrySettings { client_certificate: Some(identity), ..own }).await.unwrap();
}

/// A registry that shows the certificate `name`.
fn showing(made: &Certificates, name: &str) -> Option<DockerRegistry> {
    let [certificate, key] = ["pem", "key"].map(|kind| made.path(&format!("{name}.{kind}")));
    DockerRegistry::start(&format!(
        "  tls: {{certificate: {}, key: {}}}",
        certificate.display(),
        key.display()
    ))
}

#[tokio::test]
async fn reg_18_certificates_that_prove_nothing_are_refused() {
    let Some(made) = Certificates::make_quickly() else { return };
    made.add("expired", "subjectAltName=IP:127.0.0.1", "-1");
    made.add("other", "subjectAltName=DNS:other.example,IP:127.0.0.2", "2");
    made.self_signed("self", "IP:127.0.0.1");
    for (name, why, hint) in [
        ("expired", "its certificate has expired", "check this machine's clock and the certificate"),
        ("other", "not valid for name", "the certificate is another host's: check the name 127.0.0.1"),
        ("self", "its certificate is signed by itself", "name its authority with --registry-ca"),
    ] {
        let Some(registry) = showing(&made, name) else { return };
        let error = try_push(&registry, https(&[made.path("ca.pem")])).await.unwrap_err();
        assert!(matches!(*error.problem, Problem::Tls { .. }), "{name}: {error}");
        for text in [why, hint] {
            assert!(error.to_string().contains(text), "{name}: {error}");
        }
        // Only who asks for it goes on without proof.
        let unchecked = RegistrySettings { verification: Verification::None, ..https(&[]) };
        try_push(&registry, unchecked).await.unwrap();
    }
    let Some(registry) = showing(&made, "server") else { return };
    try_push(&registry, https(&[made.path("ca.pem")])).await.unwrap();
}

#[tokio::test]
async fn reg_18_a_certificate_that_signed_itself_can_be_named() {
    let Some(made) = Certificates::make_quickly() else { return };
    made.self_signed("self", "IP:127.0.0.1");
    made.self_signed("same", "IP:127.0.0.1");
    made.self_signed("other", "DNS:other.example");
    let Some(registry) = showing(&made, "self") else { return };
    try_push(&registry, https(&[made.path("ca.pem"), made.path("self.pem")])).await.unwrap();
    // Another certificate for the same name proves nothing, nor does a named one for another name.
    assert!(try_push(&registry, https(&[made.path("same.pem")])).await.is_err());
    let Some(registry) = showing(&made, "other") else { return };
    let error = try_push(&registry, https(&[made.path("other.pem")])).await.unwrap_err();
    assert!(error.to_string().contains("another host's"), "{error}");
}

/// Signs what the registry then believes (distribution's token-jwt document), for what the request's scopes ask.
fn signed_token(certificate: &Path, key: &Path, request: &Request) -> String {
    let decoded = request.target.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
    let access: Vec<serde_json::Value> = decoded
        .split(['?', '&'])
        .filter_map(|pair| pair.strip_prefix("scope=repository:"))
        .filter_map(|scope| scope.split_once(':'))
        .map(|(name, actions)| {
            serde_json::json!({ "type": "repository", "name": name,
                "actions": actions.split(',').collect::<Vec<_>>() })
        })
        .collect();
    #[expect(clippy::disallowed_methods, reason = "a token is valid at the registry's time")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(certificate).unwrap();
    let header = serde_json::json!({ "typ": "JWT", "alg": "RS256", "x5c": [STANDARD.encode(&certificate)] });
    let claims = serde_json::json!({ "iss": "test-issuer", "aud": "test-service", "sub": "ci", "jti": "1",
        "iat": now, "nbf": now - 10, "exp": now + 300, "access": access });
    let text = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(claims.to_string())
    );
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let signer = key.choose_scheme(&[rustls::SignatureScheme::RSA_PKCS1_SHA256]).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signer.sign(text.as_bytes()).unwrap()))
}

#[tokio::test]
async fn the_real_registry_with_signed_tokens() {
    let Some(made) = Certificates::make() else { return };
    let (certificate, key) = (made.path("server.pem"), made.path("server.key"));
    let expected = format!("Basic {}", STANDARD.encode("ci:pw"));
    let tokens = Server::start(move |request| {
        if request.header("authorization") != expected {
            return Reply::new(401).body(r#"{"details":"bad credentials"}"#);
        }
        let token = signed_token(&certificate, &key, request);
        Reply::new(200).body(serde_json::json!({ "token": token, "expires_in": 300 }).to_string())
    });
    let auth = format!(
        "auth: {{token: {{realm: \"http://{}/token\", service: test-service, issuer: test-issuer, rootcertbundle: {}}}}}",
        tokens.address,
        made.path("ca.pem").display()
    );
    let Some(registry) = DockerRegistry::start(&auth) else { return };
    let allowed = |password: &str| -> Settings {
        let mut settings = settings();
        settings.allowed.insert(Authority::parse(&tokens.address.to_string()).unwrap());
        let login = oci::registry::Login { username: "ci".to_owned(), password: password.to_owned() };
        settings.logins.insert(registry.reference("x").registry, login);
        settings
    };
    let (wrong, _) = client(allowed("no"));
    assert!(matches!(
        *wrong.check_login(&registry.reference("x").registry).await.unwrap_err().problem,
        Problem::Unauthorized { .. }
    ));
    let (known, _) = client(allowed("pw"));
    known.check_login(&registry.reference("x").registry).await.unwrap();
    let base = registry.reference("base/debian:12");
    let layer = noise(2, 300_000);
    let mut image = image(std::slice::from_ref(&layer), Types::Docker, &["12"]);
    known.push(&plan_push(&base, &image)).await.unwrap();
    image.blobs[0].found_in = vec![base];
    let target = registry.reference("team/app:12");
    assert!(known.push(&plan_push(&target, &image)).await.unwrap().uploaded < 1000, "the layer is linked");
    assert_eq!(read_blob(&known, &target, &layer).await.unwrap(), layer);
}
