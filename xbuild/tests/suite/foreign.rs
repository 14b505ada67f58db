//! The store read by other tools: skopeo out of the layout, umoci unpack, runc run.

use crate::harness::{Scratch, have, tool};

#[test]
fn the_store_is_a_layout_that_skopeo_umoci_and_runc_accept() {
    if !have(&["skopeo", "umoci", "runc"]) {
        return;
    }
    let scratch = Scratch::new().with_busybox();
    let text = "FROM busybox\nRUN echo hello > /hello && rm /bin/vi\nENV X=y\nWORKDIR /w\nCMD [\"/bin/sh\", \"-c\", \"cat /hello; echo $X $(pwd); test ! -e /bin/vi\"]\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let digest = scratch.digest(&context, &["-t", "app:1"]);
    let source = format!("oci:{}:docker.io/library/app:1", scratch.layout().display());
    let inspected: serde_json::Value = serde_json::from_str(&tool("skopeo", &["inspect", &source])).unwrap();
    assert_eq!(inspected["Digest"], digest.as_str());
    let copy = scratch.path().join("copy");
    tool("skopeo", &["copy", "-q", &source, &format!("oci:{}:app", copy.display())]);
    let bundle = scratch.path().join("bundle");
    tool("umoci", &["unpack", "--image", &format!("{}:app", copy.display()), bundle.to_str().unwrap()]);
    let config = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    spec["process"]["terminal"] = false.into();
    std::fs::write(&config, spec.to_string()).unwrap();
    let name = format!("xbuild-test-{}", std::process::id());
    let root = scratch.path().join("runc");
    let out = tool("runc", &["--root", root.to_str().unwrap(), "run", "--bundle", bundle.to_str().unwrap(), &name]);
    assert_eq!(out, "hello\ny /w\n");
}
