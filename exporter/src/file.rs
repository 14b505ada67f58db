//! Output files that are there when they are complete, and of which nothing is there before.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use oci::lock::{TemporaryFile, random_name};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Writes the file `path` through `write`: it appears, or is replaced, when everything is written. A device or a
/// pipe at `path` is written to as it is.
///
/// # Errors
/// Those of `write`, and [`Error::Io`].
pub fn write_file<T, E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<T, E>,
) -> Result<T, E> {
    let special = std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
    if special {
        let mut file = OpenOptions::new().write(true).open(path).map_err(Error::io("open", path))?;
        return write(&mut file);
    }
    if path.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(Error::Io { action: "write", path: path.to_owned(), source }.into());
    }
    // A link stays one: what it points to is replaced.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("."),
    };
    std::fs::create_dir_all(&directory).map_err(Error::io("create", &directory))?;
    let mut unfinished = Unfinished::create(&directory)?;
    let written = write(unfinished.file())?;
    unfinished.persist(&directory, &path)?;
    Ok(written)
}

/// A file that is being written.
enum Unfinished {
    /// It has no name: when this process is killed, the kernel frees it.
    Unnamed(File),
    /// It has a name of its own, where the file system has no files without one.
    Named(TemporaryFile),
}

impl Unfinished {
    fn create(directory: &Path) -> Result<Self> {
        match unnamed(directory) {
            Some(file) => Ok(Self::Unnamed(file)),
            None => Ok(Self::Named(TemporaryFile::create(directory).map_err(Error::at_destination)?)),
        }
    }

    fn file(&mut self) -> &mut File {
        match self {
            Self::Unnamed(file) => file,
            Self::Named(temporary) => &mut temporary.file,
        }
    }

    /// Gives the file its name in `directory`, replacing what had it.
    fn persist(self, directory: &Path, path: &Path) -> Result<()> {
        let mut file = match self {
            Self::Named(temporary) => return temporary.persist(path).map_err(Error::at_destination),
            Self::Unnamed(file) => file,
        };
        match link(&file, path) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => replace(&file, directory, path),
            Err(_) => copy(&mut file, directory, path),
        }
    }
}

/// Opens a file without a name; `None` where there are none, or where they cannot be given one. What else may be
/// wrong with the directory shows when a file with a name is made in it.
fn unnamed(directory: &Path) -> Option<File> {
    // A name is given by way of /proc (open(2), O_TMPFILE): the other way needs a capability.
    if !Path::new("/proc/self/fd").exists() {
        return None;
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::from_raw_mode(0o644)).ok().map(File::from)
}

fn link(file: &File, path: &Path) -> rustix::io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

/// Puts the file into the place of another. linkat(2) replaces nothing, rename(2) does.
fn replace(file: &File, directory: &Path, path: &Path) -> Result<()> {
    let temporary = directory.join(format!(".tmp-{}", random_name()));
    link(file, &temporary).map_err(Error::io("link", &temporary))?;
    let renamed = std::fs::rename(&temporary, path).map_err(Error::io("rename to", path));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    renamed
}

/// Copies the file into one with a name: for file systems that make files without a name and then keep them so.
fn copy(file: &mut File, directory: &Path, path: &Path) -> Result<()> {
    let mut temporary = TemporaryFile::create(directory).map_err(Error::at_destination)?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    io::copy(file, &mut temporary.file).map_err(Error::io("write", path))?;
    temporary.persist(path).map_err(Error::at_destination)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/out.tar");
        write_file(&path, |file| file.write_all(b"old").map_err(Error::io("write", &path))).unwrap();
        let failed = write_file(&path, |file| {
            file.write_all(b"ne").map_err(Error::io("write", &path))?;
            Err::<(), _>(Error::Inconsistent("x".into()))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(names(path.parent().unwrap()), ["out.tar"]);
        assert!(write_file(directory.path(), |_| Ok::<_, Error>(())).is_err(), "a directory is no file");
        write_file(Path::new("/dev/null"), |file| file.write_all(b"x").map_err(Error::io("write", &path)))
            .unwrap();
    }

    #[test]
    fn what_is_not_complete_has_no_name_that_a_killed_process_could_leave() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        for (text, before) in [("first", vec![]), ("second", vec!["out.tar"])] {
            write_file(&path, |file| {
                file.write_all(text.as_bytes()).map_err(Error::io("write", &path))?;
                match unnamed(directory.path()) {
                    Some(_) => assert_eq!(names(directory.path()), before),
                    None => println!("SKIP: this file system has no files without a name"),
                }
                Ok::<_, Error>(())
            })
            .unwrap();
            assert_eq!(names(directory.path()), ["out.tar"]);
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_cannot_be_linked_is_copied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.tar");
        std::fs::write(&path, "old").unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"new").unwrap();
        copy(&mut file, directory.path(), &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(directory.path()), ["out.tar"]);
    }
}
