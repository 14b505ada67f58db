//! One tar header with its extensions to one member of a layer, strictly. No IO, no state between members.
//!
//! Archives that different readers understand differently hide files from scanners (CVE-2025-62518 and kin).
//! tar-core resolves the formats but lets some malformed values pass; what it lets pass is refused here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, GNU_MAGIC, GNU_VERSION, HEADER_SIZE, Header, USTAR_MAGIC, USTAR_VERSION};

use super::fields::{Refusal, Result, clean, decimal, number, parse_time, pax_records, refuse};
use super::writer::{OPAQUE_NAME, WHITEOUT_PREFIX};
use super::{Device, Entry, Kind, Mtime, Xattrs};

/// What a tar member means for the layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// An object, or the removal of one.
    Object(Entry),
    /// Everything that lower layers have in this directory is hidden.
    Opaque(PathBuf),
}

/// Something in an archive that was left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    /// An attribute that would steer overlayfs on this machine.
    OverlayXattr {
        /// Whose.
        path: PathBuf,
        /// Its name.
        name: Vec<u8>,
    },
    /// Bookkeeping of aufs, which Docker leaves out as well.
    AufsMetadata(PathBuf),
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OverlayXattr { path, name } => {
                write!(f, "left out attribute {} of {path:?}", name.escape_ascii())
            }
            Self::AufsMetadata(path) => write!(f, "left out {path:?}"),
        }
    }
}

/// Checks the raw blocks in front of a member: `blocks` ends with the member's own header.
pub(super) fn check_chain(blocks: &[u8], entry: &ParsedEntry<'_>) -> Result<()> {
    let mut rest = blocks;
    let (mut long_name, mut long_link) = (false, false);
    loop {
        let header = Header::from_bytes(rest.first_chunk().ok_or(Refusal("header cut off".into()))?);
        check_header(header)?;
        match header.entry_type() {
            EntryType::GnuLongName => long_name = true,
            EntryType::GnuLongLink => long_link = true,
            EntryType::XHeader => {}
            EntryType::XGlobalHeader
            | EntryType::Regular
            | EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Directory
            | EntryType::Fifo
            | EntryType::Continuous
            | EntryType::GnuSparse
            | EntryType::Other(_) => break,
        }
        let size = header.entry_size().map_err(|error| Refusal(error.to_string()))?;
        let skip = usize::try_from(size.next_multiple_of(HEADER_SIZE as u64)).unwrap_or(usize::MAX);
        rest = rest.get(HEADER_SIZE.saturating_add(skip)..).unwrap_or_default();
    }
    // Go lets the GNU name win over the PAX one, GNU tar and Python the other way round.
    let records = pax_records(entry.pax.unwrap_or_default())?;
    let has = |key: &str| records.iter().any(|(name, _)| *name == key.as_bytes());
    if long_name && has("path") || long_link && has("linkpath") {
        return refuse("it has both a GNU and a PAX long name");
    }
    Ok(())
}

/// Refuses number fields that readers disagree on, and headers of an unknown format.
fn check_header(header: &Header) -> Result<()> {
    let bytes = header.as_bytes();
    let magic = &bytes[257..265];
    let ustar = magic[..6] == USTAR_MAGIC[..] && magic[6..] == USTAR_VERSION[..];
    let gnu = magic[..6] == GNU_MAGIC[..] && magic[6..] == GNU_VERSION[..];
    if !ustar && !gnu && magic != [0; 8] {
        return refuse("its header has an unknown format");
    }
    let extension = matches!(bytes[156], b'x' | b'g' | b'L' | b'K' | b'S');
    if extension && !ustar && !gnu {
        return refuse("an extension header has no format mark");
    }
    let fields = [("mode", 100..108), ("uid", 108..116), ("gid", 116..124), ("size", 124..136)];
    for (name, range) in fields {
        if number(&bytes[range]).is_none_or(|number| number < 0) {
            return refuse(format!("its {name} is malformed"));
        }
    }
    match number(&bytes[136..148]) {
        Some(_) => Ok(()),
        None => refuse("its mtime is malformed"),
    }
}

/// Refuses a global header that changes the members behind it: containerd ignores those, GNU tar applies them.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    let changing = ["path", "linkpath", "size", "uid", "gid", "uname", "gname", "mtime"];
    for (key, _) in pax_records(data)? {
        let key = String::from_utf8_lossy(key);
        if changing.contains(&&*key) || key.starts_with("SCHILY.") || key.starts_with("GNU.sparse.") {
            return refuse(format!("a global header sets {key:?}"));
        }
    }
    Ok(())
}

/// Builds the member. `size` is the file's size with holes, `None` for a sparse file where `entry.size` is
/// what is stored.
pub(super) fn member(
    entry: &ParsedEntry<'_>,
    sparse_size: Option<u64>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Member>> {
    let records = pax_records(entry.pax.unwrap_or_default())?;
    check_records(&records, sparse_size)?;
    let path = clean(&entry.path)?;
    let flag = entry.header.as_bytes()[156];
    let (kind, stored) = kind(entry, flag, sparse_size)?;
    if !stored && entry.size != 0 {
        return refuse("it is no file and has content");
    }
    if let Some(special) = whiteout(&path, &kind, entry.size, warnings)? {
        return Ok(special);
    }
    if path.as_os_str().is_empty() && !matches!(kind, Kind::Directory { .. }) {
        return refuse("the root must be a directory");
    }
    check_lengths(&path, &kind)?;
    let xattrs = xattrs(&path, &records, warnings)?;
    Ok(Some(Member::Object(Entry {
        kind,
        mode: entry.mode & 0o7777,
        uid: id("uid", entry.uid)?,
        gid: id("gid", entry.gid)?,
        mtime: mtime(entry, &records)?,
        xattrs,
        path,
    })))
}

fn check_records(records: &[(&[u8], &[u8])], sparse_size: Option<u64>) -> Result<()> {
    for (key, value) in records {
        let name = String::from_utf8_lossy(key);
        match &*name {
            "size" | "uid" | "gid" if decimal(value).is_none() => {
                return refuse(format!("its PAX {name} is no number"));
            }
            "path" | "linkpath" if value.is_empty() || value.contains(&0) => {
                return refuse(format!("its PAX {name} is empty or has a NUL"));
            }
            sparse if sparse.starts_with("GNU.sparse.") && sparse_size.is_none() => {
                return refuse("its PAX records describe a sparse file incompletely");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Returns the kind and whether content may follow.
fn kind(entry: &ParsedEntry<'_>, flag: u8, sparse_size: Option<u64>) -> Result<(Kind, bool)> {
    let slash = entry.path.ends_with(b"/");
    if sparse_size.is_some() && !matches!(flag, 0 | b'0' | b'7' | b'S') {
        return refuse("it is sparse and no file");
    }
    Ok(match entry.entry_type {
        // Version 7 archives mark directories by the slash alone.
        EntryType::Regular if flag == 0 && slash => (Kind::Directory { opaque: false }, false),
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse if slash => {
            return refuse("it is a file whose name ends with a slash");
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse => {
            (Kind::File { size: sparse_size.unwrap_or(entry.size), content: None }, true)
        }
        EntryType::Directory => (Kind::Directory { opaque: false }, false),
        EntryType::Symlink => (Kind::Symlink { target: symlink_target(entry)? }, false),
        EntryType::Link => (Kind::HardLink { target: hard_link_target(entry)? }, false),
        EntryType::Char => (Kind::CharDevice(device(entry)?), false),
        EntryType::Block => (Kind::BlockDevice(device(entry)?), false),
        EntryType::Fifo => (Kind::Fifo, false),
        EntryType::GnuLongName
        | EntryType::GnuLongLink
        | EntryType::XHeader
        | EntryType::XGlobalHeader
        | EntryType::Other(_) => {
            return refuse(format!("its type {:?} is unknown", char::from(flag)));
        }
    })
}

fn symlink_target(entry: &ParsedEntry<'_>) -> Result<PathBuf> {
    match entry.link_target.as_deref() {
        Some(target) if !target.contains(&0) => Ok(PathBuf::from(OsStr::from_bytes(target))),
        Some(_) | None => refuse("its link target is empty or has a NUL"),
    }
}

fn hard_link_target(entry: &ParsedEntry<'_>) -> Result<PathBuf> {
    let target = clean(entry.link_target.as_deref().unwrap_or_default())?;
    if target.as_os_str().is_empty() { refuse("it is a hard link to the root") } else { Ok(target) }
}

/// A character device 0:0 is overlayfs's own whiteout: it would delete a lower file without saying so.
fn device(entry: &ParsedEntry<'_>) -> Result<Device> {
    let (Some(major), Some(minor)) = (entry.dev_major, entry.dev_minor) else {
        return refuse("its device numbers are missing");
    };
    if entry.entry_type == EntryType::Char && (major, minor) == (0, 0) {
        return refuse("it is a whiteout device (0:0); deletions are written .wh.NAME");
    }
    Ok(Device { major, minor })
}

/// Refuses what no tool can create by its path: NAME_MAX is 255, PATH_MAX is 4096 with the NUL (TAR-52).
fn check_lengths(path: &Path, kind: &Kind) -> Result<()> {
    if path.as_os_str().len() >= 4096 || path.iter().any(|name| name.len() > 255) {
        return refuse("its name is too long (4095 bytes, 255 a component)");
    }
    match kind {
        Kind::Symlink { target } if target.as_os_str().len() >= 4096 => {
            refuse("its link target is too long (4095 bytes)")
        }
        Kind::Symlink { .. }
        | Kind::File { .. }
        | Kind::Directory { .. }
        | Kind::HardLink { .. }
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Fifo
        | Kind::Whiteout => Ok(()),
    }
}

/// Recognises deletions: `None` where the member is an ordinary one.
#[expect(
    clippy::option_option,
    reason = "the inner value is the answer: nothing at all for metadata of aufs"
)]
fn whiteout(
    path: &Path,
    kind: &Kind,
    size: u64,
    warnings: &mut Vec<Warning>,
) -> Result<Option<Option<Member>>> {
    let parent = path.parent().unwrap_or(Path::new(""));
    if parent.iter().any(is_aufs) {
        return Ok(Some(None));
    }
    if parent.iter().any(|part| part.as_bytes().starts_with(WHITEOUT_PREFIX.as_bytes())) {
        return refuse("it lies inside a whiteout");
    }
    let Some(name) = path.file_name() else { return Ok(None) };
    let Some(removed) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX.as_bytes()) else { return Ok(None) };
    if is_aufs(name) {
        warnings.push(Warning::AufsMetadata(path.to_owned()));
        return Ok(Some(None));
    }
    if removed.is_empty() || removed == b"." || removed == b".." {
        return refuse("it is a whiteout without a name");
    }
    // aufs wrote whiteouts as hard links to one file; anything else is not "an empty file" (layer.md).
    if !matches!(kind, Kind::File { .. } | Kind::HardLink { .. }) || size != 0 {
        return refuse("it is a whiteout and no empty file");
    }
    if name == OPAQUE_NAME {
        return Ok(Some(Some(Member::Opaque(parent.to_owned()))));
    }
    Ok(Some(Some(Member::Object(Entry::whiteout(parent.join(OsStr::from_bytes(removed)))))))
}

/// `.wh..wh.plnk`, `.wh..wh.aufs`, `.wh..wh.orph`: everything with the doubled prefix but the opaque mark.
fn is_aufs(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".wh..wh.") && name != OPAQUE_NAME
}

fn xattrs(path: &Path, records: &[(&[u8], &[u8])], warnings: &mut Vec<Warning>) -> Result<Xattrs> {
    let mut xattrs = Xattrs::new();
    for (key, value) in records {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else { continue };
        if name.is_empty() {
            return refuse("an extended attribute has no name");
        }
        if is_overlay_xattr(name) {
            warnings.push(Warning::OverlayXattr { path: path.to_owned(), name: name.to_vec() });
            continue;
        }
        xattrs.insert(name.to_vec(), value.to_vec());
    }
    Ok(xattrs)
}

/// Whether overlayfs gives this attribute a meaning: in a layer it could redirect into other directories.
pub fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The kernel reads the id 2^32-1 as "leave unchanged".
fn id(which: &str, number: u64) -> Result<u32> {
    match u32::try_from(number) {
        Ok(id) if id != u32::MAX => Ok(id),
        Ok(_) | Err(_) => refuse(format!("its {which} {number} is out of range 0..4294967294")),
    }
}

fn mtime(entry: &ParsedEntry<'_>, records: &[(&[u8], &[u8])]) -> Result<Mtime> {
    if let Some((_, value)) = records.iter().rfind(|(key, _)| *key == b"mtime") {
        return parse_time(value).ok_or_else(|| Refusal("its PAX mtime is no decimal number".into()));
    }
    let seconds = number(&entry.header.as_bytes()[136..148]).unwrap_or_default();
    let clamped = i64::try_from(seconds).unwrap_or(i64::MAX);
    Ok(Mtime { seconds: clamped, nanoseconds: 0 })
}
