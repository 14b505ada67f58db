//! `xbuild inspect`: documents of images in the store and elsewhere.

use crate::copy::{app, json, multi};
use crate::harness::{Registry, Scratch};

#[test]
fn a_remote_image_is_inspected_without_its_layers_or_a_store() {
    let Some(registry) = Registry::start() else { return };
    let builder = Scratch::new();
    let (app, multi) = (app(&builder), multi(&builder));
    let name = format!("{}/team/x:1", registry.host);
    builder.xbuild(&["push", "multi:1", &name]).ok();
    let scratch = Scratch::new();
    let value = json(&scratch.xbuild(&["inspect", "--remote", &name]).ok().stdout);
    assert_eq!(value["digest"], multi.as_str());
    assert_eq!(value["names"][0], name);
    let platforms: Vec<_> =
        value["platforms"].as_array().unwrap().iter().map(|entry| &entry["platform"]).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/arm/v7"]);
    assert_eq!(value["config"]["architecture"], "amd64");
    assert!(value["size"].as_u64().unwrap() > 0 && value["manifest"]["layers"].is_array());
    assert!(!scratch.store().exists(), "a store was made");
    let arm = ["inspect", "--remote", "--platform", "linux/arm64", &name];
    assert_eq!(json(&scratch.xbuild(&arm).ok().stdout)["config"]["architecture"], "arm64");
    scratch.xbuild(&["inspect", &name]).fails(4, &["no such image in the store", "--remote"]);
    // --remote asks even where the store has the name.
    builder.xbuild(&["tag", "app:1", &name]).ok();
    assert_eq!(json(&builder.xbuild(&["inspect", &name]).ok().stdout)["digest"], app.as_str());
    let remote = json(&builder.xbuild(&["inspect", "--remote", &name]).ok().stdout);
    assert_eq!(remote["digest"], multi.as_str());
    let location = format!("docker://{name}");
    assert_eq!(json(&builder.xbuild(&["inspect", &location]).ok().stdout)["digest"], multi.as_str());
    builder.xbuild(&["inspect", "--remote", "oci-layout://x"]).fails(2, &["--remote"]);
    builder.xbuild(&["inspect", "--remote", &format!("{}/team/none", registry.host)]).fails(4, &["none"]);
}

#[test]
fn documents_are_printed_as_they_are() {
    let scratch = Scratch::new();
    let (app, multi) = (app(&scratch), multi(&scratch));
    let file = scratch.path().join("document");
    let digest = |text: &str| {
        std::fs::write(&file, text).unwrap();
        format!("sha256:{}", &crate::harness::tool("sha256sum", &[file.to_str().unwrap()])[..64])
    };
    let printed = |arguments: &[&str]| scratch.xbuild(&[&["inspect"], arguments].concat()).ok().stdout;
    assert_eq!(digest(&printed(&["--raw", "app:1"])), app);
    assert_eq!(digest(&printed(&["--raw", "multi:1"])), multi);
    let whole = json(&printed(&["multi:1"]));
    let arm = printed(&["--raw", "--platform", "linux/arm/v7", "multi:1"]);
    assert_eq!(whole["index"]["manifests"][2]["digest"], digest(&arm).as_str());
    let config = printed(&["--raw", "--config", "app:1"]);
    assert_eq!(json(&printed(&["app:1"]))["manifest"]["config"]["digest"], digest(&config).as_str());
    assert_eq!(json(&printed(&["--config", "app:1"])), json(&config));
    assert_eq!(json(&printed(&["app:1"]))["names"][0], "docker.io/library/app:1");
}
