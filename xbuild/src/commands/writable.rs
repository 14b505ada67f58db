//! Whether files that the command line names can be written, before anything is built or fetched for them. Writes none.
//!
//! What becomes of a place meanwhile is told when it is written; here are the mistakes that are there from the start.

use std::io::ErrorKind;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::failure::{Class, Failure, io_class};
use crate::location::Location;
use crate::options::{BuildOptions, Output, OutputKind, usage};

/// Checks everything that a build is to write besides the store.
///
/// # Errors
/// A usage failure that names the first that cannot be.
pub fn of_build(options: &BuildOptions) -> Result<(), Failure> {
    options.outputs.iter().try_for_each(|output| output_of("-o", output))?;
    let files = [("--iidfile", &options.iidfile), ("--metadata-file", &options.metadata_file)];
    files.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))).try_for_each(small_file)
}

/// Checks where an output goes.
///
/// # Errors
/// A usage failure.
pub fn output_of(flag: &str, output: &Output) -> Result<(), Failure> {
    match output.kind {
        OutputKind::OciArchive | OutputKind::Docker | OutputKind::Tar => archive(flag, &output.dest),
        OutputKind::OciDirectory | OutputKind::Local => directory(flag, &output.dest),
    }
}

/// Checks a place that an image is copied to.
///
/// # Errors
/// A usage failure.
pub fn target(location: &Location) -> Result<(), Failure> {
    match location {
        Location::OciArchive(path, _) | Location::DockerArchive(path, _) => archive("", path),
        Location::Layout(path, _) => directory("", path),
        Location::Named(_) | Location::Registry(_) => Ok(()),
    }
}

/// An archive: its directory is made where it is missing, and what was there is replaced.
fn archive(flag: &str, path: &Path) -> Result<(), Failure> {
    if path == Path::new("-") {
        return Ok(());
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(wrong(flag, path, "it is a directory", "name a file in it")),
        // Its directory is written to, since the file is replaced.
        Ok(found) if found.is_file() => parent(flag, path),
        Ok(_) => can_write(flag, path, path),
        Err(_) => parent(flag, path),
    }
}

/// A directory: it is made where it is missing.
fn directory(flag: &str, path: &Path) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => can_write(flag, path, path),
        Ok(_) => Err(wrong(
            flag,
            path,
            "it is no directory",
            "name one, or write type=oci, docker or tar for a file",
        )),
        Err(_) => parent(flag, path),
    }
}

/// A file that is written as it stands: its directory must be there.
fn small_file((flag, path): (&str, &Path)) -> Result<(), Failure> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(wrong(flag, path, "it is a directory", "name a file in it")),
        Ok(_) => can_write(flag, path, path),
        Err(_) => match directory_of(path) {
            directory if directory.is_dir() => can_write(flag, path, directory),
            directory => {
                let why = format!("there is no directory {}", directory.display());
                Err(wrong(flag, path, &why, "make it, or name another file"))
            }
        },
    }
}

/// Checks the nearest directory above `path` that exists: those between are made.
fn parent(flag: &str, path: &Path) -> Result<(), Failure> {
    if path.as_os_str().is_empty() {
        return Err(usage(&format!("{flag} ''"), "there is no path", "name a file or a directory"));
    }
    let mut above = directory_of(path);
    loop {
        match std::fs::metadata(above) {
            Ok(found) if found.is_dir() => return can_write(flag, path, above),
            Err(error) if error.kind() == ErrorKind::NotFound && above != directory_of(above) => {
                above = directory_of(above);
            }
            Ok(_) | Err(_) => {
                let why = format!("{} is no directory", above.display());
                return Err(wrong(flag, path, &why, "name another place"));
            }
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn can_write(flag: &str, path: &Path, what: &Path) -> Result<(), Failure> {
    access(what, Access::WRITE_OK).map_err(|errno| {
        let error = std::io::Error::from(errno);
        let why = if what == path { error.to_string() } else { format!("{}: {error}", what.display()) };
        let failure = wrong(flag, path, &why, "name another place");
        Failure { class: io_class(&error, Class::Usage), ..failure }
    })
}

fn wrong(flag: &str, path: &Path, why: &str, fix: &str) -> Failure {
    let place = format!("{flag} {}", path.display());
    Failure::new(Class::Usage, &["cannot write there", place.trim(), why, fix])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a path below a directory that holds a file and a directory.
    fn check(test: impl Fn(&Path) -> Result<(), Failure>, expect: &[(&str, Option<&str>)]) {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("file"), "").unwrap();
        std::fs::create_dir(scratch.path().join("dir")).unwrap();
        for (name, part) in expect {
            let found = test(&scratch.path().join(name)).err();
            assert_eq!(found.is_some(), part.is_some(), "{name}: {found:?}");
            let line = found.map(|failure| failure.line).unwrap_or_default();
            assert!(line.contains(part.unwrap_or_default()), "{name}: {line}");
        }
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 2, "it only looks");
    }

    #[test]
    fn archives_go_where_a_file_can_be_made() {
        check(
            |path| archive("-o", path),
            &[
                ("new", None),
                ("file", None),
                ("no/such/directory/new", None),
                ("dir", Some("it is a directory")),
                ("file/new", Some("file is no directory")),
                ("file/a/new", Some("is no directory")),
            ],
        );
        assert!(archive("-o", Path::new("")).is_err());
        for path in ["-", "/dev/null", "x.tar"] {
            assert!(archive("-o", Path::new(path)).is_ok(), "{path}");
        }
    }

    #[test]
    fn directories_are_made_but_replace_no_file() {
        check(
            |path| directory("-o", path),
            &[("new", None), ("dir", None), ("no/such/new", None), ("file", Some("it is no directory"))],
        );
        assert!(directory("-o", Path::new("")).is_err());
    }

    #[test]
    fn small_files_need_their_directory() {
        check(
            |path| small_file(("--iidfile", path)),
            &[
                ("new", None),
                ("file", None),
                ("dir", Some("it is a directory")),
                ("no/new", Some("there is no directory")),
                ("file/new", Some("there is no directory")),
            ],
        );
        assert!(small_file(("--iidfile", Path::new("id"))).is_ok());
    }
}
