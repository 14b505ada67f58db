//! Files, mounts and contexts.

use oci::digest::Algorithm;

use super::*;

#[test]
fn sources_of_copy_and_add() {
    let text = "FROM a\nADD http://h/dir/f%20x.tgz local.tgz /d/\nADD https://h/r.git#v1:sub /g\n\
                COPY --from=busybox /bin/busybox /b\nCOPY --chown=1:2 --chmod=644 --link x /y\n";
    let definition = done(text);
    assert_eq!(
        steps(&definition),
        [
            "0 image docker.io/library/a:latest",
            "1 local ",
            "2 http f x.tgz",
            "3 copy /d on 0 from 2,1",
            "4 copy /d on 3 from 2,1",
            "5 git https://h/r.git",
            "6 copy /g on 4 from 5",
            "7 image docker.io/library/busybox:latest",
            "8 copy /b on 6 from 7",
            "9 local ",
            "10 copy /y on 8 from 9",
        ]
    );
    assert!(
        !definition.graph.step(StepId(10)).depends_on_parent()
            || history(&definition)[4].contains("--chmod=644")
    );
    assert_eq!(history(&definition)[4], "COPY --chown=1:2 --chmod=644 x /y # buildkit");
    let Op::Copy(copy) = &definition.graph.step(StepId(8)).op else { panic!("a copy") };
    assert_eq!(copy.chown, None);
    refused("FROM a\nCOPY http://h/x /\n", "source can't be a URL for COPY");
    refused("FROM a\nCOPY https://h/x.git /\n", "source can't be a git ref for COPY");
    refused("FROM a\nCOPY --chmod=64a x /\n", "invalid chmod parameter: '64a'");
    refused("FROM a\nADD --checksum=sha256:00 x /\n", "checksum requires HTTP(S) or Git sources");
    refused("FROM a\nCOPY [\"[a-\", \"/\"]\n", "invalid source");
}

#[test]
fn img_04_checksums_are_of_sha256_or_sha512() {
    let add = |checksum: &str| format!("FROM a\nADD --checksum={checksum} https://h/f /\n");
    let right = Digest::of(b"url");
    done(&add(&right.to_string()));
    refused(&add(&Digest::of(b"other").to_string()), "digest mismatch");
    // The answer, which is named by sha256, was verified by whoever gave it; the step is the same.
    let definition = done(&add(&Algorithm::Sha512.digest(b"url").to_string()));
    let Op::Http(http) = &definition.graph.step(StepId(1)).op else { panic!("a download") };
    assert_eq!(http.digest, right);
    for bad in
        ["md5:00", "sha384:00", &format!("sha512:{}", right.hex()), &format!("sha512:{}", "A".repeat(128))]
    {
        refused(&add(bad), "digest");
    }
}

#[test]
fn a_missing_source_is_named_with_what_hides_it() {
    let file = crate::parse(b"FROM scratch\nCOPY a b.txt /x/\n");
    let mut known = Known::default();
    let Ok(Lowered::Needs(needs)) = lower(&file, &options(), &known) else { panic!("needs the files") };
    let error = SelectionError::NotFound {
        path: "b.txt".to_owned(),
        nearest: None,
        ignored_by: Some(IgnoredBy {
            file: ".dockerignore".to_owned(),
            line: 3,
            pattern: "*.txt".to_owned(),
        }),
    };
    for need in needs.into_keys() {
        let Need::Selection(need) = need else { panic!("needs files only") };
        assert_eq!(need.request.patterns, ["a", "b.txt"]);
        known.selections.insert(need, Err(error.clone()));
    }
    let errors = lower(&file, &options(), &known).unwrap_err();
    assert_eq!(file.slice(errors[0].span), "b.txt");
    assert_eq!(errors[0].rule, Some(MISSING_SOURCE));
    let expected = "\"b.txt\" not found in the build context: excluded by .dockerignore line 3: \"*.txt\"";
    assert_eq!(errors[0].message, expected);
}

#[test]
fn named_contexts_come_before_stages_and_images() {
    let mut options = options();
    options.contexts.insert("alpine".to_owned(), Context::Image("mirror/alpine:3".parse().unwrap()));
    options.contexts.insert("stage".to_owned(), Context::Files);
    options.contexts.insert("data".to_owned(), Context::Files);
    let text =
        "FROM other AS stage\nRUN never\nFROM alpine\nCOPY --from=stage /a /b\nCOPY --from=data x /c\n";
    let (definition, _) = answered(text, &options, &base(|_| {})).unwrap();
    assert_eq!(
        steps(&definition),
        [
            "0 local stage",
            "1 copy / from 0",
            "2 image docker.io/mirror/alpine:3",
            "3 copy /b on 2 from 1",
            "4 local data",
            "5 copy /c on 3 from 4",
        ]
    );
}

#[test]
fn mounts_have_defaults() {
    let text = "FROM a\nWORKDIR /w\nARG D=/cc\nRUN --mount=target=/src --mount=type=cache,target=$D \
                --mount=type=secret,id=s --mount=type=ssh --mount=type=tmpfs,target=t,size=1k x\n";
    let definition = done(text);
    let printed = format!("{:?}", run(&definition, 0).mounts);
    for part in [
        "source: \"/\", target: \"/src\", writable: false",
        "id: \"//cc\", target: \"/cc\"",
        "target: Some(\"/run/secrets/s\")",
        "mode: 256",
        "/run/buildkit/ssh_agent.0",
        "target: \"/w/t\", size: Some(1024)",
    ] {
        assert!(printed.contains(part), "{part} in {printed}");
    }
    refused("FROM a\nRUN --mount=target=/ x\n", "invalid mount target \"/\"");
}

#[test]
fn source_date_epoch_reaches_steps_and_their_environment() {
    let mut options = options();
    options.source_date_epoch = Some(1_700_000_000);
    let (definition, _) = answered("FROM a\nRUN x\n", &options, &base(|_| {})).unwrap();
    assert_eq!(definition.graph.step(StepId(1)).source_date_epoch, Some(1_700_000_000));
    assert!(run(&definition, 0).env.contains(&("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned())));
    options.build_args.push(("SOURCE_DATE_EPOCH".to_owned(), "nonsense".to_owned()));
    assert!(answered("FROM a\n", &options, &base(|_| {})).is_err());
}

#[test]
fn the_pivot_of_parents_stays_in_the_path() {
    let check = |source: &str, expected: &str| {
        let definition = done(&format!("FROM scratch\nCOPY --parents {source} /d/\n"));
        let Op::Copy(copy) = &definition.graph.step(StepId(1)).op else { panic!("a copy") };
        let crate::graph::CopySource::Input { path, .. } = &copy.sources[0] else { panic!("an input") };
        assert_eq!(path, expected, "{source}");
    };
    check("./a/../b/./c/*.txt", "b/./c/*.txt");
    check("x/./", "x/./**");
    check("/./x", "x");
    check("../x/y", "x/y");
}
