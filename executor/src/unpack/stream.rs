//! Unpacking in the same pass in which an archive is scanned, before it is known where its files belong.
//!
//! Each file is written under the number of its member into a flat directory; when the whole archive is known
//! and resolved, files are moved to their places. So a base layer is read and decompressed once.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Builder;

use oci::digest::Algorithm;
use oci::layer::{ContentHash, Entry, Kind, Limits, Resolved, Scan, Source, scan_with};
use rustix::fs::{Mode, OFlags};

use super::{LeftOut, UnpackError, Unpacker, metadata};
use crate::layers::Flavour;
use crate::owner::Ids;

/// The files of an archive, waiting to be moved.
#[derive(Debug)]
pub struct Streamed {
    /// What the archive holds.
    pub scan: Scan,
    /// Positions of the members whose files were written.
    written: BTreeSet<usize>,
    left_out: Vec<LeftOut>,
}

/// Bytes that are handed over at once, and how many such pieces may wait: memory does not grow with the layer.
const PIECE: usize = 64 << 10;
const WAITING: usize = 128;

/// A part of a file on its way to the thread that writes.
enum Piece {
    /// The first bytes of the file at a position.
    Start(usize, Entry, Vec<u8>),
    /// The next bytes of the same file.
    More(Vec<u8>),
}

/// Reads the archive `tar` and writes its files into the empty directory `files`, on the file system on which the
/// layer will be. Reading goes on while another thread writes.
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
    let (sender, receiver) = sync_channel(WAITING);
    std::thread::scope(|scope| {
        let writer = Writer::new(files, flavour);
        let writer = Builder::new().name("unpack".to_owned()).spawn_scoped(scope, || writer.run(receiver));
        let failed = |source| UnpackError::Call { call: "clone", path: PathBuf::new(), source };
        let writer = writer.map_err(failed)?;
        let scan = scan_with(tar, limits, algorithm, &mut |position, entry, content| {
            send(position, entry, content, &sender)
        });
        drop(sender);
        let writer = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The writer is behind: its error is the earlier one, and that it has gone is all that the reader knows.
        let Writer { written, left_out, .. } = writer?;
        Ok(Streamed { scan: scan?, written, left_out })
    })
}

/// Reads one file to its end, passes it on and returns its hash.
fn send(
    position: usize,
    entry: &Entry,
    content: &mut dyn Read,
    sender: &SyncSender<Piece>,
) -> Result<ContentHash, UnpackError> {
    let mut hasher = blake3::Hasher::new();
    let mut left = entry.size();
    let mut start = Some((position, entry.clone()));
    while left > 0 || start.is_some() {
        let wanted = left.min(PIECE as u64);
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).expect("a piece is small"));
        let read = content.take(wanted).read_to_end(&mut bytes);
        let read = read.map_err(|source| UnpackError::Source { path: entry.path.clone(), source })? as u64;
        if read < wanted {
            return Err(UnpackError::Differs { path: entry.path.clone() });
        }
        hasher.update(&bytes);
        left -= read;
        let piece = match start.take() {
            Some((position, entry)) => Piece::Start(position, entry, bytes),
            None => Piece::More(bytes),
        };
        let gone = |_| UnpackError::Differs { path: entry.path.clone() };
        sender.send(piece).map_err(gone)?;
    }
    Ok(ContentHash(hasher.finalize().into()))
}

/// What writes the files.
struct Writer<'a> {
    files: BorrowedFd<'a>,
    flavour: Flavour,
    born: Option<Ids>,
    written: BTreeSet<usize>,
    left_out: Vec<LeftOut>,
}

impl<'a> Writer<'a> {
    fn new(files: BorrowedFd<'a>, flavour: Flavour) -> Self {
        let born = metadata::born_below(files);
        Self { files, flavour, born, written: BTreeSet::new(), left_out: Vec::new() }
    }

    /// Writes until nobody sends any more.
    fn run(mut self, pieces: Receiver<Piece>) -> Result<Self, UnpackError> {
        while let Ok(piece) = pieces.recv() {
            // A file's pieces follow its first one.
            if let Piece::Start(position, entry, bytes) = piece {
                self.write(position, &entry, bytes, &pieces)?;
            }
        }
        Ok(self)
    }

    fn write(
        &mut self,
        position: usize,
        entry: &Entry,
        first: Vec<u8>,
        pieces: &Receiver<Piece>,
    ) -> Result<(), UnpackError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.files, name(position), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(UnpackError::call("openat", entry))?);
        let mut left = entry.size() - first.len() as u64;
        file.write_all(&first).map_err(UnpackError::call("write", entry))?;
        while left > 0 {
            // The reader has failed, and says why.
            let Ok(Piece::More(bytes)) = pieces.recv() else { return Ok(()) };
            file.write_all(&bytes).map_err(UnpackError::call("write", entry))?;
            left -= bytes.len() as u64;
        }
        metadata::set_on_handle(file.as_fd(), entry, self.born, self.flavour, &mut self.left_out)?;
        self.written.insert(position);
        Ok(())
    }
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
