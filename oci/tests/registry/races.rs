//! Others at work in the same repository: a second push of the tag, a deletion, the registry's garbage collection
//! (reliability REG-19). Whatever happens in between, a tag stands for a whole image.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use oci::document::Root;
use oci::media_type::Types;
use oci::registry::{Client, Event, Events, PushImage, Way, plan_push};
use oci::{Digest, Reference};

use crate::fixture::{DockerRegistry, client, image, noise, settings, skip};

/// Reads all of the image, by us and by skopeo.
async fn assert_whole(name: &Reference) -> Digest {
    let (client, _) = client(settings());
    let Root::Manifest(manifest) = client.root(name).await.unwrap() else { panic!("one image") };
    for part in manifest.parsed.layers().iter().chain([manifest.parsed.config()]) {
        client.blob_bytes(name, part, 1 << 30).await.unwrap();
    }
    if Command::new("skopeo").arg("--version").stdout(Stdio::null()).status().is_err() {
        skip::<()>("skopeo is not installed");
        return manifest.digest;
    }
    let copy = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", copy.path().display());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}"), &target]);
    let output = skopeo.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    manifest.digest
}

fn request(port: u16, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A client that does `act` at the first event for which it returns true.
fn acting(act: impl Fn(&Event) -> bool + Send + Sync + 'static) -> Client {
    let done = Mutex::new(false);
    Client::new(
        settings(),
        Events::new(move |event| {
            let mut done = done.lock().unwrap();
            *done = *done || act(&event);
        }),
    )
}

#[tokio::test]
async fn reg_19_two_pushes_of_one_tag_leave_one_of_the_images_whole() {
    let Some(registry) = DockerRegistry::start("") else { return };
    for round in 0..4 {
        let name = registry.reference(&format!("race/n{round}:t"));
        let common = noise(1, 200_000);
        let one = image(&[common.clone(), noise(100 + round, 50_000)], Types::Oci, &["t"]);
        let other = image(&[common, noise(200 + round, 50_000)], Types::Docker, &["t"]);
        let push = async |image: &PushImage| {
            let (client, _) = client(settings());
            client.push(&plan_push(&name, image)).await.unwrap();
        };
        futures_util::join!(push(&one), push(&other));
        let found = assert_whole(&name).await;
        assert!([one.documents[0].digest, other.documents[0].digest].contains(&found));
    }
}

#[tokio::test]
async fn reg_19_a_blob_that_is_deleted_after_the_registry_said_it_has_it_is_sent() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let port = registry.port;
    let first = image(&[noise(2, 100_000)], Types::Oci, &["1"]);
    let (plain, _) = client(settings());
    plain.push(&plan_push(&registry.reference("gone/app"), &first)).await.unwrap();
    let second = image(&[noise(2, 100_000), noise(3, 1000)], Types::Oci, &["2"]);
    let layer = second.blobs[0].digest;
    let deleting = acting(move |event| {
        let existed = matches!(event, Event::Pushed { digest, way: Way::Existed, .. } if *digest == layer);
        if existed {
            let answer = request(port, "DELETE", &format!("/v2/gone/app/blobs/{layer}"));
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        }
        existed
    });
    deleting.push(&plan_push(&registry.reference("gone/app"), &second)).await.unwrap();
    assert_eq!(assert_whole(&registry.reference("gone/app:2")).await, second.documents[0].digest);
    // Undisturbed, the same push finds everything.
    let third = image(&[noise(2, 100_000), noise(3, 1000)], Types::Oci, &["3"]);
    assert_eq!(plain.push(&plan_push(&registry.reference("gone/app"), &third)).await.unwrap().uploaded, 0);
}

fn collect_garbage(config: &std::path::Path) {
    let mut command = Command::new("docker-registry");
    command.arg("garbage-collect").arg(config).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

#[tokio::test]
async fn reg_19_garbage_collection_between_blobs_and_manifest_is_made_good() {
    let Some(registry) = DockerRegistry::start("") else { return };
    let config = registry.directory.path().join("config.yml");
    let pushed = image(&[noise(4, 100_000)], Types::Oci, &["1"]);
    let (layer, swept) = (pushed.blobs[0].digest, config.clone());
    let sweeping = acting(move |event| {
        // Nothing refers to the layer yet, so it is garbage.
        let uploaded = matches!(event, Event::Pushed { digest, way: Way::Uploaded, .. } if *digest == layer);
        if uploaded {
            collect_garbage(&swept);
        }
        uploaded
    });
    let name = registry.reference("swept/app:1");
    sweeping.push(&plan_push(&name, &pushed)).await.unwrap();
    assert_eq!(assert_whole(&name).await, pushed.documents[0].digest);
    // What the tag stands for is no garbage.
    collect_garbage(&config);
    assert_eq!(assert_whole(&name).await, pushed.documents[0].digest);
}
