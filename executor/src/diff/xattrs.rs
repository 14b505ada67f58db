//! Extended attributes of one object: which belong to the layer, which to overlayfs, which to this host.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use oci::layer::Xattrs;
use rustix::io::Errno;

use crate::layers::Flavour;
use crate::unpack::in_proc;

/// What was found on an object.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Attributes of the layer.
    pub xattrs: Xattrs,
    /// Whether overlayfs's opaque mark is set.
    pub opaque: bool,
    /// Overlayfs's other attributes.
    pub leftovers: Vec<Vec<u8>>,
}

/// Reads the attributes of `name`, which is not followed.
pub(super) fn read(directory: BorrowedFd<'_>, name: &OsStr, flavour: Flavour) -> io::Result<Found> {
    let path = in_proc(directory, name);
    let mut found = Found::default();
    for disk in names(&path)?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Some(layer) = flavour.from_disk(disk) else {
            if disk == flavour.opaque().as_bytes() && value(&path, disk)? == b"y" {
                found.opaque = true;
            } else if disk.ends_with(b".redirect") || disk.ends_with(b".metacopy") {
                // Both are switched off when a step's overlay is mounted; with them the content is elsewhere.
                return Err(io::Error::new(io::ErrorKind::InvalidData, "overlayfs stored no content here"));
            } else {
                found.leftovers.push(disk.to_vec());
            }
            continue;
        };
        if belongs_to_layer(&layer) {
            found.xattrs.insert(layer, value(&path, disk)?);
        }
    }
    Ok(found)
}

/// Labels of security modules describe this host's policy (SELinux puts one on every file); capabilities are
/// the file's own.
fn belongs_to_layer(name: &[u8]) -> bool {
    !name.starts_with(b"security.") || name == b"security.capability"
}

fn names(path: &Path) -> io::Result<Vec<u8>> {
    grow(|buffer| rustix::fs::llistxattr(path, buffer))
}

fn value(path: &Path, name: &[u8]) -> io::Result<Vec<u8>> {
    grow(|buffer| rustix::fs::lgetxattr(path, OsStr::from_bytes(name), buffer))
}

/// Reads with a small buffer first: most objects have no or short attributes. 64 KiB is the kernel's limit for
/// both lists and values (XATTR_LIST_MAX, XATTR_SIZE_MAX).
fn grow(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        // The file system has no attributes at all.
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    }
    let mut large = vec![0; 64 * 1024];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}
