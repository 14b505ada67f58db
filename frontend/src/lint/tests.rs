//! Tests of the own rules, and of what switches rules on and off.

use oci::Platform;

use super::*;
use crate::graph::pattern::ignore::Rules;

fn options() -> Options {
    let none = String::new;
    let platform =
        Platform { os: "linux".into(), architecture: "amd64".into(), variant: none(), os_version: none() };
    Options { build_platform: platform, ..Options::default() }
}

fn found(text: &str, options: &Options, request: Request) -> Vec<(String, u32)> {
    let file = crate::parse(text.as_bytes());
    assert!(!file.has_errors(), "{text}: {:?}", file.diagnostics);
    let findings = own(&file, options, request);
    findings
        .iter()
        .map(|finding| (finding.rule.unwrap_or_default().to_owned(), line(&file, finding)))
        .collect()
}

/// Checks which lines one rule finds.
fn check(rule: &str, text: &str, expect: &[u32]) {
    let request = Request { rules: RuleSet::All, git: GitDirectory::Present };
    let found = found(text, &options(), request);
    let lines: Vec<u32> =
        found.iter().filter(|(name, _)| name == &format!("xbuild/{rule}")).map(|(_, line)| *line).collect();
    assert_eq!(lines, expect, "{rule} of\n{text}");
    assert!(super::rule(&format!("xbuild/{rule}")).is_some(), "{rule} is not in the table");
}

#[test]
fn heredocs_without_errexit() {
    let check = |text: &str, expect: &[u32]| check("HeredocWithoutErrexit", text, expect);
    check("FROM a:1\nRUN <<EOF\na\nb\nEOF\n", &[2]);
    check("FROM a:1\nRUN <<EOF bash\na\nb\nEOF\n", &[2]);
    check("FROM a:1\nRUN sh <<EOF\na\nb\nEOF\n", &[2]);
    check("FROM a:1\nRUN <<EOF\n#!/usr/bin/env bash\na\nb\nEOF\n", &[2]);
    for silent in [
        "RUN <<EOF\na\nEOF",
        "RUN <<EOF\na && \\\nb\nEOF",
        "RUN <<EOF\nset -e\na\nb\nEOF",
        "RUN <<EOF\nset -euxo pipefail\na\nb\nEOF",
        "RUN <<EOF\nset -o errexit\na\nb\nEOF",
        "RUN <<EOF\n#!/bin/sh -e\na\nb\nEOF",
        "RUN <<EOF\n#!/usr/bin/env python3\na\nb\nEOF",
        "RUN <<EOF bash -e\na\nb\nEOF",
        "RUN python3 <<EOF\na\nb\nEOF",
        "RUN cat >/x <<EOF\na\nb\nEOF",
        "SHELL [\"/bin/sh\", \"-ec\"]\nRUN <<EOF\na\nb\nEOF",
        "RUN a; b",
    ] {
        check(&format!("FROM a:1\n{silent}\n"), &[]);
    }
}

#[test]
fn pipes_without_pipefail() {
    let check = |text: &str, expect: &[u32]| check("PipeWithoutPipefail", text, expect);
    check("FROM a:1\nRUN a | b\n", &[2]);
    check("FROM a:1\nRUN x=$(a | b)\n", &[2]);
    check("FROM a:1\nRUN <<EOF\na | b\nEOF\n", &[2]);
    check(
        "FROM a:1 AS x\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nFROM x\nRUN a | b\nFROM a:1\nRUN a | b\n",
        &[6],
    );
    for silent in [
        "RUN a || b",
        "RUN echo 'a | b'",
        "RUN set -o pipefail; a | b",
        "RUN set -eo pipefail && a | b",
        "RUN bash -o pipefail -c 'a | b'",
        "RUN [\"a\", \"|\", \"b\"]",
        "RUN case $x in a|b) c;; esac",
        "SHELL [\"powershell\", \"-command\"]\nRUN a | b",
    ] {
        check(&format!("FROM a:1\n{silent}\n"), &[]);
    }
}

#[test]
fn apt_lists() {
    check("AptUpdateAlone", "FROM a:1\nRUN apt-get update\nRUN apt-get install -y x\n", &[2]);
    check("AptUpdateAlone", "FROM a:1\nRUN apt-get -qq update && apt-get install -y x\n", &[]);
    check("AptUpdateAlone", "FROM a:1\nRUN apk update\n", &[]);
    check("AptListsKept", "FROM a:1\nRUN apt-get update && \\\n apt-get install -y x\n", &[2]);
    check(
        "AptListsKept",
        "FROM a:1\nRUN apt-get update && apt-get install x && rm -rf /var/lib/apt/lists/*\n",
        &[],
    );
    check(
        "AptListsKept",
        "FROM a:1\nRUN --mount=type=cache,target=/var/lib/apt apt-get update && apt-get install x\n",
        &[],
    );
    check("AptUpdateAlone", "FROM a:1\nRUN apt-get update; xargs -rt apt-get install -y < list\n", &[]);
    check("AptListsKept", "FROM a:1\nRUN apt-get update; apt-get install x; apt-get dist-clean\n", &[]);
    // A stage that only lends files leaves nothing in the image; one that is a base does.
    check(
        "AptListsKept",
        "FROM a:1 AS b\nRUN apt-get update && apt-get install x\nFROM a:1\nCOPY --from=b /x /\n",
        &[],
    );
    check("AptListsKept", "FROM a:1 AS b\nRUN apt-get update && apt-get install x\nFROM b\n", &[2]);
}

#[test]
fn copies_before_installs() {
    let check = |text: &str, expect: &[u32]| check("CopyBeforeInstall", text, expect);
    check("FROM a:1\nCOPY . .\nRUN npm ci\n", &[2]);
    check("FROM a:1\nADD ./ /app\nRUN x\nRUN cd /app && pip install -r requirements.txt\n", &[2]);
    check("FROM a:1\nCOPY . .\nRUN apt-get update && apt-get install -y x\n", &[2]);
    check("FROM a:1\nCOPY package.json .\nRUN npm ci\nCOPY . .\nRUN npm run build\n", &[]);
    check("FROM a:1\nCOPY . .\nRUN pip install .\n", &[]);
    check("FROM a:1 AS b\nFROM a:1\nCOPY --from=b . .\nRUN npm ci\n", &[]);
}

#[test]
fn volatile_arguments() {
    let check = |text: &str, expect: &[u32]| check("VolatileArg", text, expect);
    check("FROM a:1\nARG GIT_SHA\nRUN make\n", &[2]);
    check("FROM a:1\nARG build_date=x\nRUN make\nRUN echo $build_date\n", &[2]);
    check("FROM a:1\nARG CI_COMMIT_SHA\nRUN echo $CI_COMMIT_SHA\n", &[]);
    check("FROM a:1\nRUN make\nARG GIT_SHA\nLABEL r=$GIT_SHA\n", &[]);
    check("FROM a:1\nARG VERSION\nARG BUILD_TYPE\nRUN make\n", &[]);
    check("ARG GIT_SHA\nFROM a:1\nRUN make\n", &[]);
}

#[test]
fn unpinned_bases() {
    let check = |text: &str, expect: &[u32]| check("UnpinnedBase", text, expect);
    check(
        "FROM a\nFROM a:latest\nFROM a:1\nFROM a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\nFROM scratch\n",
        &[1, 2],
    );
    check("FROM a:1 AS b\nFROM b\nFROM B\n", &[]);
    check("ARG T=1\nARG U\nFROM a:$T\nFROM a:${U:-latest}\n", &[4]);
}

#[test]
fn git_in_the_context() {
    let text = "FROM a:1\nCOPY . .\nCOPY --exclude=.git . .\nCOPY x .\n";
    check("GitInContext", text, &[2]);
    let request = Request { rules: RuleSet::All, git: GitDirectory::Absent };
    assert_eq!(found(text, &options(), request), []);
    let ignore = Some(Rules::parse(b".git\n").expect("a pattern"));
    let request = Request { git: GitDirectory::Present, ..request };
    assert_eq!(found(text, &Options { ignore, ..options() }, request), []);
}

#[test]
fn switches_of_the_own_rules() {
    let check = |head: &str, above: &str, rules: RuleSet, expect: usize| {
        let text = format!("{head}FROM a:1\n{above}RUN a | b\n");
        let request = Request { rules, git: GitDirectory::Absent };
        assert_eq!(found(&text, &options(), request).len(), expect, "{text}");
    };
    check("", "", RuleSet::BuildKit, 0);
    check("", "", RuleSet::All, 1);
    check("# check=experimental=xbuild\n", "", RuleSet::BuildKit, 1);
    check("# check=experimental=all\n", "", RuleSet::BuildKit, 0);
    check("# check=experimental=xbuild/PipeWithoutPipefail\n", "", RuleSet::BuildKit, 1);
    check("# check=experimental=xbuild/UnpinnedBase\n", "", RuleSet::BuildKit, 0);
    check("# check=skip=all;experimental=xbuild\n", "", RuleSet::BuildKit, 1);
    check("# check=skip=all\n", "", RuleSet::All, 0);
    check("# check=skip=xbuild\n", "", RuleSet::All, 0);
    check("# check=skip=xbuild/PipeWithoutPipefail\n", "", RuleSet::All, 0);
    check("", "# check=skip=xbuild/PipeWithoutPipefail\n", RuleSet::All, 0);
    check("", "# check=skip=all\n", RuleSet::All, 0);
    check("", "# check=experimental=xbuild\n", RuleSet::BuildKit, 1);
}

#[test]
fn lines_are_those_of_the_instruction() {
    let file = crate::parse(b"FROM scratch\nENV A=1 \\\n  SECRET=2\nCOPY a \\\n\n b\n");
    let checked = super::check(&file, &options(), &Known::default(), Request::default());
    let lines: Vec<_> =
        checked.warnings.iter().map(|found| (found.rule.unwrap_or_default(), line(&file, found))).collect();
    assert_eq!(lines, [("SecretsUsedInArgOrEnv", 2), ("NoEmptyContinuation", 6)]);
    assert_eq!(file.position(checked.warnings[0].span.start).line, 3, "the caret stands at the word");
}

#[test]
fn an_unknown_base_leaves_out_what_needs_it() {
    let text = b"FROM base:1\nENV P=$GOPATH\nCMD x\nWORKDIR y\nCOPY $Q /\nMAINTAINER z\n";
    let checked = super::check(&crate::parse(text), &options(), &Known::default(), Request::default());
    let rules: Vec<_> = checked.warnings.iter().filter_map(|found| found.rule).collect();
    assert_eq!(rules, ["JSONArgsRecommended", "WorkdirRelativePath", "MaintainerDeprecated"]);
    assert_eq!((checked.errors.len(), checked.needs.len()), (0, 1));
}

#[test]
fn names_of_rules_in_check_comments() {
    let check = |text: &str, expect: &[u32]| check("UnknownRule", text, expect);
    check("# check=skip=JSONArgsRecomended\nFROM a:1\n", &[1]);
    check("FROM a:1\n# check=skip=Nothing\nRUN x\n", &[3]);
    check(
        "# check=skip=JSONArgsRecommended,xbuild;experimental=all\nFROM a:1\n# check=skip=undefinedvar\nRUN x\n",
        &[],
    );
}

/// Checks on which lines a rule of BuildKit finds something.
fn buildkit(rule: &str, text: &str, expect: &[u32]) {
    let ignore = Some(Rules::parse(b"hidden\n").expect("a pattern"));
    let file = crate::parse(text.as_bytes());
    let checked =
        super::check(&file, &Options { ignore, ..options() }, &Known::default(), Request::default());
    let found: Vec<u32> = checked
        .warnings
        .iter()
        .filter(|found| found.rule == Some(rule))
        .map(|found| line(&file, found))
        .collect();
    assert_eq!(found, expect, "{rule} of\n{text}");
    assert!(super::rule(rule).is_some_and(|rule| rule.group != Group::Own), "{rule} is not in the table");
}

#[test]
fn rules_of_buildkit_about_spelling() {
    buildkit("StageNameCasing", "FROM scratch AS Ab\nFROM scratch AS c\n", &[1]);
    buildkit(
        "FromAsCasing",
        "FROM scratch as a\nFROM scratch AS b\nfrom scratch AS c\nFrom scratch as d\n",
        &[1, 3],
    );
    buildkit("NoEmptyContinuation", "FROM scratch\nENV \\\n\na=1\nENV \\\n#\nb=1\n", &[4]);
    buildkit("ConsistentInstructionCasing", "FROM scratch\nenv A=1\nEnv B=1\nENV C=1\nENV D=1\n", &[2, 3]);
    buildkit("ConsistentInstructionCasing", "arg A\nFROM scratch\nENV B=1\n", &[]);
    buildkit("DuplicateStageName", "FROM scratch AS a\nFROM scratch AS b\nFROM scratch AS A\n", &[3]);
    buildkit(
        "ReservedStageName",
        "FROM scratch AS scratch\nFROM scratch AS context\nFROM scratch AS c\n",
        &[1, 2],
    );
    buildkit("MaintainerDeprecated", "FROM scratch\nMAINTAINER a\nLABEL maintainer=a\n", &[2]);
    buildkit("LegacyKeyValueFormat", "FROM scratch\nENV a 1\nLABEL b 1\nENV c=1\n", &[2, 3]);
    let described =
        "# check=experimental=InvalidDefinitionDescription\n# a is\nARG a\n# no\nFROM scratch AS b\n";
    buildkit("InvalidDefinitionDescription", described, &[5]);
    buildkit("InvalidDefinitionDescription", "# no\nARG a\nFROM scratch\n", &[]);
}

#[test]
fn rules_of_buildkit_about_variables() {
    buildkit(
        "UndefinedArgInFrom",
        "ARG a=1\nFROM scratch AS x\nFROM b:$a$c\nFROM --platform=$BUILDPLATFORM b\n",
        &[3],
    );
    // As in BuildKit, a default does not define a name.
    buildkit(
        "UndefinedVar",
        "FROM scratch\nARG a\nENV b=$a c=$PATH d=$e\nENV f=${g:-1}\nRUN echo $h\n",
        &[3, 4],
    );
    buildkit("InvalidDefaultArgInFrom", "ARG a\nARG b=1\nFROM x:$a\nFROM x:$b\nFROM $a\n", &[3, 5]);
    buildkit(
        "SecretsUsedInArgOrEnv",
        "FROM scratch\nARG API_TOKEN\nENV key=1 public_key=1\nENV monkey=1\n",
        &[2, 3],
    );
    buildkit(
        "RedundantTargetPlatform",
        "FROM --platform=$TARGETPLATFORM a\nFROM --platform=$BUILDPLATFORM a\n",
        &[1],
    );
    let platforms = "FROM --platform=linux/amd64 a\nFROM --platform=linux/amd64 a AS amd64\nFROM --platform=$BUILDPLATFORM a\n";
    buildkit("FromPlatformFlagConstDisallowed", platforms, &[1]);
}

#[test]
fn rules_of_buildkit_about_instructions() {
    buildkit(
        "JSONArgsRecommended",
        "FROM scratch\nCMD a\nENTRYPOINT b\nFROM scratch\nCMD [\"a\"]\n",
        &[2, 3],
    );
    buildkit("JSONArgsRecommended", "FROM scratch\nSHELL [\"x\"]\nCMD a\n", &[]);
    buildkit("WorkdirRelativePath", "FROM scratch\nWORKDIR a\nFROM scratch\nWORKDIR /a\nWORKDIR b\n", &[2]);
    let twice = "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nFROM scratch\nCMD [\"a\"]\n";
    buildkit("MultipleInstructionsDisallowed", twice, &[2]);
    buildkit("CopyIgnoredFile", "FROM scratch\nCOPY hidden /\nADD other hidden/x /\nCOPY . /\n", &[2, 3]);
    buildkit("ExposeProtoCasing", "FROM scratch\nEXPOSE 1/TCP 2/udp\n", &[2]);
    buildkit("ExposeInvalidFormat", "FROM scratch\nEXPOSE 1:1\nEXPOSE 2\n", &[2]);
}

#[test]
fn a_base_of_another_platform() {
    let config = |architecture: &str| {
        format!(
            "{{\"os\":\"linux\",\"architecture\":\"{architecture}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[]}}}}"
        )
    };
    for (architecture, expect) in [("arm64", 1), ("amd64", 0)] {
        let file = crate::parse(b"FROM a:1\n");
        let mut known = Known::default();
        let checked = super::check(&file, &options(), &known, Request::default());
        for need in checked.needs.into_keys() {
            let lower::Need::Image(need) = need else { continue };
            let config = config(architecture).into_bytes().into();
            let image = lower::KnownImage { name: "a:1".into(), manifest: oci::Digest::of(b"a"), config };
            known.images.insert(need, image);
        }
        let checked = super::check(&file, &options(), &known, Request::default());
        assert_eq!(checked.errors, []);
        let found = checked.warnings.iter().filter(|found| found.rule == Some("InvalidBaseImagePlatform"));
        assert_eq!(found.count(), expect, "{architecture}");
    }
}

#[test]
fn large_files_cost_time_in_proportion() {
    let stages: String = (0..20_000).map(|number| format!("FROM a AS s{number}\nRUN a | b\n")).collect();
    let runs = format!(
        "FROM a:1\nARG GIT_SHA\n{}",
        "COPY . .\nRUN npm ci; case $x in a|b) c;; esac | d\n".repeat(20_000)
    );
    let request = Request { rules: RuleSet::All, git: GitDirectory::Present };
    for text in [stages, runs] {
        let start = std::time::Instant::now();
        assert!(found(&text, &options(), request).len() >= 20_000);
        assert!(start.elapsed().as_secs() < 120, "{:?}", start.elapsed());
    }
}
