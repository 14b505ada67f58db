//! Patterns that ops carry: .dockerignore and `--exclude` rules, wildcards, `--chmod` clauses.
//!
//! Everything here is pure text matching: no file is looked at, nothing panics, and matching costs at most
//! pattern length × path length.

pub mod chmod;
mod glob;
pub mod ignore;
pub mod wildcard;

pub use glob::PatternError;

/// Cleans a path as Go's `path.Clean` does: no empty, `.` or inner `..` parts; `.` for nothing.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Cleans a path below a root: relative, `..` clamped at the root, empty for the root itself.
pub fn clean_below_root(path: &str) -> String {
    clean(&format!("/{path}")).split_off(1)
}

/// Returns a path, absolute and cleaned, relative to a directory.
pub fn join(directory: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{directory}/{path}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_is_go_path_clean() {
        let cases = [
            ("", "."),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("a/../..", ".."),
            ("../../x", "../../x"),
            ("/..", "/"),
            ("/../a", "/a"),
            ("!../..", "."),
            ("/", "/"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn ctx_02_paths_are_clamped_to_the_context() {
        for (path, expected) in [("../x", "x"), ("a/../../x", "x"), ("/etc/passwd", "etc/passwd"), ("..", "")]
        {
            assert_eq!(clean_below_root(path), expected, "{path}");
        }
    }
}
