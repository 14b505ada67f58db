//! Round trips through the docker-registry package's server.

use crate::harness::{Registry, Scratch, have, tool};

#[test]
fn push_delete_pull_as_base_and_build_on_it() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let name = format!("{}/team/app:1", registry.host);
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN echo base > /base\n")]);
    let pushed = scratch.digest(&context, &["-t", &name, "--push"]);
    if have(&["skopeo"]) {
        let image = format!("docker://{name}");
        let inspected: serde_json::Value =
            serde_json::from_str(&tool("skopeo", &["inspect", "--tls-verify=false", &image])).unwrap();
        assert_eq!(inspected["Digest"], pushed.as_str());
    }
    let fresh = Scratch::new();
    let child = fresh.context("d", &[("Dockerfile", &format!("FROM {name}\nRUN cat /base > /child\n"))]);
    fresh.digest(&child, &["-t", "child"]);
    assert_eq!(fresh.xbuild(&["run", "child", "cat", "/child"]).ok().stdout, "base\n");
    // In the store that pushed it: remove the name, pull it back by building on it.
    scratch.xbuild(&["rmi", &name]).ok();
    let again = scratch.context("d", &[("Dockerfile", &format!("FROM {name}\nRUN cat /base > /child\n"))]);
    scratch.build(&again, &["-t", "child"]).ok();
}

#[test]
fn metadata_on_a_remote_base_is_pushed_without_its_layers() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let base = format!("{}/team/base:1", registry.host);
    scratch.xbuild(&["push", "busybox", &base]).ok();
    let fresh = Scratch::new();
    let context = fresh
        .context("c", &[("Dockerfile", &format!("FROM {base}\nLABEL a=b\nCOPY --link f /f\n")), ("f", "x")]);
    let name = format!("{}/team/child:1", registry.host);
    fresh.digest(&context, &["-t", &name, "--push"]);
    let blobs = std::fs::read_dir(fresh.layout().join("blobs/sha256")).unwrap();
    let largest = blobs.map(|blob| blob.unwrap().metadata().unwrap().len()).max().unwrap_or(0);
    assert!(largest < 100_000, "the base's layer was downloaded: {largest} bytes");
    let other = Scratch::new();
    assert_eq!(other.xbuild(&["pull", &name]).ok().code, 0);
    assert_eq!(other.xbuild(&["run", &name, "cat", "/f"]).ok().stdout, "x");
}

#[test]
fn a_push_that_fails_keeps_the_image_and_exits_8() {
    let scratch = Scratch::new().with_busybox();
    let name = format!("127.0.0.1:{}/a/b:1", crate::harness::free_port());
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nLABEL a=b\n")]);
    scratch.build(&context, &["-t", &name, "--push"]).fails(8, &[&name, "xbuild", "repeats the push alone"]);
    scratch.xbuild(&["inspect", &name]).ok();
}

#[test]
fn a_name_in_the_store_wins_unless_pull_is_given() {
    let Some(registry) = Registry::start() else { return };
    let scratch = Scratch::new().with_busybox();
    let name = format!("{}/team/app:1", registry.host);
    let remote = scratch.context("r", &[("Dockerfile", "FROM busybox\nLABEL where=remote\n")]);
    scratch.digest(&remote, &["-t", &name, "--push"]);
    let local = scratch.context("l", &[("Dockerfile", "FROM busybox\nLABEL where=local\n")]);
    scratch.digest(&local, &["-t", &name]);
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {name}\nENV A=1\n"))]);
    let label = |run: crate::harness::Run| {
        run.ok();
        let text = scratch.xbuild(&["inspect", "child"]).ok().stdout;
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["config"]["config"]["Labels"]["where"]
            .clone()
    };
    assert_eq!(label(scratch.build(&context, &["-t", "child"])), "local");
    assert_eq!(label(scratch.build(&context, &["-t", "child", "--pull"])), "remote");
}
