//! Real repositories, served as files over HTTP and by git's own daemon.

mod checkouts;
mod references;
mod refusals;

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

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
        // Bound and not listening, with SO_REUSEADDR: the daemon alone can take the port (socket(7)).
        let port =
            rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        rustix::net::sockopt::set_socket_reuseaddr(&port, true).unwrap();
        rustix::net::bind(&port, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let reserved = TcpListener::from(port);
        let port = reserved.local_addr().unwrap().port();
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
        let end = Instant::now() + Duration::from_secs(120);
        while daemon.child.try_wait().unwrap().is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Some(daemon);
            }
            assert!(Instant::now() < end, "git daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
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
