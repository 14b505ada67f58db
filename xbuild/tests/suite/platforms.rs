//! Builds for other platforms and for several at once, read back by foreign tools. No emulator is needed: what is
//! foreign is copied, what runs is native.

use std::path::Path;

use serde_json::Value;

use crate::harness::{Registry, Scratch, have, tool};

/// Files only, and words of the platform in labels.
const COPY_ONLY: &str = "FROM scratch\nARG TARGETARCH\nARG TARGETVARIANT\nARG TARGETPLATFORM\n\
    LABEL target=$TARGETPLATFORM variant=$TARGETVARIANT\nCOPY arch-$TARGETARCH whoami\n";

const THREE: &str = "linux/arm64,linux/arm/v7,linux/riscv64";

fn copy_only(scratch: &Scratch) -> std::path::PathBuf {
    let files =
        ["arm64", "arm", "riscv64", "amd64"].map(|name| (format!("arch-{name}"), format!("i am {name}")));
    let mut all = vec![("Dockerfile", COPY_ONLY)];
    all.extend(files.iter().map(|(name, text)| (name.as_str(), text.as_str())));
    scratch.context("c", &all)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn blob(layout: &Path, digest: &str) -> Value {
    json(&std::fs::read_to_string(layout.join("blobs").join(digest.replace(':', "/"))).unwrap())
}

/// `os/architecture[/variant]` of an index's entries, in its order.
fn platforms(index: &Value) -> Vec<String> {
    let entries = index["manifests"].as_array().unwrap().iter();
    let text = |platform: &Value, key: &str| platform[key].as_str().unwrap_or_default().to_owned();
    let name = |platform: &Value| {
        let parts = ["os", "architecture", "variant"].map(|key| text(platform, key));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    };
    entries.map(|entry| name(&entry["platform"])).collect()
}

#[test]
fn several_platforms_make_an_index_that_every_command_takes() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let (id, metadata) = (scratch.path().join("id"), scratch.path().join("metadata.json"));
    let files = ["--iidfile", id.to_str().unwrap(), "--metadata-file", metadata.to_str().unwrap()];
    // One of them twice, in two spellings.
    let arguments = ["-t", "app", "--platform", THREE, "--platform", "linux/arm,linux/aarch64"];
    let digest = scratch.digest(&context, &[&arguments[..], &files].concat());
    assert_eq!(std::fs::read_to_string(&id).unwrap(), digest);
    let index = blob(&scratch.layout(), &digest);
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    assert_eq!(platforms(&index), ["linux/arm64", "linux/arm/v7", "linux/riscv64"]);
    let metadata = json(&std::fs::read_to_string(&metadata).unwrap());
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], index["mediaType"]);
    for (entry, name) in index["manifests"].as_array().unwrap().iter().zip(platforms(&index)) {
        let one = &metadata["xbuild.platforms"][&name];
        assert_eq!(one["containerimage.digest"], entry["digest"]);
        let manifest = blob(&scratch.layout(), entry["digest"].as_str().unwrap());
        let config = blob(&scratch.layout(), manifest["config"]["digest"].as_str().unwrap());
        assert_eq!(one["containerimage.config.digest"], manifest["config"]["digest"]);
        assert_eq!(config["config"]["Labels"]["target"], name.as_str(), "{config}");
        assert_eq!(config["architecture"], entry["platform"]["architecture"]);
    }
    // The same again is the same bytes.
    assert_eq!(scratch.digest(&context, &["--platform", THREE]), digest);
    let images = json(&scratch.xbuild(&["images", "--json"]).ok().stdout);
    assert_eq!(images[0]["digest"], digest.as_str());
    assert!(images[0]["size"].as_u64().unwrap() > 0, "{images}");
    assert_eq!(images[0]["platforms"], serde_json::json!(["linux/arm64", "linux/arm/v7", "linux/riscv64"]));
    scratch.xbuild(&["tag", "app", "other:1"]).ok();
    scratch.xbuild(&["rmi", "app"]).ok();
    assert!(scratch.xbuild(&["images"]).ok().stdout.contains(&digest[7..19]));
}

#[test]
fn one_platform_makes_a_plain_image() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let digest = scratch.digest(&context, &["--platform", "linux/arm/v7"]);
    let manifest = blob(&scratch.layout(), &digest);
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let config = blob(&scratch.layout(), manifest["config"]["digest"].as_str().unwrap());
    assert_eq!((&config["architecture"], &config["variant"]), (&"arm".into(), &"v7".into()));
    assert_eq!(config["config"]["Labels"]["variant"], "v7");
    let arguments = ["--platform", "linux/arm/v7", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1"];
    let index = blob(&scratch.layout(), &scratch.digest(&context, &arguments));
    assert_eq!(platforms(&index), ["linux/arm/v7"]);
    assert_eq!(index["manifests"][0]["digest"], digest.as_str());
}

#[test]
fn stages_of_the_build_platform_run_once_and_say_for_whom() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN echo shared > /shared\nARG TARGETARCH\n\
        RUN echo $TARGETARCH > /arch\nFROM scratch\nCOPY --from=build /shared /arch /\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let run = scratch.build(&context, &["-t", "app", "--platform", "linux/amd64,linux/arm64"]).ok();
    let started = |text: &str| run.stderr.lines().filter(|line| line.ends_with(text)).count();
    assert_eq!(started("[linux/amd64 build 2/3] RUN echo shared > /shared"), 1, "{}", run.stderr);
    let run = scratch.build(&context, &["--no-cache", "--platform", "linux/s390x,linux/arm64"]).ok();
    let started = |text: &str| run.stderr.lines().filter(|line| line.ends_with(text)).count();
    assert_eq!(started("[linux/amd64 build 2/3] RUN echo shared > /shared"), 1, "{}", run.stderr);
    for name in ["arm64", "s390x"] {
        let line = format!("[linux/amd64->{name} build 3/3] RUN echo {name} > /arch");
        assert_eq!(started(&line), 1, "{}", run.stderr);
    }
    assert_eq!(started("[linux/s390x stage-1 1/1] COPY --from=build /shared /arch /"), 1, "{}", run.stderr);
    assert_eq!(scratch.build(&context, &["--platform", "linux/arm64,linux/s390x"]).ok().cached(), 5);
}

#[test]
fn files_that_are_the_same_for_all_platforms_are_copied_once() {
    let scratch = Scratch::new();
    let text = "FROM scratch\nWORKDIR /data\nCOPY f /data/\nARG TARGETPLATFORM\nLABEL for=$TARGETPLATFORM\n";
    let context = scratch.context("c", &[("Dockerfile", text), ("f", "files")]);
    let run = scratch.build(&context, &["-t", "app", "--platform", THREE]).ok();
    assert_eq!(run.stderr.matches("COPY f /data/").count(), 1, "{}", run.stderr);
    let index = blob(&scratch.layout(), &scratch.digest(&context, &["--platform", THREE]));
    let layers: std::collections::BTreeSet<String> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| blob(&scratch.layout(), entry["digest"].as_str().unwrap())["layers"].to_string())
        .collect();
    assert_eq!(layers.len(), 1, "{layers:?}");
}

#[test]
fn a_foreign_run_is_refused_before_anything_runs() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN echo early > /early\n\
        FROM scratch\nCOPY --from=build /bin /bin\nRUN true\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    for platforms in ["linux/s390x", "linux/amd64,linux/s390x"] {
        if Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists() {
            super::skip("this machine emulates s390x");
            return;
        }
        let run = scratch.build(&context, &["--platform", platforms]);
        assert!(!run.stderr.contains("RUN echo early"), "{}", run.stderr);
        run.fails(10, &["linux/s390x", "RUN true", "Dockerfile:5", "qemu-", "$BUILDPLATFORM"]);
    }
    scratch.build(&context, &["--platform", "windows/amd64"]).fails(10, &["windows/amd64", "COPY"]);
    // Files of a native base are native, whatever is asked for.
    let lying = scratch.context("l", &[("Dockerfile", "FROM busybox\nRUN true\n")]);
    scratch.build(&lying, &["-t", "native"]).ok();
}

#[test]
fn an_image_of_the_store_does_not_stand_in_for_another_platform() {
    let scratch = Scratch::new().with_busybox();
    let port = crate::harness::free_port();
    let name = format!("127.0.0.1:{port}/team/base:1");
    scratch.xbuild(&["tag", "busybox", &name]).ok();
    let context = scratch.context("c", &[("Dockerfile", &format!("FROM {name}\nCOPY f /\n")), ("f", "")]);
    scratch.build(&context, &["-t", "native"]).ok();
    let run = scratch.build(&context, &["--platform", "linux/arm64"]);
    run.fails(4, &[&name, "the store has that name for linux/amd64 only"]);
}

#[test]
fn archives_and_layouts_hold_all_platforms() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let (tar, directory) = (scratch.path().join("all.tar"), scratch.path().join("layout"));
    let outputs = [
        format!("type=oci,dest={}", tar.display()),
        format!("type=oci,tar=false,dest={}", directory.display()),
    ];
    let digest =
        scratch.digest(&context, &["-t", "app:1", "--platform", THREE, "-o", &outputs[0], "-o", &outputs[1]]);
    let top = json(&std::fs::read_to_string(directory.join("index.json")).unwrap());
    assert_eq!(top["manifests"][0]["digest"], digest.as_str());
    assert_eq!(platforms(&blob(&directory, &digest)), ["linux/arm64", "linux/arm/v7", "linux/riscv64"]);
    if !have(&["skopeo", "umoci"]) {
        return;
    }
    for source in [format!("oci-archive:{}:1", tar.display()), format!("oci:{}:1", directory.display())] {
        assert_eq!(platforms(&json(&tool("skopeo", &["inspect", "--raw", &source]))).len(), 3);
        for (architecture, variant, file) in
            [("arm64", "", "arm64"), ("arm", "v7", "arm"), ("riscv64", "", "riscv64")]
        {
            let choice = ["--override-arch", architecture, "--override-variant", variant];
            let choice = if variant.is_empty() { &choice[..2] } else { &choice[..] };
            let config = json(&tool("skopeo", &[choice, &["inspect", "--config", &source]].concat()));
            assert_eq!(config["architecture"], architecture, "{config}");
            let copy = scratch.path().join(format!("copy-{file}-{}", source.len()));
            let target = format!("oci:{}:x", copy.display());
            tool("skopeo", &[choice, &["copy", "-q", &source, &target]].concat());
            let bundle = copy.join("bundle");
            tool(
                "umoci",
                &["raw", "unpack", "--image", &format!("{}:x", copy.display()), bundle.to_str().unwrap()],
            );
            assert_eq!(std::fs::read_to_string(bundle.join("whoami")).unwrap(), format!("i am {file}"));
        }
        let all = scratch.path().join(format!("all-{}", source.len()));
        tool(
            "skopeo",
            &["copy", "-q", "--all", "--preserve-digests", &source, &format!("dir:{}", all.display())],
        );
    }
}

#[test]
fn root_file_systems_get_a_directory_each() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let (directory, tar) = (scratch.path().join("out"), scratch.path().join("out.tar"));
    let outputs =
        [format!("type=local,dest={}", directory.display()), format!("type=tar,dest={}", tar.display())];
    scratch.build(&context, &["--platform", THREE, "-o", &outputs[0], "-o", &outputs[1]]).ok();
    let names = ["linux_arm64", "linux_arm_v7", "linux_riscv64"];
    for (name, text) in names.into_iter().zip(["i am arm64", "i am arm", "i am riscv64"]) {
        assert_eq!(std::fs::read_to_string(directory.join(name).join("whoami")).unwrap(), text);
    }
    let members = tool("tar", &["-tf", tar.to_str().unwrap()]);
    let expect: Vec<String> = ["linux_arm_v7", "linux_arm64", "linux_riscv64"]
        .iter()
        .flat_map(|name| [format!("{name}/"), format!("{name}/whoami")])
        .collect();
    let mut members: Vec<_> = members.lines().collect();
    members.sort_unstable();
    let mut expect: Vec<_> = expect.iter().map(String::as_str).collect();
    expect.sort_unstable();
    assert_eq!(members, expect);
    // A single platform is written as it is.
    let one = scratch.path().join("one");
    let output = format!("type=local,dest={}", one.display());
    scratch.build(&context, &["--platform", "linux/riscv64", "-o", &output]).ok();
    assert_eq!(std::fs::read_to_string(one.join("whoami")).unwrap(), "i am riscv64");
}

#[test]
fn docker_archives_of_several_platforms_are_refused() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    for output in [&["-o", "type=docker,dest=x.tar"][..], &["--load"]] {
        let run = scratch.build(&context, &[&["--platform", THREE], output].concat());
        run.fails(2, &[output.last().unwrap().split(',').next().unwrap(), "manifest lists", "type=oci"]);
    }
}

#[test]
fn an_index_is_pushed_manifests_first_and_found_by_skopeo() {
    let Some(registry) = Registry::start() else { return };
    if !have(&["skopeo"]) {
        return;
    }
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let names = ["1", "2"].map(|tag| format!("{}/team/app:{tag}", registry.host));
    let arguments = ["-t", &names[0], "-t", &names[1], "--push", "--platform", THREE];
    let digest = scratch.digest(&context, &arguments);
    for name in &names {
        let image = format!("docker://{name}");
        let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &image]);
        assert_eq!(platforms(&json(&raw)), ["linux/arm64", "linux/arm/v7", "linux/riscv64"]);
        assert_eq!(
            raw.as_bytes(),
            std::fs::read(scratch.layout().join("blobs").join(digest.replace(':', "/"))).unwrap()
        );
        let all = format!("dir:{}", scratch.path().join(&name[name.len() - 1..]).display());
        tool(
            "skopeo",
            &["copy", "-q", "--all", "--preserve-digests", "--src-tls-verify=false", &image, &all],
        );
    }
    // From the store, by digest, into another repository.
    let other = format!("{}/team/other:3", registry.host);
    scratch.xbuild(&["push", &names[0], &other]).ok();
    let raw = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{other}")]);
    assert_eq!(platforms(&json(&raw)).len(), 3);
    // Each platform is had as a base.
    let fresh = Scratch::new();
    let child = format!("FROM {other}\nCOPY f /f\n");
    let child = fresh.context("d", &[("Dockerfile", &child), ("f", "")]);
    fresh.digest(&child, &["-t", "child", "--platform", "linux/riscv64,linux/arm/v7"]);
    let index = blob(&fresh.layout(), &fresh.digest(&child, &["--platform", "linux/riscv64,linux/arm/v7"]));
    for entry in index["manifests"].as_array().unwrap() {
        let manifest = blob(&fresh.layout(), entry["digest"].as_str().unwrap());
        let config = blob(&fresh.layout(), manifest["config"]["digest"].as_str().unwrap());
        let target = config["config"]["Labels"]["target"].as_str().unwrap();
        assert!(target.contains(entry["platform"]["architecture"].as_str().unwrap()), "{config}");
    }
    fresh.build(&child, &["--platform", "linux/s390x"]).fails(4, &["linux/s390x", "linux/riscv64"]);
}

#[test]
fn annotations_land_where_their_type_says() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let layout = scratch.path().join("layout");
    let output = format!("type=oci,tar=false,dest={},annotation-index-descriptor.o=output", layout.display());
    let annotations = [
        "a=plain",
        "index,manifest[linux/arm64]:b=two:places=1",
        "manifest-descriptor[linux/arm/v7]:c=entry",
        "manifest-descriptor:d=every",
        "index-descriptor:e=top",
    ];
    let mut arguments = vec!["-t", "app", "--platform", THREE, "-o", &output];
    arguments.extend(annotations.iter().flat_map(|text| ["--annotation", text]));
    let digest = scratch.digest(&context, &arguments);
    let top = json(&std::fs::read_to_string(layout.join("index.json")).unwrap());
    let top = &top["manifests"][0];
    assert_eq!((&top["annotations"]["e"], &top["annotations"]["o"]), (&"top".into(), &"output".into()));
    let index = blob(&scratch.layout(), &digest);
    assert_eq!(index["annotations"], serde_json::json!({"b": "two:places=1"}));
    let entries = index["manifests"].as_array().unwrap();
    let of = |entry: &Value| entry["annotations"].clone();
    assert_eq!(of(&entries[0]), serde_json::json!({"d": "every"}));
    assert_eq!(of(&entries[1]), serde_json::json!({"c": "entry", "d": "every"}));
    let manifests: Vec<_> =
        entries.iter().map(|entry| blob(&scratch.layout(), entry["digest"].as_str().unwrap())).collect();
    assert_eq!(of(&manifests[0]), serde_json::json!({"a": "plain", "b": "two:places=1"}));
    assert_eq!(of(&manifests[1]), serde_json::json!({"a": "plain"}));
}

#[test]
fn annotations_that_have_no_place_are_refused() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let check = |arguments: &[&str], fragments: &[&str]| {
        scratch.build(&context, arguments).fails(2, fragments);
    };
    check(&["--annotation", "index:a=b"], &["index annotations", "single platform"]);
    check(&["--annotation", "index-descriptor:a=b"], &["index annotations", "single platform"]);
    check(
        &["--platform", THREE, "--annotation", "manifest[linux/s390x]:a=b"],
        &["linux/s390x", "linux/arm64, linux/arm/v7, linux/riscv64"],
    );
    check(&["--annotation", "nope:a=b"], &["unknown annotation type", "manifest-descriptor"]);
    check(&["--annotation", "a"], &["there is no value"]);
    // What is for the platform that is built is fine, also where it is the only one.
    let digest =
        scratch.digest(&context, &["--platform", "linux/arm64", "--annotation", "manifest[linux/arm64]:a=b"]);
    assert_eq!(blob(&scratch.layout(), &digest)["annotations"]["a"], "b");
}

#[test]
fn plans_and_graphs_of_several_platforms_are_printed() {
    let scratch = Scratch::new();
    let context = copy_only(&scratch);
    let print = |what: &str| scratch.build(&context, &["--platform", THREE, "--print", what]).ok().stdout;
    let graphs = json(&print("graph"));
    let names: Vec<_> =
        graphs.as_array().unwrap().iter().map(|one| one["platform"].as_str().unwrap()).collect();
    assert_eq!(names, ["linux/arm64", "linux/arm/v7", "linux/riscv64"]);
    let plan = json(&print("plan"));
    let copies: Vec<_> = plan
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["text"].as_str().unwrap().starts_with("COPY"))
        .collect();
    assert_eq!(copies.len(), 3, "{plan}");
    assert_eq!((&copies[2]["platform"], &copies[2]["verdict"]), (&"linux/riscv64".into(), &"miss".into()));
    for (what, begins) in [("dot", "digraph"), ("svg", "<svg")] {
        let text = print(what);
        assert!(text.starts_with(begins) && text.contains("linux/arm/v7"), "{text}");
    }
    assert!(
        !scratch.store().join("images/blobs/sha256").read_dir().is_ok_and(|mut blobs| blobs.next().is_some())
    );
}

#[test]
fn lint_looks_at_every_platform_and_says_a_thing_once() {
    let scratch = Scratch::new();
    let text = "FROM scratch AS for-arm64\nMAINTAINER a\nFROM scratch AS for-riscv64\nENV A b\n\
        ARG TARGETARCH\nFROM for-$TARGETARCH\nCOPY f /\n";
    let context = scratch.context("c", &[("Dockerfile", text), ("f", "")]);
    let check = |platform: &str, expect: &[&str]| {
        let run = scratch.xbuild(&[
            "build",
            "--check",
            "--format=json",
            "--platform",
            platform,
            context.to_str().unwrap(),
        ]);
        let found = json(&run.ok().stdout);
        let mut rules: Vec<_> =
            found.as_array().unwrap().iter().map(|one| one["rule"].as_str().unwrap().to_owned()).collect();
        rules.sort();
        assert_eq!(rules, expect, "{found}");
    };
    check("linux/arm64,linux/riscv64", &["LegacyKeyValueFormat", "MaintainerDeprecated"]);
}

#[test]
fn commands_choose_the_platform_of_an_index() {
    let scratch = Scratch::new().with_busybox();
    let text = "FROM --platform=$BUILDPLATFORM busybox AS tools\nFROM scratch\nCOPY --from=tools /bin /bin\n\
        ARG TARGETARCH\nCOPY <<EOF /arch\n${TARGETARCH}\nEOF\nENTRYPOINT [\"/bin/cat\", \"/arch\"]\n";
    let context = scratch.context("c", &[("Dockerfile", text)]);
    let digest = scratch.digest(&context, &["-t", "app", "--platform", "linux/arm64,linux/amd64"]);
    let inspected = json(&scratch.xbuild(&["inspect", "app"]).ok().stdout);
    assert_eq!(inspected["digest"], digest.as_str());
    let of = |platform: &str| {
        let config = scratch.xbuild(&["inspect", "--config", "--platform", platform, "app"]).ok().stdout;
        json(&config)["architecture"].as_str().unwrap().to_owned()
    };
    assert_eq!((of("linux/arm64"), of("linux/amd64")), ("arm64".to_owned(), "amd64".to_owned()));
    scratch
        .xbuild(&["inspect", "--platform", "linux/s390x", "app"])
        .fails(4, &["linux/s390x", "linux/arm64"]);
    let history = scratch.xbuild(&["history", "--platform", "linux/arm64", "app"]).ok().stdout;
    assert!(history.contains("ARG TARGETARCH=arm64"), "{history}");
    assert_eq!(scratch.xbuild(&["run", "app"]).ok().stdout, "amd64\n");
    assert_eq!(scratch.xbuild(&["run", "--platform", "linux/arm64", "app"]).ok().stdout, "arm64\n");
    scratch.xbuild(&["run", "--platform", "all", "app"]).fails(2, &["one image is run"]);
    let out = scratch.path().join("out");
    let output = format!("type=local,dest={}", out.display());
    scratch.xbuild(&["save", "app", "--platform", "linux/arm64", "-o", &output]).ok();
    assert_eq!(std::fs::read_to_string(out.join("arch")).unwrap(), "arm64\n");
    let archive = scratch.path().join("docker.tar");
    let output = format!("type=docker,dest={}", archive.display());
    scratch.xbuild(&["save", "app", "--platform", "linux/amd64", "-o", &output]).ok();
}
