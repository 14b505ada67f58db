//! Names to commits: from every kind of server, from the cache, and checked against what was promised.

use super::*;

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
