//! Pushing to and pulling from Harbor: what it refuses is quoted with what to do, and beside each refusal what must
//! go through.

use base64::Engine as _;
use oci::media_type::{OCI_LAYER, Types};
use oci::registry::{Error, Event, Login, Problem, PushImage, Settings, Way, plan_push};
use oci::{Digest, Platform, Reference};

use crate::fixture::{blob, client, image, noise, read_blob, settings, ways};
use crate::harbor::{Custom, Harbor};
use crate::memory::Habits;

fn login(harbor: &Harbor, account: &str) -> Settings {
    let password = match account {
        "robot$ci" => "p:w",
        "robot$team+ci" => "s3cret",
        "reader" => "r",
        _ => "wrong",
    };
    let mut settings = settings();
    let login = Login { username: account.to_owned(), password: password.to_owned() };
    settings.logins.insert(harbor.server.address.to_string(), login);
    settings
}

async fn push_as(harbor: &Harbor, account: &str, name: &str, image: &PushImage) -> Result<Vec<Event>, Error> {
    let settings = if account.is_empty() { settings() } else { login(harbor, account) };
    let (client, events) = client(settings);
    client.push(&plan_push(&harbor.reference(name), image)).await?;
    Ok(events.lock().unwrap().clone())
}

fn small(seed: u64) -> PushImage {
    image(&[noise(seed, 5000)], Types::Oci, &["1"])
}

/// The push fails at once in the server's words, with a hint, and waits for nothing.
async fn check_refused(custom: Custom, account: &str, name: &str, words: &str, hint: &str) {
    let harbor = Harbor::start(custom);
    let error = push_as(&harbor, account, name, &small(1)).await.unwrap_err();
    let line = error.to_string();
    assert!(line.contains(words), "{line}");
    assert!(line.rsplit(" — ").next().unwrap().contains(hint), "{line}");
    assert!(line.starts_with("push ") && !line.contains('\n'), "{line}");
    assert!(!matches!(*error.problem, Problem::Exhausted { .. }), "{line}");
}

#[tokio::test]
async fn robots_push_and_pull_with_the_dollar_in_their_names() {
    for account in ["robot$ci", "robot$team+ci"] {
        for name in ["team/app", "team/group/sub-group/app"] {
            let harbor = Harbor::start(Custom::default());
            let pushed = small(2);
            push_as(&harbor, account, name, &pushed).await.unwrap();
            let query = harbor.tokens()[0].query();
            assert_eq!(query["account"], account);
            assert_eq!(query["scope"], format!("repository:{name}:pull,push"));
            assert!(harbor.tokens()[0].target.contains("account=robot%24"), "{}", harbor.tokens()[0].target);
            let (reader, _) = client(login(&harbor, "reader"));
            let found = reader
                .resolve(
                    &harbor.reference(&format!("{name}:1")),
                    &Platform::parse("linux/amd64", &Platform::host()).unwrap(),
                )
                .await
                .unwrap();
            assert_eq!(found.manifest.digest, pushed.documents[0].digest);
            assert_eq!(read_blob(&reader, &found.reference, &noise(2, 5000)).await.unwrap(), noise(2, 5000));
        }
    }
}

#[tokio::test]
async fn robots_of_a_configuration_file_keep_their_names() {
    for (name, password) in [("robot$ci", "p:w"), ("robot$team+ci", "s3cret")] {
        let harbor = Harbor::start(Custom::default());
        let mut from_file = settings();
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        let auths = serde_json::json!({ "auths": { harbor.server.address.to_string(): { "auth": auth } } });
        from_file.environment.docker_auth_config = Some(auths.to_string());
        let (client, _) = client(from_file);
        client.push(&plan_push(&harbor.reference("team/app"), &small(2))).await.unwrap();
        assert_eq!(harbor.tokens()[0].query()["account"], name);
    }
}

#[tokio::test]
async fn tokens_that_end_after_every_few_requests_are_renewed_at_the_service() {
    for uses in [1, 2, 3] {
        let harbor = Harbor::start(Custom { uses, ..Custom::default() });
        let mut sequential = login(&harbor, "robot$ci");
        sequential.limits.parallel = 1;
        let (client, _) = client(sequential);
        let target = harbor.reference("team/app");
        client.push(&plan_push(&target, &small(3))).await.unwrap();
        assert!(harbor.tokens().len() > 1);
        // Name and password go to the service, not to the registry: a new token is enough.
        let requests = harbor.server.requests();
        let at_registry = requests.iter().filter(|request| request.path().starts_with("/v2/"));
        assert!(
            !at_registry.into_iter().any(|request| request.header("authorization").starts_with("Basic "))
        );
    }
}

#[tokio::test]
async fn a_token_that_allows_too_little_ends_in_the_words_of_harbor() {
    let words = |action: &str| format!("unauthorized to access repository: secret/app, action: {action}");
    for (account, action, hint) in [
        ("robot$team+ci", "pull", "may robot$team+ci push there?"),
        ("reader", "push", "may reader push there?"),
        ("", "pull", "log in first"),
        ("stranger", "pull", "may stranger push there?"),
    ] {
        check_refused(Custom::default(), account, "secret/app", &words(action), hint).await;
    }
    let harbor = Harbor::start(Custom::default());
    push_as(&harbor, "robot$ci", "secret/app", &small(1)).await.unwrap();
}

#[tokio::test]
async fn what_is_public_needs_no_login_and_what_is_secret_does() {
    let harbor = Harbor::start(Custom::default());
    let (anonymous, _) = client(settings());
    assert_eq!(anonymous.digest(&harbor.reference("base/debian:12")).await.unwrap(), None);
    let error = anonymous.root(&harbor.reference("secret/app:1")).await.unwrap_err();
    assert!(matches!(*error.problem, Problem::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("does not exist or needs a login"), "{error}");
    let registry = harbor.server.address.to_string();
    let (wrong, _) = client(login(&harbor, "stranger"));
    assert!(wrong.check_login(&registry).await.is_err());
    let (right, _) = client(login(&harbor, "robot$ci"));
    right.check_login(&registry).await.unwrap();
}

#[tokio::test]
async fn a_project_that_is_not_there_is_named() {
    for unknown_project in [401, 403, 404] {
        let custom = Custom { unknown_project, ..Custom::default() };
        check_refused(custom, "robot$ci", "absent/app", "project absent not found", "create the project")
            .await;
    }
    check_refused(Custom::default(), "robot$ci", "app", "Unable to parse image", "/PROJECT/app").await;
}

#[tokio::test]
async fn reg_15_a_quota_is_final_and_room_is_used() {
    let custom = || Custom { quota: 4000, ..Custom::default() };
    let words = "will exceed the configured upper limit of 4000 Byte";
    check_refused(custom(), "robot$ci", "team/app", words, "larger quota").await;
    let harbor = Harbor::start(Custom { quota: 10_000, ..Custom::default() });
    push_as(&harbor, "robot$ci", "team/app", &small(1)).await.unwrap();
    let error = push_as(&harbor, "robot$ci", "team/app", &small(2)).await.unwrap_err();
    assert!(error.to_string().contains("current usage of 5"), "{error}");
    // The session that will not be ended is given back.
    let requests = harbor.server.requests();
    let given_back = requests.iter().rfind(|request| request.method == "DELETE").unwrap();
    assert!(requests.iter().any(|request| request.method == "PUT" && request.path() == given_back.path()));
    // What is there already takes no room.
    let again = image(&[noise(1, 5000)], Types::Oci, &["2"]);
    push_as(&harbor, "robot$ci", "team/app", &again).await.unwrap();
}

#[tokio::test]
async fn reg_15_an_immutable_tag_stays_and_another_is_set() {
    let harbor = Harbor::start(Custom { immutable: &["1"], ..Custom::default() });
    push_as(&harbor, "robot$ci", "team/app", &small(1)).await.unwrap();
    // The same image again changes nothing, so it is no error.
    push_as(&harbor, "robot$ci", "team/app", &small(1)).await.unwrap();
    let line = push_as(&harbor, "robot$ci", "team/app", &small(2)).await.unwrap_err().to_string();
    assert!(line.contains("'app:1' configured as immutable"), "{line}");
    assert!(line.ends_with("the tag is immutable, choose another"), "{line}");
    let (client, _) = client(login(&harbor, "robot$ci"));
    let found = client.digest(&harbor.reference("team/app:1")).await.unwrap();
    assert_eq!(found, Some(small(1).documents[0].digest));
    push_as(&harbor, "robot$ci", "team/app", &image(&[noise(2, 5000)], Types::Oci, &["2"])).await.unwrap();
}

#[tokio::test]
async fn reg_15_a_head_that_lies_costs_one_forced_upload_of_each_blob() {
    let pushed = small(4);
    let lies_about = [(pushed.blobs[0].digest.to_string(), 5000)].into();
    let habits = Habits { lies_about, ..Custom::default().habits };
    let harbor = Harbor::start(Custom { habits, ..Custom::default() });
    let events = push_as(&harbor, "robot$ci", "team/app", &pushed).await.unwrap();
    let digest = pushed.blobs[0].digest;
    assert_eq!(ways(&events, digest), [Way::Existed, Way::Uploaded]);
    let puts = harbor
        .server
        .requests()
        .iter()
        .filter(|request| request.path().contains("/manifests/1") && request.method == "PUT")
        .count();
    assert_eq!(puts, 2);
}

#[tokio::test]
async fn reg_15_a_registry_that_never_finds_its_blob_is_believed_in_the_end() {
    // Without the blob appearing, a second forced upload would not help either.
    let body = r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#;
    let habits = Habits { refuses_manifests: Some((404, body)), ..Custom::default().habits };
    let harbor = Harbor::start(Custom { habits, ..Custom::default() });
    let error = push_as(&harbor, "robot$ci", "team/app", &small(4)).await.unwrap_err();
    assert!(error.to_string().contains("BLOB_UNKNOWN: blob unknown to registry"), "{error}");
    let requests = harbor.server.requests();
    let puts =
        requests.iter().filter(|request| request.path().contains("/manifests/") && request.method == "PUT");
    assert_eq!(puts.count(), 2);
}

#[tokio::test]
async fn reg_15_a_proxy_that_limits_bodies_gets_pieces() {
    let harbor = Harbor::start(Custom { max_body: Some(1 << 20), ..Custom::default() });
    let layer = noise(5, 5 << 20);
    let image = PushImage { blobs: vec![blob(&layer, OCI_LAYER)], documents: Vec::new() };
    let mut small_chunks = login(&harbor, "robot$ci");
    small_chunks.limits.chunk = 2 << 20;
    let (client, _) = client(small_chunks);
    client.push(&plan_push(&harbor.reference("team/app"), &image)).await.unwrap();
    assert!(harbor.has_blob("team/app", &Digest::of(&layer).to_string()));
    let requests = harbor.server.requests();
    let accepted = requests.iter().filter(|request| request.method == "PATCH" && !request.body.is_empty());
    assert!(accepted.into_iter().all(|patch| patch.body.len() <= 1 << 20));
}

#[tokio::test]
async fn reg_15_too_many_uploads_at_once_are_answered_500_and_go_through() {
    let harbor = Harbor::start(Custom { uploads: 1, ..Custom::default() });
    let layers: Vec<Vec<u8>> = (10..16).map(|seed| noise(seed, 20_000)).collect();
    let image = image(&layers, Types::Oci, &["1"]);
    let events = push_as(&harbor, "robot$ci", "team/app", &image).await.unwrap();
    assert!(events.iter().any(|event| matches!(event, Event::Waiting { .. })), "nothing ran in parallel");
    for blob in &image.blobs {
        assert!(harbor.has_blob("team/app", &blob.digest.to_string()));
    }
}

/// Pushes to `team/app` a layer that `source` holds; returns how it got there.
async fn link(account: &str, source: &str) -> (Way, Harbor) {
    let harbor = Harbor::start(Custom::default());
    let layer = noise(6, 10_000);
    let digest = Digest::of(&layer);
    {
        let mut state = harbor.memory.state.lock().unwrap();
        state.blobs.insert(digest.to_string(), layer.clone());
        state.links.insert((source.to_owned(), digest.to_string()));
    }
    let mut image = image(&[layer], Types::Oci, &["1"]);
    let from: Reference = harbor.reference(source);
    image.blobs[0].found_in = vec![from];
    let events = push_as(&harbor, account, "team/app", &image).await.unwrap();
    let way = events.iter().find_map(|event| match event {
        Event::Pushed { digest: of, way, .. } if *of == digest => Some(way.clone()),
        _ => None,
    });
    assert!(harbor.has_blob("team/app", &digest.to_string()));
    (way.unwrap(), harbor)
}

#[tokio::test]
async fn layers_of_other_projects_are_linked_where_that_is_allowed() {
    for source in ["team/other", "secret/app", "base/debian"] {
        let (way, _) = link("robot$ci", source).await;
        assert_eq!(way, Way::Mounted { from: source.to_owned() });
    }
    // A robot of one project may not read another's; its push goes on with what it may do.
    let (way, harbor) = link("robot$team+ci", "secret/app").await;
    assert_eq!(way, Way::Uploaded);
    let manifests = |request: &&crate::server::Request| request.path().contains("/manifests/");
    let requests = harbor.server.requests();
    let last = requests.iter().rfind(manifests).unwrap();
    assert!(last.header("authorization").starts_with("Bearer "), "the way to log in has not changed");
}

#[tokio::test]
async fn a_link_that_harbor_does_not_make_becomes_an_upload() {
    // 202: the source has no such blob any more.
    let harbor = Harbor::start(Custom::default());
    let mut image = small(7);
    image.blobs[0].found_in = vec![harbor.reference("base/debian"), harbor.reference("team/other")];
    let events = push_as(&harbor, "robot$ci", "team/app", &image).await.unwrap();
    assert_eq!(ways(&events, image.blobs[0].digest), [Way::Uploaded], "{events:?}");
}
