//! Commits to directories: modes, times, subdirectories, submodules and the git directory.

use super::*;

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
