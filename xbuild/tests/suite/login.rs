//! Users and passwords: `xbuild login` and `logout`, and every other way to give credentials, with a real registry
//! that looks at them.

use std::io::{BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::harness::{Registry, Run, Scratch, finish, free_port, tool};
use crate::server::{Reply, Server};

/// `s3cret`, as htpasswd -B has it: the registry takes no other hash.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

/// base64 of `ci:s3cret`.
const ENCODED: &str = "Y2k6czNjcmV0";

/// A registry that knows the user `ci`, and a store with an image to push to it.
struct Guarded {
    registry: Registry,
    scratch: Scratch,
    image: String,
}

impl Guarded {
    fn start() -> Option<Self> {
        let scratch = Scratch::new();
        let passwords = scratch.path().join("htpasswd");
        std::fs::write(&passwords, format!("ci:{HASH}\n")).unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", passwords.display());
        let registry = Registry::configured(free_port(), "", &auth)?;
        let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
        scratch.build(&context, &["-t", "app"]).ok();
        let image = format!("{}/team/app:1", registry.host);
        Some(Self { registry, scratch, image })
    }

    /// Runs the binary as a user whose home is the scratch directory.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Run {
        run(&self.scratch, arguments, variables, input)
    }

    fn push(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Run {
        self.run(&[&["push", "app", &self.image], arguments].concat(), variables, input)
    }

    #[track_caller]
    fn is_refused(&self, run: Run) {
        run.fails(8, &["xbuild login", &self.registry.host]);
    }
}

fn run(scratch: &Scratch, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Run {
    let mut command = scratch.command(arguments);
    isolate(&mut command, scratch.path());
    command.envs(variables.iter().copied());
    let path = scratch.path().join("input");
    std::fs::write(&path, input).unwrap();
    finish(command.stdin(std::fs::File::open(path).unwrap()))
}

/// Leaves nothing of whoever runs the tests.
pub fn isolate(command: &mut Command, home: &Path) {
    for name in
        ["DOCKER_CONFIG", "DOCKER_AUTH_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"]
    {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_ascii_uppercase());
    }
    command.env("HOME", home);
}

#[test]
fn a_login_is_checked_kept_used_and_forgotten() {
    let Some(guarded) = Guarded::start() else { return };
    let host = guarded.registry.host.as_str();
    guarded.is_refused(guarded.push(&[], &[], ""));
    let login = ["login", host, "-u", "ci", "--password-stdin"];
    guarded.run(&login, &[], "wrong\n").fails(4, &[host, "ci"]);
    let file = guarded.scratch.path().join(".docker/config.json");
    assert!(!file.exists(), "a wrong password is kept");
    let run = guarded.run(&login, &[], "s3cret\n").ok();
    assert_eq!(run.stdout, "Login Succeeded\n");
    assert!(run.stderr.contains(file.to_str().unwrap()) && run.stderr.contains("encoded"), "{}", run.stderr);
    assert!(!run.stderr.contains("s3cret"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    guarded.push(&[], &[], "").ok();
    assert_eq!(
        guarded.run(&["logout", host], &[], "").ok().stdout,
        format!("Removed login credentials for {host}\n")
    );
    assert_eq!(guarded.run(&["logout", host], &[], "").ok().stdout, format!("Not logged in to {host}\n"));
    guarded.is_refused(guarded.push(&[], &[], ""));
}

#[test]
fn a_host_is_the_same_in_either_case() {
    let Some(guarded) = Guarded::start() else { return };
    let port = guarded.registry.host.rsplit(':').next().unwrap();
    let (lower, upper) = (format!("localhost:{port}"), format!("LocalHost:{port}"));
    let push = |host: &str| guarded.run(&["push", "app", &format!("{host}/team/app:1")], &[], "");
    guarded.run(&["login", &upper, "-u", "ci", "--password-stdin"], &[], "s3cret\n").ok();
    push(&lower).ok();
    push(&upper).ok();
    guarded.run(&["logout", &lower], &[], "").ok();
    push(&upper).fails(8, &[&lower, "xbuild login"]);
    // Other tools keep what their users wrote.
    let auths = format!(r#"{{"auths":{{"{upper}":{{"auth":"{ENCODED}"}}}}}}"#);
    std::fs::write(guarded.scratch.path().join(".docker/config.json"), auths).unwrap();
    push(&lower).ok();
}

#[test]
fn credentials_come_from_flags_variables_and_files() {
    let Some(guarded) = Guarded::start() else { return };
    let host = guarded.registry.host.as_str();
    let auths = format!(r#"{{"auths":{{"{host}":{{"auth":"{ENCODED}"}}}}}}"#);
    guarded.push(&["--username", "ci", "--password-stdin"], &[], "s3cret").ok();
    guarded.is_refused(guarded.push(&["--username", "ci", "--password-stdin"], &[], "wrong"));
    guarded.push(&["--username", "ci"], &[("XBUILD_PASSWORD", "s3cret")], "").ok();
    let user = [("XBUILD_USERNAME", "ci"), ("XBUILD_PASSWORD", "s3cret"), ("XBUILD_LOGIN_REGISTRY", host)];
    guarded.push(&[], &user, "").ok();
    let unnamed = guarded.push(&[], &user[..2], "");
    assert!(unnamed.stderr.contains("XBUILD_LOGIN_REGISTRY names no registry"), "{}", unnamed.stderr);
    guarded.is_refused(unnamed);
    guarded.push(&[], &[("DOCKER_AUTH_CONFIG", &auths)], "").ok();
    let file = guarded.scratch.path().join("auth.json");
    std::fs::write(&file, &auths).unwrap();
    let path = file.to_str().unwrap();
    guarded.push(&[], &[("REGISTRY_AUTH_FILE", path)], "").ok();
    guarded.push(&["--authfile", path], &[], "").ok();
    let wrong = format!(r#"{{"auths":{{"{host}":{{"auth":"Y2k6bm8="}}}}}}"#);
    guarded.push(&["--authfile", path], &[("DOCKER_AUTH_CONFIG", &wrong)], "").ok();
    for place in ["config.json", ".docker/config.json", ".config/containers/auth.json"] {
        let file = guarded.scratch.path().join(place);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &auths).unwrap();
        let directory = file.parent().unwrap().to_str().unwrap();
        let variables: &[_] = if place == "config.json" { &[("DOCKER_CONFIG", directory)] } else { &[] };
        guarded.push(&[], variables, "").ok();
        std::fs::remove_file(&file).unwrap();
    }
    guarded.is_refused(guarded.push(&[], &[], ""));
}

#[test]
fn a_build_logs_in_where_its_names_lead() {
    let Some(guarded) = Guarded::start() else { return };
    let context = guarded.scratch.context("d", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "y")]);
    let context = context.to_str().unwrap();
    let build = |more: &[&str], input: &str| {
        let all = [&["build", "-t", &guarded.image, "--push", "--username", "ci"], more, &[context]].concat();
        guarded.run(&all, &[], input)
    };
    build(&["--password-stdin"], "s3cret").ok();
    build(&["--password-stdin", "-t", "other.example/app"], "s3cret")
        .fails(2, &["--username", "other.example", "--login-registry"]);
    build(&["-f", "-", "--password-stdin"], "").fails(2, &["--password-stdin", "XBUILD_PASSWORD"]);
    build(&[], "").fails(2, &["there is no password"]);
    build(&["--password-stdin"], "").fails(2, &["standard input is empty"]);
}

#[test]
fn a_helper_keeps_what_is_in_no_file() {
    let Some(guarded) = Guarded::start() else { return };
    let host = guarded.registry.host.as_str();
    let home = guarded.scratch.path();
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {kept} ;;\nget) read s; [ -f {kept} ] || {{ echo 'credentials not found in native keychain'; exit 1; }}; cat {kept} ;;\nerase) rm {kept} ;;\nesac\n",
        kept = home.join("kept").display()
    );
    let helper = home.join("docker-credential-test");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.display());
    let variables = [("PATH", path.as_str())];
    let file = home.join(".docker/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    for config in [r#"{"credsStore":"test"}"#.to_owned(), format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#)]
    {
        std::fs::write(&file, config).unwrap();
        let run = guarded.run(&["login", host, "-u", "ci", "--password-stdin"], &variables, "s3cret").ok();
        assert!(
            run.stderr.contains("docker-credential-test") && !run.stderr.contains("warning"),
            "{}",
            run.stderr
        );
        assert!(
            !std::fs::read_to_string(&file).unwrap().contains("\"auth\""),
            "the password is in the file too"
        );
        guarded.push(&[], &variables, "").ok();
        let run = guarded.run(&["logout", "--all"], &variables, "").ok();
        assert_eq!(run.stdout, format!("Removed login credentials for {host}\n"));
        assert!(!home.join("kept").exists());
        guarded.is_refused(guarded.push(&[], &variables, ""));
    }
}

#[test]
fn helpers_of_containers_tools_are_asked_when_no_file_knows_the_registry() {
    let Some(guarded) = Guarded::start() else { return };
    let home = guarded.scratch.path();
    let asked = home.join("asked");
    let script = format!(
        "#!/bin/sh\ncat > {}\necho '{{\"Username\":\"ci\",\"Secret\":\"s3cret\"}}'\n",
        asked.display()
    );
    let helper = home.join("docker-credential-everywhere");
    std::fs::write(&helper, script).unwrap();
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let conf = home.join("registries.conf");
    let helpers = "credential-helpers = [\"containers-auth.json\", \"absent-here\", \"everywhere\"]\n";
    std::fs::write(&conf, helpers).unwrap();
    let path = format!("{}:/usr/bin:/bin", home.display());
    let variables = [("PATH", path.as_str()), ("CONTAINERS_REGISTRIES_CONF", conf.to_str().unwrap())];
    guarded.push(&[], &variables, "").ok();
    assert_eq!(std::fs::read_to_string(&asked).unwrap().trim(), guarded.registry.host);
    // A file that the command line names is all that is looked at.
    std::fs::remove_file(&asked).unwrap();
    let empty = home.join("empty.json");
    std::fs::write(&empty, "{}").unwrap();
    guarded.is_refused(guarded.push(&["--authfile", empty.to_str().unwrap()], &variables, ""));
    assert!(!asked.exists());
}

#[test]
fn a_helper_that_is_not_there_keeps_nothing() {
    let Some(guarded) = Guarded::start() else { return };
    let file = guarded.scratch.path().join(".docker/config.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, r#"{"credsStore":"absent-here"}"#).unwrap();
    let login = ["login", guarded.registry.host.as_str(), "-u", "ci", "--password-stdin"];
    guarded.run(&login, &[], "s3cret").fails(2, &["docker-credential-absent-here", "take it out"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"credsStore":"absent-here"}"#);
    // For reading, what others configured for a desktop stops nothing.
    let run = guarded.push(&["--username", "ci", "--password-stdin"], &[], "s3cret");
    assert!(!run.ok().stderr.contains("absent-here"));
}

#[test]
fn credentials_of_a_registry_do_not_go_to_its_mirror() {
    let Some(guarded) = Guarded::start() else { return };
    let Some(origin) = Registry::start() else { return };
    let mirror = guarded.registry.host.as_str();
    let name = format!("{}/team/app:1", origin.host);
    guarded.push(&["--username", "ci", "--password-stdin"], &[], "s3cret").ok();
    guarded.run(&["push", "app", &name], &[], "").ok();
    let flag = format!("{}={mirror}", origin.host);
    let pull = |host: &str| {
        let auths = format!(r#"{{"auths":{{"{host}":{{"auth":"{ENCODED}"}}}}}}"#);
        let pull = ["pull", &format!("docker://{name}"), "--registry-mirror", &flag];
        guarded.run(&pull, &[("DOCKER_AUTH_CONFIG", &auths)], "").ok().stderr
    };
    let told = format!("mirror {mirror}: ");
    let stderr = pull(&origin.host);
    assert!(stderr.contains(&told), "the mirror knows who asks: {stderr}");
    let stderr = pull(mirror);
    assert!(!stderr.contains(&told), "{stderr}");
}

#[test]
fn a_login_goes_where_the_authfile_is() {
    let Some(guarded) = Guarded::start() else { return };
    let host = guarded.registry.host.as_str();
    let file = guarded.scratch.path().join("deep/auth.json");
    let path = file.to_str().unwrap();
    guarded.push(&["--authfile", path], &[], "").fails(2, &["--authfile", path]);
    guarded.run(&["login", host, "-u", "ci", "--password-stdin", "--authfile", path], &[], "s3cret").ok();
    guarded.push(&["--authfile", path], &[], "").ok();
    guarded.is_refused(guarded.push(&[], &[], ""));
    let masked = [("DOCKER_AUTH_CONFIG", r#"{"auths":{"HOST":{"auth":"Y2k6bm8="}}}"#.replace("HOST", host))];
    let masked: Vec<_> = masked.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let run = guarded.run(&["login", host, "-u", "ci", "--password-stdin"], &masked, "s3cret").ok();
    assert!(run.stderr.contains("warning: DOCKER_AUTH_CONFIG"), "{}", run.stderr);
    assert_eq!(guarded.run(&["logout", "--authfile", path, host], &[], "").ok().code, 0);
    guarded.is_refused(guarded.push(&["--authfile", path], &[], ""));
}

#[test]
fn skopeo_and_xbuild_read_what_the_other_keeps() {
    let Some(guarded) = Guarded::start() else { return };
    if !crate::harness::have(&["skopeo"]) {
        return;
    }
    let host = guarded.registry.host.as_str();
    let path = |name: &str| guarded.scratch.path().join(name).to_str().unwrap().to_owned();
    let (ours, theirs) = (path("ours.json"), path("theirs.json"));
    guarded.run(&["login", host, "-u", "ci", "--password-stdin", "--authfile", &ours], &[], "s3cret").ok();
    guarded.push(&["--authfile", &ours], &[], "").ok();
    let image = format!("docker://{}", guarded.image);
    tool("skopeo", &["inspect", "--tls-verify=false", "--authfile", &ours, &image]);
    tool("skopeo", &["login", "--tls-verify=false", "--authfile", &theirs, "-u", "ci", "-p", "s3cret", host]);
    guarded.push(&["--authfile", &theirs], &[], "").ok();
    // One forgets what the other has kept.
    guarded.run(&["logout", "--all", "--authfile", &theirs], &[], "").ok();
    guarded.is_refused(guarded.push(&["--authfile", &theirs], &[], ""));
    tool("skopeo", &["logout", "--authfile", &ours, host]);
    guarded.is_refused(guarded.push(&["--authfile", &ours], &[], ""));
}

#[test]
fn passwords_are_on_no_command_line_and_logins_say_who() {
    let scratch = Scratch::new();
    let check = |arguments: &[&str], input: &str, parts: &[&str]| {
        run(&scratch, arguments, &[], input).fails(2, parts);
    };
    check(&["login", "-u", "u", "-p", "pw", "h.io"], "", &["--password-stdin", "command line"]);
    check(&["login", "h.io", "--password-stdin"], "pw", &["there is no user"]);
    check(&["login", "h.io", "-u", "u"], "", &["--password-stdin"]);
    check(&["login", "h.io", "-u", "u", "--password-stdin"], "\n", &["standard input is empty"]);
    check(&["login", "h.io", "-u", "a:b", "--password-stdin"], "pw", &["colon"]);
    check(&["login", "alice", "-u", "u", "--password-stdin"], "pw", &["unusable registry", "alice"]);
    check(&["login", "hub.docker.com", "-u", "u", "--password-stdin"], "pw", &["docker.io"]);
    let run = run(&scratch, &["logout", "--all"], &[], "").ok();
    assert_eq!(run.stdout, "Not logged in to any registry\n");
}

/// A registry whose tokens come from `/token`, its own or that of another such registry, for who knows the password.
pub fn token_registry(realm: Option<&str>) -> Server {
    let realm = realm.map(str::to_owned);
    Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.target.starts_with("/token") {
            return match authorization == format!("Basic {ENCODED}") {
                true => Reply::new(200, r#"{"token":"t0ken"}"#),
                false => Reply::new(401, r#"{"details":"incorrect username or password"}"#),
            };
        }
        if authorization == "Bearer t0ken" {
            return Reply::new(200, "{}");
        }
        let realm = realm.as_deref().unwrap_or(request.header("host"));
        let challenge = format!("Bearer realm=\"http://{realm}/token\",service=\"s\"");
        Reply::new(401, "{}").header("WWW-Authenticate", &challenge)
    })
}

#[test]
fn a_token_server_checks_the_password_too() {
    let scratch = Scratch::new();
    let server = token_registry(None);
    let host = server.host.as_str();
    let login = ["login", host, "--username", "ci", "--password-stdin"];
    run(&scratch, &login, &[], "no").fails(4, &["incorrect username or password", host]);
    run(&scratch, &login, &[], "s3cret").ok();
}

#[test]
fn a_registry_that_asks_nobody_is_told() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new();
    let login = ["login", registry.host.as_str(), "-u", "ci", "--password-stdin"];
    let run = run(&scratch, &login, &[], "any").ok();
    assert!(run.stderr.contains("not checked"), "{}", run.stderr);
}

#[test]
fn a_terminal_is_asked_and_does_not_show_the_password() {
    let Some(guarded) = Guarded::start() else { return };
    if !crate::harness::have(&["script"]) {
        return;
    }
    let host = guarded.registry.host.as_str();
    let line = format!("{} login {host}", env!("CARGO_BIN_EXE_xbuild"));
    let mut command = Command::new("script");
    isolate(&mut command, guarded.scratch.path());
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // Each answer follows its question: what is typed before echo is off would be shown.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut wait_for = |text: &str| {
        let mut byte = [0];
        while !String::from_utf8_lossy(&seen).contains(text) {
            let read = std::io::Read::read(&mut output, &mut byte).unwrap();
            assert!(read > 0, "{text:?} is not in {:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&byte[..read]);
        }
    };
    wait_for("User of");
    input.write_all(b"ci\n").unwrap();
    wait_for("Password of ci: ");
    input.write_all(b"s3cret\n").unwrap();
    wait_for("Login Succeeded");
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(!String::from_utf8_lossy(&seen).contains("s3cret"), "{}", String::from_utf8_lossy(&seen));
    guarded.push(&[], &[], "").ok();
}

#[test]
fn files_of_credentials_that_cannot_be_changed_are_mistakes_about_registries() {
    let scratch = Scratch::new();
    let logout = |variables: &[(&str, &str)]| run(&scratch, &["logout", "h.example"], variables, "");
    let file = scratch.path().join("file");
    std::fs::write(&file, "no JSON").unwrap();
    let file = file.to_str().unwrap();
    logout(&[("REGISTRY_AUTH_FILE", file)]).fails(2, &[file, "--authfile"]);
    logout(&[("HOME", file)]).fails(2, &[file, "--authfile"]);
}
