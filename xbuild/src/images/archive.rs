//! Tar files that images come in, read without unpacking: which bytes of the file belong to which member.
//!
//! A name that an archive holds only ever finds another member of the same archive; nothing on the host is opened
//! by one, and what is no regular file is not there (reliability IMG-11). An archive that is compressed, or comes
//! through a pipe, is spooled first. It knows no image; `docker` and `source` read what the members mean.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci::Digest;
use oci::compress::{Decoder, Format};
use oci::digest::Algorithm;
use oci::document::DOCUMENT_LIMIT;

use super::Places;
use crate::failure::{Class, Failure, io_class};

/// Most members of an archive; an image of 10,000 layers has 30,000 in Docker's old form.
const MEMBERS: usize = 100_000;

/// Most bytes of headers and long names: what reading them may hold in memory.
const HEADERS: u64 = 100 << 20;

/// Bytes that are spooled between two looks at the free space: what decompresses to a hundred times its size must not
/// fill the disk (reliability TAR-50).
const LOOK: usize = 64 << 20;

/// Bytes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The file.
    pub path: PathBuf,
    /// Where they start.
    pub offset: u64,
    /// How many there are.
    pub size: u64,
}

/// A tar file with the places of its members.
#[derive(Debug, Clone)]
pub struct Archive {
    /// As the user named it.
    shown: String,
    /// The file that is read: the archive, or what it was spooled to.
    path: PathBuf,
    members: BTreeMap<String, Member>,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    /// A regular file: where its bytes are.
    File { offset: u64, size: u64 },
    /// A link to another member, as `docker save` wrote for a layer that two images share.
    Link(String),
}

impl Archive {
    /// Opens the archive at `path`; `-` is standard input.
    ///
    /// # Errors
    /// A source failure where it cannot be read or is no tar archive; a resource failure where spooling it fills
    /// the store's file system.
    pub fn open(places: &Places, path: &Path) -> Result<Self, Failure> {
        let shown =
            if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
        let unreadable = |error: io::Error| damaged(&shown, &error.to_string());
        let (path, file) = plain(places, path, &shown)?;
        let members = index(&file, &shown)?;
        if members.is_empty() {
            return Err(unreadable(io::Error::other("there is no file in it")));
        }
        Ok(Self { shown, path, members })
    }

    /// Returns the archive's name for messages.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns whether there is a member `name`.
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Returns the bytes of the file `name`. A link is followed once, and to a member only.
    ///
    /// # Errors
    /// A source failure where there is no such file, a refusal where the name leads out of the archive.
    pub fn file(&self, name: &str) -> Result<Extent, Failure> {
        let name = inside(name).ok_or_else(|| self.outside(name))?;
        let target = match self.members.get(&name) {
            Some(Member::Link(target)) => {
                let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                beside(parent, target).ok_or_else(|| self.outside(target))?
            }
            Some(Member::File { .. }) | None => name.clone(),
        };
        match self.members.get(&target) {
            Some(Member::File { offset, size }) => {
                Ok(Extent { path: self.path.clone(), offset: *offset, size: *size })
            }
            Some(Member::Link(_)) => Err(self.damaged(&format!("{name} is a link to a link"))),
            None => Err(self.damaged(&format!("it has no file {name}"))),
        }
    }

    /// Reads a small file.
    ///
    /// # Errors
    /// As [`Self::file`], and a refusal where it is larger than a document may be.
    pub fn document(&self, name: &str) -> Result<Bytes, Failure> {
        let extent = self.file(name)?;
        if extent.size > DOCUMENT_LIMIT {
            let why = format!("{name} has {} bytes, the limit is {DOCUMENT_LIMIT}", extent.size);
            return Err(Failure::new(Class::Refused, &["unusable image archive", &self.shown, &why]));
        }
        let mut bytes = Vec::new();
        extent
            .open()
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(|error| self.damaged(&error.to_string()))?;
        Ok(bytes.into())
    }

    /// Returns the blobs of the OCI layout in the archive: members that are named as one.
    pub fn blobs(&self) -> BTreeMap<Digest, Extent> {
        let mut blobs = BTreeMap::new();
        for (name, member) in &self.members {
            let Member::File { offset, size } = member else { continue };
            if let Some(digest) = name.strip_prefix("blobs/").and_then(digest_of_path) {
                blobs.insert(digest, Extent { path: self.path.clone(), offset: *offset, size: *size });
            }
        }
        blobs
    }

    /// Makes the failure of an archive that is not what it should be.
    pub fn damaged(&self, why: &str) -> Failure {
        damaged(&self.shown, why)
    }

    fn outside(&self, name: &str) -> Failure {
        let why = format!("it names {name:?}, which is no path in the archive");
        Failure::new(Class::Refused, &["unusable image archive", &self.shown, &why])
    }
}

/// `sha256/<hex>`.
fn digest_of_path(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.split_once('/')?;
    let known = Algorithm::ALL.into_iter().any(|known| known.name() == algorithm);
    if known { format!("{algorithm}:{hex}").parse().ok() } else { None }
}

impl Extent {
    /// Opens the bytes.
    ///
    /// # Errors
    /// Where the file cannot be opened.
    pub fn open(&self) -> io::Result<io::Take<File>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        Ok(file.take(self.size))
    }
}

/// Cleans the name of a member or of a reference to one; `None` where it leads out of the archive.
fn inside(name: &str) -> Option<String> {
    if name.starts_with('/') { None } else { beside("", name) }
}

/// Resolves `name` in the directory `parent`.
fn beside(parent: &str, name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = parent.split('/').filter(|part| !part.is_empty()).collect();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    if parts.is_empty() { None } else { Some(parts.join("/")) }
}

fn damaged(shown: &str, why: &str) -> Failure {
    Failure::new(Class::Source, &["unusable image archive", shown, why])
}

/// Opens `path` as an uncompressed file that can be read anywhere, spooling what is none.
fn plain(places: &Places, path: &Path, shown: &str) -> Result<(PathBuf, File), Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            io_class(&error, Class::Source),
            &["cannot read the image archive", shown, &error.to_string()],
        )
    };
    if path == Path::new("-") {
        return spool(places, BufReader::new(io::stdin().lock()), shown);
    }
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        let fix = "a directory is named oci-layout://DIR";
        return Err(Failure::new(
            Class::Source,
            &["cannot read the image archive", shown, "it is a directory", fix],
        ));
    }
    if !metadata.is_file() {
        return spool(places, BufReader::new(file), shown);
    }
    let mut start = Vec::new();
    (&mut file).take(Format::MAGIC_LENGTH as u64).read_to_end(&mut start).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    match Format::sniff(&start) {
        Format::Plain => Ok((path.to_owned(), file)),
        Format::Gzip | Format::Zstd | Format::Xz | Format::Bzip2 => {
            spool(places, BufReader::new(file), shown)
        }
    }
}

/// Writes the decompressed input to a file of the store's staging.
fn spool(places: &Places, input: impl io::BufRead, shown: &str) -> Result<(PathBuf, File), Failure> {
    let path = places.scratch_file()?;
    let full = |error: io::Error| {
        let (place, why) = (path.display().to_string(), error.to_string());
        Failure::new(io_class(&error, Class::Store), &["cannot spool the image archive", &place, &why])
    };
    let unreadable = |error: io::Error| damaged(shown, &error.to_string());
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(full)?;
    let (mut decoder, _) = Decoder::new(input).map_err(unreadable)?;
    let mut buffer = vec![0; 256 << 10];
    let mut unseen = 0;
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                file.write_all(&buffer[..read]).map_err(full)?;
                unseen += read;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
        if unseen >= LOOK {
            places.store()?.check_space(0)?;
            unseen = 0;
        }
    }
    file.seek(SeekFrom::Start(0)).map_err(full)?;
    Ok((path, file))
}

/// Why no more of a file is read.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("its headers are larger than the limit of {HEADERS} bytes")]
    Headers,
    #[error(transparent)]
    Io(io::Error),
}

/// A file of which only so many bytes are read: contents are passed over by seeking, names are not. What stops it is
/// noted, since the tar reader's errors do not tell that from bytes that are no header.
struct Metered<'a> {
    file: &'a File,
    left: u64,
    obstacle: &'a RefCell<Option<Obstacle>>,
}

impl Metered<'_> {
    /// Notes what stops the reader; returns an error that looks the same to it.
    fn stopped(&self, obstacle: Obstacle) -> io::Error {
        let kind = match &obstacle {
            Obstacle::Headers => io::ErrorKind::Other,
            Obstacle::Io(error) => error.kind(),
        };
        let error = io::Error::new(kind, obstacle.to_string());
        self.obstacle.replace(Some(obstacle));
        error
    }
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer).map_err(|error| self.stopped(Obstacle::Io(error)))?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| self.stopped(Obstacle::Headers))?;
        Ok(read)
    }
}

impl Seek for Metered<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to).map_err(|error| self.stopped(Obstacle::Io(error)))
    }
}

fn no_archive(shown: &str, why: &str) -> Failure {
    let fix = "name what `xbuild save`, `docker save` or `skopeo copy` wrote";
    Failure::new(Class::Source, &["unusable image archive", shown, why, fix])
}

fn index(file: &File, shown: &str) -> Result<BTreeMap<String, Member>, Failure> {
    let unreadable = |error: io::Error| damaged(shown, &error.to_string());
    let length = file.metadata().map_err(unreadable)?.len();
    if length == 0 {
        return Err(no_archive(shown, "it is empty"));
    }
    let obstacle = RefCell::new(None);
    let mut archive = tar::Archive::new(Metered { file, left: HEADERS, obstacle: &obstacle });
    let (mut members, mut begun) = (BTreeMap::new(), false);
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(|_| match (obstacle.take(), begun) {
            (Some(obstacle), _) => damaged(shown, &obstacle.to_string()),
            (None, true) => no_archive(shown, "it is cut off or damaged"),
            (None, false) => no_archive(shown, "it is no tar archive"),
        })?;
        begun = true;
        let Some((name, member)) = member(&entry) else { continue };
        if let Member::File { offset, size } = &member
            && offset.checked_add(*size).is_none_or(|end| end > length)
        {
            return Err(damaged(shown, &format!("it ends within {name}")));
        }
        if members.len() == MEMBERS {
            let why = format!("it has more than {MEMBERS} files");
            return Err(Failure::new(Class::Refused, &["unusable image archive", shown, &why]));
        }
        // Readers differ on which of two counts.
        if members.insert(name.clone(), member).is_some() {
            let why = format!("it has two files {name}");
            return Err(Failure::new(Class::Refused, &["unusable image archive", shown, &why]));
        }
    }
    Ok(members)
}

/// What an entry of the archive is to us; `None` for directories, devices and names that lead out of it.
fn member(entry: &tar::Entry<'_, Metered<'_>>) -> Option<(String, Member)> {
    let name = inside(std::str::from_utf8(&entry.path_bytes()).ok()?)?;
    let member = match entry.header().entry_type() {
        tar::EntryType::Regular => Member::File { offset: entry.raw_file_position(), size: entry.size() },
        tar::EntryType::Symlink => {
            Member::Link(String::from_utf8(entry.link_name_bytes()?.into_owned()).ok()?)
        }
        // A hard link's target is a name from the root of the archive.
        tar::EntryType::Link => {
            let target = inside(std::str::from_utf8(&entry.link_name_bytes()?).ok()?)?;
            let up = "../".repeat(name.matches('/').count());
            Member::Link(up + &target)
        }
        _ => return None,
    };
    Some((name, member))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parent: &str, name: &str, expect: Option<&str>) {
        assert_eq!(beside(parent, name).as_deref(), expect, "{parent} {name}");
    }

    #[test]
    fn img_11_names_stay_in_the_archive() {
        check("", "a/layer.tar", Some("a/layer.tar"));
        check("", "./a//b", Some("a/b"));
        check("b", "../a/layer.tar", Some("a/layer.tar"));
        check("b", "layer.tar", Some("b/layer.tar"));
        for outside in ["../a", "../../etc/passwd", "/etc/passwd", "", ".", "a/.."] {
            check("", outside, None);
        }
        check("b", "../../a", None);
        check("b", "/etc/passwd", None);
    }

    #[test]
    fn blobs_are_known_by_their_names() {
        let hex = "a".repeat(64);
        assert!(digest_of_path(&format!("sha256/{hex}")).is_some());
        for other in ["sha256/x", "md5/aa", "sha256", &format!("sha512/{hex}"), &format!("sha256/{hex}/x")] {
            assert!(digest_of_path(other).is_none(), "{other}");
        }
    }
}
