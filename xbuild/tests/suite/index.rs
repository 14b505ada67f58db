//! `xbuild index create`: images that were built apart, joined in the store and in a real registry.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Registry, Run, Scratch, have, tool};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn blob(layout: &Path, digest: &str) -> Value {
    json(&std::fs::read_to_string(layout.join("blobs").join(digest.replace(':', "/"))).unwrap())
}

/// Builds files of one platform.
fn build(scratch: &Scratch, platform: &str, word: &str, arguments: &[&str]) -> String {
    let text = "FROM scratch\nCOPY f /f\n";
    let context = scratch.context(&format!("c-{word}"), &[("Dockerfile", text), ("f", word)]);
    scratch.digest(&context, &[&["--platform", platform], arguments].concat())
}

/// Platform and digest of each entry.
fn entries(index: &Value) -> Vec<(String, String)> {
    let entry = |entry: &Value| {
        let part = |key: &str| entry["platform"][key].as_str().map(str::to_owned);
        let parts = ["os", "architecture", "variant"].into_iter().filter_map(part).collect::<Vec<_>>();
        (parts.join("/"), entry["digest"].as_str().unwrap().to_owned())
    };
    index["manifests"].as_array().unwrap().iter().map(entry).collect()
}

fn raw(name: &str) -> Value {
    json(&tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")]))
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[test]
fn images_of_the_store_become_an_index() {
    let scratch = Scratch::new();
    let arm64 = build(&scratch, "linux/arm64", "one", &["-t", "app:arm64"]);
    let arm = build(&scratch, "linux/arm/v6", "two", &["-t", "app:arm"]);
    let create = ["index", "create", "-t", "app:all", "-t", "other", "--annotation", "a=b"];
    let entry = ["--annotation", "manifest-descriptor[linux/arm64]:c=d", "app:arm64", &arm];
    let digest = scratch.xbuild(&[&create[..], &entry].concat()).ok().digest();
    let index = blob(&scratch.layout(), &digest);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(entries(&index), owned(&[("linux/arm64", &arm64), ("linux/arm/v6", &arm)]));
    assert_eq!(index["annotations"], serde_json::json!({"a": "b"}));
    assert_eq!(index["manifests"][0]["annotations"], serde_json::json!({"c": "d"}));
    assert_eq!(index["manifests"][1]["annotations"], Value::Null);
    for name in ["app:all", "other"] {
        let inspected = json(&scratch.xbuild(&["inspect", name]).ok().stdout);
        assert_eq!(inspected["digest"], digest.as_str());
    }
    // An index among the arguments brings what it lists; what is named twice is there once.
    let riscv = build(&scratch, "linux/riscv64", "three", &[]);
    let more = scratch.xbuild(&["index", "create", "app:all", "app:arm", &riscv]).ok().digest();
    let expect = owned(&[("linux/arm64", &arm64), ("linux/arm/v6", &arm), ("linux/riscv64", &riscv)]);
    assert_eq!(entries(&blob(&scratch.layout(), &more)), expect);
}

#[test]
fn two_images_of_one_platform_are_refused_or_replaced() {
    let scratch = Scratch::new();
    let old = build(&scratch, "linux/arm/v7", "old", &["-t", "app:old"]);
    let new = build(&scratch, "linux/arm", "new", &["-t", "app:new"]);
    let amd64 = build(&scratch, "linux/amd64", "amd64", &["-t", "app:amd64"]);
    let refused = scratch.xbuild(&["index", "create", "-t", "all", "app:old", "app:amd64", "app:new"]);
    refused.fails(2, &["linux/arm/v7", "app:old", &old, "app:new", &new, "--append"]);
    scratch.xbuild(&["inspect", "all"]).fails(4, &["all"]);
    // What is added to need not be there yet.
    let append =
        |image: &str| scratch.xbuild(&["index", "create", "--append", "-t", "all", image]).ok().digest();
    append("app:old");
    append("app:amd64");
    let digest = append("app:new");
    let expect = owned(&[("linux/arm/v7", &new), ("linux/amd64", &amd64)]);
    assert_eq!(entries(&blob(&scratch.layout(), &digest)), expect);
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let scratch = Scratch::new();
    build(&scratch, "linux/amd64", "x", &["-t", "app"]);
    let check = |arguments: &[&str], code: i32, fragments: &[&str]| {
        scratch.xbuild(&[&["index", "create"], arguments].concat()).fails(code, fragments);
    };
    check(&["--push", "app"], 2, &["--push", "-t"]);
    check(&["--append", "app"], 2, &["--append", "-t"]);
    check(&["--annotation", "manifest:a=b", "app"], 2, &["manifest:a=b", "as they are"]);
    check(
        &["--annotation", "manifest-descriptor[linux/s390x]:a=b", "app"],
        2,
        &["linux/s390x", "linux/amd64"],
    );
    check(&["oci-layout:///nowhere", "app"], 4, &["/nowhere"]);
}

#[test]
fn runners_push_by_digest_and_one_job_joins_them() {
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    // Each runner has a store of its own.
    let platforms = [("linux/arm64", "arm64"), ("linux/arm/v7", "arm"), ("linux/riscv64", "riscv64")];
    let mut pushed = Vec::new();
    for (platform, word) in platforms {
        let runner = Scratch::new();
        let name = format!("{}/team/app-{word}", registry.host);
        let output = format!("type=image,\"name={name}\",push-by-digest=true,name-canonical=true,push=true");
        let metadata = runner.path().join("metadata.json");
        let arguments = ["-o", &output, "--metadata-file", metadata.to_str().unwrap()];
        pushed.push((name.clone(), build(&runner, platform, word, &arguments)));
        let metadata: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&metadata).unwrap()).unwrap();
        assert_eq!(metadata["image.name"], name.as_str());
        let latest = runner.xbuild(&["inspect", "--remote", &name]);
        latest.fails(4, &["manifest unknown"]);
    }
    let joiner = Scratch::new();
    let target = format!("{}/team/app:1.2", registry.host);
    let images: Vec<String> = pushed.iter().map(|(name, digest)| format!("{name}@{digest}")).collect();
    let mut arguments = vec!["index", "create", "--push", "-t", &target, "--annotation", "index:a=b"];
    arguments.extend(images.iter().map(String::as_str));
    let digest = joiner.xbuild(&arguments).ok().digest();
    let index = raw(&target);
    let expect: Vec<_> = platforms
        .iter()
        .zip(&pushed)
        .map(|((platform, _), (_, digest))| ((*platform).to_owned(), digest.clone()))
        .collect();
    assert_eq!(entries(&index), expect);
    assert_eq!(index["annotations"], serde_json::json!({"a": "b"}));
    let all = joiner.path().join("all");
    let copy = ["copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false"];
    let target_image = format!("docker://{target}");
    tool("skopeo", &[&copy[..], &[&target_image, &format!("dir:{}", all.display())]].concat());
    // No layer was downloaded for it.
    let layers: BTreeSet<String> = expect
        .iter()
        .flat_map(|(_, digest)| {
            let manifest = blob(&joiner.layout(), digest);
            let layers = manifest["layers"].as_array().unwrap().clone();
            layers.into_iter().map(|layer| layer["digest"].as_str().unwrap()[7..].to_owned())
        })
        .collect();
    assert_eq!(layers.len(), 3);
    for layer in layers {
        assert!(!joiner.layout().join("blobs/sha256").join(&layer).exists(), "{layer} was downloaded");
    }
    // One more runner is late, and the registry's index is what it adds to.
    let late = Scratch::new();
    let name = format!("{}/team/app-s390x:ci", registry.host);
    let s390x = build(&late, "linux/s390x", "s390x", &["-o", &format!("type=registry,name={name}")]);
    let again = late.xbuild(&["index", "create", "--append", "--push", "-t", &target, &name]).ok().digest();
    assert_ne!(again, digest);
    let index = raw(&target);
    assert_eq!(entries(&index).len(), 4);
    assert_eq!(entries(&index)[3], ("linux/s390x".to_owned(), s390x));
    assert_eq!(index["annotations"], serde_json::json!({"a": "b"}));
}

#[test]
fn jobs_that_add_at_the_same_moment_lose_nothing() {
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let target = format!("{}/team/app:1", registry.host);
    let platforms = ["linux/arm64", "linux/arm/v7", "linux/riscv64", "linux/s390x", "linux/ppc64le"];
    std::thread::scope(|scope| {
        let job = |platform: &'static str| {
            let target = &target;
            scope.spawn(move || -> Run {
                let scratch = Scratch::new();
                build(&scratch, platform, "x", &["-t", "app"]);
                scratch.xbuild(&["index", "create", "--append", "--push", "-t", target, "app"])
            })
        };
        let jobs: Vec<_> = platforms.into_iter().map(job).collect();
        for job in jobs {
            job.join().unwrap().ok();
        }
    });
    let listed: BTreeSet<String> = entries(&raw(&target)).into_iter().map(|(platform, _)| platform).collect();
    assert_eq!(listed, platforms.into_iter().map(str::to_owned).collect());
}

#[test]
fn layouts_archives_and_attestations_are_taken_along() {
    let scratch = Scratch::new();
    let layout = scratch.path().join("layout");
    let archive = scratch.path().join("archive.tar");
    let outputs = [
        format!("type=oci,tar=false,dest={}", layout.display()),
        format!("type=oci,dest={}", archive.display()),
    ];
    let arm64 = build(&scratch, "linux/arm64", "one", &["-t", "app:1", "-o", &outputs[0]]);
    let riscv = build(&scratch, "linux/riscv64", "two", &["-t", "app:2", "-o", &outputs[1]]);
    let fresh = Scratch::new();
    let sources =
        [format!("oci-layout://{}:1", layout.display()), format!("oci-archive:{}:2", archive.display())];
    let digest = fresh.xbuild(&["index", "create", "-t", "all", &sources[0], &sources[1]]).ok().digest();
    assert_eq!(
        entries(&blob(&fresh.layout(), &digest)),
        owned(&[("linux/arm64", &arm64), ("linux/riscv64", &riscv)])
    );
    // All of it is here: nothing else has the layers.
    let out = fresh.path().join("out.tar");
    fresh.xbuild(&["save", "all", "-o", &format!("type=oci,dest={}", out.display())]).ok();
    // An attestation as BuildKit stores it.
    let statement = put(&fresh.layout(), r#"{"_type":"https://in-toto.io/Statement/v0.1"}"#);
    let config = put(
        &fresh.layout(),
        r#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.0, "size": config.1},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": statement.0, "size": statement.1}],
    });
    let manifest = put(&fresh.layout(), &manifest.to_string());
    let mut index = blob(&fresh.layout(), &digest);
    let entry = serde_json::json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest.0, "size": manifest.1,
        "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": arm64},
        "platform": {"architecture": "unknown", "os": "unknown"},
    });
    index["manifests"].as_array_mut().unwrap().insert(0, entry);
    let attested = put(&fresh.layout(), &index.to_string());
    let top = fresh.layout().join("index.json");
    let mut listed = json(&std::fs::read_to_string(&top).unwrap());
    listed["manifests"][0]["digest"] = attested.0.as_str().into();
    listed["manifests"][0]["size"] = attested.1.into();
    std::fs::write(&top, listed.to_string()).unwrap();
    build(&fresh, "linux/s390x", "three", &["-t", "more"]);
    let joined = blob(&fresh.layout(), &fresh.xbuild(&["index", "create", "all", "more"]).ok().digest());
    let names: Vec<_> = entries(&joined).into_iter().map(|(platform, _)| platform).collect();
    assert_eq!(names, ["linux/arm64", "linux/riscv64", "linux/s390x", "unknown/unknown"]);
    assert_eq!(joined["manifests"][3]["digest"], manifest.0.as_str());
}

/// Puts a document into a layout; returns digest and size.
fn put(layout: &Path, text: &str) -> (String, usize) {
    let path = layout.join("blobs/sha256/new");
    std::fs::write(&path, text).unwrap();
    let hex = tool("sha256sum", &[path.to_str().unwrap()]);
    let hex = hex.split(' ').next().unwrap().to_owned();
    std::fs::rename(&path, layout.join("blobs/sha256").join(&hex)).unwrap();
    (format!("sha256:{hex}"), text.len())
}
