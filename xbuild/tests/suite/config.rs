//! How registries are reached: certificates, plain HTTP, mirrors, places and blocks, by flag, variable and file, and
//! through proxies; with real registries and through the binary.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::harness::{Registry, Run, Scratch, finish, free_port, have};
use crate::login::{isolate, token_registry};
use crate::proxy::Proxy;
use crate::server::{Server, read_head};

/// A store with the image `app`, and a home for files.
fn with_app() -> Scratch {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    scratch.build(&context, &["-t", "app"]).ok();
    scratch
}

/// Runs the binary as a user whose home is the scratch directory.
fn run(scratch: &Scratch, arguments: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = scratch.command(arguments);
    isolate(&mut command, scratch.path());
    finish(command.envs(variables.iter().copied()))
}

/// Writes a file below the home.
fn write(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    let path = scratch.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    path
}

/// A private authority with one server and one client certificate.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make() -> Option<Self> {
        if !have(&["openssl"]) {
            return None;
        }
        let made = Self(tempfile::tempdir().unwrap());
        made.openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca",
        );
        for (name, extensions) in
            [("server", "subjectAltName=IP:127.0.0.1"), ("client", "keyUsage=digitalSignature")]
        {
            std::fs::write(made.0.path().join("ext"), extensions).unwrap();
            made.openssl(&format!(
                "req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out {name}.pem"
            ));
        }
        Some(made)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(self.0.path()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {arguments}");
    }

    /// A registry behind TLS; `more` stands in its `tls` table.
    fn registry(&self, more: &str) -> Option<Registry> {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        Registry::configured(
            free_port(),
            &format!(", tls: {{certificate: {certificate}, key: {key}{more}}}"),
            "",
        )
    }
}

#[test]
fn reg_18_a_private_authority_is_named_in_every_way() {
    let Some(made) = Certificates::make() else { return };
    let Some(registry) = made.registry("") else { return };
    let (scratch, host) = (with_app(), registry.host.as_str());
    let image = format!("{host}/team/app:1");
    let push = |arguments: &[&str], variables: &[(&str, &str)]| {
        run(&scratch, &[&["push", "app", &image], arguments].concat(), variables)
    };
    let ca = made.path("ca.pem");
    let named = format!("{host}={ca}");
    // On loopback plain HTTP is spoken unless something is said of certificates.
    push(&[], &[])
        .fails(8, &[&format!("it speaks HTTPS: name its authority with --registry-ca {host}=FILE")]);
    let other = made.path("client.pem");
    push(&["--registry-ca", &format!("{host}={other}")], &[]).fails(8, &["--registry-ca", "certificate"]);
    push(&["--registry-ca", &named], &[]).ok();
    push(&["--registry-skip-verify", host], &[]).ok();
    push(&[], &[("XBUILD_REGISTRY_CA", &named)]).ok();
    push(&[], &[("XBUILD_REGISTRY_SKIP_VERIFY", host)]).ok();
    let own = write(
        &scratch,
        ".config/xbuild/registries.toml",
        &format!("[registry.\"{host}\"]\nca = \"ca.pem\"\n"),
    );
    push(&[], &[]).fails(2, &["registries.toml:2", "ca.pem"]);
    std::fs::copy(&ca, own.with_file_name("ca.pem")).unwrap();
    push(&[], &[]).ok();
    push(&["--insecure-registry", host], &[]).fails(8, &[host]);
    std::fs::write(&own, format!("ca = \"{ca}\"\n[registry.\"{host}\"]\ninsecure = false\n")).unwrap();
    push(&[], &[]).ok();
    std::fs::remove_file(&own).unwrap();
    let directory = format!(".config/containers/certs.d/{host}/ca.crt");
    let certificate = write(&scratch, &directory, &std::fs::read_to_string(&ca).unwrap());
    push(&[], &[]).ok();
    std::fs::remove_file(certificate).unwrap();
    push(&[], &[]).fails(8, &[host]);
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let Some(made) = Certificates::make() else { return };
    let Some(registry) = made.registry(&format!(", clientcas: [{}]", made.path("ca.pem"))) else { return };
    let (scratch, host) = (with_app(), registry.host.as_str());
    let image = format!("{host}/team/app:1");
    let ca = format!("{host}={}", made.path("ca.pem"));
    let push = |arguments: &[&str], variables: &[(&str, &str)]| {
        run(&scratch, &[&["push", "app", &image, "--registry-ca", &ca], arguments].concat(), variables)
    };
    // Where the connection is reset before what the server says is read, nobody knows why.
    let hint = format!("--registry-cert {host}=CERT,KEY");
    assert!((0..4).any(|_| push(&[], &[]).fails(8, &[host]).stderr.contains(&hint)), "{hint} is not said");
    let alone = format!("{host}={}", made.path("client.pem"));
    push(&["--registry-cert", &alone], &[]).fails(2, &["client.pem: no PEM key in it"]);
    let pair = format!("{host}={},{}", made.path("client.pem"), made.path("client.key"));
    push(&["--registry-cert", &pair], &[]).ok();
    push(&[], &[("XBUILD_REGISTRY_CERT", &pair)]).ok();
    let text = format!(
        "[registry.\"{host}\"]\nclient-cert = \"{}\"\nclient-key = \"{}\"\n",
        made.path("client.pem"),
        made.path("client.key")
    );
    let own = write(&scratch, "mine.toml", &text);
    push(&[], &[("XBUILD_REGISTRIES", own.to_str().unwrap())]).ok();
    for (name, file) in [("x.cert", "client.pem"), ("x.key", "client.key")] {
        let directory = format!(".config/containers/certs.d/{host}/{name}");
        write(&scratch, &directory, &std::fs::read_to_string(made.path(file)).unwrap());
    }
    push(&[], &[]).ok();
}

/// A registry that holds `app` as `repository:1`, with a log of what it is asked.
fn mirror(scratch: &Scratch, repository: &str) -> Option<(Registry, Proxy)> {
    let registry = Registry::start()?;
    run(scratch, &["push", "app", &format!("{}/{repository}:1", registry.host)], &[]).ok();
    let proxy = Proxy::start(&registry.host);
    Some((registry, proxy))
}

/// Builds on `base` in a store of its own, with a home that `prepare` fills.
fn build_on(base: &str, arguments: &[&str], variables: &[(&str, &str)], prepare: impl Fn(&Scratch)) -> Run {
    let scratch = Scratch::new();
    prepare(&scratch);
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {base}\nLABEL a=b\n"))]);
    let context = context.to_str().unwrap();
    run(
        &scratch,
        &[&["build", "--progress", "plain", "-t", "child"], arguments, &[context]].concat(),
        variables,
    )
}

#[test]
fn mirrors_of_docker_hub_are_asked_in_their_order() {
    let scratch = with_app();
    let Some((_registry, proxy)) = mirror(&scratch, "hub/library/base") else { return };
    let dead = format!("127.0.0.1:{}", free_port());
    let there = format!("{}/hub", proxy.host);
    let check = |arguments: &[&str], variables: &[(&str, &str)], file: &str| {
        proxy.clear();
        let run = build_on("base:1", arguments, variables, |scratch| {
            write(scratch, ".config/xbuild/registries.toml", file);
        })
        .ok();
        assert!(proxy.log().iter().any(|one| one.target.contains("/v2/hub/library/base/manifests/1")));
        run
    };
    let told = check(&["--registry-mirror", &dead, "--registry-mirror", &there], &[], "");
    assert!(told.stderr.contains(&format!("mirror {dead}: ")), "{}", told.stderr);
    check(&["--registry-mirror", &format!("docker.io={there}")], &[], "");
    check(&["--registry-mirror", &format!("http://{there}/")], &[], "");
    check(&[], &[("XBUILD_REGISTRY_MIRRORS", &format!("{dead},{there}"))], "");
    check(&[], &[], &format!("[registry.\"docker.io\"]\nmirrors = [\"{dead}\", \"{there}\"]\n"));
    // The flag wins over the file.
    let told = check(
        &["--registry-mirror", &there],
        &[],
        &format!("[registry.\"docker.io\"]\nmirrors = [\"{dead}\"]\n"),
    );
    assert!(!told.stderr.contains(&dead), "{}", told.stderr);
}

#[test]
fn the_registry_itself_is_asked_where_no_mirror_answers() {
    let scratch = with_app();
    let Some((registry, _proxy)) = mirror(&scratch, "team/base") else { return };
    let dead = format!("127.0.0.1:{}", free_port());
    let base = format!("{}/team/base:1", registry.host);
    let flag = format!("{}={dead}", registry.host);
    let run = build_on(&base, &["--registry-mirror", &flag], &[], |_| ()).ok();
    assert!(run.stderr.contains(&format!("mirror {dead}: ")), "{}", run.stderr);
}

#[test]
fn files_of_containers_tools_are_followed() {
    let scratch = with_app();
    let Some((registry, proxy)) = mirror(&scratch, "vendor/base") else { return };
    let conf = |text: String| {
        move |scratch: &Scratch| {
            write(scratch, ".config/containers/registries.conf", &text);
        }
    };
    let host = &proxy.host;
    let location = format!(
        "[[registry]]\nprefix = \"far.example/team\"\nlocation = \"{host}/vendor\"\ninsecure = true\n"
    );
    build_on("far.example/team/base:1", &[], &[], conf(location.clone())).ok();
    assert!(proxy.log().iter().any(|one| one.target.contains("/v2/vendor/base/manifests/1")));
    proxy.clear();
    let mirrored = format!(
        "unqualified-search-registries = [\"quay.io\"]\n[[registry]]\nprefix = \"docker.io/library\"\nlocation = \"docker.io/library\"\n\
         [[registry.mirror]]\nlocation = \"{host}/vendor\"\ninsecure = true\n"
    );
    build_on("base:1", &[], &[], conf(mirrored)).ok();
    // A short name is Docker Hub's, and its mirror's path stands for the whole prefix.
    assert!(proxy.log().iter().any(|one| one.target.contains("/v2/vendor/base/manifests/1")));
    let chosen = write(&scratch, "chosen.conf", &location);
    build_on(
        "far.example/team/base:1",
        &[],
        &[("CONTAINERS_REGISTRIES_CONF", chosen.to_str().unwrap())],
        |_| (),
    )
    .ok();
    let blocked = format!("[[registry]]\nlocation = \"{}/vendor\"\nblocked = true\n", registry.host);
    let base = format!("{}/vendor/base:1", registry.host);
    build_on(&base, &[], &[], conf(blocked.clone())).fails(6, &["registries.conf blocks", &base]);
    write(&scratch, ".config/containers/registries.conf.d/10.conf", &blocked);
    run(&scratch, &["push", "app", &base], &[]).fails(6, &["10.conf blocks"]);
    build_on("base:1", &[], &[], conf("[[registry]]\n".to_owned()))
        .fails(2, &["registries.conf:1", "neither"]);
}

/// The digest that skopeo has for an image with this file of registries, or nothing where it refuses or finds none.
fn by_skopeo(conf: &Path, image: &str) -> Option<String> {
    let mut command = Command::new("skopeo");
    command.arg("--registries-conf").arg(conf).args(["inspect", "--no-tags", "--format", "{{.Digest}}"]);
    let output = command.arg(format!("docker://{image}")).stdin(Stdio::null()).output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[test]
fn skopeo_reads_the_same_in_registries_conf() {
    if !have(&["skopeo"]) {
        return;
    }
    let scratch = with_app();
    let Some((registry, _proxy)) = mirror(&scratch, "vendor/base") else { return };
    let host = &registry.host;
    let dead = format!("127.0.0.1:{}", free_port());
    let table = |prefix: &str, location: &str, more: &str| {
        format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\ninsecure = true\n{more}")
    };
    let mirrored = |location: &str, more: &str| {
        format!("[[registry.mirror]]\nlocation = \"{location}\"\ninsecure = true\n{more}\n")
    };
    let check = |text: &str, image: &str, found: bool| {
        let conf = write(&scratch, "registries.conf", text);
        let theirs = by_skopeo(&conf, image);
        let fresh = Scratch::new();
        let variables = [("CONTAINERS_REGISTRIES_CONF", conf.to_str().unwrap())];
        let run = run(&fresh, &["pull", &format!("docker://{image}")], &variables);
        let ours = (run.code == 0).then(|| run.stdout.trim().to_owned());
        assert_eq!(ours, theirs, "{image} with\n{text}\n{}", run.stderr);
        assert_eq!(ours.is_some(), found, "{image} with\n{text}\n{}", run.stderr);
    };
    check(&table("far.test/team", &format!("{host}/vendor"), ""), "far.test/team/base:1", true);
    check(&table("far.test/team/base", &format!("{host}/vendor/base"), ""), "far.test/team/base:1", true);
    check(&table("*.far.test", &format!("{host}/vendor"), ""), "a.b.far.test/base:1", true);
    check(&table("far.test/te", &format!("{host}/vendor"), ""), &format!("{dead}/team/base:1"), false);
    let two = [mirrored(&dead, ""), mirrored(&format!("{host}/vendor"), "")].concat();
    check(&table("far.test", &dead, &two), "far.test/base:1", true);
    let tags = mirrored(&format!("{host}/vendor"), "pull-from-mirror = \"tag-only\"");
    check(&table("far.test", &dead, &tags), "far.test/base:1", true);
    let digests = mirrored(&format!("{host}/vendor"), "pull-from-mirror = \"digest-only\"");
    check(&table("far.test", &dead, &digests), "far.test/base:1", false);
    let blocked = format!("[[registry]]\nlocation = \"{host}/vendor\"\nblocked = true\n");
    check(&blocked, &format!("{host}/vendor/base:1"), false);
    check(&[blocked, table("far.test", &format!("{host}/vendor"), "")].concat(), "far.test/base:1", false);
    // From mirrors only.
    let never = format!("blocked = true\n{}", mirrored(&format!("{host}/vendor"), ""));
    check(&table("far.test", "far.test", &never), "far.test/base:1", true);
    let longer =
        [table("far.test", &dead, ""), table("far.test/team", &format!("{host}/vendor"), "")].concat();
    check(&longer, "far.test/team/base:1", true);
}

#[test]
fn insecure_of_containers_is_https_unchecked_else_plain() {
    let Some(made) = Certificates::make() else { return };
    let Some(registry) = made.registry("") else { return };
    let scratch = with_app();
    let Some((plain, _proxy)) = mirror(&scratch, "a/b") else { return };
    let text: String = [&registry.host, &plain.host]
        .map(|host| format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"))
        .concat();
    write(&scratch, ".config/containers/registries.conf", &text);
    for host in [&registry.host, &plain.host] {
        run(&scratch, &["push", "app", &format!("{host}/team/app:1")], &[]).ok();
    }
    // The same by flags.
    let scratch = with_app();
    for host in [&registry.host, &plain.host] {
        let image = format!("{host}/team/app:2");
        let flags = ["--insecure-registry", host, "--registry-skip-verify", host];
        run(&scratch, &[&["push", "app", &image], &flags[..]].concat(), &[]).ok();
    }
    // xbuild's own file says otherwise.
    write(&scratch, ".config/containers/registries.conf", &text);
    let strict = format!("[registry.\"{}\"]\nskip-verify = false\n", registry.host);
    write(&scratch, ".config/xbuild/registries.toml", &strict);
    run(&scratch, &["push", "app", &format!("{}/team/app:3", registry.host)], &[]).fails(8, &["certificate"]);
}

#[test]
fn files_are_read_when_a_registry_is_asked() {
    let scratch = with_app();
    write(&scratch, ".config/xbuild/registries.toml", "nonsense\n");
    let context = scratch.path().join("c");
    run(&scratch, &["build", context.to_str().unwrap()], &[]).ok();
    let failed = run(&scratch, &["pull", "127.0.0.1:1/a"], &[]);
    failed.fails(2, &["unusable configuration", "registries.toml:1"]);
    run(&scratch, &["pull", "127.0.0.1:1/a"], &[("XBUILD_REGISTRIES", "/absent.toml")])
        .fails(2, &["/absent.toml", "XBUILD_REGISTRIES"]);
}

#[test]
fn unusable_flags_and_variables_are_told_before_anything_is_done() {
    let scratch = Scratch::new();
    let check = |flags: &[&str], variables: &[(&str, &str)], parts: &[&str]| {
        run(&scratch, &[&["pull", "127.0.0.1:1/a"], flags].concat(), variables).fails(2, parts);
    };
    check(&["--insecure-registry", "https://h.io"], &[], &["--insecure-registry https://h.io", "write h.io"]);
    check(&["--registry-skip-verify", "h"], &[], &["neither dot nor port"]);
    check(&["--registry-mirror", "docker.oi="], &[], &["--registry-mirror"]);
    check(&["--registry-ca", "/absent.pem"], &[], &["--registry-ca", "/absent.pem: No such file"]);
    check(&["--registry-cert", "/absent.pem"], &[], &["HOST=CERT[,KEY]"]);
    check(&["--allow-registry-address", "a b"], &[], &["HOST[:PORT]"]);
    check(&["--login-registry", "h.io"], &[], &["there is no user"]);
    check(
        &[],
        &[("XBUILD_INSECURE_REGISTRIES", "ok.io,h/x")],
        &["XBUILD_INSECURE_REGISTRIES=h/x", "write h"],
    );
    check(&[], &[("XBUILD_ALLOW_REGISTRY_ADDRESS", "http://h")], &["XBUILD_ALLOW_REGISTRY_ADDRESS"]);
}

#[test]
fn reg_01_a_registry_leads_to_private_addresses_that_are_allowed_only() {
    let scratch = Scratch::new();
    let tokens = token_registry(None);
    let tokens = tokens.host.as_str();
    let registry = token_registry(Some(tokens));
    let host = registry.host.as_str();
    let login = |flags: &[&str], variables: &[(&str, &str)]| {
        let all = [&["login", host, "--username", "ci"], flags].concat();
        run(&scratch, &all, &[&[("XBUILD_PASSWORD", "s3cret")], variables].concat())
    };
    let hint = format!("XBUILD_ALLOW_REGISTRY_ADDRESS={tokens}");
    login(&[], &[]).fails(6, &[&hint]);
    login(&["--allow-registry-address", tokens], &[]).ok();
    login(&[], &[("XBUILD_ALLOW_REGISTRY_ADDRESS", tokens)]).ok();
    for (text, allowed) in [
        (format!("allow = [\"{tokens}\"]\n"), true),
        (format!("[registry.\"{host}\"]\nallow = [\"{tokens}\"]\n"), true),
        (format!("[registry.\"other.example\"]\nallow = [\"{tokens}\"]\n"), false),
    ] {
        write(&scratch, ".config/xbuild/registries.toml", &text);
        let run = login(&[], &[]);
        if allowed {
            run.ok()
        } else {
            run.fails(6, &[&hint])
        };
    }
}

/// A proxy that opens tunnels to one address whatever is asked for; returns it with what was asked.
fn tunnels(to: &str) -> (Server, Arc<Mutex<Vec<String>>>) {
    let (asked, to) = (Arc::<Mutex<Vec<String>>>::default(), to.to_owned());
    let log = Arc::clone(&asked);
    (Server::of_connections(move |client| tunnel(client, &to, &log)), asked)
}

fn tunnel(mut client: TcpStream, to: &str, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let request = read_head(&mut reader)?;
    log.lock().unwrap().push(format!("{} {}", request.method, request.target));
    let mut server = TcpStream::connect(to).ok()?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").ok()?;
    let (mut back_from, mut back_to) = (server.try_clone().ok()?, client.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
    std::io::copy(&mut reader, &mut server).ok().map(drop)
}

#[test]
fn proxies_of_the_environment_carry_plain_and_tls_but_not_what_no_proxy_names() {
    let scratch = with_app();
    let Some((_registry, proxy)) = mirror(&scratch, "a/b") else { return };
    let url = format!("http://{}", proxy.host);
    let push = |variables: &[(&str, &str)], flags: &[&str]| {
        run(&scratch, &[&["push", "app", "registry.test/team/app:1"], flags].concat(), variables)
    };
    let plain = ["--insecure-registry", "registry.test"];
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        proxy.clear();
        push(&[(name, &url)], &plain).ok();
        let log = proxy.log();
        assert!(log.iter().all(|one| one.target.starts_with("http://registry.test/v2/")), "{log:?}");
    }
    proxy.clear();
    for exempt in ["registry.test", ".test", "other,test"] {
        push(&[("http_proxy", &url), ("NO_PROXY", exempt)], &plain).fails(8, &["registry.test"]);
    }
    push(&[("HTTP_PROXY", &url), ("REQUEST_METHOD", "GET")], &plain).fails(8, &["registry.test"]);
    assert!(proxy.log().is_empty(), "{:?}", proxy.log());
    let Some(made) = Certificates::make() else { return };
    let Some(registry) = made.registry("") else { return };
    let (tunnels, asked) = tunnels(&registry.host);
    push(&[("https_proxy", &tunnels.host)], &["--registry-skip-verify", "registry.test"]).ok();
    assert!(asked.lock().unwrap().iter().all(|line| line == "CONNECT registry.test:443"), "{asked:?}");
    assert!(!asked.lock().unwrap().is_empty());
}

#[test]
fn a_path_of_no_file_is_no_reason_to_look_further() {
    // A home that is a file: looking below it is no error.
    let scratch = with_app();
    let home = write(&scratch, "file", "x");
    let mut command = scratch.command(&["push", "app", &format!("127.0.0.1:{}/a", free_port())]);
    isolate(&mut command, Path::new(&home));
    finish(&mut command).fails(8, &["is the registry running?"]);
}
