//! The demo's image, held to everything that a user would do with it. The base is made of busybox parts that
//! answer to the same names, so no network is needed; `make demo` runs the application on a real Python.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Registry, Scratch, have, tool};

/// The demo's context. `testdata/flaskdemo` is what `make demo` builds too.
pub fn context() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/flaskdemo")
}

/// A store with a stand-in for the demo's base: its `pip` writes down what it was asked to install.
fn with_base(pip: impl Fn(&Path) -> String) -> Scratch {
    let scratch = Scratch::new().with_busybox();
    let pip = pip(&scratch.store());
    let base = scratch
        .context("base", &[("Dockerfile", "FROM busybox\nCOPY --chmod=755 pip /bin/pip\n"), ("pip", &pip)]);
    scratch.digest(&base, &["-t", "python:3.7.12-slim"]);
    scratch
}

fn pip(_: &Path) -> String {
    "#!/bin/sh\ncp requirements.txt /installed\n".to_owned()
}

#[test]
fn the_demo_dockerfile_builds_and_is_cached() {
    let scratch = with_base(pip);
    let first = scratch.build(&context(), &["-t", "flaskdemo"]).ok();
    assert_eq!(first.cached(), 0);
    let second = scratch.build(&context(), &["-t", "flaskdemo"]).ok();
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

#[test]
fn the_demo_image_passes_skopeo_umoci_and_runc() {
    if !have(&["skopeo", "umoci", "runc"]) {
        return;
    }
    let scratch = with_base(pip);
    let digest = scratch.digest(&context(), &["-t", "flaskdemo"]);
    let source = format!("oci:{}:docker.io/library/flaskdemo:latest", scratch.layout().display());
    let inspected: serde_json::Value = serde_json::from_str(&tool("skopeo", &["inspect", &source])).unwrap();
    assert_eq!(inspected["Digest"], digest.as_str());
    let copy = scratch.path().join("copy");
    tool("skopeo", &["copy", "-q", &source, &format!("oci:{}:flaskdemo", copy.display())]);
    let bundle = scratch.path().join("bundle");
    tool("umoci", &["unpack", "--image", &format!("{}:flaskdemo", copy.display()), bundle.to_str().unwrap()]);
    let config = bundle.join("config.json");
    let mut spec: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    assert_eq!(spec["process"]["args"], serde_json::json!(["python", "app.py"]));
    assert_eq!(spec["process"]["cwd"], "/app");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["sh", "-c", "cat /installed; ls; echo $APP_VERSION"]);
    std::fs::write(&config, spec.to_string()).unwrap();
    let name = format!("flaskdemo-{}", std::process::id());
    let root = scratch.path().join("runc");
    let out =
        tool("runc", &["--root", root.to_str().unwrap(), "run", "--bundle", bundle.to_str().unwrap(), &name]);
    assert_eq!(out, "flask\nDockerfile\napp.py\nrequirements.txt\nlatest\n");
}

#[test]
fn the_demo_image_round_trips_through_a_registry() {
    let Some(registry) = Registry::start() else { return };
    let scratch = with_base(pip);
    let name = format!("{}/team/flaskdemo:1", registry.host);
    let pushed = scratch.digest(&context(), &["-t", &name, "--push"]);
    // Away with everything that the store knows of it.
    std::fs::remove_dir_all(scratch.store()).unwrap();
    let child =
        scratch.context("child", &[("Dockerfile", &format!("FROM {name}\nRUN cat /installed > /child\n"))]);
    let built = scratch.digest(&child, &["-t", "child"]);
    assert_eq!(scratch.xbuild(&["run", "child", "cat", "/child"]).ok().stdout, "flask\n");
    assert_ne!(built, pushed);
    let pulled = scratch.xbuild(&["pull", &name]).ok().stdout;
    assert_eq!(pulled.trim(), pushed);
}

/// Processes and mounts of builds in `store`, those of one kind.
fn leftovers(store: &Path, kind: &str) -> Vec<String> {
    let store = store.to_str().unwrap();
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(store)).map(|line| format!("mount {line}")));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        if command.contains(store) {
            found.push(format!("process {name} {command}"));
        }
    }
    found.retain(|found| found.starts_with(kind));
    found
}

/// Waits until nothing is found any more.
#[track_caller]
fn none_left<T: std::fmt::Debug>(when: &str, find: impl Fn() -> Vec<T>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let left = find();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{when}: {left:#?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Control groups of builders that nobody holds the lock of any more.
fn abandoned_groups() -> Vec<PathBuf> {
    let listed = tool("find", &["/sys/fs/cgroup", "-maxdepth", "5", "-type", "d", "-name", "xbuild-*"]);
    let is_free = |path: &PathBuf| {
        let Ok(directory) = std::fs::File::open(path) else { return false };
        rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    };
    listed.lines().map(PathBuf::from).filter(is_free).collect()
}

#[test]
fn kill_9_at_ten_random_moments_of_the_demo_leaves_nothing_and_the_next_build_succeeds() {
    // Its command line has the store's path, by which it is found.
    let pip = |store: &Path| {
        let slow = "sleep 0.3; mkdir /lib; for i in $(seq 300); do echo $i > /lib/$i; done";
        format!("#!/bin/sh\nsh -c '{slow}' {}\ncp requirements.txt /installed\n", store.display())
    };
    let scratch = with_base(pip);
    let mut state = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(std::process::id());
    for round in 0..10 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let delay = Duration::from_millis(state % 600);
        let build = ["build", "--no-cache", "--network", "host", "-t", "flaskdemo"];
        let mut child = scratch
            .command(&build)
            .arg(context())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(delay);
        let _ = child.kill();
        child.wait().unwrap();
        let when = format!("round {round}, after {delay:?}");
        none_left(&when, || leftovers(&scratch.store(), "process"));
        scratch.build(&context(), &["-t", "flaskdemo"]).ok();
        // The process that starts steps sees a moment later that its builder is gone.
        none_left(&when, || leftovers(&scratch.store(), ""));
        let staging = std::fs::read_dir(scratch.store().join("tmp")).unwrap().count();
        assert_eq!(staging, 0, "{when}: staging directories are left");
        // A group that another test's builder has just made is not locked for a moment.
        none_left(&when, || {
            scratch.xbuild(&["run", "busybox", "true"]).ok();
            abandoned_groups()
        });
        assert_eq!(scratch.xbuild(&["run", "flaskdemo", "cat", "/installed"]).ok().stdout, "flask\n");
    }
}
