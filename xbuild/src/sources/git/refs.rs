//! References: which texts may be one, and which line of `git ls-remote` is meant. Runs nothing.

use super::{Remote, SourceError};

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Full commit id; an annotated tag is peeled.
    pub commit: String,
    /// The object that the reference names: the commit, or an annotated tag.
    pub object: String,
    /// Full name, such as `refs/heads/main`; `None` where a commit was asked for.
    pub name: Option<String>,
}

impl Resolved {
    /// Checks that the commit, or the tag that names it, starts with `checksum`; an empty one is any.
    ///
    /// # Errors
    /// [`SourceError::NoCommitId`], [`SourceError::Commit`].
    pub fn check(&self, remote: &Remote, checksum: &str) -> Result<(), SourceError> {
        if !checksum.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SourceError::NoCommitId {
                remote: remote.to_string(),
                checksum: checksum.to_owned(),
            });
        }
        let expected = checksum.to_ascii_lowercase();
        if self.commit.starts_with(&expected) || self.object.starts_with(&expected) {
            return Ok(());
        }
        let found = match self.object == self.commit {
            true => self.commit.clone(),
            false => format!("{} or {}", self.object, self.commit),
        };
        Err(SourceError::Commit { remote: remote.to_string(), expected, found })
    }
}

/// Returns the id, in lower case, if the text is a whole one of sha1 or sha256.
pub fn full_commit_id(text: &str) -> Option<String> {
    let whole = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| text.to_ascii_lowercase())
}

/// Checks that a reference is one (git-check-ref-format(1)): no option, no pattern, no expression.
pub fn check(reference: &str, remote: &Remote) -> Result<(), SourceError> {
    let refuse = |why| {
        let (remote, reference) = (remote.to_string(), reference.to_owned());
        Err(SourceError::Reference { remote, reference, why })
    };
    let last = reference.strip_prefix("refs/heads/").or_else(|| reference.strip_prefix("refs/tags/"));
    if reference.starts_with('-') || last.is_some_and(|name| name.starts_with('-')) {
        return refuse("it starts with a dash");
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    if reference.is_empty() || reference.contains(bad) || reference.contains("..") || reference.contains("@{")
    {
        return refuse("a name of a branch or tag has no spaces and none of ~ ^ : ? * [ \\ .. @{");
    }
    Ok(())
}

/// Returns what HEAD stands for in a listing with `--symref`.
pub fn default_branch(listing: &str, remote: &Remote) -> Result<Resolved, SourceError> {
    let line = |wanted: &str| {
        listing
            .lines()
            .find_map(|line| line.split_once('\t').filter(|(_, name)| *name == wanted).map(|(id, _)| id))
    };
    let name = listing
        .lines()
        .find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"))
        .map(str::to_owned);
    if let Some(name) = &name {
        check(name, remote)?;
    }
    let head = listing.lines().filter(|line| !line.starts_with("ref: "));
    let head = head.filter_map(|line| line.strip_suffix("\tHEAD")).find_map(full_commit_id);
    let commit = head.or_else(|| name.as_deref().and_then(line).and_then(full_commit_id));
    match commit {
        Some(commit) => Ok(Resolved { object: commit.clone(), commit, name }),
        None => Err(SourceError::NoReference {
            remote: remote.to_string(),
            reference: name.unwrap_or_else(|| "HEAD".to_owned()),
        }),
    }
}

/// Returns what `reference` stands for in a listing: a full name, else a branch, else a tag, as git-checkout
/// prefers them.
pub fn pick(listing: &str, reference: &str) -> Option<Resolved> {
    let find = |wanted: &str| {
        let mut pairs = listing.lines().filter_map(|line| line.split_once('\t'));
        pairs.find(|(_, name)| *name == wanted).and_then(|(id, _)| full_commit_id(id))
    };
    let short = |prefix: &str| format!("{prefix}{}", reference.strip_prefix(prefix).unwrap_or(reference));
    ["refs/", "refs/heads/", "refs/tags/"].into_iter().map(short).find_map(|name| {
        let object = find(&name)?;
        let commit = find(&format!("{name}^{{}}")).unwrap_or_else(|| object.clone());
        Some(Resolved { commit, object, name: Some(name) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn remote() -> Remote {
        Remote::parse("https://h/r.git").unwrap()
    }

    #[track_caller]
    fn check_pick(lines: &[(char, &str)], reference: &str, expected: Option<(char, char, &str)>) {
        let listing: String = lines.iter().map(|(digit, name)| format!("{}\t{name}\n", id(*digit))).collect();
        let expected = expected.map(|(commit, object, name)| Resolved {
            commit: id(commit),
            object: id(object),
            name: Some(name.to_owned()),
        });
        assert_eq!(pick(&listing, reference), expected, "{reference}");
    }

    #[test]
    fn picks_the_reference_that_git_checkout_would() {
        let lines = [
            ('1', "refs/heads/v1"),
            ('2', "refs/tags/v1"),
            ('3', "refs/tags/v1^{}"),
            ('4', "refs/heads/other/v1"),
            ('5', "refs/tags/v2"),
            ('6', "refs/tags/v2^{}"),
            ('7', "refs/pull/1/head"),
        ];
        check_pick(&lines, "v1", Some(('1', '1', "refs/heads/v1")));
        check_pick(&lines, "tags/v1", Some(('3', '2', "refs/tags/v1")));
        check_pick(&lines, "refs/tags/v1", Some(('3', '2', "refs/tags/v1")));
        check_pick(&lines, "v2", Some(('6', '5', "refs/tags/v2")));
        check_pick(&lines, "pull/1/head", Some(('7', '7', "refs/pull/1/head")));
        check_pick(&lines, "head", None);
        check_pick(&lines, "v3", None);
        assert_eq!(pick("no id\trefs/heads/x\n", "x"), None);
    }

    #[test]
    fn reads_the_default_branch() {
        let listing = format!("ref: refs/heads/main\tHEAD\n{}\tHEAD\n", id('a'));
        let found = default_branch(&listing, &remote()).unwrap();
        assert_eq!((found.commit, found.name.as_deref()), (id('a'), Some("refs/heads/main")));
        let detached = default_branch(&format!("{}\tHEAD\n", id('b')), &remote()).unwrap();
        assert_eq!((detached.commit, detached.name), (id('b'), None));
        assert!(default_branch("", &remote()).is_err());
        assert!(default_branch("ref: refs/heads/main\tHEAD\n", &remote()).is_err());
    }

    #[test]
    fn src_02_references_that_are_none() {
        let bad =
            ["-u", "--x", "a b", "a\nb", "a*", "a..b", "a:b", "a^{}", "a~1", "a@{1}", "", "refs/heads/-x"];
        for reference in bad {
            assert!(check(reference, &remote()).expect_err(reference).is_refusal());
        }
        for reference in ["main", "refs/heads/a/b", "v1.2-rc", "feature#1", "ünï"] {
            check(reference, &remote()).unwrap();
        }
        let listing = format!("ref: refs/heads/--upload-pack=x\tHEAD\n{}\tHEAD\n", id('a'));
        assert!(default_branch(&listing, &remote()).unwrap_err().is_refusal());
    }

    #[test]
    fn src_06_a_checksum_is_the_beginning_of_the_commit_or_of_its_tag() {
        let resolved = Resolved { commit: id('c'), object: id('d'), name: None };
        for fine in ["", "ccc", "CCC", "dddd", &id('c')] {
            resolved.check(&remote(), fine).unwrap();
        }
        let error = resolved.check(&remote(), "abc").unwrap_err().to_string();
        assert!(error.starts_with("expected checksum to match abc, got dddd"), "{error}");
        let error = resolved.check(&remote(), "foobar").unwrap_err().to_string();
        assert!(error.contains("invalid checksum") && error.contains("expected hex commit hash"), "{error}");
    }
}
