//! Modes of a checkout: 0644 and 0755, whatever the umask was; and `.git` of submodules, removed.
//!
//! The tree is a stranger's: it is walked by handles, and no link is followed.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags};

use super::SourceError;

/// What happens to entries called `.git`, which only git itself can have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GitEntries {
    /// They stay.
    Keep,
    /// They go.
    Remove,
}

/// Sets the modes of everything below `tree`.
pub(super) fn normalise(tree: &Path, git_entries: GitEntries) -> Result<(), SourceError> {
    let failed = |path: &Path| {
        let path = tree.join(path);
        move |errno: rustix::io::Errno| SourceError::io("set modes of", &path)(errno.into())
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(tree, flags, Mode::empty()).map_err(failed(Path::new("")))?;
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let directory = open(&root, &path, flags).map_err(failed(&path))?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(failed(&path))?;
        for name in names(&directory).map_err(failed(&path))? {
            let below = path.join(&name);
            if git_entries == GitEntries::Remove && name == ".git" {
                remove(tree, &below)?;
                continue;
            }
            let status =
                rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&below))?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => waiting.push(below),
                FileType::RegularFile => {
                    let (found, mode) = (status.st_mode & 0o7777, normal(status.st_mode));
                    if found != mode {
                        // The entry was no link a moment ago, and nobody else is at work here.
                        rustix::fs::chmodat(&directory, &name, Mode::from_raw_mode(mode), AtFlags::empty())
                            .map_err(failed(&below))?;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Objects of git are read-only and stay so.
fn normal(mode: RawMode) -> RawMode {
    let full = if mode & 0o100 == 0 { 0o644 } else { 0o755 };
    if mode & 0o200 == 0 { full & !0o222 } else { full }
}

fn open(root: &OwnedFd, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if path.as_os_str().is_empty() {
        return root.as_fd().try_clone_to_owned().map_err(|_| rustix::io::Errno::MFILE);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<std::ffi::OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A submodule's `.git` is a file; an old git made directories.
fn remove(tree: &Path, path: &Path) -> Result<(), SourceError> {
    let path = tree.join(path);
    let is_directory = std::fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir());
    let removed = if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    removed.map_err(SourceError::io("remove", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_a_usual_umask() {
        for (found, expected) in [
            (0o100600, 0o644),
            (0o100664, 0o644),
            (0o100700, 0o755),
            (0o100777, 0o755),
            (0o100400, 0o444),
            (0o100500, 0o555),
        ] {
            assert_eq!(normal(found), expected, "{found:o}");
        }
    }

    #[test]
    fn nothing_outside_is_touched() {
        use std::os::unix::fs::PermissionsExt as _;
        let outer = tempfile::tempdir().unwrap();
        let tree = outer.path().join("tree");
        std::fs::create_dir_all(tree.join("sub/.git/x")).unwrap();
        std::fs::write(outer.path().join("canary"), "").unwrap();
        let mode =
            |name: &str| std::fs::metadata(outer.path().join(name)).unwrap().permissions().mode() & 0o7777;
        std::fs::set_permissions(outer.path().join("canary"), std::fs::Permissions::from_mode(0o600))
            .unwrap();
        std::os::unix::fs::symlink("../canary", tree.join("link")).unwrap();
        std::os::unix::fs::symlink("..", tree.join("up")).unwrap();
        normalise(&tree, GitEntries::Remove).unwrap();
        assert_eq!(mode("canary"), 0o600);
        assert!(!tree.join("sub/.git").exists() && tree.join("sub").exists());
    }
}
