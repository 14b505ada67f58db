//! `type=tar`: the root file system as one archive, in the same form as a layer.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci::compress::Encoding;
use oci::layer::{Device, Entry, Kind, Mtime};
use oci::pack::{Content, Packer};
use rustix::fs::FileType;

use super::{Object, open_file, walk};
use crate::error::{Error, Result};

/// Writes the tree at `root` into `out`: owners, modes, times, links, devices and extended attributes included,
/// members sorted. Sockets are left out, as tar has none.
///
/// # Errors
/// [`Error::Rootfs`], [`Error::Pack`].
pub fn tar<W: Write + Send + 'static>(root: BorrowedFd<'_>, out: W) -> Result<W> {
    let mut packer = Packer::new(Encoding::None, out);
    add(&mut packer, root, Path::new(""))?;
    Ok(packer.finish()?.output)
}

/// Writes several trees into one archive, each below a directory of its name, in the order of the names.
///
/// # Errors
/// As [`tar`].
pub fn tar_of_several<W: Write + Send + 'static>(trees: &[(&str, BorrowedFd<'_>)], out: W) -> Result<W> {
    let mut trees = trees.to_vec();
    trees.sort_by_key(|(name, _)| *name);
    let mut packer = Packer::new(Encoding::None, out);
    for (name, root) in trees {
        let directory = Entry {
            path: name.into(),
            kind: Kind::Directory { opaque: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Mtime { seconds: 0, nanoseconds: 0 },
            xattrs: BTreeMap::new(),
        };
        packer.add(directory, Content::None)?;
        add(&mut packer, root, Path::new(name))?;
    }
    Ok(packer.finish()?.output)
}

fn add<W: Write + Send + 'static>(packer: &mut Packer<W>, root: BorrowedFd<'_>, below: &Path) -> Result<()> {
    let handle = Arc::new(root.try_clone_to_owned().map_err(Error::rootfs("dup", "".as_ref()))?);
    let mut first_names = BTreeMap::new();
    walk(root, |object| {
        let Some(kind) = kind(object, &mut first_names)? else { return Ok(()) };
        let content = match &kind {
            Kind::File { size, .. } if *size > 0 => {
                let (handle, path) = (handle.clone(), object.path.clone());
                Content::open_with(move || open_file(handle.as_fd(), &path))
            }
            _ => Content::None,
        };
        let kind = match kind {
            Kind::HardLink { target } => Kind::HardLink { target: below.join(target) },
            other => other,
        };
        let entry = entry(object, kind)?;
        Ok(packer.add(Entry { path: below.join(&entry.path), ..entry }, content)?)
    })
}

fn entry(object: &Object<'_>, kind: Kind) -> Result<Entry> {
    let mut xattrs = object.xattrs()?;
    // A label of this machine's policy means nothing elsewhere; layers carry none either.
    xattrs.remove(&b"security.selinux"[..]);
    let nanoseconds = u32::try_from(object.stat.st_mtime_nsec).unwrap_or_default();
    Ok(Entry {
        path: object.path.clone(),
        kind,
        mode: object.permissions(),
        uid: object.stat.st_uid,
        gid: object.stat.st_gid,
        mtime: Mtime { seconds: object.stat.st_mtime, nanoseconds },
        xattrs,
    })
}

fn kind(object: &Object<'_>, first_names: &mut BTreeMap<(u64, u64), PathBuf>) -> Result<Option<Kind>> {
    let file_type = object.kind();
    if object.stat.st_nlink > 1 && file_type != FileType::Directory {
        if let Some(target) = first_names.get(&object.inode()) {
            return Ok(Some(Kind::HardLink { target: target.clone() }));
        }
        first_names.insert(object.inode(), object.path.clone());
    }
    let device = Device {
        major: rustix::fs::major(object.stat.st_rdev),
        minor: rustix::fs::minor(object.stat.st_rdev),
    };
    Ok(match file_type {
        FileType::RegularFile => {
            let size = u64::try_from(object.stat.st_size).unwrap_or_default();
            Some(Kind::File { size, content: None })
        }
        FileType::Directory => Some(Kind::Directory { opaque: false }),
        FileType::Symlink => {
            let target = object.link_target()?.into_bytes();
            Some(Kind::Symlink { target: std::ffi::OsString::from_vec(target).into() })
        }
        FileType::CharacterDevice => Some(Kind::CharDevice(device)),
        FileType::BlockDevice => Some(Kind::BlockDevice(device)),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket | FileType::Unknown => None,
    })
}
