//! The files of a context that one instruction selects.

use oci::layer::{ContentHash, Entry, Kind};

use super::encode::Encoder;

/// Which files of a context an instruction wants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SelectionRequest {
    /// Paths and wildcards, cleaned and relative to the context's root. A directory stands for all below it.
    pub patterns: Vec<String>,
    /// Whether wildcards in `patterns` are special.
    pub wildcards: bool,
    /// `--parents` semantics of patterns (`**`, and the `/./` pivot kept in place).
    pub parents: bool,
    /// `--exclude` patterns. The context's own ignore file applies besides.
    pub excludes: Vec<String>,
    /// Whether a symlink named by a pattern is followed (COPY and ADD do, bind mounts of a root do not care).
    pub follow: bool,
}

/// What a request selected: every entry with its ancestors, sorted by path.
///
/// Owners are 0:0, as the field's builders send contexts; mtimes are kept for the layer but not hashed.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The entries, sorted by path components. Every file carries its content hash.
    pub entries: Vec<Entry>,
    content: Option<ContentHash>,
}

impl Selection {
    /// Makes a selection of entries sorted by path, each file with its content hash.
    pub fn new(entries: Vec<Entry>) -> Self {
        let mut encoder = Encoder::new("xbuild-selection-1");
        for entry in &entries {
            entry_without_mtime(&mut encoder, entry);
        }
        Self { entries, content: Some(ContentHash(encoder.finish())) }
    }

    /// Returns the digest of what the selection holds: paths, types, modes, owners, xattrs, bytes; not mtimes.
    pub fn content(&self) -> ContentHash {
        self.content.unwrap_or_else(|| ContentHash(Encoder::new("xbuild-selection-1").finish()))
    }
}

/// Encodes everything of an entry that identifies it, apart from its time.
pub(super) fn entry_without_mtime(encoder: &mut Encoder, entry: &Entry) {
    use std::os::unix::ffi::OsStrExt as _;
    encoder.bytes(entry.path.as_os_str().as_bytes());
    encoder.number(u64::from(entry.mode));
    encoder.number(u64::from(entry.uid));
    encoder.number(u64::from(entry.gid));
    encoder.number(entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        encoder.bytes(name);
        encoder.bytes(value);
    }
    match &entry.kind {
        Kind::File { size, content } => {
            encoder.number(1);
            encoder.number(*size);
            encoder.bytes(content.as_ref().map_or(&[][..], |hash| &hash.0));
        }
        Kind::Directory { opaque } => {
            encoder.number(2);
            encoder.number(u64::from(*opaque));
        }
        Kind::Symlink { target } => {
            encoder.number(3);
            encoder.bytes(target.as_os_str().as_bytes());
        }
        Kind::HardLink { target } => {
            encoder.number(4);
            encoder.bytes(target.as_os_str().as_bytes());
        }
        Kind::CharDevice(device) => {
            encoder.number(5);
            encoder.number(u64::from(device.major));
            encoder.number(u64::from(device.minor));
        }
        Kind::BlockDevice(device) => {
            encoder.number(6);
            encoder.number(u64::from(device.major));
            encoder.number(u64::from(device.minor));
        }
        Kind::Fifo => encoder.number(7),
        Kind::Whiteout => encoder.number(8),
    }
}

/// Returns the content id of a layer: its entries without times, files by their hash.
pub fn content_id<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> ContentHash {
    let mut encoder = Encoder::new("xbuild-content-1");
    for entry in entries {
        entry_without_mtime(&mut encoder, entry);
    }
    ContentHash(encoder.finish())
}
