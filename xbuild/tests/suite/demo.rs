//! The demo's Dockerfile, on a base of busybox parts that answers to the same names, without a network.

use crate::harness::Scratch;

/// testdata/flaskdemo is the real application; `make demo` runs it against a real Python. Here every
/// instruction of its Dockerfile is built, with a `pip` that records what it was asked.
#[test]
fn the_demo_dockerfile_builds_and_is_cached() {
    let scratch = Scratch::new().with_busybox();
    let pip = "#!/bin/sh\ncp requirements.txt /installed\n";
    let base = scratch.context(
        "base",
        &[("Dockerfile", "FROM busybox\nCOPY --chmod=755 pip /bin/pip\n"), ("pip", pip)],
    );
    scratch.digest(&base, &["-t", "python:3.7.12-slim"]);
    let context = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/flaskdemo");
    let first = scratch.build(std::path::Path::new(context), &["-t", "flaskdemo"]).ok();
    assert_eq!(first.cached(), 0);
    let second = scratch.build(std::path::Path::new(context), &["-t", "flaskdemo"]).ok();
    assert_eq!(second.cached(), 3, "{}", second.stderr);
    assert_eq!(scratch.xbuild(&["run", "flaskdemo", "cat", "/installed"]).ok().stdout, "flask\n");
    let inspect = scratch.xbuild(&["inspect", "flaskdemo"]).ok().stdout;
    let image: serde_json::Value = serde_json::from_str(&inspect).unwrap();
    let config = &image["config"]["config"];
    assert_eq!(config["WorkingDir"], "/app");
    assert_eq!(config["Cmd"], serde_json::json!(["python", "app.py"]));
    assert_eq!(config["Labels"]["maintainer"], "flask_demo");
    assert!(config["ExposedPorts"]["1234/tcp"].is_object());
    assert!(config["Env"].as_array().unwrap().iter().any(|entry| entry == "APP_VERSION=latest"));
}
