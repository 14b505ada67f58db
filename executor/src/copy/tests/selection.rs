//! What a scan selects for an instruction is what its plan needs: planning on the selection gives the plan that
//! the whole context gives.

use super::*;
use crate::context::{Context, StatCache, scan};
use crate::tree::{Selected, open_root};
use frontend::graph::SelectionRequest;
use frontend::graph::pattern::ignore::Rules;
use proptest::prelude::*;
use std::sync::Arc;

fn make(root: &Path, lines: &[String]) {
    for line in lines {
        let (path, target) =
            line.split_once(" -> ").map_or((line.as_str(), None), |(path, to)| (path, Some(to)));
        let at = root.join(path.trim_end_matches('/'));
        // Where an earlier line has put something else, the line is left out.
        let _ = std::fs::create_dir_all(at.parent().expect("below the root"));
        let _ = match target {
            Some(target) => std::os::unix::fs::symlink(target, &at),
            None if path.ends_with('/') => std::fs::create_dir_all(&at),
            None if at.is_dir() || at.is_symlink() => Ok(()),
            None => std::fs::write(&at, path),
        };
    }
}

fn lines() -> impl Strategy<Value = Vec<String>> {
    let line =
        (("[ab](/[abc]){0,3}"), 0..5_u8, "(/|\\.\\./)?[ab](/[abc])?").prop_map(|(path, kind, target)| {
            match kind {
                0 => format!("{path} -> {target}"),
                1 => format!("{path}/"),
                _ => path,
            }
        });
    prop::collection::vec(line, 1..10)
}

fn planned(op: &CopyOp, request: &SelectionRequest, root: &Path) -> Result<Vec<String>, String> {
    let root = Arc::new(open_root(root).expect("a scratch directory"));
    let context = Context { root: &root, ignore: &Rules::default(), cache: &StatCache::default(), now: NOW };
    let selection = scan(&context, request).map_err(|error| format!("scan: {error}"))?;
    let tree = Selected::new(Arc::new(selection), Arc::clone(&root));
    let source = Source { tree: &tree, kind: SourceKind::Context };
    let plan = plan(op, &[source], &Memory::default(), &options(Path::new("/")))
        .map_err(|error| error.to_string())?;
    Ok(plan.entries.iter().map(|planned| format!("{} {}", describe(planned), bytes(planned))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_selection_holds_what_its_plan_needs(
        lines in lines(),
        pattern in "[ab*](/[ab*]){0,2}",
        parents in any::<bool>(),
        excludes in prop::collection::vec("!?(\\*\\*/)?[abc*](/[abc])?", 0..3),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        make(scratch.path(), &lines);
        let op = CopyOp { parents, excludes: excludes.clone(), ..copy(&[&pattern], "/out/") };
        let wanted = SelectionRequest { patterns: vec![pattern], wildcards: true, parents, excludes, follow: true };
        let everything = SelectionRequest {
            patterns: vec![String::new()],
            parents: false,
            excludes: Vec::new(),
            ..wanted.clone()
        };
        let (selected, whole) = (planned(&op, &wanted, scratch.path()), planned(&op, &everything, scratch.path()));
        match (selected, whole) {
            (Ok(selected), Ok(whole)) => prop_assert_eq!(selected, whole),
            // What is missing is told by the scan already, also where it would be excluded.
            (Err(_), Err(_)) => {}
            (Err(error), Ok(_)) if op.parents && !op.excludes.is_empty() => prop_assert!(error.starts_with("scan")),
            (selected, whole) => prop_assert!(false, "selected {selected:?}, whole {whole:?}"),
        }
    }
}
