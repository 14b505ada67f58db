//! Properties of all plans: sorted, self-contained, and equal to a copy done step by step in a real directory.

use super::*;
use proptest::prelude::*;

/// A few nested names, so that sources and parents meet.
fn entries() -> impl Strategy<Value = Vec<String>> {
    let path = "[abc](/[abc]){0,2}";
    let entry = (path, 0..4_u8, "[abc](/[abc])?", prop_oneof![Just(644), Just(600)]);
    prop::collection::vec(entry, 0..8).prop_map(|entries| {
        entries
            .into_iter()
            .map(|(path, kind, target, mode)| match kind {
                0 => format!("{path} -> /{target}"),
                1 => format!("{path}/ 7{}", mode % 100),
                _ => format!("{path} {mode}"),
            })
            .collect()
    })
}

/// Keeps entries whose ancestors are directories, adding those that are missing.
fn well_formed(lines: &[String]) -> Memory {
    lines.iter().fold(Memory::default(), |tree, line| {
        let (entry, bytes) = parse(line);
        let above: Vec<_> =
            entry.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        let at = |path: &Path| tree.lstat(path).unwrap();
        let free = at(&entry.path).is_none();
        if !free || above.iter().any(|path| at(path).is_some_and(|node| !node.entry.is_directory())) {
            return tree;
        }
        let missing: Vec<_> = above
            .iter()
            .filter(|path| at(path).is_none())
            .map(|path| Entry::directory(*path, 0o755))
            .collect();
        let tree = missing.into_iter().fold(tree.clone(), Memory::with);
        match bytes {
            Some(bytes) => tree.with_file(entry, &bytes),
            None => tree.with(entry),
        }
    })
}

/// What is in a tree, as lines.
fn list(tree: &dyn Tree, directory: &Path, out: &mut Vec<String>) {
    for node in tree.children(directory).unwrap() {
        let line = describe(&Planned { entry: node.entry.clone(), content: None });
        out.push(line);
        if node.entry.is_directory() {
            list(tree, &node.entry.path, out);
        }
    }
}

/// The parent with the plan's layer on top.
fn applied(parent: &Memory, plan: &CopyPlan) -> Vec<String> {
    let mut lines = Vec::new();
    let mut below = Vec::new();
    collect(parent, Path::new(""), &mut below);
    let index =
        |entries| std::sync::Arc::new(oci::layer::LayerIndex::new(entries, Default::default()).unwrap());
    let upper = plan.entries.iter().map(|planned| planned.entry.clone()).collect();
    list(&crate::tree::Merged::of_indexes([index(below), index(upper)]), Path::new(""), &mut lines);
    lines
}

fn collect(tree: &dyn Tree, directory: &Path, out: &mut Vec<Entry>) {
    for node in tree.children(directory).unwrap() {
        out.push(node.entry.clone());
        collect(tree, &node.entry.path, out);
    }
}

/// A copy of a directory's contents done on a list, one entry after another; `None` where it is refused.
fn model(source: &Memory, parent: &Memory, dest: &str) -> Option<Vec<String>> {
    let mut result = parent.clone();
    let dest = crate::tree::resolve(parent, Path::new(dest), crate::tree::Last::Follow).ok()?.path;
    for path in dest.ancestors().collect::<Vec<_>>().into_iter().rev().skip(1) {
        match result.lstat(path).unwrap() {
            None => result = result.with(Entry::directory(path, 0o755)),
            Some(node) if node.entry.is_directory() => {}
            Some(_) => return None,
        }
    }
    let mut entries = Vec::new();
    collect(source, Path::new(""), &mut entries);
    for mut entry in entries {
        entry.path = dest.join(&entry.path);
        let there = result.lstat(&entry.path).unwrap();
        if there.is_some_and(|there| there.entry.is_directory() != entry.is_directory()) {
            return None;
        }
        result = result.with(entry);
    }
    let mut lines = Vec::new();
    list(&result, Path::new(""), &mut lines);
    Some(lines)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sorted_self_contained_and_like_a_copy_by_hand(
        source in entries(), parent in entries(), dest in "(/[abc]){0,3}",
    ) {
        let (source, parent) = (well_formed(&source).with(Entry::directory("", 0o755)), well_formed(&parent));
        let dest = if dest.is_empty() { "/" } else { &dest };
        let plan = plan_of(&copy(&[""], dest), &source, &parent);
        let expected = model(&source, &parent, dest);
        match plan {
            Err(error) => prop_assert!(expected.is_none(), "{error}, expected {expected:?}"),
            Ok(plan) => {
                let paths: Vec<_> = plan.entries.iter().map(|planned| planned.entry.path.clone()).collect();
                prop_assert!(paths.is_sorted_by(|left, right| left < right));
                for path in &paths {
                    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
                        let at = plan.entries.iter().find(|planned| planned.entry.path == above);
                        prop_assert!(at.is_some_and(|planned| planned.entry.is_directory()), "{path:?} lacks {above:?}");
                    }
                }
                prop_assert_eq!(Some(applied(&parent, &plan)), expected);
            }
        }
    }
}
