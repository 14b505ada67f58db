//! Token servers that fail or lead elsewhere: what is told of them, and what they do not get.

use oci::registry::Refusal;

use crate::attacks::{allowing, challenging, refusal, with_login};
use crate::fixture::{client, settings};
use crate::server::{Reply, Server};

#[tokio::test]
async fn reg_03_a_token_server_that_redirects_is_not_followed() {
    let tokens = Server::start(|_| Reply::new(302).header("Location", "http://169.254.169.254/latest"));
    let registry = challenging(format!("http://{}/token", tokens.address));
    let found = refusal(allowing(&tokens), &registry.reference("a:1")).await;
    let (server, url) =
        (format!("http://{}/token", tokens.address), "http://169.254.169.254/latest".to_owned());
    assert_eq!(found, Refusal::TokenRedirect { server, url });
}

#[tokio::test]
async fn a_token_server_that_fails_is_told_from_the_registry() {
    for (reply, fragments) in [
        (Reply::new(404).body("nope"), &["404 Not Found: nope", "does its administrator know it"][..]),
        (Reply::new(200).body("{}"), &["sent a token answer: it has no token"]),
        (Reply::new(500), &["(6 attempts) — the registry is in trouble, try later"]),
    ] {
        let tokens = Server::start(move |_| reply.clone());
        let registry = challenging(format!("http://{}/token", tokens.address));
        let (client, _) = client(with_login(allowing(&tokens), &registry));
        let error = client.check_push(&registry.reference("a/b")).await.unwrap_err();
        assert!(!error.is_denied() && !error.is_refusal(), "{error}");
        let server = format!(" — no token from http://{}/token: ", tokens.address);
        for fragment in fragments.iter().chain([&server.as_str()]) {
            assert!(error.to_string().contains(fragment), "{fragment:?} is not in {error}");
        }
    }
    // What it says of name and password is no failure of its own.
    let tokens = Server::start(|_| Reply::new(401).body(r#"{"details":"incorrect username or password"}"#));
    let registry = challenging(format!("http://{}/token", tokens.address));
    let (client, _) = client(with_login(allowing(&tokens), &registry));
    let error = client.check_push(&registry.reference("a/b")).await.unwrap_err();
    let expected = format!("{} answered 401 Unauthorized: incorrect username", tokens.address);
    assert!(error.is_denied() && error.to_string().contains(&expected), "{error}");
}

#[tokio::test]
async fn reg_01_a_realm_without_a_host_is_refused_as_it_stands() {
    let registry = challenging("file:///etc/passwd".to_owned());
    let (client, events) = client(settings());
    let error = client.digest(&registry.reference("a:1")).await.unwrap_err();
    assert!(error.to_string().contains("sent us to file:///etc/passwd, which is not https"), "{error}");
    assert!(events.lock().unwrap().is_empty());
}
