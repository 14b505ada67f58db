//! `xbuild debug ignore`: how ignore rules are read and what they hide.

use serde_json::{Value, json};

use super::{Answer, known_keys, text, texts};
use crate::graph::pattern::clean;
use crate::graph::pattern::ignore::{self, Directory, Rules};

pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["text", "patterns", "path", "tree"])?;
    if input.get("text").is_some() {
        let lines = ignore::read(text(input, "text")?);
        return Ok(json!({ "patterns": lines.into_iter().map(|line| line.pattern).collect::<Vec<_>>() }));
    }
    let rules = Rules::of_patterns(texts(input, "patterns")?).map_err(|error| error.to_string())?;
    if input.get("tree").is_some() {
        return Ok(json!({ "walk": walk(&rules, &texts(input, "tree")?)? }));
    }
    let path = clean(text(input, "path")?);
    Ok(json!({ "ignored": path != "." && rules.ignores(&path) }))
}

/// Returns what rules leave of a tree, with the directories that lead to it.
fn walk(rules: &Rules, tree: &[&str]) -> Result<Vec<String>, String> {
    let mut entries = tree
        .iter()
        .map(|line| line.split_once(' ').ok_or_else(|| format!("tree line {line:?} is not `PATH TYPE`")))
        .collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let mut kept = Vec::new();
    let mut open: Vec<(&str, Directory, bool)> = Vec::new();
    for (path, kind) in entries {
        while open.last().is_some_and(|(parent, ..)| !is_below(path, parent)) {
            open.pop();
        }
        let root = Directory::default();
        let (hiding, inside) = rules.enter(open.last().map_or(&root, |(_, parent, _)| parent), path);
        let hidden = hiding.is_some();
        if !hidden {
            for (parent, _, shown) in open.iter_mut().filter(|(.., shown)| !shown) {
                kept.push(format!("dir {parent}"));
                *shown = true;
            }
            kept.push(format!("{kind} {path}"));
        }
        if kind == "dir" {
            open.push((path, inside, !hidden));
        }
    }
    Ok(kept)
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}
