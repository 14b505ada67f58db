//! ADD of archives: recognising them by content, and their members as planned entries.
//!
//! The archive is decompressed once; the bytes of its files go to a spool file without a name, so that memory
//! stays bounded and the packer can read them in path order. Members are applied one after another as
//! `tar -x` in the image would: through links of the image and of the archive itself, never out of the root.

use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::compress::Decoder;
use oci::layer::{ContentHash, Entry, Kind, Member, Reader, TarError};
use rustix::fs::{Mode, OFlags};

use super::copier::Copier;
use super::sources::Match;
use super::{CopyError, Devices, Source};
use crate::owner::Ids;
use crate::tree::{Content, Last, Tree};

/// Size of a tar header.
const BLOCK: usize = 512;

/// Returns whether a regular file is a tar archive, compressed or not: whether its first block, decompressed,
/// is a header with the right checksum. What cannot be decompressed is no archive.
pub fn is_archive(tree: &dyn Tree, path: &Path) -> Result<bool, CopyError> {
    let content = tree.content(path).map_err(|source| CopyError::Tree { path: path.to_owned(), source })?;
    let input = content.open().map_err(|source| CopyError::Read { path: path.to_owned(), source })?;
    let mut block = [0; BLOCK];
    let first = Decoder::new(BufReader::new(input)).and_then(|(mut input, _)| input.read_exact(&mut block));
    Ok(first.is_ok() && is_header(&block))
}

/// Whether the checksum of a header is right; the sum counts its own field as spaces (pax(1), "ustar").
fn is_header(block: &[u8; BLOCK]) -> bool {
    let field = &block[148..156];
    let text = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
    let stored = text.fold(0_u64, |sum, digit| sum.saturating_mul(8) + u64::from(digit - b'0'));
    let sum = |byte_sum: fn(u8) -> i64| -> i64 {
        let outside = block[..148].iter().chain(&block[156..]).map(|byte| byte_sum(*byte));
        outside.sum::<i64>() + 8 * i64::from(b' ')
    };
    // Old writers summed signed bytes.
    let sums = [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))];
    sums.iter().any(|sum| u64::try_from(*sum) == Ok(stored))
}

/// Plans the members of an archive below the destination.
pub fn unpack(copier: &mut Copier<'_>, source: Source<'_>, found: &Match) -> Result<(), CopyError> {
    let dest = copier.destination()?;
    copier.make_directories(&dest, 0o755)?;
    let path = &found.real;
    let content =
        source.tree.content(path).map_err(|source| CopyError::Tree { path: path.clone(), source })?;
    let input = content.open().map_err(|source| CopyError::Read { path: path.clone(), source })?;
    let archive = |source| CopyError::Archive { path: path.clone(), source };
    let (input, format) =
        Decoder::new(BufReader::with_capacity(256 * 1024, input)).map_err(|error| archive(error.into()))?;
    let mut members = Members {
        reader: Reader::new(input, copier.options.limits),
        spool: Spool::new(copier.options.staging)?,
        archive: path,
        dest,
    };
    tracing::debug!(?path, ?format, "unpack archive");
    while let Some(member) = members.reader.next_member().map_err(archive)? {
        members.apply(copier, member)?;
    }
    copier.plan.warnings.extend(members.reader.take_warnings());
    Ok(())
}

struct Members<'a, R> {
    reader: Reader<R>,
    spool: Spool<'a>,
    archive: &'a Path,
    dest: PathBuf,
}

impl<R: Read> Members<'_, R> {
    fn apply(&mut self, copier: &mut Copier<'_>, member: Member) -> Result<(), CopyError> {
        let mut entry = match member {
            Member::Object(entry) => entry,
            Member::Opaque(path) => return Err(self.refuse(path, DELETION)),
        };
        if entry.path.as_os_str().is_empty() {
            // The destination keeps its own mode and owner.
            return Ok(());
        }
        self.check(&entry, copier.options.devices)?;
        let inside = entry.path.clone();
        entry.path = self.place(copier, &inside)?;
        entry.mtime = copier.options.time_of(super::SourceKind::Rootfs, entry.mtime);
        entry.xattrs.retain(|name, _| super::copier::lands(name));
        if let Some(Ids { uid, gid }) = copier.flags.chown {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let Kind::HardLink { target } = &entry.kind {
            return self.link(copier, &inside, &target.clone(), &entry.path);
        }
        make_room(copier, &mut entry)?;
        let content = match &mut entry.kind {
            Kind::File { size, content } if *size > 0 => {
                let (hash, spooled) = self.spool.take(&mut self.reader, *size, self.archive)?;
                *content = Some(hash);
                Some(spooled)
            }
            Kind::File { .. }
            | Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::Fifo
            | Kind::Whiteout => None,
        };
        copier.target.put(entry, content)
    }

    fn check(&self, entry: &Entry, devices: Devices) -> Result<(), CopyError> {
        match entry.kind {
            Kind::Whiteout => Err(self.refuse(entry.path.clone(), DELETION)),
            Kind::CharDevice(_) | Kind::BlockDevice(_) if devices == Devices::Refuse => {
                let what = "is a device, which ADD refuses; pass --allow-devices to make it";
                Err(self.refuse(entry.path.clone(), what))
            }
            Kind::CharDevice(_)
            | Kind::BlockDevice(_)
            | Kind::File { .. }
            | Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::Fifo => Ok(()),
        }
    }

    /// Returns where a member lands: its directory through links, made where it is missing; its own name is
    /// not followed.
    fn place(&self, copier: &mut Copier<'_>, inside: &Path) -> Result<PathBuf, CopyError> {
        let parent = self.dest.join(inside.parent().unwrap_or(Path::new("")));
        let parent = copier.target.resolve(&parent, Last::Follow)?;
        let owner = Ids::default();
        let mtime = copier.options.time_of_new();
        super::copier::make_directories(&mut copier.target, &parent, 0o755, owner, mtime)?;
        Ok(parent.join(inside.file_name().unwrap_or_default()))
    }

    fn link(
        &self,
        copier: &mut Copier<'_>,
        inside: &Path,
        target: &Path,
        to: &Path,
    ) -> Result<(), CopyError> {
        // link(2) follows links in the middle of its target and not at the end.
        let first = copier.target.resolve(&self.dest.join(target), Last::Keep)?;
        match copier.target.get(&first)?.map(|entry| entry.kind) {
            None => Err(self.refuse(inside.to_owned(), "is a hard link to a file that is not there")),
            Some(Kind::Directory { .. }) => {
                Err(self.refuse(inside.to_owned(), "is a hard link to a directory"))
            }
            Some(_) if first == to => Ok(()),
            Some(_) => {
                let mut place = Entry::plain(to, Kind::Fifo, 0);
                make_room(copier, &mut place)?;
                copier.target.link(&first, to)
            }
        }
    }

    fn refuse(&self, member: PathBuf, what: &'static str) -> CopyError {
        CopyError::Member { path: self.archive.to_owned(), member, what }
    }
}

const DELETION: &str = "has a name that starts with .wh., which means a deletion in an image layer";

/// Removes what is at the path of `entry` unless two directories merge; a directory that replaces one which was
/// removed hides what the parent has in it.
fn make_room(copier: &mut Copier<'_>, entry: &mut Entry) -> Result<(), CopyError> {
    let there = copier.target.get(&entry.path)?;
    if let (Kind::Directory { opaque }, Some(there)) = (&mut entry.kind, &there)
        && let Kind::Directory { opaque: hidden } = there.kind
    {
        *opaque = hidden;
        // Attributes of the archive are added to those that are there (lsetxattr).
        let mut xattrs = there.xattrs.clone();
        xattrs.append(&mut entry.xattrs);
        entry.xattrs = xattrs;
        return Ok(());
    }
    if there.is_some() {
        let was_directory = copier.target.remove(&entry.path)?;
        if let Kind::Directory { opaque } = &mut entry.kind {
            *opaque = was_directory;
        }
    }
    Ok(())
}

/// Bytes of an archive's files, one after another in a file without a name.
struct Spool<'a> {
    directory: &'a Path,
    file: Arc<File>,
    end: u64,
    buffer: Vec<u8>,
}

/// How many bytes are copied at once.
const CHUNK: usize = 256 * 1024;

impl<'a> Spool<'a> {
    fn new(directory: &'a Path) -> Result<Self, CopyError> {
        let failed = |source| CopyError::Spool { directory: directory.to_owned(), source };
        let file = unnamed_file(directory).map_err(failed)?;
        Ok(Self { directory, file: Arc::new(file), end: 0, buffer: vec![0; CHUNK] })
    }

    /// Copies the content of the current member; returns its hash and where it is.
    fn take(
        &mut self,
        reader: &mut impl Read,
        size: u64,
        archive: &Path,
    ) -> Result<(ContentHash, Content), CopyError> {
        let offset = self.end;
        let mut hasher = blake3::Hasher::new();
        loop {
            let read = match reader.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| CopyError::Archive {
                    path: archive.to_owned(),
                    source: TarError::Io(error),
                })?,
            };
            if read == 0 {
                break;
            }
            hasher.update(&self.buffer[..read]);
            (&*self.file)
                .write_all(&self.buffer[..read])
                .map_err(|source| CopyError::Spool { directory: self.directory.to_owned(), source })?;
            self.end += read as u64;
        }
        debug_assert_eq!(self.end - offset, size, "the reader gives exactly what the header says");
        let content = Content::Range { file: Arc::clone(&self.file), offset, length: size };
        Ok((ContentHash(*hasher.finalize().as_bytes()), content))
    }
}

/// Makes a file that vanishes with its last descriptor.
fn unnamed_file(directory: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => return Ok(File::from(file)),
        // Not every file system has O_TMPFILE (open(2)).
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
    let path = directory.join(format!("spool-{:016x}", u64::from_le_bytes(random)));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
