//! The rules of the code base, as tests: crate edges, module docs, forbidden symbols, fixtures in use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which workspace crates each crate may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("frontend", &["oci"]),
    ("solver", &["oci", "frontend"]),
    ("executor", &["oci", "frontend"]),
    ("exporter", &["oci"]),
    ("xbuild", &["oci", "frontend", "solver", "executor", "exporter"]),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources below {}", directory.display());
    found
}

#[test]
fn crates_depend_only_along_the_allowed_edges() {
    for (name, allowed) in EDGES {
        let manifest = std::fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap();
        for (other, _) in EDGES {
            let named = manifest.lines().any(|line| line.starts_with(&format!("{other}.workspace")));
            assert!(!named || allowed.contains(other), "{name} must not depend on {other}");
        }
    }
}

#[test]
fn only_the_graph_of_frontend_is_imported_outside_the_binary() {
    for name in ["solver", "executor"] {
        for path in sources(&workspace().join(name)) {
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in text.lines().enumerate() {
                let outside = line
                    .match_indices("frontend::")
                    .any(|(at, word)| !line[at + word.len()..].starts_with("graph"));
                assert!(!outside, "{}:{}: {line}", path.display(), number + 1);
            }
        }
    }
}

#[test]
fn the_solver_matches_on_no_op() {
    for path in sources(&workspace().join("solver/src")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("mod tests").next().unwrap();
        assert!(!code.contains("Op::"), "{} names an op", path.display());
    }
}

#[test]
fn every_file_opens_with_its_module_doc() {
    for (name, _) in EDGES {
        for path in sources(&workspace().join(name)) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} has no module doc", path.display());
        }
    }
}

#[test]
fn no_test_is_switched_off() {
    let ignore = ["#[", "ignore"].concat();
    let should_panic = ["#[", "should_panic"].concat();
    for (name, _) in EDGES {
        for path in sources(&workspace().join(name)) {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains(&ignore) && !text.contains(&should_panic), "{}", path.display());
        }
    }
}

#[test]
fn every_crate_takes_lints_and_versions_from_the_workspace() {
    for (name, _) in EDGES {
        let manifest = std::fs::read_to_string(workspace().join(name).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name} has lints of its own");
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[[").next().unwrap();
        for line in dependencies.lines().filter(|line| line.contains('=')) {
            assert!(
                line.ends_with(".workspace = true") || line.contains("workspace = true,"),
                "{name}: {line}"
            );
        }
        assert!(
            !workspace().join(name).join("clippy.toml").exists(),
            "{name}: a local clippy.toml replaces the root's"
        );
    }
}

#[test]
fn every_dependency_has_a_reason() {
    let manifest = std::fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
    let dependencies =
        manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let internal: BTreeSet<_> = EDGES.iter().map(|(name, _)| *name).collect();
    for line in dependencies.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
        let name = line.split(' ').next().unwrap();
        assert!(internal.contains(name) || line.contains(" # "), "{name} has no reason");
    }
}

#[test]
fn every_fixture_is_used() {
    let tests: String = EDGES
        .iter()
        .flat_map(|(name, _)| sources(&workspace().join(name)))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for entry in std::fs::read_dir(workspace().join("testdata")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(tests.contains(&format!("testdata/{name}")), "no test names testdata/{name}");
    }
}

#[test]
fn the_binary_is_static_and_loads_no_name_service() {
    if Command::new("nm").arg("--version").output().is_err() {
        super::skip("nm is missing (package binutils)");
        return;
    }
    let binary = env!("CARGO_BIN_EXE_xbuild");
    let symbols = Command::new("nm").arg(binary).output().unwrap();
    assert!(symbols.status.success(), "nm could not read {binary}");
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    for line in symbols.lines() {
        let name = line.rsplit(' ').next().unwrap_or_default();
        // getaddrinfo and getpwuid_r are our own, which always fail. glibc's fork keeps a few __nss_database_*
        // functions in every static program; what looks names up is not among them.
        let lookups = [
            "_nss_",
            "__nss_lookup",
            "__nss_module",
            "gethostby",
            "getpwnam",
            "getgrnam",
            "getgrgid",
            "getserv",
        ];
        let forbidden =
            lookups.iter().any(|start| name.starts_with(start)) && !name.starts_with("_nss_database");
        assert!(!forbidden, "{name} is linked in: glibc would load shared libraries at run time");
    }
    let dynamic = Command::new("nm").args(["-D", binary]).output().unwrap();
    assert!(String::from_utf8_lossy(&dynamic.stdout).trim().is_empty(), "the binary imports dynamic symbols");
}
