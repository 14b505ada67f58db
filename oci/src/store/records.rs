//! The small files of the store: which blob a layer is packed as, step records and their locks, layer paths.
//!
//! Records are bytes here; what they say is their owner's. They need no durable marks, because a torn one does not
//! parse and is a miss.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Journal, Store, remove};
use crate::compress::{Known, Piece};
use crate::error::{Error, Result};
use crate::lock::{Attempt, Holder, Lock};
use crate::pack::pieces;
use crate::{Descriptor, DiffId, Digest, document};

/// Pauses between attempts at a step's lock.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// Returns the blob that `diff_id` is packed as in `encoding`, if it is still there.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn packed(&self, diff_id: &DiffId, encoding: &str) -> Result<Option<Descriptor>> {
        let Some(bytes) = read_optional(&self.packed_path(diff_id, encoding))? else { return Ok(None) };
        let Ok(descriptor) = serde_json::from_slice::<Descriptor>(&bytes) else { return Ok(None) };
        let Ok(digest) = document::digest_of(&descriptor) else { return Ok(None) };
        let there = self.layout().size(&digest)? == Some(descriptor.size());
        Ok(there.then_some(descriptor))
    }

    /// Notes that `diff_id` is packed as `descriptor` in `encoding`, a name of letters, digits, `.`, `-`, `+`, `_`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn set_packed(&self, diff_id: &DiffId, encoding: &str, descriptor: &Descriptor) -> Result<()> {
        let bytes = serde_json::to_vec(descriptor).expect("a descriptor serialises");
        self.replace(&self.packed_path(diff_id, encoding), &bytes)
    }

    /// Keeps where the chunks of a blob are that `diff_id` is packed as in `encoding`. Layers of a single chunk have
    /// nothing to share.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn set_pieces(
        &self,
        diff_id: &DiffId,
        encoding: &str,
        blob: &Digest,
        pieces: &[Piece],
    ) -> Result<()> {
        if pieces.len() < 2 {
            return Ok(());
        }
        self.replace(&self.pieces_path(diff_id, encoding), &pieces::encode(blob, pieces))
    }

    /// Returns what may be copied from the blob that `diff_id` is packed as in `encoding`. Damage is nothing.
    pub fn pieces(&self, diff_id: &DiffId, encoding: &str) -> Option<Known> {
        let bytes = std::fs::read(self.pieces_path(diff_id, encoding)).ok()?;
        let descriptor = self.packed(diff_id, encoding).ok().flatten()?;
        let blob = document::digest_of(&descriptor).ok()?;
        let file = std::fs::File::open(self.layout().blob_path(&blob)).ok()?;
        pieces::known(&bytes, &blob, file)
    }

    /// Returns the path of the index of `diff_id`.
    pub fn index_path(&self, diff_id: &DiffId) -> PathBuf {
        self.root().join("index").join(diff_id.0.hex())
    }

    /// Returns the path of an unpacked layer. Parents are made by [`Self::place_layer`].
    pub fn layer_path(&self, flavour: &str, id: &str) -> PathBuf {
        self.root().join("layers").join(file_name(flavour)).join(file_name(id))
    }

    /// Returns the directory of an unpacked layer, `None` where it is missing or was not made durable before the
    /// last boot; then what is left of it is removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn layer(&self, flavour: &str, id: &str) -> Result<Option<PathBuf>> {
        let path = self.layer_path(flavour, id);
        if !path.is_dir() {
            return Ok(None);
        }
        let object = Journal::layer(flavour, id);
        if self.journal().trusts(&object) {
            return Ok(Some(path));
        }
        match self.journal().displace(&object, || remove::move_away(self, &path))? {
            // The tree itself goes with the staging directory, without the lock.
            Some(_trash) => Ok(None),
            None => Ok(Some(path)),
        }
    }

    /// Moves `from`, a finished directory in `staging`, to its place as an unpacked layer and returns that.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn place_layer(
        &self,
        staging: &super::Staging,
        from: &Path,
        flavour: &str,
        id: &str,
    ) -> Result<PathBuf> {
        // What is there and not trusted must not be adopted.
        if let Some(present) = self.layer(flavour, id)? {
            return Ok(present);
        }
        let path = self.layer_path(flavour, id);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        self.journal().place(&Journal::layer(flavour, id), || staging.move_out(from, &path))?;
        Ok(path)
    }

    /// Returns the directory of step records.
    pub fn steps(&self) -> PathBuf {
        self.root().join("steps")
    }

    /// Returns the path of the record of the step `key`, in hexadecimal digits.
    pub fn step_path(&self, key: &str) -> PathBuf {
        self.steps().join(file_name(key))
    }

    /// Returns the record of the step `key`.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but absence.
    pub fn read_step(&self, key: &str) -> Result<Option<Vec<u8>>> {
        read_optional(&self.step_path(key))
    }

    /// Replaces the record of the step `key`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`].
    pub fn write_step(&self, key: &str, record: &[u8]) -> Result<()> {
        self.replace(&self.step_path(key), record)
    }

    /// Tries to take the lock of the step `key`; `what` is what waiters are told.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn try_lock_step(&self, key: &str, what: &str) -> Result<Attempt> {
        Lock::attempt_named(&self.steps().join(format!("{}.lock", file_name(key))), what)
    }

    /// Takes the lock of the step `key`, waiting for other processes. `on_wait` learns the holder, again when it
    /// changes. Dropping the future stops waiting. After it returns, look the step up again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn lock_step(&self, key: &str, what: &str, mut on_wait: impl FnMut(&Holder)) -> Result<Lock> {
        let mut pause = FIRST_PAUSE;
        let mut told = None;
        loop {
            match self.try_lock_step(key, what)? {
                Attempt::Acquired(lock) => return Ok(lock),
                Attempt::Held(holder) => {
                    if told.as_ref() != Some(&holder) {
                        on_wait(&holder);
                        told = Some(holder);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn pieces_path(&self, diff_id: &DiffId, encoding: &str) -> PathBuf {
        self.packed_path(diff_id, &format!("{encoding}.pieces"))
    }

    fn packed_path(&self, diff_id: &DiffId, encoding: &str) -> PathBuf {
        self.root().join("packed").join(format!("{}.{}", diff_id.0.hex(), file_name(encoding)))
    }
}

/// Whatever a caller passes, one name inside one directory comes out.
fn file_name(text: &str) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-+_=@".contains(&byte);
    let mut name = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'.' if at > 0 => name.push('.'),
            byte if safe(byte) => name.push(char::from(byte)),
            byte => name += &format!("%{byte:02x}"),
        }
    }
    name
}

fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}
