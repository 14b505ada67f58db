//! The byte form of a layer index: encoding, decoding and checksum. No queries and no file handling.
//!
//! `XBIDX\0` · version `u8` · number of entries · entries · number of inline files · (path, bytes) each ·
//! blake3 of all before it (32 bytes). Numbers are LEB128, byte strings are length-prefixed. An entry is:
//! number of leading bytes its path shares with the entry before · rest of the path · kind `u8` · kind's fields ·
//! mode · uid · gid · seconds (zigzag) · nanoseconds · number of xattrs · (name, value) each. In content ids,
//! where each entry stands alone, the shared prefix is 0.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::{ContentHash, Device, Entry, Kind, LayerIndex, Mtime, Xattrs};

const MAGIC: &[u8; 6] = b"XBIDX\0";
const VERSION: u8 = 1;
const CHECKSUM: usize = 32;

/// Returns the file form of `index`.
pub(super) fn encode(index: &LayerIndex) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + index.entries().len() * 96);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    put(&mut out, index.entries().len() as u64);
    let mut previous: &[u8] = b"";
    for entry in index.entries() {
        let path = entry.path.as_os_str().as_bytes();
        let shared = previous.iter().zip(path).take_while(|(left, right)| left == right).count();
        put_body(&mut out, entry, shared, entry.mtime);
        previous = path;
    }
    put(&mut out, index.inlined().len() as u64);
    for (path, bytes) in index.inlined() {
        put_bytes(&mut out, path.as_os_str().as_bytes());
        put_bytes(&mut out, bytes);
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

/// Appends `entry` with `mtime` in the place of its own and its whole path.
pub(super) fn put_entry(out: &mut Vec<u8>, entry: &Entry, mtime: Mtime) {
    put_body(out, entry, 0, mtime);
}

fn put_body(out: &mut Vec<u8>, entry: &Entry, shared: usize, mtime: Mtime) {
    put(out, shared as u64);
    put_bytes(out, &entry.path.as_os_str().as_bytes()[shared..]);
    put_kind(out, &entry.kind);
    put(out, entry.mode.into());
    put(out, entry.uid.into());
    put(out, entry.gid.into());
    put(out, zigzag(mtime.seconds));
    put(out, mtime.nanoseconds.into());
    put(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

fn put_kind(out: &mut Vec<u8>, kind: &Kind) {
    match kind {
        Kind::File { size, content: None } => {
            out.push(0);
            put(out, *size);
        }
        Kind::File { size, content: Some(hash) } => {
            out.push(1);
            put(out, *size);
            out.extend_from_slice(&hash.0);
        }
        Kind::Directory { opaque: false } => out.push(2),
        Kind::Directory { opaque: true } => out.push(3),
        Kind::Symlink { target } => {
            out.push(4);
            put_bytes(out, target.as_os_str().as_bytes());
        }
        Kind::HardLink { target } => {
            out.push(5);
            put_bytes(out, target.as_os_str().as_bytes());
        }
        Kind::CharDevice(device) => put_device(out, 6, *device),
        Kind::BlockDevice(device) => put_device(out, 7, *device),
        Kind::Fifo => out.push(8),
        Kind::Whiteout => out.push(9),
    }
}

fn put_device(out: &mut Vec<u8>, tag: u8, device: Device) {
    out.push(tag);
    put(out, device.major.into());
    put(out, device.minor.into());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

const fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// Reads the file form. The error says what is wrong.
pub(super) fn decode(bytes: &[u8]) -> Result<LayerIndex, &'static str> {
    let body = bytes.len().checked_sub(CHECKSUM).ok_or("too short")?;
    let (body, checksum) = bytes.split_at(body);
    if blake3::hash(body).as_bytes().as_slice() != checksum {
        return Err("wrong checksum");
    }
    let mut input = Input(body);
    if input.take(MAGIC.len())? != MAGIC || input.take(1)? != [VERSION] {
        return Err("another format version");
    }
    let entries = input.entries()?;
    let inline = input.inline()?;
    if !input.0.is_empty() {
        return Err("bytes after the end");
    }
    Ok(LayerIndex::from_sorted(entries, inline))
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("cut off")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, &'static str> {
        let (first, rest) = self.0.split_first().ok_or("cut off")?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("number too long")
    }

    fn number32(&mut self) -> Result<u32, &'static str> {
        self.number()?.try_into().map_err(|_| "number out of range")
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        self.number()?.try_into().map_err(|_| "number out of range")
    }

    fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = self.length()?;
        self.take(length)
    }

    fn path(&mut self) -> Result<PathBuf, &'static str> {
        self.bytes().map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)))
    }

    fn entries(&mut self) -> Result<Vec<Entry>, &'static str> {
        let count = self.length()?;
        // A damaged count must not allocate: an entry takes at least nine bytes.
        let mut entries: Vec<Entry> = Vec::with_capacity(count.min(self.0.len() / 9));
        for _ in 0..count {
            let previous = entries.last().map_or(&b""[..], |entry| entry.path.as_os_str().as_bytes());
            let entry = self.entry(previous)?;
            if entries.last().is_some_and(|last| last.path >= entry.path) {
                return Err("entries out of order");
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&mut self, previous: &[u8]) -> Result<Entry, &'static str> {
        let shared = self.length()?;
        let prefix = previous.get(..shared).ok_or("shared prefix too long")?;
        let path = [prefix, self.bytes()?].concat();
        Ok(Entry {
            path: PathBuf::from(std::ffi::OsString::from(OsStr::from_bytes(&path))),
            kind: self.kind()?,
            mode: self.number32()?,
            uid: self.number32()?,
            gid: self.number32()?,
            mtime: Mtime { seconds: unzigzag(self.number()?), nanoseconds: self.number32()? },
            xattrs: self.xattrs()?,
        })
    }

    fn kind(&mut self) -> Result<Kind, &'static str> {
        Ok(match self.byte()? {
            0 => Kind::File { size: self.number()?, content: None },
            1 => {
                let size = self.number()?;
                let hash = self.take(32)?.try_into().map_err(|_| "cut off")?;
                Kind::File { size, content: Some(ContentHash(hash)) }
            }
            2 => Kind::Directory { opaque: false },
            3 => Kind::Directory { opaque: true },
            4 => Kind::Symlink { target: self.path()? },
            5 => Kind::HardLink { target: self.path()? },
            6 => Kind::CharDevice(self.device()?),
            7 => Kind::BlockDevice(self.device()?),
            8 => Kind::Fifo,
            9 => Kind::Whiteout,
            _ => return Err("unknown kind of entry"),
        })
    }

    fn device(&mut self) -> Result<Device, &'static str> {
        Ok(Device { major: self.number32()?, minor: self.number32()? })
    }

    fn xattrs(&mut self) -> Result<Xattrs, &'static str> {
        let count = self.number()?;
        let mut xattrs = Xattrs::new();
        for _ in 0..count {
            xattrs.insert(self.bytes()?.to_vec(), self.bytes()?.to_vec());
        }
        Ok(xattrs)
    }

    fn inline(&mut self) -> Result<BTreeMap<PathBuf, Vec<u8>>, &'static str> {
        let count = self.number()?;
        let mut inline = BTreeMap::new();
        for _ in 0..count {
            inline.insert(self.path()?, self.bytes()?.to_vec());
        }
        Ok(inline)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn sample() -> LayerIndex {
        let mut file =
            Entry::plain("etc/passwd", Kind::File { size: 3, content: Some(ContentHash([7; 32])) }, 0o4755);
        file.uid = u32::MAX;
        file.mtime = Mtime { seconds: -5, nanoseconds: 999_999_999 };
        file.xattrs.insert(b"user.a".to_vec(), b"\0\xff".to_vec());
        let entries = vec![
            Entry::directory("", 0o755),
            Entry::plain("etc", Kind::Directory { opaque: true }, 0o1777),
            Entry::plain("etc/group", Kind::File { size: 9, content: None }, 0),
            file,
            Entry::plain("etc/shadow", Kind::HardLink { target: "etc/passwd".into() }, 0o600),
            Entry::plain("l", Kind::Symlink { target: "../\n".into() }, 0o777),
            Entry::plain("m", Kind::CharDevice(Device { major: 1, minor: 3 }), 0o666),
            Entry::plain("n", Kind::BlockDevice(Device { major: 8, minor: u32::MAX }), 0o666),
            Entry::plain("o", Kind::Fifo, 0o600),
            Entry::whiteout("p"),
        ];
        let inline = BTreeMap::from([("etc/passwd".into(), b"a:b".to_vec())]);
        LayerIndex::new(entries, inline).unwrap()
    }

    #[test]
    fn file_form_round_trips() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        sample().write(&path).unwrap();
        let read = LayerIndex::read(&path).unwrap();
        assert_eq!(read, sample());
        assert_eq!(read.inline(Path::new("etc/passwd")), Some(&b"a:b"[..]));
        assert_eq!(decode(&encode(&LayerIndex::default())), Ok(LayerIndex::default()));
    }

    #[test]
    fn file_form_known_answer() {
        // A changed encoding changes content ids in steps' records: raise VERSION and the tag with it.
        let id = sample();
        let id = LayerIndex::new(
            id.entries().iter().filter(|e| e.path != Path::new("etc/group")).cloned().collect(),
            BTreeMap::new(),
        );
        let hash = id.unwrap().content_id().unwrap().to_string();
        assert_eq!(&hash[..16], "4bd8f94f15c8f76a");
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let bytes = encode(&sample());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_err(), "byte {at}");
            assert!(decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
