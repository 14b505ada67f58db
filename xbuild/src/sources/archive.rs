//! Archives that are contexts: told from text, and unpacked by handle into an empty directory (CTX-11).
//!
//! What is made is decided before anything is: each path once, every ancestor a directory. An archive that turns
//! out malformed half-way is an error; it is never taken for something else then.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::Path;

use executor::layers::Flavour;
use executor::{tree, unpack};
use oci::compress::{Decoder, Format};
use oci::digest::Algorithm;
use oci::layer::{self, Kind, Limits, Member, MergedView};

use super::SourceError;
use super::error::ArchiveProblem;

/// Size of a tar header.
const BLOCK: usize = 512;

/// What a file with unknown content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A tar archive, perhaps compressed, or compressed data of which the same is expected.
    Archive,
    /// Anything else, such as a Dockerfile.
    Text,
}

/// Returns what a file is by its first bytes, of which [`Self`]'s block suffices.
pub fn recognise(start: &[u8]) -> Content {
    if start.is_empty() {
        return Content::Empty;
    }
    match Format::sniff(start) {
        Format::Gzip | Format::Zstd | Format::Xz | Format::Bzip2 => Content::Archive,
        Format::Plain => match start.first_chunk() {
            Some(block) if is_header(block) => Content::Archive,
            Some(_) | None => Content::Text,
        },
    }
}

/// Returns the first bytes of `file` for [`recognise`], and goes back to its start.
pub fn start_of(file: &mut (impl Read + io::Seek)) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(BLOCK);
    file.by_ref().take(BLOCK as u64).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(start)
}

/// Whether a block is a header with the right checksum, which counts its own field as spaces (pax(1), "ustar"), or
/// the zeros that an archive without members starts with.
fn is_header(block: &[u8; BLOCK]) -> bool {
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let field =
        block[148..156].iter().skip_while(|byte| **byte == b' ').take_while(|byte| byte.is_ascii_digit());
    let stored = field.fold(0_i64, |sum, digit| sum * 8 + i64::from(digit - b'0'));
    let sum = |value: fn(u8) -> i64| -> i64 {
        let outside = block[..148].iter().chain(&block[156..]).map(|byte| value(*byte));
        outside.sum::<i64>() + 8 * i64::from(b' ')
    };
    // Old writers summed signed bytes.
    block[0] != 0 && [sum(i64::from), sum(|byte| i64::from(byte.cast_signed()))].contains(&stored)
}

/// Unpacks the archive `file`, which messages call `what`, into `directory`, which must be empty. Its files belong
/// to us afterwards, as those of a local context do. Returns the time of the newest member.
///
/// # Errors
/// [`SourceError::Archive`], [`SourceError::Io`]; `directory` is then incomplete and to be thrown away.
pub fn unpack(
    what: &str,
    file: &mut File,
    directory: &Path,
    limits: Limits,
) -> Result<Option<i64>, SourceError> {
    let failed = SourceError::archive(what);
    let unreadable = |error: io::Error| failed(ArchiveProblem::Tar(error.into()));
    let mut scan = layer::scan(decoded(file).map_err(unreadable)?, limits, Algorithm::Sha256)
        .map_err(|error| failed(error.into()))?;
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for member in &mut scan.members {
        check(member).map_err(&failed)?;
        if let Member::Object(entry) = member {
            (entry.uid, entry.gid) = (uid, gid);
        }
    }
    // Onto nothing: a hard link to a file that is not in the archive is an error.
    let nothing = MergedView::new(Vec::new());
    let resolved = layer::resolve_onto(&scan, &nothing).map_err(|error| failed(error.into()))?;
    let root = tree::open_root(directory).map_err(SourceError::io("open", directory))?;
    let input = decoded(file).map_err(unreadable)?;
    // Attributes that cannot be set here are none of a context's.
    unpack::unpack_archive(root.as_fd(), &resolved, input, limits, Flavour::Root, &mut |_, _| {
        Err(io::ErrorKind::NotFound.into())
    })
    .map_err(|error| failed(error.into()))?;
    Ok(newest(&scan.members))
}

/// Returns the time of the newest member of an archive, in seconds since the epoch; `None` for anything else.
pub fn newest_entry(file: &mut File, limits: Limits) -> Option<i64> {
    let start = start_of(file).ok()?;
    if recognise(&start) != Content::Archive {
        return None;
    }
    Some(layer::scan(decoded(file).ok()?, limits, Algorithm::Sha256).ok()?.members)
        .and_then(|members| newest(&members))
}

fn newest(members: &[Member]) -> Option<i64> {
    let times = members.iter().filter_map(|member| match member {
        Member::Object(entry) => Some(entry.mtime.seconds),
        Member::Opaque(_) => None,
    });
    times.max()
}

fn decoded(file: &mut File) -> io::Result<impl Read + '_> {
    file.seek(SeekFrom::Start(0))?;
    Ok(Decoder::new(BufReader::with_capacity(256 * 1024, file))?.0)
}

fn check(member: &Member) -> Result<(), ArchiveProblem> {
    let refuse = |path: &Path, what| Err(ArchiveProblem::Member { path: path.to_owned(), what });
    let deletion = "its name starts with .wh., which means a deletion in an image layer";
    match member {
        Member::Opaque(path) => refuse(path, deletion),
        Member::Object(entry) => match entry.kind {
            Kind::Whiteout => refuse(&entry.path, deletion),
            Kind::CharDevice(_) | Kind::BlockDevice(_) => refuse(&entry.path, "a context has no devices"),
            Kind::File { .. }
            | Kind::Directory { .. }
            | Kind::Symlink { .. }
            | Kind::HardLink { .. }
            | Kind::Fifo => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::testing::{TarEntry, gzip, tar};

    fn check_unpack(archive: &[u8]) -> Result<tempfile::TempDir, SourceError> {
        let outer = tempfile::tempdir().unwrap();
        std::fs::write(outer.path().join("canary"), "canary").unwrap();
        std::fs::create_dir(outer.path().join("fs")).unwrap();
        let path = outer.path().join("a.tar");
        std::fs::write(&path, archive).unwrap();
        let mut file = File::open(&path).unwrap();
        let result = unpack("a.tar", &mut file, &outer.path().join("fs"), Limits::default());
        let mut names: Vec<_> =
            std::fs::read_dir(outer.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.tar", "canary", "fs"]);
        assert_eq!(std::fs::read(outer.path().join("canary")).unwrap(), b"canary");
        result.map(|newest| {
            assert!(newest.is_some());
            outer
        })
    }

    #[test]
    fn recognises_archives_and_text() {
        let plain = tar(&[TarEntry::File("f", "x")]);
        assert_eq!(recognise(&plain[..BLOCK]), Content::Archive);
        assert_eq!(recognise(&gzip(&plain)), Content::Archive);
        assert_eq!(recognise(&[0; BLOCK]), Content::Archive);
        assert_eq!(recognise(b"FROM scratch\n"), Content::Text);
        assert_eq!(recognise("# a comment that is long\n".repeat(100).as_bytes()), Content::Text);
        assert_eq!(recognise(&plain[..100]), Content::Text);
        assert_eq!(recognise(b""), Content::Empty);
    }

    #[test]
    fn unpacks_files_links_and_modes() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let entries = [
            TarEntry::File("Dockerfile", "FROM scratch\n"),
            TarEntry::File("d/e/f", "deep"),
            TarEntry::Symlink("link", "d/e/f"),
            TarEntry::Symlink("out", "/etc/passwd"),
            TarEntry::HardLink("hard", "d/e/f"),
        ];
        for archive in [tar(&entries), gzip(&tar(&entries))] {
            let outer = check_unpack(&archive).unwrap();
            let fs = outer.path().join("fs");
            assert_eq!(std::fs::read(fs.join("d/e/f")).unwrap(), b"deep");
            assert_eq!(std::fs::read_link(fs.join("out")).unwrap(), Path::new("/etc/passwd"));
            let hard = std::fs::metadata(fs.join("hard")).unwrap();
            assert_eq!(hard.nlink(), 2);
            assert_eq!(hard.permissions().mode() & 0o7777, 0o640);
            assert_eq!(hard.mtime(), 1_000_000_000);
        }
    }

    #[test]
    fn ctx_11_nothing_gets_out_and_nothing_is_guessed_after_a_partial_extract() {
        let mut cut = tar(&[TarEntry::Symlink("Dockerfile", "../canary"), TarEntry::File("f", "x")]);
        cut.truncate(1200);
        let mut garbage = tar(&[TarEntry::Symlink("Dockerfile", "../canary")]);
        garbage.truncate(512);
        garbage.extend_from_slice(&[b'x'; 5000]);
        let bad = [
            cut,
            garbage,
            tar(&[TarEntry::Symlink("d", ".."), TarEntry::HardLink("h", "../canary")]),
            tar(&[TarEntry::File(".wh.f", "")]),
            tar(&[TarEntry::File("d/.wh..wh..opq", "")]),
            tar(&[TarEntry::CharDevice("null")]),
            gzip(b"FROM scratch\n"),
            [0x1f, 0x8b, 8, 0].to_vec(),
        ];
        for (at, archive) in bad.iter().enumerate() {
            let error = check_unpack(archive).expect_err(&at.to_string());
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn ctx_11_what_leads_out_ends_inside() {
        for archive in [
            tar(&[TarEntry::Symlink("d", "/"), TarEntry::File("d/canary", "evil")]),
            tar(&[TarEntry::Symlink("d", "../.."), TarEntry::File("d/canary", "evil")]),
            tar(&[TarEntry::File("../canary", "evil")]),
            tar(&[TarEntry::File("/canary", "evil")]),
        ] {
            let outer = check_unpack(&archive).unwrap();
            assert_eq!(std::fs::read(outer.path().join("fs/canary")).unwrap(), b"evil");
        }
    }
}
