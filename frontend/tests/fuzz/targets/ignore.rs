//! The target of `.dockerignore` files: rules of any bytes, tried on paths that resemble them.

use frontend::graph::pattern::ignore::{Directory, Rules};

/// Paths that are tried with all rules.
const PATHS: [&str; 8] =
    ["a", "a/b", "a/b/c.txt", ".git/HEAD", "node_modules/x/y.js", "src/main.rs", "é/ü", "x.log"];

/// Compiles an ignore file and matches paths: one by one and as a walk does.
pub fn ignore(data: &[u8]) {
    let Ok(rules) = Rules::parse(data) else { return };
    let derived: Vec<String> = rules.rules().iter().take(2).map(|rule| similar(&rule.pattern)).collect();
    let paths = PATHS.iter().copied().chain(derived.iter().map(String::as_str));
    for path in paths.filter(|path| !path.is_empty()) {
        check(&rules, path);
    }
}

/// Makes a path of a pattern.
fn similar(pattern: &str) -> String {
    let literal = pattern.replace("**", "d/e").replace(['*', '?', '!', '\\', '[', ']'], "m");
    let parts = literal.split('/').filter(|part| !matches!(*part, "" | "." | "..")).take(12);
    // The kernel knows no longer paths (PATH_MAX).
    parts.collect::<Vec<_>>().join("/").chars().take(1_000).collect()
}

/// Without `!` rules, a walk and a look at the path alone agree; what comes back below a hidden directory
/// was announced.
fn check(rules: &Rules, path: &str) {
    let mut directory = Directory::default();
    let ends = path.match_indices('/').map(|(at, _)| at);
    for end in ends {
        let (hidden, below) = rules.enter(&directory, &path[..end]);
        let came_back = hidden.is_some() && rules.enter(&below, path).0.is_none();
        let is_parent = !path[end + 1..].contains('/');
        if came_back && is_parent {
            assert!(rules.may_bring_back_below(&path[..end]), "{path:?} of {:?}", rules.rules());
        }
        directory = below;
    }
    let walked = rules.enter(&directory, path).0.map(|rule| rule.line);
    let alone = rules.hiding_rule(path).map(|rule| rule.line);
    assert_eq!(rules.ignores(path), alone.is_some());
    if !rules.has_negations() {
        assert_eq!(walked.is_some(), alone.is_some(), "{path:?} of {:?}", rules.rules());
    }
}
