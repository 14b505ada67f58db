//! A blob's bytes, as they come from several connections, into one file. Knows no connection.
//!
//! Bytes are hashed in order by whichever writer has the next ones at hand; what was written ahead of its turn is
//! read back, mostly from the page cache. So there is one pass over the bytes, on threads that write, and no byte is
//! kept in memory for its turn.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;

use super::arrival::Arrival;
use crate::Digest;
use crate::digest::{Algorithm, Hasher};

/// A blob that is being put together.
pub(super) struct Assembly {
    arrival: Arc<Arrival>,
    written: Mutex<Extents>,
    hashing: Mutex<Hashing>,
}

/// What is written, as start and end; extents that touch are one.
#[derive(Debug, Default)]
struct Extents(BTreeMap<u64, u64>);

struct Hashing {
    hasher: Hasher,
    /// Bytes that are hashed.
    offset: u64,
}

/// Bytes that are read back at once.
const READ_BACK: usize = 256 << 10;

impl Assembly {
    /// Starts with an empty file.
    pub fn new(arrival: Arc<Arrival>, algorithm: Algorithm) -> Self {
        let hashing = Hashing { hasher: algorithm.hasher(), offset: 0 };
        Self { arrival, written: Mutex::default(), hashing: Mutex::new(hashing) }
    }

    /// Writes `chunks` one after the other from `offset` on. May block.
    pub fn write(&self, offset: u64, chunks: &[Bytes]) -> io::Result<()> {
        write_all(&self.arrival.file, offset, chunks)?;
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        {
            let mut written = lock(&self.written);
            written.add(offset, offset + length);
            self.arrival.set_ready(written.end_of_first());
        }
        // Where another writer hashes at the moment, it or the next one goes on with these bytes.
        let mut hashing = match self.hashing.try_lock() {
            Ok(hashing) => hashing,
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        hashing.add(offset, chunks);
        self.catch_up(&mut hashing)
    }

    /// Returns size and digest of what was written without a gap. May block.
    pub fn finish(&self) -> io::Result<(u64, Digest)> {
        let mut hashing = lock(&self.hashing);
        self.catch_up(&mut hashing)?;
        Ok((hashing.offset, hashing.hasher.clone().finish()))
    }

    /// Hashes what is written already and follows what is hashed.
    fn catch_up(&self, hashing: &mut Hashing) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let end = lock(&self.written).end_of_first();
            if hashing.offset >= end {
                return Ok(());
            }
            buffer.resize(READ_BACK, 0);
            let want = usize::try_from(end - hashing.offset).unwrap_or(usize::MAX).min(READ_BACK);
            self.arrival.file.read_exact_at(&mut buffer[..want], hashing.offset)?;
            hashing.hasher.update(&buffer[..want]);
            hashing.offset += want as u64;
        }
    }
}

impl Hashing {
    /// Hashes those of `chunks` whose turn it is.
    fn add(&mut self, mut offset: u64, chunks: &[Bytes]) {
        for chunk in chunks {
            if self.offset == offset {
                self.hasher.update(chunk);
                self.offset += chunk.len() as u64;
            }
            offset += chunk.len() as u64;
        }
    }
}

impl Extents {
    fn add(&mut self, start: u64, end: u64) {
        let before = self.0.range(..=start).next_back().map(|(start, end)| (*start, *end));
        let start = match before {
            Some((first, last)) if last >= start => first,
            Some(_) | None => start,
        };
        let end = self.0.remove(&end).unwrap_or(end);
        self.0.insert(start, end);
    }

    /// Returns how far the file has no gap.
    fn end_of_first(&self) -> u64 {
        self.0.get(&0).copied().unwrap_or(0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes all of `chunks` with as few calls as possible.
fn write_all(file: &File, mut offset: u64, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes pieces of the same 100 bytes in the given order.
    fn check(pieces: &[(usize, usize)], expected: u64) {
        let bytes: Vec<u8> = (0..100).collect();
        let assembly = Assembly::new(Arrival::new(tempfile::tempfile().unwrap()), Algorithm::Sha256);
        for (start, end) in pieces {
            let middle = (start + end) / 2;
            let chunks = [&bytes[*start..middle], &bytes[middle..*end]].map(Bytes::copy_from_slice);
            assembly.write(*start as u64, &chunks).unwrap();
        }
        let (size, digest) = assembly.finish().unwrap();
        assert_eq!(size, expected, "{pieces:?}");
        assert_eq!(digest, Digest::of(&bytes[..usize::try_from(expected).unwrap()]), "{pieces:?}");
    }

    #[test]
    fn pieces_are_hashed_in_order_whatever_order_they_come_in() {
        check(&[], 0);
        check(&[(0, 100)], 100);
        check(&[(0, 40), (40, 100)], 100);
        check(&[(40, 100), (0, 40)], 100);
        check(&[(80, 100), (40, 60), (0, 40), (60, 80)], 100);
        check(&[(20, 30), (30, 100), (0, 10), (10, 20)], 100);
    }

    #[test]
    fn what_follows_a_gap_does_not_count() {
        check(&[(50, 100)], 0);
        check(&[(50, 100), (0, 49)], 49);
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(|number| number.to_le_bytes()).collect();
        let assembly = Assembly::new(Arrival::new(tempfile::tempfile().unwrap()), Algorithm::Sha256);
        std::thread::scope(|scope| {
            for part in 0..4_usize {
                let (assembly, bytes) = (&assembly, &bytes);
                scope.spawn(move || {
                    for start in (part * 1_000_000..(part + 1) * 1_000_000).step_by(10_000) {
                        let chunk = Bytes::copy_from_slice(&bytes[start..start + 10_000]);
                        assembly.write(start as u64, &[chunk]).unwrap();
                    }
                });
            }
        });
        assert_eq!(assembly.finish().unwrap(), (4_000_000, Digest::of(&bytes)));
    }
}
