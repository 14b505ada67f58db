//! The table of all rules: name, what it is about, how to mend it.
//!
//! It finds nothing. Rules of BuildKit keep BuildKit's names.

/// Where a rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// BuildKit's, on unless skipped.
    BuildKit,
    /// BuildKit's, off unless asked for by `experimental=`.
    Experimental,
    /// xbuild's.
    Own,
}

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// As in `# check=skip=NAME`.
    pub name: &'static str,
    /// Where it comes from.
    pub group: Group,
    /// What it asks for.
    pub summary: &'static str,
    /// How to mend what it finds.
    pub help: &'static str,
}

/// The name of xbuild's rules as a whole.
pub(super) const OWN: &str = "xbuild";

const fn buildkit(name: &'static str, summary: &'static str, help: &'static str) -> Rule {
    Rule { name, group: Group::BuildKit, summary, help }
}

const fn own(name: &'static str, summary: &'static str, help: &'static str) -> Rule {
    Rule { name, group: Group::Own, summary, help }
}

/// All rules, BuildKit's first.
pub const RULES: [Rule; 31] = [
    buildkit("StageNameCasing", "stage names are lower case", "write the name after AS in lower case"),
    buildkit(
        "FromAsCasing",
        "AS is written like FROM",
        "write FROM and AS both in upper or both in lower case",
    ),
    buildkit(
        "NoEmptyContinuation",
        "continued lines hold no empty line",
        "remove the empty line, or turn it into a comment",
    ),
    buildkit(
        "ConsistentInstructionCasing",
        "instructions are all upper or all lower case",
        "write the keyword as most of the file does",
    ),
    buildkit("DuplicateStageName", "stage names are unique", "give one of the stages another name"),
    buildkit("ReservedStageName", "no stage is called scratch or context", "give the stage another name"),
    buildkit(
        "JSONArgsRecommended",
        "CMD and ENTRYPOINT use the JSON form, so that signals reach the program",
        "write it as a JSON array: [\"program\", \"argument\"]",
    ),
    buildkit(
        "MaintainerDeprecated",
        "MAINTAINER is deprecated",
        "use LABEL org.opencontainers.image.authors=\"…\"",
    ),
    buildkit(
        "UndefinedArgInFrom",
        "FROM uses arguments that are declared",
        "declare it with ARG above the first FROM",
    ),
    buildkit(
        "WorkdirRelativePath",
        "the first WORKDIR of a build is absolute",
        "begin the path with /, or set an absolute WORKDIR before",
    ),
    buildkit(
        "UndefinedVar",
        "variables are defined before they are used",
        "declare it with ARG or ENV before",
    ),
    buildkit(
        "MultipleInstructionsDisallowed",
        "CMD, ENTRYPOINT and HEALTHCHECK stand once per stage",
        "remove this one: a later one replaces it",
    ),
    buildkit("LegacyKeyValueFormat", "ENV and LABEL are written KEY=VALUE", "put = between key and value"),
    buildkit(
        "InvalidBaseImagePlatform",
        "the base image is for the platform that is built for",
        "use a base of that platform, or give --platform",
    ),
    buildkit(
        "RedundantTargetPlatform",
        "--platform does not repeat the default",
        "remove --platform: bases are of the target platform by default",
    ),
    buildkit(
        "SecretsUsedInArgOrEnv",
        "ARG and ENV hold no secrets: image config and history show them",
        "use RUN --mount=type=secret",
    ),
    buildkit(
        "InvalidDefaultArgInFrom",
        "defaults of ARG make valid base names",
        "give the ARG a default, or use ${NAME:-default}",
    ),
    buildkit(
        "FromPlatformFlagConstDisallowed",
        "--platform of FROM is no constant",
        "use $BUILDPLATFORM or a variable, or name the stage for the platform",
    ),
    buildkit(
        "CopyIgnoredFile",
        "COPY and ADD take no files that the ignore file hides",
        "take the path out of the ignore file, or do not copy it",
    ),
    Rule {
        name: "InvalidDefinitionDescription",
        group: Group::Experimental,
        summary: "a comment above ARG or a named FROM describes it",
        help: "begin the comment with the name, or put an empty comment line between",
    },
    buildkit("ExposeProtoCasing", "protocols of EXPOSE are lower case", "write tcp, udp or sctp"),
    buildkit(
        "ExposeInvalidFormat",
        "EXPOSE names ports of the container alone",
        "write PORT or PORT/PROTOCOL, without address and host port",
    ),
    own(
        "xbuild/HeredocWithoutErrexit",
        "a heredoc of several commands stops at the first failure",
        "begin the heredoc with `set -e`",
    ),
    own(
        "xbuild/PipeWithoutPipefail",
        "a pipe fails when any of its commands fails",
        "use SHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"], or `set -o pipefail` in the command",
    ),
    own(
        "xbuild/AptUpdateAlone",
        "apt-get update stands in the RUN that installs, else a cached old list is installed from",
        "join it: RUN apt-get update && apt-get install -y …",
    ),
    own(
        "xbuild/AptListsKept",
        "package lists do not stay in the image",
        "add `&& rm -rf /var/lib/apt/lists/*`, or mount a cache on /var/lib/apt",
    ),
    own(
        "xbuild/CopyBeforeInstall",
        "dependencies are installed before all files are copied, so that a change keeps them cached",
        "copy the dependency files first, install, then copy the rest",
    ),
    own(
        "xbuild/VolatileArg",
        "arguments that change with every commit stand below expensive steps",
        "move the ARG down to where it is used",
    ),
    own(
        "xbuild/UnpinnedBase",
        "base images have a tag other than latest, or a digest",
        "add a tag or a digest to the name",
    ),
    own("xbuild/GitInContext", "the ignore file hides .git", "add a line `.git` to .dockerignore"),
    own("xbuild/UnknownRule", "check comments name rules that exist", "correct the name, or remove it"),
];

/// Returns the rule of a name.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name == name)
}

impl Rule {
    /// Returns where it is described; nothing for xbuild's own, which `summary` and `help` describe.
    pub fn url(&self) -> Option<String> {
        match self.group {
            Group::BuildKit | Group::Experimental => {
                Some(format!("https://docs.docker.com/reference/build-checks/{}/", kebab(self.name)))
            }
            Group::Own => None,
        }
    }
}

/// `JSONArgsRecommended` → `json-args-recommended`.
fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::with_capacity(name.len() + 4);
    for (at, letter) in letters.iter().enumerate() {
        let after_lower = at > 0 && letters[at - 1].is_lowercase();
        let before_lower = at > 0 && letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && (after_lower || before_lower) {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_have_addresses() {
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
        let is_own = |rule: &&Rule| rule.name.starts_with("xbuild/");
        assert!(RULES.iter().all(|rule| (rule.group == Group::Own) == is_own(&rule)));
        assert_eq!(RULES.iter().filter(|rule| rule.group != Group::Own).count(), 22, "BuildKit has 22 rules");
        for (name, expect) in [
            ("JSONArgsRecommended", "json-args-recommended"),
            ("UndefinedArgInFrom", "undefined-arg-in-from"),
            ("UndefinedVar", "undefined-var"),
        ] {
            assert_eq!(kebab(name), expect);
        }
    }
}
