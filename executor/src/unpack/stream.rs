//! Unpacking in the same pass in which an archive is scanned, before it is known where its files belong.
//!
//! Each file is written under the number of its member into a flat directory; when the whole archive is known
//! and resolved, files are moved to their places. So a base layer is read and decompressed once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use oci::digest::Algorithm;
use oci::layer::{ContentHash, Kind, Limits, Resolved, Scan, Source, scan_with};
use rustix::fs::{Mode, OFlags};

use super::{LeftOut, UnpackError, Unpacker, metadata};
use crate::layers::Flavour;

/// The files of an archive, waiting to be moved.
#[derive(Debug)]
pub struct Streamed {
    /// What the archive holds.
    pub scan: Scan,
    /// Positions of the members whose files were written.
    written: BTreeSet<usize>,
    left_out: Vec<LeftOut>,
}

/// Reads the archive `tar` and writes its files into the empty directory `files`, on the file system on which the
/// layer will be.
///
/// # Errors
/// [`UnpackError`].
pub fn stream(
    files: BorrowedFd<'_>,
    tar: impl Read,
    limits: Limits,
    algorithm: Algorithm,
    flavour: Flavour,
) -> Result<Streamed, UnpackError> {
    let born = metadata::born_below(files);
    let mut written = BTreeSet::new();
    let mut left_out = Vec::new();
    let mut buffer = vec![0; super::BUFFER];
    let scan = scan_with(tar, limits, algorithm, &mut |position, entry, content| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(files, name(position), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(UnpackError::call("openat", entry))?);
        let hash = super::copy(content, &mut file, entry, &mut buffer)?;
        metadata::set_on_handle(file.as_fd(), entry, born, flavour, &mut left_out)?;
        written.insert(position);
        Ok::<_, UnpackError>(ContentHash(hash.into()))
    })?;
    Ok(Streamed { scan, written, left_out })
}

/// Builds the layer in the empty directory `root` from the files that were written into `files`. `resolved` is
/// made from [`Streamed::scan`]; `below` opens files of the layers below.
///
/// # Errors
/// [`UnpackError`]; `root` is then incomplete and to be thrown away.
pub fn assemble(
    root: BorrowedFd<'_>,
    files: BorrowedFd<'_>,
    streamed: &Streamed,
    resolved: &Resolved,
    flavour: Flavour,
    below: &mut dyn FnMut(usize, &Path) -> io::Result<File>,
) -> Result<Vec<LeftOut>, UnpackError> {
    let mut unpacker = Unpacker::new(root, flavour);
    unpacker.left_out.clone_from(&streamed.left_out);
    for (entry, source) in resolved.index.entries().iter().zip(&resolved.sources) {
        if entry.is_directory() {
            unpacker.make_directory(entry)?;
        }
        match source {
            Source::Member(position) if matches!(entry.kind, Kind::File { .. }) => {
                if !streamed.written.contains(position) {
                    return Err(UnpackError::Differs { path: entry.path.clone() });
                }
                let (parent, to) =
                    unpacker.cursor.parent_of(&entry.path).map_err(UnpackError::call("openat", entry))?;
                rustix::fs::renameat(files, name(*position), parent, to)
                    .map_err(UnpackError::call("renameat", entry))?;
            }
            Source::Below { layer, path } => unpacker.make_below(entry, *layer, path, below)?,
            Source::Member(_) | Source::None => {}
        }
    }
    unpacker.finish(&resolved.index)
}

fn name(position: usize) -> String {
    position.to_string()
}
