//! The account files of a layer that is not packed yet: its index keeps their bytes from the start, so that the
//! next step's names resolve without waiting.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use oci::layer::index::{INLINE_LIMIT, INLINE_PATHS};
use oci::layer::{Entry, Kind};

use crate::tree::Content;

/// Returns the bytes of the account files among `entries`, which are in path order, as
/// [`oci::layer::LayerIndex::new`] takes them. `content` says where the bytes of a file are.
///
/// # Errors
/// Those of reading; a file that has another size than its entry is an `InvalidData`.
pub fn inline<'a>(
    entries: &'a [Entry],
    content: impl Fn(&'a Entry) -> Option<Content>,
) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for path in INLINE_PATHS.map(Path::new) {
        let Ok(at) = entries.binary_search_by(|entry| entry.path.as_path().cmp(path)) else { continue };
        let Kind::File { size, .. } = entries[at].kind else { continue };
        if size > INLINE_LIMIT {
            continue;
        }
        let mut bytes = Vec::new();
        if let Some(content) = content(&entries[at]) {
            content.open()?.take(size + 1).read_to_end(&mut bytes)?;
        }
        if bytes.len() as u64 != size {
            let what = format!("{} changed while it was read", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        files.insert(path.to_owned(), bytes);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn file(path: &str, size: u64) -> Entry {
        Entry::plain(path, Kind::File { size, content: None }, 0o644)
    }

    #[test]
    fn account_files_are_kept_and_others_are_not_read() {
        let entries = [file("etc/group", 0), file("etc/passwd", 4), file("etc/shadow", 4)];
        let read = |entry: &Entry| match entry.path.to_str() {
            Some("etc/passwd") => Some(Content::Bytes(Arc::from(&b"a:b\n"[..]))),
            Some("etc/group") => None,
            other => panic!("{other:?} is read"),
        };
        let files = inline(&entries, read).unwrap();
        assert_eq!(
            files.into_values().collect::<Vec<_>>(),
            [b"a:b\n".to_vec(), Vec::new()].into_iter().rev().collect::<Vec<_>>()
        );
    }

    #[test]
    fn rt_15_what_is_no_small_file_is_left_out() {
        let entries = [Entry::plain("etc/group", Kind::Fifo, 0o644), file("etc/passwd", INLINE_LIMIT + 1)];
        assert!(inline(&entries, |_| panic!("nothing is read")).unwrap().is_empty());
        let longer = Content::Bytes(Arc::from(&b"ab"[..]));
        assert!(inline(&[file("etc/passwd", 1)], |_| Some(longer.clone())).is_err());
    }
}
