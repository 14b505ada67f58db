//! Entries to the bytes of a layer tar: headers, padding and end. It does no IO and copies no content.
//!
//! The form is fixed, so that equal entries give equal bytes everywhere: path order, ustar headers without user
//! and group names, PAX records only for what ustar cannot say, whiteouts as empty files `.wh.NAME` of mode 0
//! and time 0, an opaque directory's mark right behind the directory (image-spec layer.md).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar_core::builder::EntryBuilder;
use tar_core::{EntryType, HEADER_SIZE, HeaderError, PAX_MTIME, PAX_SCHILY_XATTR};

use super::{Device, Entry, Kind, Mtime};

/// What names of whiteouts start with (image-spec layer.md, "Whiteouts").
pub const WHITEOUT_PREFIX: &str = ".wh.";

/// The name of the mark that makes its directory opaque.
pub const OPAQUE_NAME: &str = ".wh..wh..opq";

/// Two zero blocks end an archive.
pub const END: [u8; 2 * HEADER_SIZE] = [0; 2 * HEADER_SIZE];

/// Why an entry cannot be written into a layer.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A name that the layer format reserves for deletions.
    #[error(
        "{:?} cannot be stored in a layer: names that start with .wh. mean deletions there; \
         rename or remove it in the step that makes it",
        .0.display().to_string()
    )]
    Reserved(PathBuf),
    /// Entries have to come in path order, each path once.
    #[error("{:?} comes after {:?}: layer entries must be sorted and unique",
        .path.display().to_string(), .after.display().to_string())]
    Order {
        /// The entry.
        path: PathBuf,
        /// The one before.
        after: PathBuf,
    },
    /// A value that the tar format has no place for.
    #[error("{:?} cannot be stored in a layer: {what}", .path.display().to_string())]
    Unrepresentable {
        /// The entry.
        path: PathBuf,
        /// Which value.
        what: &'static str,
    },
    /// A number that the tar format has no place for.
    #[error("{:?} cannot be stored in a layer", .path.display().to_string())]
    Header {
        /// The entry.
        path: PathBuf,
        /// Which number.
        source: HeaderError,
    },
}

/// Turns entries, in order, into tar headers.
#[derive(Debug, Default)]
pub struct Encoder {
    last: Option<PathBuf>,
}

impl Encoder {
    /// Appends the header blocks of `entry` to `out`. For a file, its bytes and [`padding`] have to follow.
    ///
    /// # Errors
    /// [`WriteError`], each naming the path.
    pub fn entry(&mut self, entry: &Entry, out: &mut Vec<u8>) -> Result<(), WriteError> {
        if let Some(last) = self.last.take_if(|last| *last >= entry.path) {
            return Err(WriteError::Order { path: entry.path.clone(), after: last });
        }
        check_names(&entry.path)?;
        if entry.path.as_os_str().len() >= 4096 {
            // PATH_MAX: no tool could unpack it by its path.
            return Err(unrepresentable(&entry.path, "its path is longer than 4095 bytes"));
        }
        append(entry, out)?;
        self.last = Some(entry.path.clone());
        Ok(())
    }
}

/// Returns the number of zero bytes that follow a file of `size` bytes.
pub const fn padding(size: u64) -> usize {
    let over = (size % HEADER_SIZE as u64) as usize;
    if over == 0 { 0 } else { HEADER_SIZE - over }
}

/// Refuses names that would be read as deletions.
///
/// # Errors
/// [`WriteError::Reserved`].
pub fn check_names(path: &Path) -> Result<(), WriteError> {
    let reserved = |part: &std::ffi::OsStr| part.as_bytes().starts_with(WHITEOUT_PREFIX.as_bytes());
    if path.iter().any(reserved) { Err(WriteError::Reserved(path.to_owned())) } else { Ok(()) }
}

fn append(entry: &Entry, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let path = &entry.path;
    let header = |source| WriteError::Header { path: path.clone(), source };
    let mut builder = blank();
    match &entry.kind {
        Kind::File { size, .. } => {
            builder.path(name(path)).entry_type(EntryType::Regular).size(*size).map_err(header)?;
        }
        Kind::Directory { .. } => {
            builder.path(directory_name(path)).entry_type(EntryType::Directory);
        }
        Kind::Symlink { target } => {
            builder.path(name(path)).entry_type(EntryType::Symlink).link_name(link(path, target)?);
        }
        Kind::HardLink { target } => {
            builder.path(name(path)).entry_type(EntryType::Link).link_name(link(path, target)?);
        }
        Kind::CharDevice(Device { major, minor }) => {
            let builder = builder.path(name(path)).entry_type(EntryType::Char);
            builder.device(*major, *minor).map_err(header)?;
        }
        Kind::BlockDevice(Device { major, minor }) => {
            let builder = builder.path(name(path)).entry_type(EntryType::Block);
            builder.device(*major, *minor).map_err(header)?;
        }
        Kind::Fifo => {
            builder.path(name(path)).entry_type(EntryType::Fifo);
        }
        Kind::Whiteout => {
            let Some(removed) = path.file_name() else {
                return Err(unrepresentable(path, "a deletion of the root"));
            };
            let mark = [WHITEOUT_PREFIX.as_bytes(), removed.as_bytes()].concat();
            return append_mark(&sibling(path.parent(), &mark), path, out);
        }
    }
    put_metadata(&mut builder, entry)?;
    put_blocks(&mut builder, out);
    if matches!(entry.kind, Kind::Directory { opaque: true }) {
        append_mark(&sibling(Some(path), OPAQUE_NAME.as_bytes()), path, out)?;
    }
    Ok(())
}

fn append_mark(mark: &[u8], path: &Path, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let mut builder = blank();
    builder.path(mark).entry_type(EntryType::Regular);
    put_metadata(&mut builder, &Entry::plain(path, Kind::Whiteout, 0))?;
    put_blocks(&mut builder, out);
    Ok(())
}

/// An unset number field would be NULs, which the `tar` crate and strict readers refuse.
fn blank() -> EntryBuilder {
    let mut builder = EntryBuilder::new_ustar();
    builder.size(0).and_then(|builder| builder.device(0, 0)).expect("zero fits");
    builder
}

fn put_metadata(builder: &mut EntryBuilder, entry: &Entry) -> Result<(), WriteError> {
    let header = |source| WriteError::Header { path: entry.path.clone(), source };
    builder.mode(entry.mode & 0o7777).map_err(header)?;
    builder.uid(entry.uid.into()).map_err(header)?;
    builder.gid(entry.gid.into()).map_err(header)?;
    put_mtime(builder, entry.mtime).map_err(header)?;
    for (attribute, value) in &entry.xattrs {
        let attribute = std::str::from_utf8(attribute).ok().filter(|name| !name.contains('='));
        let Some(attribute) = attribute else {
            return Err(unrepresentable(&entry.path, "an extended attribute's name is not UTF-8 or has a ="));
        };
        builder.add_pax(&format!("{PAX_SCHILY_XATTR}{attribute}"), value);
    }
    Ok(())
}

/// Whole seconds from 1970 on fit ustar (larger ones become PAX in the builder); all else is a PAX decimal.
fn put_mtime(builder: &mut EntryBuilder, mtime: Mtime) -> Result<(), HeaderError> {
    let whole = u64::try_from(mtime.seconds).ok();
    match whole {
        Some(seconds) if mtime.nanoseconds == 0 => builder.mtime(seconds)?,
        Some(_) | None => {
            // The header's own field is not consulted where the record is present (POSIX pax, "mtime").
            builder.mtime(whole.filter(|seconds| *seconds < 1 << 33).unwrap_or(0))?;
            builder.add_pax(PAX_MTIME, decimal(mtime))
        }
    };
    Ok(())
}

/// Writes seconds with as many decimals as needed: -5 s + 0.5 s is `-4.5`.
fn decimal(mtime: Mtime) -> String {
    if mtime.nanoseconds == 0 {
        return mtime.seconds.to_string();
    }
    let (sign, seconds, nanoseconds) = if mtime.seconds < 0 {
        ("-", (mtime.seconds + 1).unsigned_abs(), 1_000_000_000 - mtime.nanoseconds)
    } else {
        ("", mtime.seconds.unsigned_abs(), mtime.nanoseconds)
    };
    format!("{sign}{seconds}.{nanoseconds:09}").trim_end_matches('0').to_owned()
}

fn put_blocks(builder: &mut EntryBuilder, out: &mut Vec<u8>) {
    for block in builder.finish() {
        out.extend_from_slice(block.as_bytes());
    }
}

fn name(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn directory_name(path: &Path) -> Vec<u8> {
    if path.as_os_str().is_empty() { b"./".to_vec() } else { [name(path), b"/"].concat() }
}

fn sibling(directory: Option<&Path>, file: &[u8]) -> Vec<u8> {
    match directory.map(name) {
        None | Some(b"") => file.to_vec(),
        Some(directory) => [directory, b"/", file].concat(),
    }
}

fn link<'a>(path: &Path, target: &'a Path) -> Result<&'a [u8], WriteError> {
    let target = name(target);
    if target.is_empty() { Err(unrepresentable(path, "its link target is empty")) } else { Ok(target) }
}

fn unrepresentable(path: &Path, what: &'static str) -> WriteError {
    WriteError::Unrepresentable { path: path.to_owned(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shortest_decimals() {
        let check = |seconds, nanoseconds, expect: &str| {
            assert_eq!(decimal(Mtime { seconds, nanoseconds }), expect);
        };
        check(5, 0, "5");
        check(5, 500_000_000, "5.5");
        check(-5, 500_000_000, "-4.5");
        check(-1, 999_999_999, "-0.000000001");
        check(-1, 0, "-1");
        check(0, 1, "0.000000001");
    }

    #[test]
    fn plain_entries_take_one_block() {
        let mut out = Vec::new();
        let mut entry = Entry::plain("a/b", Kind::File { size: 3, content: None }, 0o644);
        entry.mtime.seconds = 1_700_000_000;
        Encoder::default().entry(&entry, &mut out).unwrap();
        assert_eq!(out.len(), HEADER_SIZE);
        assert_eq!(&out[..4], b"a/b\0");
        assert_eq!(&out[257..265], b"ustar\x0000");
        assert_eq!(&out[265..329], &[0; 64], "no user or group names");
    }

    #[test]
    fn ovl_05_reserved_names_are_refused() {
        for path in [".wh.x", "a/.wh.b", "a/.wh..wh..opq", ".wh.", "a/.wh.b/c"] {
            let entry = Entry::plain(path, Kind::File { size: 0, content: None }, 0o644);
            let result = Encoder::default().entry(&entry, &mut Vec::new());
            assert!(matches!(result, Err(WriteError::Reserved(_))), "{path}");
        }
    }

    #[test]
    fn tar_57_duplicates_and_disorder_are_refused() {
        let mut encoder = Encoder::default();
        encoder.entry(&Entry::directory("a", 0o755), &mut Vec::new()).unwrap();
        let twice = encoder.entry(&Entry::whiteout("a"), &mut Vec::new());
        assert!(matches!(twice, Err(WriteError::Order { .. })));
    }
}
