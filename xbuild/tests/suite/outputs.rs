//! Outputs: every form, read back by foreign tools; the commands on the store.

use crate::harness::{Scratch, have, listing, tool};

const DOCKERFILE: &str = "FROM busybox\nLABEL a=b\nCOPY f /dir/f\nRUN echo x > /x\nEXPOSE 80\nHEALTHCHECK CMD true\nENTRYPOINT [\"/bin/cat\"]\nCMD [\"/x\"]\n";

fn built() -> (Scratch, std::path::PathBuf) {
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", DOCKERFILE), ("f", "file\n")]);
    (scratch, context)
}

#[test]
fn an_oci_archive_and_a_docker_archive_pass_skopeo() {
    if !have(&["skopeo"]) {
        return;
    }
    let (scratch, context) = built();
    let digest = scratch.digest(&context, &["-t", "app"]);
    for (kind, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let tar = scratch.path().join(format!("{kind}.tar"));
        scratch.build(&context, &["-t", "app", "-o", &format!("type={kind},dest={}", tar.display())]).ok();
        let image = format!("{transport}:{}", tar.display());
        let config: serde_json::Value =
            serde_json::from_str(&tool("skopeo", &["inspect", "--config", &image])).unwrap();
        assert_eq!(config["config"]["Entrypoint"][0], "/bin/cat", "{config}");
        assert_eq!(config["config"]["Labels"]["a"], "b");
        let copy = format!("dir:{}", scratch.path().join(format!("{kind}-copy")).display());
        tool("skopeo", &["copy", "-q", &image, &copy]);
        if kind == "oci" {
            let inspected: serde_json::Value =
                serde_json::from_str(&tool("skopeo", &["inspect", &image])).unwrap();
            assert_eq!(inspected["Digest"], digest.as_str());
        }
    }
}

#[test]
fn local_and_tar_outputs_hold_the_root_file_system() {
    let (scratch, context) = built();
    let directory = scratch.path().join("out");
    let tar = scratch.path().join("out.tar");
    scratch
        .build(
            &context,
            &[
                "-o",
                &format!("type=local,dest={}", directory.display()),
                "-o",
                &format!("type=tar,dest={}", tar.display()),
            ],
        )
        .ok();
    assert_eq!(std::fs::read_to_string(directory.join("dir/f")).unwrap(), "file\n");
    assert_eq!(std::fs::read_to_string(directory.join("x")).unwrap(), "x\n");
    assert!(std::fs::symlink_metadata(directory.join("bin/sh")).unwrap().is_symlink());
    assert!(listing(&tar).iter().any(|line| line.ends_with("dir/f")));
}

#[test]
fn a_bare_path_is_what_docker_means_by_it() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    // Of a build it is buildx's: a directory.
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let built = scratch.build(&context, &["-t", "app:1", "-o", &path("tree")]).ok();
    assert!(built.stderr.contains("wrote the root file system to the directory"), "{}", built.stderr);
    assert!(scratch.path().join("tree/f").is_file());
    // Of `save` it is `docker save`'s: an archive of the image.
    let tar = path("app.tar");
    let saved = scratch.xbuild(&["save", "app:1", "-o", &tar]).ok();
    assert!(
        saved.stdout.is_empty() && saved.stderr.contains(&format!("wrote docker-archive:{tar}")),
        "{saved:?}"
    );
    let fresh = Scratch::new();
    let loaded = fresh.xbuild(&["load", "-i", &tar]).ok();
    assert!(loaded.stderr.contains("loaded docker.io/library/app:1"), "{}", loaded.stderr);
    let piped = scratch.command(&["save", "app:1"]).output().unwrap();
    assert_eq!(piped.stdout, std::fs::read(&tar).unwrap());
    for (output, part) in [
        (path("tree"), "type=local,dest=DIR"),
        (path("new/"), "type=local,dest=DIR"),
        (String::new(), "there is no path"),
        (format!("oci-archive:{tar}"), "xbuild copy IMAGE PLACE"),
    ] {
        scratch.xbuild(&["save", "app:1", "-o", &output]).fails(2, &[part]);
    }
    assert!(!scratch.path().join("new").exists());
    let spec = format!("type=local,dest={}", path("saved"));
    let saved = scratch.xbuild(&["save", "app:1", "-o", &spec]).ok();
    assert!(saved.stderr.contains("wrote the root file system to the directory"), "{}", saved.stderr);
}

#[test]
fn iidfile_metadata_and_quiet_agree_on_the_digest() {
    let (scratch, context) = built();
    let (id, metadata) = (scratch.path().join("id"), scratch.path().join("metadata.json"));
    let arguments =
        ["-t", "app:1", "--iidfile", id.to_str().unwrap(), "--metadata-file", metadata.to_str().unwrap()];
    let digest = scratch.digest(&context, &arguments);
    assert_eq!(std::fs::read_to_string(&id).unwrap(), digest);
    let metadata: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&metadata).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/app:1");
}

#[test]
fn places_that_cannot_be_written_are_told_before_the_first_step() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    for (arguments, part) in [
        (["-o", ""], "there is no path"),
        (["--iidfile", &path("no/id")], "--iidfile"),
        (["--metadata-file", &path("no/m.json")], "--metadata-file"),
        (["--iidfile", &path("c")], "it is a directory"),
        (["-o", &path("c/f")], "it is no directory"),
        (["-o", &format!("type=oci,dest={}", path("c"))], "it is a directory"),
        (["-o", &format!("type=docker,dest={}", path("c/f/x.tar"))], "is no directory"),
    ] {
        let run = scratch.build(&context, &arguments).fails(2, &[part]);
        assert!(!run.stderr.contains("COPY") && !scratch.store().exists(), "it was built: {}", run.stderr);
    }
    scratch.build(&context, &["-t", "app", "-o", &format!("type=oci,dest={}", path("new/dir/x.tar"))]).ok();
    scratch
        .xbuild(&["save", "app", "-o", &format!("type=oci,dest={}", path("c"))])
        .fails(2, &["is a directory"]);
    scratch
        .xbuild(&["copy", "docker://127.0.0.1:1/x", &format!("oci-archive:{}", path("c"))])
        .fails(2, &["it is a directory"]);
}

#[test]
fn flags_without_a_name_are_refused() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\n")]);
    for flag in ["--label", "--build-arg", "--annotation", "--secret"] {
        for value in ["", "=x"] {
            scratch.build(&context, &[flag, value]).fails(2, &[flag]);
        }
    }
}

#[test]
fn a_read_only_store_is_told_at_once_and_still_looked_at() {
    if !have(&["unshare", "mount"]) {
        return;
    }
    let scratch = Scratch::new().with_busybox();
    let context = scratch.context("c", &[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    scratch.build(&context, &["-t", "app"]).ok();
    let store = scratch.store();
    let run = |arguments: &[&str]| {
        let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["--mount", "--", "sh", "-c", script]).arg(&store).arg(env!("CARGO_BIN_EXE_xbuild"));
        crate::harness::finish(command.arg("--root").arg(&store).args(arguments))
    };
    let tar = scratch.path().join("app.tar");
    for arguments in [
        &["build", context.to_str().unwrap()][..],
        &["run", "app", "true"],
        &["tag", "app", "b"],
        &["rmi", "app"],
        &["copy", "app", "b"],
    ] {
        run(arguments).fails(9, &["read-only file system", store.to_str().unwrap(), "--root"]);
    }
    for arguments in [
        &["images"][..],
        &["inspect", "app"],
        &["history", "app"],
        &["save", "app", "-o", tar.to_str().unwrap()],
    ] {
        run(arguments).ok();
    }
}

#[test]
fn images_inspect_history_tag_and_rmi_work_on_the_store() {
    let (scratch, context) = built();
    let digest = scratch.digest(&context, &["-t", "app:1"]);
    scratch.xbuild(&["tag", "app:1", "other:2"]).ok();
    let images = scratch.xbuild(&["images"]).ok().stdout;
    assert!(
        images.contains("app") && images.contains("other") && images.contains(&digest[7..19]),
        "{images}"
    );
    let inspect: serde_json::Value =
        serde_json::from_str(&scratch.xbuild(&["inspect", "other:2"]).ok().stdout).unwrap();
    assert_eq!(inspect["digest"], digest.as_str());
    assert_eq!(inspect["config"]["config"]["Cmd"][0], "/x");
    assert_eq!(inspect["config"]["config"]["Healthcheck"]["Test"][0], "CMD-SHELL");
    let history = scratch.xbuild(&["history", "app:1"]).ok().stdout;
    for text in ["COPY f /dir/f", "RUN /bin/sh -c echo x > /x", "EXPOSE"] {
        assert!(history.contains(text), "{text} is not in {history}");
    }
    scratch.xbuild(&["rmi", "app:1"]).ok();
    scratch.xbuild(&["inspect", "app:1"]).fails(4, &["app:1"]);
    scratch.xbuild(&["inspect", "other:2"]).ok();
    assert_eq!(scratch.xbuild(&["run", "other:2"]).ok().stdout, "x\n");
}

#[test]
fn an_image_without_a_name_is_meant_by_its_digest_alone() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "x")]);
    let digest = scratch.digest(&context, &[]);
    let other = scratch.path().join("x.tar");
    let output = format!("type=oci,dest={}", other.display());
    for name in ["MyApp", "nosuch:", "x@", "x@sha256:abc"] {
        for command in [
            &["run", name, "/f"][..],
            &["inspect", name],
            &["history", name],
            &["tag", name, "q"],
            &["rmi", name],
            &["push", name, "127.0.0.1:1/x"],
            &["save", name, "-o", &output],
            &["copy", name, "q"],
        ] {
            let run = scratch.xbuild(command);
            assert!(run.stdout.is_empty(), "{command:?}: {run:?}");
            run.fails(2, &["no such image in the store", name]);
        }
    }
    scratch.xbuild(&["inspect", "nosuch"]).fails(4, &["no such image in the store"]);
    assert!(!other.exists());
    scratch.xbuild(&["tag", &digest, "app"]).ok();
    let removed = scratch.xbuild(&["rmi", &digest[7..20]]).ok().stdout;
    assert_eq!(removed, format!("removed {digest}\nuntagged docker.io/library/app:latest\n"));
    assert_eq!(scratch.xbuild(&["images", "-q"]).ok().stdout, "");
}

#[test]
fn a_name_with_a_digest_is_that_image_in_every_command() {
    let scratch = Scratch::new();
    let context = scratch.context("c", &[("Dockerfile", "FROM scratch\nCOPY f /f\n"), ("f", "x")]);
    let digest = scratch.digest(&context, &["-t", "127.0.0.1:1/app:1"]);
    let other = format!("sha256:{}", "0".repeat(64));
    for name in ["127.0.0.1:1/app:1", "127.0.0.1:1/app", "127.0.0.1:1/app:gone"] {
        let name = format!("{name}@{digest}");
        for command in [&["inspect", &name][..], &["history", &name], &["tag", &name, "q:1"]] {
            scratch.xbuild(command).ok();
        }
        scratch.xbuild(&["push", &name]).fails(8, &["push 127.0.0.1:1/app", "connection refused"]);
    }
    for name in [format!("127.0.0.1:1/b@{digest}"), format!("127.0.0.1:1/app:1@{other}")] {
        for command in [&["inspect", &name][..], &["push", &name], &["rmi", &name]] {
            scratch.xbuild(command).fails(4, &["no such image in the store", &name]);
        }
    }
    // Digits by which an image is found are no repository.
    for digits in [&digest[..], &digest[..20], &digest[7..19]] {
        scratch.xbuild(&["push", digits]).fails(2, &["no name to push to", "a digest has none"]);
    }
    scratch.xbuild(&["rmi", &format!("127.0.0.1:1/app:gone@{digest}")]).fails(4, &["no such image"]);
    let removed = scratch.xbuild(&["rmi", &format!("127.0.0.1:1/app:1@{digest}")]).ok().stdout;
    assert_eq!(removed, "untagged 127.0.0.1:1/app:1\n");
    scratch.xbuild(&["inspect", &format!("q@{digest}")]).ok();
}

#[test]
fn secrets_never_reach_the_store_or_the_log() {
    let scratch = Scratch::new().with_busybox();
    let canary = "canary-5d41402abc4b2a76";
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, canary).unwrap();
    let text = "FROM busybox\nRUN --mount=type=secret,id=s,env=S test \"$(cat /run/secrets/s)\" = \"$S\" -o -n \"$S\" && wc -c /run/secrets/s > /size\n";
    let text = text.replace("id=s,env=S", "id=s,env=S,target=/run/secrets/s");
    let context = scratch.context("c", &[("Dockerfile", &text)]);
    let run =
        scratch.build(&context, &["-t", "app", "--secret", &format!("id=s,src={}", secret.display())]).ok();
    assert!(!run.stderr.contains(canary));
    assert!(scratch.xbuild(&["run", "app", "cat", "/size"]).ok().stdout.starts_with("23 "));
    let grep = std::process::Command::new("grep")
        .args(["-rl", canary, scratch.store().to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "the secret is in the store");
}

#[test]
fn a_secret_variable_has_the_secrets_bytes_and_no_nul() {
    let scratch = Scratch::new().with_busybox();
    let secret = scratch.path().join("secret");
    let text = "FROM busybox\nRUN --mount=type=secret,id=s,env=S printf %s \"$S\" > /seen\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let source = format!("id=s,src={}", secret.display());
    let build = |value: &[u8]| {
        std::fs::write(&secret, value).unwrap();
        scratch.build(&context, &["--no-cache", "-t", "app", "--secret", &source])
    };
    build(b"a\xff\xfe=\n\xc3\xa4").ok();
    let seen = scratch.xbuild(&["run", "app", "od", "-An", "-tx1", "/seen"]).ok().stdout;
    assert_eq!(seen.split_whitespace().collect::<String>(), "61fffe3d0ac3a4");
    let refused = build(b"canary\0b").fails(6, &["\"s\" holds a NUL byte", "target=PATH instead of env=S"]);
    assert!(!refused.stderr.contains("canary"), "{}", refused.stderr);
}
