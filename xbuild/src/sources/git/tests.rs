//! Real repositories, served as files over HTTP and by git's own daemon.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::checkout::CheckedOut;
use super::*;
use crate::sources::testing::{Fixture, Reply, Server, skip};
use crate::sources::{Secrets, context};

/// A repository with the tags v1 and v2 (annotated), the branch `side`, and HEAD on `main`.
struct Upstream {
    directory: tempfile::TempDir,
}

impl Upstream {
    fn new(format: &'static str) -> Self {
        let upstream = Self { directory: tempfile::tempdir().unwrap() };
        upstream.git(&["init", "-q", "-b", "main", &format!("--object-format={format}"), "."]);
        upstream.write("foo", "one");
        upstream.write("dir/deep/file", "deep");
        upstream.write("run.sh", "#!/bin/sh\n");
        std::fs::set_permissions(upstream.path("run.sh"), std::fs::Permissions::from_mode(0o775)).unwrap();
        std::os::unix::fs::symlink("dir", upstream.path("link")).unwrap();
        upstream.commit("one");
        upstream.git(&["tag", "v1"]);
        upstream.write("foo", "two");
        upstream.commit("two");
        upstream.git(&["tag", "-a", "-m", "annotated", "v2"]);
        upstream.git(&["branch", "side"]);
        upstream.write("foo", "three");
        upstream.commit("three");
        upstream.publish();
        upstream
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn commit(&self, message: &str) {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.directory.path())
            .args(["-c", "user.email=a@b", "-c", "user.name=a", "-c", "protocol.file.allow=always"])
            .args(arguments)
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_COMMITTER_DATE", "2001-09-09T01:46:40Z")])
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn id(&self, name: &str) -> String {
        self.git(&["rev-parse", name])
    }

    /// What a web server that knows no git needs.
    fn publish(&self) {
        self.git(&["update-server-info"]);
    }

    fn serve(&self) -> (Server, Remote) {
        let server = Server::files(self.directory.path());
        let remote = Remote::parse(&server.url("/.git")).unwrap();
        (server, remote)
    }
}

/// `git daemon`, which speaks git's own protocol.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(base: &Path) -> Option<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .arg(base)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut daemon = Self { child, port };
        for _ in 0..200 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(daemon);
            }
            if daemon.child.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        skip("git daemon does not start here");
        None
    }

    fn remote(&self, path: &str) -> Remote {
        Remote::parse(&format!("git://127.0.0.1:{}{path}", self.port)).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn plain<'a>(remote: &'a Remote, commit: &'a str) -> Checkout<'a> {
    Checkout {
        remote,
        commit,
        reference: None,
        subdir: "",
        git_directory: GitDirectory::Drop,
        submodules: Submodules::Skip,
    }
}

async fn foo_at(fixture: &Fixture, remote: &Remote, reference: &str) -> String {
    let resolved = resolve(&fixture.sources, remote, reference).await.unwrap();
    let scratch = fixture.scratch(&format!("{}-{}", reference.replace('/', "-"), fixture_count(fixture)));
    let done = checkout(&fixture.sources, &plain(remote, &resolved.commit), scratch).await.unwrap();
    assert_eq!(done.commit, resolved.commit);
    assert!(!done.directory.join(".git").exists());
    std::fs::read_to_string(done.directory.join("foo")).unwrap()
}

fn fixture_count(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.directory.path()).unwrap().count()
}

async fn check_references(upstream: &Upstream, remote: &Remote) {
    let fixture = Fixture::new();
    for (reference, expected) in [
        ("", "three"),
        ("main", "three"),
        ("refs/heads/side", "two"),
        ("v1", "one"),
        ("refs/tags/v2", "two"),
        (&upstream.id("v1"), "one"),
        (&upstream.id("v2"), "two"),
    ] {
        if upstream.id("v2") == reference {
            // A whole id may be that of an annotated tag.
            let scratch = fixture.scratch("tag-object");
            let done = checkout(&fixture.sources, &plain(remote, reference), scratch).await.unwrap();
            assert_eq!(done.commit, upstream.id("v2^{commit}"));
            continue;
        }
        assert_eq!(foo_at(&fixture, remote, reference).await, expected, "{reference}");
    }
    let tag = resolve(&fixture.sources, remote, "v2").await.unwrap();
    assert_eq!((tag.commit, tag.object), (upstream.id("v2^{commit}"), upstream.id("v2")));
    // A commit has one name: as BuildKit has it, the beginning of its id is none.
    let short = resolve(&fixture.sources, remote, &upstream.id("main")[..9]).await.unwrap_err();
    assert!(short.to_string().starts_with("repository does not contain ref"), "{short}");
    let error = resolve(&fixture.sources, remote, "nothing").await.unwrap_err();
    assert!(error.to_string().starts_with("repository does not contain ref nothing"), "{error}");
}

#[tokio::test]
async fn references_of_a_dumb_server() {
    for format in ["sha1", "sha256"] {
        let upstream = Upstream::new(format);
        let (_server, remote) = upstream.serve();
        check_references(&upstream, &remote).await;
    }
}

#[tokio::test]
async fn references_of_a_smart_server() {
    for format in ["sha1", "sha256"] {
        let upstream = Upstream::new(format);
        let Some(daemon) = Daemon::start(upstream.directory.path()) else { return };
        check_references(&upstream, &daemon.remote("/.git")).await;
    }
}

#[tokio::test]
async fn a_checkout_has_usual_modes_and_the_time_of_its_commit() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let commit = upstream.id("v1");
    let usual = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let done = checkout(&fixture.sources, &plain(&remote, &commit), fixture.scratch("a")).await.unwrap();
    rustix::process::umask(usual);
    assert_eq!(done.time, 1_000_000_000);
    let mode = |name: &str| {
        std::fs::symlink_metadata(done.directory.join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!((mode("foo"), mode("run.sh"), mode("dir"), mode("")), (0o644, 0o755, 0o755, 0o755));
    assert_eq!(std::fs::read_link(done.directory.join("link")).unwrap(), Path::new("dir"));
    assert_eq!(std::fs::read_dir(&done.directory).unwrap().count(), 4);
}

#[tokio::test]
async fn a_commit_that_is_there_needs_no_server() {
    let upstream = Upstream::new("sha1");
    let (server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let commit = upstream.id("v1");
    checkout(&fixture.sources, &plain(&remote, &commit), fixture.scratch("a")).await.unwrap();
    let before = server.requests().len();
    checkout(&fixture.sources, &plain(&remote, &commit), fixture.scratch("b")).await.unwrap();
    assert_eq!(server.requests().len(), before);
}

#[tokio::test]
async fn branches_and_tags_may_move() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    assert_eq!(foo_at(&fixture, &remote, "v1").await, "one");
    upstream.git(&["checkout", "-q", "--orphan", "new"]);
    upstream.write("foo", "rewritten");
    upstream.commit("rewritten");
    upstream.git(&["branch", "-f", "main", "new"]);
    upstream.git(&["tag", "-f", "v1", "new"]);
    // A branch in whose place a directory of branches comes.
    upstream.git(&["branch", "-D", "side"]);
    upstream.git(&["branch", "side/x", "new"]);
    upstream.publish();
    for reference in ["main", "v1", "side/x"] {
        assert_eq!(foo_at(&fixture, &remote, reference).await, "rewritten", "{reference}");
    }
}

#[tokio::test]
async fn the_git_directory_stays_where_it_is_asked_for() {
    for format in ["sha1", "sha256"] {
        let upstream = Upstream::new(format);
        let (_server, remote) = upstream.serve();
        let fixture = Fixture::new();
        let commit = upstream.id("v1");
        let keep = Checkout { git_directory: GitDirectory::Keep, ..plain(&remote, &commit) };
        let done = checkout(&fixture.sources, &keep, fixture.scratch("a")).await.unwrap();
        let git = |arguments: &[&str]| {
            let output = Command::new("git").current_dir(&done.directory).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        assert_eq!(git(&["status", "-s"]), "");
        assert_eq!(git(&["rev-parse", "HEAD"]), commit);
        assert_eq!(git(&["config", "remote.origin.url"]), remote.url());
        assert_eq!(std::fs::read_to_string(done.directory.join(".git/HEAD")).unwrap().trim(), commit);
        assert!(!done.directory.join(".git/FETCH_HEAD").exists());
        assert!(!done.directory.join(".git/objects/info/alternates").exists());
    }
}

#[tokio::test]
async fn a_kept_git_directory_is_the_same_each_time() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let commit = upstream.id("v1");
    let keep = Checkout { git_directory: GitDirectory::Keep, ..plain(&remote, &commit) };
    let fixture = Fixture::new();
    let mut packed = Vec::new();
    for name in ["cold", "warm"] {
        let done = checkout(&fixture.sources, &keep, fixture.scratch(name)).await.unwrap();
        let files = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-c", "."];
        packed.push(Command::new("tar").current_dir(done.directory).args(files).output().unwrap().stdout);
        // Meanwhile the cache holds more.
        foo_at(&fixture, &remote, "main").await;
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert!(packed[0].len() > 10_000 && packed[0] == packed[1]);
}

#[test]
fn this_machine_is_reached_without_a_proxy() {
    let environment = |pairs: &'static [(&str, &str)]| {
        Environment::new(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    };
    assert_eq!(environment(&[("NO_PROXY", "x")]).proxies, []);
    let found =
        environment(&[("https_proxy", "http://p"), ("NO_PROXY", "x"), ("HTTP_PROXY", "http://q")]).proxies;
    let expected = [("https_proxy", "http://p"), ("no_proxy", "x,localhost,127.0.0.1,::1")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[tokio::test]
async fn src_03_a_subdirectory_is_a_directory_inside() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let commit = upstream.id("main");
    let at = async |subdir: &str| {
        let wanted = Checkout { subdir, git_directory: GitDirectory::Keep, ..plain(&remote, &commit) };
        let scratch = fixture.scratch(&format!("sub{}", fixture_count(&fixture)));
        checkout(&fixture.sources, &wanted, scratch).await
    };
    for fine in ["dir/deep", "/dir//deep/", "./dir/./deep"] {
        let done = at(fine).await.unwrap();
        assert_eq!(std::fs::read_to_string(done.directory.join("file")).unwrap(), "deep");
        assert!(!done.directory.join(".git").exists());
    }
    for refused in ["link", "link/deep", "foo", "foo/x", "..", "dir/../../x", "dir/.."] {
        assert!(at(refused).await.expect_err(refused).is_refusal(), "{refused}");
    }
    let error = at("dir/none/x").await.unwrap_err();
    assert!(matches!(&error, SourceError::NoSubdir { at, .. } if at == "dir/none"), "{error}");
}

fn with_submodule(url: &str) -> (Upstream, Upstream) {
    let (inner, outer) = (Upstream::new("sha1"), Upstream::new("sha1"));
    outer.git(&[
        "submodule",
        "--quiet",
        "add",
        "--name",
        "sub",
        &inner.path(".git").display().to_string(),
        "sub",
    ]);
    outer.git(&["config", "-f", ".gitmodules", "submodule.sub.url", url]);
    outer.commit("submodule");
    outer.publish();
    (inner, outer)
}

#[tokio::test]
async fn submodules_come_over_the_network() {
    let inner_server = tempfile::tempdir().unwrap();
    let server = Server::files(inner_server.path());
    let (inner, outer) = with_submodule(&server.url("/inner/.git"));
    let paths = [inner.directory.path().to_owned(), inner_server.path().join("inner")];
    assert!(Command::new("cp").arg("-a").args(paths).status().unwrap().success());
    let (_outer_server, remote) = outer.serve();
    let fixture = Fixture::new();
    let commit = outer.id("main");
    for (name, git_directory) in [("drop", GitDirectory::Drop), ("keep", GitDirectory::Keep)] {
        let wanted = Checkout { submodules: Submodules::Fetch, git_directory, ..plain(&remote, &commit) };
        let done = checkout(&fixture.sources, &wanted, fixture.scratch(name)).await.unwrap();
        assert_eq!(std::fs::read_to_string(done.directory.join("sub/foo")).unwrap(), "three");
        assert_eq!(done.directory.join("sub/.git").exists(), git_directory == GitDirectory::Keep);
    }
    let done = checkout(&fixture.sources, &plain(&remote, &commit), fixture.scratch("skip")).await.unwrap();
    assert_eq!(std::fs::read_dir(done.directory.join("sub")).unwrap().count(), 0);
}

#[tokio::test]
async fn src_04_submodules_that_are_on_this_machine_or_run_programs_are_not_fetched() {
    let secret = Upstream::new("sha1");
    let path = secret.path(".git").display().to_string();
    for url in [&path, &format!("file://{path}"), "ext::sh -c touch% canary", "--upload-pack=touch canary"] {
        let (_inner, outer) = with_submodule(url);
        let (_server, remote) = outer.serve();
        let fixture = Fixture::new();
        let commit = outer.id("main");
        let wanted = Checkout { submodules: Submodules::Fetch, ..plain(&remote, &commit) };
        let scratch = fixture.scratch("a");
        let result = checkout(&fixture.sources, &wanted, scratch.clone()).await;
        assert!(result.is_err(), "{url}");
        assert!(!scratch.join("tree/sub/foo").exists() && !scratch.join("tree/canary").exists(), "{url}");
    }
}

#[tokio::test]
async fn src_04_hooks_filters_and_configuration_of_a_repository_do_nothing() {
    let upstream = Upstream::new("sha1");
    upstream.write(".gitattributes", "* filter=evil\n");
    upstream.write("hooks/post-checkout", "#!/bin/sh\ntouch ../canary\n");
    upstream.write(".gitconfig", "[filter \"evil\"]\n\tsmudge = touch canary\n");
    upstream.commit("evil");
    upstream.publish();
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    assert_eq!(foo_at(&fixture, &remote, "main").await, "three");
    let found =
        Command::new("find").arg(fixture.directory.path()).args(["-name", "canary"]).output().unwrap();
    assert!(found.stdout.is_empty());
}

#[tokio::test]
async fn src_06_the_checksum_of_a_context_is_checked() {
    let upstream = Upstream::new("sha1");
    let (server, _remote) = upstream.serve();
    let fixture = Fixture::new();
    let prepare = async |rest: &str| {
        let reference = frontend::giturl::parse(&server.url(&format!("/.git{rest}"))).unwrap().unwrap();
        let scratch = fixture.scratch(&format!("context{}", fixture_count(&fixture)));
        context::from_git(&fixture.sources, &reference, scratch).await
    };
    let commit = upstream.id("v2^{commit}");
    for fine in
        [format!("?tag=v2&checksum={}", &commit[..7]), format!("?tag=v2&commit={}", upstream.id("v2"))]
    {
        let prepared = prepare(&fine).await.unwrap();
        let context::Origin::Git { commit: found, .. } = &prepared.origin else { panic!("{prepared:?}") };
        assert_eq!(*found, commit);
    }
    let error = prepare(&format!("?tag=v2&commit={}", upstream.id("main"))).await.unwrap_err();
    assert!(error.to_string().starts_with("expected checksum to match"), "{error}");
    let error = prepare("?branch=invalid").await.unwrap_err();
    assert!(error.to_string().starts_with("repository does not contain ref"), "{error}");
    let sub = prepare("#main:dir").await.unwrap();
    assert!(sub.directory.join("deep/file").exists());
}

#[tokio::test]
async fn src_06_a_commit_that_a_repository_does_not_have() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let wanted = "1".repeat(40);
    let error = checkout(&fixture.sources, &plain(&remote, &wanted), fixture.scratch("a")).await.unwrap_err();
    assert!(matches!(error, SourceError::NoReference { .. }), "{error}");
}

#[tokio::test]
async fn src_05_credentials_are_sent_and_not_told() {
    let upstream = Upstream::new("sha1");
    let root = upstream.directory.path().to_owned();
    let server = Server::start(move |request| {
        let header = request.headers.get("authorization").map(String::as_str);
        // x-access-token:canary, user:canary
        if !matches!(header, Some("basic eC1hY2Nlc3MtdG9rZW46Y2FuYXJ5" | "basic dXNlcjpjYW5hcnk=")) {
            return Reply::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        match std::fs::read(root.join(request.path.split('?').next().unwrap().trim_start_matches('/'))) {
            Ok(body) => Reply::new(200, body),
            Err(_) => Reply::new(404, ""),
        }
    });
    let mut fixture = Fixture::new();
    let with_login = Remote::parse(&format!("http://user:canary@{}/.git", server.address)).unwrap();
    assert_eq!(foo_at(&fixture, &with_login, "main").await, "three");
    let wrong = Remote::parse(&format!("http://user:canary2@{}/.git", server.address)).unwrap();
    let error = resolve(&fixture.sources, &wrong, "main").await.unwrap_err();
    assert!(!format!("{error} {error:?} {wrong:?}").contains("canary"), "{error:?}");
    let plain_remote = Remote::parse(&server.url("/.git")).unwrap();
    let error = resolve(&fixture.sources, &plain_remote, "main").await.unwrap_err();
    assert!(error.to_string().contains("--secret id=GIT_AUTH_TOKEN"), "{error}");
    for id in ["GIT_AUTH_TOKEN".to_owned(), format!("GIT_AUTH_TOKEN.{}", server.address)] {
        fixture.sources.secrets = Secrets::new([(id, b"canary\n".to_vec())]);
        assert_eq!(foo_at(&fixture, &plain_remote, "v1").await, "one");
    }
    let store = fixture.sources.store.root();
    let found = Command::new("grep").args(["-r", "canary"]).arg(store).output().unwrap();
    assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
}

#[tokio::test]
async fn src_09_a_git_bomb_is_refused_before_it_is_checked_out() {
    let upstream = Upstream::new("sha1");
    for at in 0..20 {
        upstream.write(&format!("bomb/{at}"), "same");
    }
    upstream.commit("bomb");
    upstream.publish();
    let (_server, remote) = upstream.serve();
    let mut fixture = Fixture::new();
    fixture.sources.limits.archive.entries = 20;
    let commit = upstream.id("main");
    let scratch = fixture.scratch("a");
    let error = checkout(&fixture.sources, &plain(&remote, &commit), scratch.clone()).await.unwrap_err();
    assert!(error.is_refusal() && std::fs::read_dir(scratch).unwrap().count() == 0, "{error}");
}

#[tokio::test]
async fn src_09_a_server_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let remote = Remote::parse(&format!("git://{}/r", listener.local_addr().unwrap())).unwrap();
    let mut fixture = Fixture::new();
    fixture.sources.limits.listing = std::time::Duration::from_millis(300);
    let error = resolve(&fixture.sources, &remote, "main").await.unwrap_err();
    assert!(matches!(error, SourceError::GitTimeout { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_cache_is_made_anew() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    assert_eq!(foo_at(&fixture, &remote, "main").await, "three");
    let home = fixture.sources.store.root().join("sources/git");
    let found = Command::new("find").arg(&home).args(["-path", "*objects/*", "-type", "f"]).output().unwrap();
    for path in String::from_utf8(found.stdout).unwrap().lines() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(path, "").unwrap();
    }
    assert_eq!(foo_at(&fixture, &remote, "main").await, "three");
}

#[tokio::test]
async fn two_builds_share_a_cache() {
    let upstream = Upstream::new("sha1");
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let (one, two) = (upstream.id("v1"), upstream.id("main"));
    let (a, b) = (plain(&remote, &one), plain(&remote, &two));
    let (a, b) = tokio::join!(
        checkout(&fixture.sources, &a, fixture.scratch("a")),
        checkout(&fixture.sources, &b, fixture.scratch("b"))
    );
    let foo = |done: CheckedOut| std::fs::read_to_string(done.directory.join("foo")).unwrap();
    assert_eq!((foo(a.unwrap()), foo(b.unwrap())), ("one".to_owned(), "three".to_owned()));
}

#[tokio::test]
async fn an_empty_commit_is_an_empty_directory() {
    let upstream = Upstream { directory: tempfile::tempdir().unwrap() };
    upstream.git(&["init", "-q", "-b", "main", "."]);
    upstream.commit("nothing");
    upstream.publish();
    let (_server, remote) = upstream.serve();
    let fixture = Fixture::new();
    let commit = upstream.id("main");
    let done = checkout(&fixture.sources, &plain(&remote, &commit), fixture.scratch("a")).await.unwrap();
    assert_eq!(std::fs::read_dir(done.directory).unwrap().count(), 0);
}

#[tokio::test]
async fn without_git_the_error_says_so() {
    let mut fixture = Fixture::new();
    fixture.sources.git.path = "/nonexistent".to_owned();
    let remote = Remote::parse("https://h.invalid/r.git").unwrap();
    let error = resolve(&fixture.sources, &remote, "main").await.unwrap_err();
    assert!(error.to_string().contains("install git"), "{error}");
}
