//! An image into one tar file: an OCI layout in an archive, or what `docker load` reads.
//!
//! Members are in name order with fixed headers, and blobs go from file to file inside the kernel.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};

use oci::document::{self, Descriptor, Manifest};
use oci::layout::{CONTAINERD_NAME, LAYOUT_FILE, REF_NAME};
use oci::{Digest, Layout, Reference};
use serde_json::{Value, json};

use crate::closure::{self, Closure};
use crate::error::{Error, Result};
use crate::layout::{Label, labels};

/// Blocks of a tar archive.
const BLOCK: u64 = 512;

/// Bytes of the name field of a header.
const NAME: usize = 100;

/// What an archive is to hold, wherever its blobs are.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// The manifest or index that the image is known by.
    pub root: &'a Descriptor,
    /// The images in it.
    pub manifests: &'a [Manifest],
    /// Size of every blob, documents included.
    pub blobs: &'a BTreeMap<Digest, u64>,
}

/// Writes the image `root` of `layout` as an OCI layout in a tar archive. `root` may be an index.
///
/// # Errors
/// [`Error::Oci`] for missing or damaged blobs, [`Error::Io`].
pub fn oci(layout: &Layout, root: &Descriptor, names: &[Reference], out: &mut File) -> Result<()> {
    let closure = closure::of(layout, root)?;
    closure.verified(layout, || {
        oci_of(&parts(root, &closure), &labels(names), out, |digest, size, out| {
            from_layout(layout, digest, size, out)
        })
    })
}

/// Writes an OCI layout in a tar archive; `blob` writes the bytes of each blob, in digest order, and verifies them.
///
/// # Errors
/// Those of `blob`, and [`Error::Io`].
pub fn oci_of<E: From<Error>>(
    parts: &Parts<'_>,
    labels: &[Label],
    out: &mut File,
    blob: impl FnMut(&Digest, u64, &mut File) -> Result<(), E>,
) -> Result<(), E> {
    write_blobs(parts.blobs, out, blob)?;
    write_bytes(out, "index.json", &index(parts.root, labels))?;
    write_bytes(out, "oci-layout", LAYOUT_FILE.as_bytes())?;
    Ok(end(out)?)
}

/// Writes the image `root` of `layout` as an archive for `docker load` and `podman load`: an OCI layout with the
/// `manifest.json` that Docker looks for. Layers stay compressed, which every Docker since 1.10 accepts.
///
/// # Errors
/// [`Error::Unsupported`] for an index of several images, [`Error::Oci`], [`Error::Io`].
pub fn docker(layout: &Layout, root: &Descriptor, names: &[Reference], out: &mut File) -> Result<()> {
    let closure = closure::of(layout, root)?;
    let parts = parts(root, &closure);
    // Refused before anything is read.
    docker_list(&parts, &[])?;
    closure.verified(layout, || {
        docker_of(&parts, names, &labels(names), out, |digest, size, out| {
            from_layout(layout, digest, size, out)
        })
    })
}

/// Writes an archive for `docker load`; `names` are what Docker will call the image, `labels` what the OCI layout
/// inside does. `blob` is as for [`oci_of`].
///
/// # Errors
/// [`Error::Unsupported`] for several images, those of `blob`, and [`Error::Io`].
pub fn docker_of<E: From<Error>>(
    parts: &Parts<'_>,
    names: &[Reference],
    labels: &[Label],
    out: &mut File,
    blob: impl FnMut(&Digest, u64, &mut File) -> Result<(), E>,
) -> Result<(), E> {
    let list = docker_list(parts, names)?;
    write_blobs(parts.blobs, out, blob)?;
    write_bytes(out, "index.json", &index(parts.root, labels))?;
    write_bytes(out, "manifest.json", list.to_string().as_bytes())?;
    write_bytes(out, "oci-layout", LAYOUT_FILE.as_bytes())?;
    Ok(end(out)?)
}

fn docker_list(parts: &Parts<'_>, names: &[Reference]) -> Result<Value> {
    let [manifest] = parts.manifests else {
        let what = format!("{} images — export one platform, or use type=oci", parts.manifests.len());
        return Err(Error::Unsupported { output: "a Docker archive", what });
    };
    manifest.require_image().map_err(|error| oci::Error::document("export", error))?;
    let path = |descriptor: &Descriptor| format!("blobs/{}", descriptor.digest().as_ref().replace(':', "/"));
    let tags: Vec<String> = names.iter().map(|name| name.clone().with_default_tag().familiar()).collect();
    Ok(json!([{
        "Config": path(manifest.parsed.config()),
        "RepoTags": tags,
        "Layers": manifest.parsed.layers().iter().map(path).collect::<Vec<_>>(),
    }]))
}

fn parts<'a>(root: &'a Descriptor, closure: &'a Closure) -> Parts<'a> {
    Parts { root, manifests: &closure.manifests, blobs: &closure.blobs }
}

fn index(root: &Descriptor, labels: &[Label]) -> Vec<u8> {
    let entry = || document::to_value(root);
    let mut entries: Vec<Value> = Vec::new();
    for label in labels {
        let mut entry = entry();
        if let Some(full) = &label.full {
            entry["annotations"][CONTAINERD_NAME] = full.as_str().into();
        }
        entry["annotations"][REF_NAME] = label.ref_name.as_str().into();
        entries.push(entry);
    }
    if entries.is_empty() {
        entries.push(entry());
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": oci::media_type::OCI_INDEX,
        "manifests": entries,
    });
    index.to_string().into_bytes()
}

fn write_blobs<E: From<Error>>(
    blobs: &BTreeMap<Digest, u64>,
    out: &mut File,
    mut blob: impl FnMut(&Digest, u64, &mut File) -> Result<(), E>,
) -> Result<(), E> {
    write(out, &header("blobs/", 0, tar::EntryType::Directory))?;
    let mut directory = None;
    // Digests are sorted by their algorithm first.
    for (digest, size) in blobs {
        let algorithm = digest.algorithm();
        if directory.replace(algorithm) != Some(algorithm) {
            write(out, &header(&format!("blobs/{algorithm}/"), 0, tar::EntryType::Directory))?;
        }
        write(out, &header(&format!("blobs/{}", digest.path()), *size, tar::EntryType::Regular))?;
        blob(digest, *size, out)?;
        pad(out, *size)?;
    }
    Ok(())
}

fn from_layout(layout: &Layout, digest: &Digest, size: u64, out: &mut File) -> Result<()> {
    let mut blob = layout.open_blob(digest)?;
    // Between two files this is copy_file_range, splice or sendfile.
    let copied = copy(&mut blob, out, size).map_err(Error::io("copy", &layout.blob_path(digest)))?;
    if copied != size {
        let what = format!("it has {copied} bytes, {size} were expected");
        return Err(oci::Error::Damaged { digest: *digest, path: layout.blob_path(digest), what }.into());
    }
    Ok(())
}

fn copy(blob: &mut File, out: &mut File, size: u64) -> io::Result<u64> {
    io::copy(&mut io::Read::take(blob, size), out)
}

fn write_bytes(out: &mut File, name: &str, bytes: &[u8]) -> Result<()> {
    let size = bytes.len() as u64;
    write(out, &header(name, size, tar::EntryType::Regular))?;
    write(out, bytes)?;
    pad(out, size)
}

/// The header of a member. A name that ustar has no room for, which is that of a sha512 blob, precedes it in a
/// record of its own (POSIX pax, "path").
fn header(name: &str, size: u64, kind: tar::EntryType) -> Vec<u8> {
    if name.len() < NAME {
        return plain_header(name, size, kind);
    }
    let record = pax_record("path", name);
    let mut block = plain_header("pax", record.len() as u64, tar::EntryType::XHeader);
    block.extend_from_slice(&record);
    block.resize(block.len().next_multiple_of(BLOCK as usize), 0);
    block.extend_from_slice(&plain_header(&name[..NAME - 1], size, kind));
    block
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    format!("{} {key}={value}\n", rest + digits).into_bytes()
}

fn plain_header(name: &str, size: u64, kind: tar::EntryType) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("member names are short and relative");
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn pad(out: &mut File, size: u64) -> Result<()> {
    let over = size % BLOCK;
    if over == 0 { Ok(()) } else { write(out, &vec![0; usize::try_from(BLOCK - over).expect("below 512")]) }
}

fn end(out: &mut File) -> Result<()> {
    write(out, &[0; 1024])
}

fn write(out: &mut File, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(Error::io("write", std::path::Path::new("archive")))
}
