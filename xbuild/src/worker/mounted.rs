//! What a RUN sees of its inputs, for cache keys: a stage that was built anew and has the same files below a mount's
//! source gives the same step.

use std::path::Path;

use executor::tree::{Last, Merged, Tree, TreeError, resolve};
use frontend::graph::{CacheMount, Mount, RunOp, content_id};
use oci::layer::{ContentHash, Entry, Kind};

use super::error::StepError;
use super::layer::blocking;
use super::{BuildWorker, Snapshot};

/// Returns a digest of the files that the step's mounts show, or begin as; `None` where hashes are not known.
pub async fn content_digest(
    worker: &BuildWorker,
    run: &RunOp,
    inputs: &[Snapshot],
) -> Result<Option<ContentHash>, StepError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"xbuild-mounted-1");
    for mount in &run.mounts {
        let (input, source) = match mount {
            Mount::Bind(bind) => (bind.input, &bind.source),
            Mount::Cache(CacheMount { from: Some((input, source)), .. }) => (*input, source),
            Mount::Cache(_) | Mount::Tmpfs(_) | Mount::Secret(_) | Mount::Ssh(_) => continue,
        };
        let content = shown(worker, &inputs[input], source).await?;
        let Some(content) = content else { return Ok(None) };
        hasher.update(&content.0);
    }
    Ok(Some(ContentHash(*hasher.finalize().as_bytes())))
}

/// Returns a digest of the files at and below `source` in an input; `None` where there are none or their hashes are
/// not known.
pub async fn shown(
    worker: &BuildWorker,
    input: &Snapshot,
    source: &str,
) -> Result<Option<ContentHash>, StepError> {
    match input {
        Snapshot::Local(local) => Ok(Some(local.selection.content())),
        Snapshot::Layers(stack) => {
            let tree = worker.layers.hashed_tree(stack).await?;
            let source = source.to_owned();
            blocking(move || Ok(below(&tree, Path::new(&source)).ok().flatten())).await
        }
    }
}

/// Returns the content id of everything at and below `source`, with paths from there; `None` where it does not exist
/// or a file's hash is not known.
fn below(tree: &Merged, source: &Path) -> Result<Option<ContentHash>, TreeError> {
    let found = resolve(tree, source, Last::Follow)?;
    let Some(node) = found.node else { return Ok(None) };
    let mut todo = vec![node.entry];
    let mut entries: Vec<Entry> = Vec::new();
    while let Some(mut entry) = todo.pop() {
        match &entry.kind {
            Kind::Directory { .. } => {
                todo.extend(tree.children(&entry.path)?.into_iter().map(|node| node.entry))
            }
            Kind::File { content: None, .. } => return Ok(None),
            Kind::File { .. }
            | Kind::HardLink { .. }
            | Kind::Symlink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout => {}
        }
        entry.path = entry.path.strip_prefix(&found.path).unwrap_or(&entry.path).to_owned();
        entries.push(entry);
    }
    entries.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(Some(content_id(&entries)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use oci::layer::LayerIndex;

    use super::*;

    fn file(path: &str, byte: u8) -> Entry {
        Entry::plain(path, Kind::File { size: 1, content: Some(ContentHash([byte; 32])) }, 0o644)
    }

    fn id(entries: Vec<Entry>, source: &str) -> Option<ContentHash> {
        let mut entries = entries;
        entries.push(Entry::directory("", 0o755));
        entries.push(Entry::directory("out", 0o755));
        entries.push(Entry::plain("link", Kind::Symlink { target: "out".into() }, 0o777));
        entries.sort_by(|one, other| one.path.cmp(&other.path));
        let index = LayerIndex::new(entries, Default::default()).expect("the paths are fine");
        below(&Merged::of_indexes(vec![Arc::new(index)]), Path::new(source)).expect("nothing can fail")
    }

    #[test]
    fn only_what_is_below_the_source_counts() {
        let one = id(vec![file("out/a", 1), file("other", 1)], "/out");
        assert!(one.is_some());
        assert_eq!(one, id(vec![file("out/a", 1), file("other", 2)], "/out"));
        assert_eq!(one, id(vec![file("out/a", 1)], "/link"), "links are followed");
        assert_ne!(one, id(vec![file("out/a", 2)], "/out"));
        assert_ne!(one, id(vec![file("out/b", 1)], "/out"));
        assert_ne!(one, id(vec![file("out/a", 1), file("other", 1)], "/"));
        assert_eq!(id(vec![], "/nothing"), None);
        let unknown = Entry::plain("out/a", Kind::File { size: 1, content: None }, 0o644);
        assert_eq!(id(vec![unknown], "/out"), None);
    }
}
