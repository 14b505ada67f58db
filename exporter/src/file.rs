//! Output files that are there when they are complete.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

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
    let mut temporary = oci::lock::TemporaryFile::create(&directory).map_err(Error::at_destination)?;
    let written = write(&mut temporary.file)?;
    temporary.persist(&path).map_err(Error::at_destination)?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

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
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(write_file(directory.path(), |_| Ok::<_, Error>(())).is_err(), "a directory is no file");
        write_file(Path::new("/dev/null"), |file| file.write_all(b"x").map_err(Error::io("write", &path)))
            .unwrap();
    }
}
