//! What a repository or a server may not do: run programs, read this machine, learn credentials, never end.

use super::*;

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
async fn without_git_the_error_says_so() {
    let mut fixture = Fixture::new();
    fixture.sources.git.path = "/nonexistent".to_owned();
    let remote = Remote::parse("https://h.invalid/r.git").unwrap();
    let error = resolve(&fixture.sources, &remote, "main").await.unwrap_err();
    assert!(error.to_string().contains("install git"), "{error}");
}
