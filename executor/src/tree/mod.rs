//! File trees as COPY, ADD, WORKDIR and USER see them: what is where, of which kind, and where its bytes are.
//!
//! A [`Tree`] answers for a stack of layer indexes, the selected files of a context, a live directory or a
//! table in memory. It never follows a symbolic link by itself: [`resolve`](resolve()) does, and stays inside
//! the root. Nothing here writes.

mod beneath;
mod directory;
mod find;
mod memory;
mod merged;
mod nearest;
mod order;
mod resolve;
mod selected;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::layer::Entry;

pub use beneath::{open_beneath, open_directory_beneath, open_root};
pub use directory::Directory;
pub(crate) use directory::{entry_of, list, read_link, stat_at};
pub use find::{Found, find};
pub use memory::Memory;
pub use merged::{Merged, MergedLayer};
pub use nearest::nearest;
pub use order::compare as compare_paths;
pub(crate) use order::key;
pub use resolve::{Last, MAX_LINKS, Resolved, resolve};
pub use selected::Selected;

/// A file tree with one root. Paths are relative to it and cleaned; the root is the empty path.
pub trait Tree: Send + Sync {
    /// Returns what is at `path`. No component is followed if it is a symbolic link: what stands "below" one
    /// does not exist.
    ///
    /// # Errors
    /// [`TreeError::Call`].
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError>;

    /// Returns what is directly inside a directory, in name order; nothing for anything else.
    ///
    /// # Errors
    /// [`TreeError::Call`].
    fn children(&self, directory: &Path) -> Result<Vec<Node>, TreeError>;

    /// Returns where the bytes of the regular file at `path` are.
    ///
    /// # Errors
    /// [`TreeError::NotRegular`], [`TreeError::NotUnpacked`].
    fn content(&self, path: &Path) -> Result<Content, TreeError>;

    /// Reads a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// [`TreeError::TooLarge`] and those of [`Self::content`].
    fn read(&self, path: &Path, limit: u64) -> Result<Vec<u8>, TreeError> {
        read_content(self, path, limit)
    }
}

/// Reads a regular file of at most `limit` bytes through its [`Content`].
fn read_content(tree: &(impl Tree + ?Sized), path: &Path, limit: u64) -> Result<Vec<u8>, TreeError> {
    let content = tree.content(path)?;
    let call = |source| TreeError::Call { call: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    content.open().map_err(call)?.take(limit + 1).read_to_end(&mut bytes).map_err(call)?;
    if bytes.len() as u64 > limit {
        return Err(TreeError::TooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// What a tree has at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The object. Never a whiteout and never a hard link: a second name shows the file it names.
    pub entry: Entry,
    /// What its other names have in common with it, where it has other names in the tree.
    pub inode: Option<Inode>,
}

/// Identity of a file with several names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode {
    /// Which layer has it; 0 where there are no layers.
    pub layer: usize,
    /// Its first name.
    pub name: PathBuf,
}

/// Where the bytes of a regular file are. Its size, and its hash where that is known, stand in the entry.
#[derive(Debug, Clone)]
pub enum Content {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// In a file beneath a directory; opened without following any symbolic link.
    Beneath {
        /// The directory.
        root: Arc<OwnedFd>,
        /// Path of the file.
        path: PathBuf,
    },
    /// In a part of an open file.
    Range {
        /// The file. Its position is shared: readers use positioned reads.
        file: Arc<File>,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

/// Why a tree has no answer.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A system call did not succeed.
    #[error("{call} {:?}", .path.display().to_string())]
    Call {
        /// Which call.
        call: &'static str,
        /// Path inside the tree.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More links than [`MAX_LINKS`] were followed.
    #[error("too many levels of symbolic links: {:?}", .0.display().to_string())]
    Loop(PathBuf),
    /// A component in the middle of a path is no directory.
    #[error("{:?} is not a directory", .0.display().to_string())]
    NotDirectory(PathBuf),
    /// The bytes of something that is no regular file were asked for.
    #[error("{:?} is not a regular file", .0.display().to_string())]
    NotRegular(PathBuf),
    /// The bytes are in a layer that is not unpacked.
    #[error("{:?} is in layer {layer} of the stack, which is not unpacked", .path.display().to_string())]
    NotUnpacked {
        /// The file.
        path: PathBuf,
        /// Position of the layer, 0 is the lowest.
        layer: usize,
    },
    /// A file is larger than its reader accepts.
    #[error("{:?} is larger than {limit} bytes", .path.display().to_string())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
}

impl Node {
    /// Wraps an entry with one name.
    pub const fn new(entry: Entry) -> Self {
        Self { entry, inode: None }
    }
}

impl Content {
    /// Opens the bytes for reading, never waiting on a pipe and never following a link.
    ///
    /// # Errors
    /// Those of opening; what is no regular file is an `InvalidInput`.
    pub fn open(&self) -> io::Result<Box<dyn io::Read + Send>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
            Self::Beneath { root, path } => Box::new(open_beneath(root, path)?),
            Self::Range { file, offset, length } => {
                Box::new(RangeReader { file: Arc::clone(file), offset: *offset, left: *length })
            }
        })
    }
}

impl Content {
    /// Returns the bytes as the packer takes them: a file is opened when its turn comes.
    pub fn into_pack(self) -> oci::pack::Content {
        match self {
            Self::Bytes(bytes) => oci::pack::Content::Bytes(bytes.to_vec()),
            Self::Beneath { root, path } => oci::pack::Content::open_with(move || open_beneath(&root, &path)),
            Self::Range { file, offset, length } => {
                oci::pack::Content::Stream(Box::new(RangeReader { file, offset, left: length }))
            }
        }
    }
}

/// Reads a part of a file by position, so that many readers share one descriptor.
struct RangeReader {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl io::Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        self.offset += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The root is there even where nothing describes it.
fn implied_root(path: &Path) -> Option<Node> {
    path.as_os_str().is_empty().then(|| Node::new(Entry::directory("", 0o755)))
}

/// A tree with nothing in it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Empty;

impl Tree for Empty {
    fn lstat(&self, path: &Path) -> Result<Option<Node>, TreeError> {
        Ok(implied_root(path))
    }

    fn children(&self, _: &Path) -> Result<Vec<Node>, TreeError> {
        Ok(Vec::new())
    }

    fn content(&self, path: &Path) -> Result<Content, TreeError> {
        Err(TreeError::NotRegular(path.to_owned()))
    }
}
