//! A blob on its way into a file, for readers that do not wait until all of it is there.
//!
//! What readers get before the end is not verified yet. The end itself is told only after size and digest were right,
//! so who has read to the end has read the blob.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The file that a blob is written into, and how far it is.
#[derive(Debug)]
pub struct Arrival {
    pub(super) file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Bytes from the start without a gap.
    ready: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Arriving,
    Verified,
    Failed,
}

impl Arrival {
    /// Starts with an empty file.
    pub fn new(file: File) -> Arc<Self> {
        let state = Mutex::new(State { ready: 0, stage: Stage::Arriving });
        Arc::new(Self { file, state, changed: Condvar::new() })
    }

    /// Returns a reader from the first byte on, which blocks where no more bytes are there yet.
    pub fn reader(self: &Arc<Self>) -> ArrivalReader {
        ArrivalReader { arrival: Arc::clone(self), offset: 0 }
    }

    /// Ends an arrival that is not complete; readers fail. Without effect on one that is.
    pub fn abandon(&self) {
        self.change(|state| {
            if state.stage == Stage::Arriving {
                state.stage = Stage::Failed;
            }
        });
    }

    pub(super) fn set_ready(&self, ready: u64) {
        self.change(|state| state.ready = ready);
    }

    pub(super) fn set_verified(&self) {
        self.change(|state| state.stage = Stage::Verified);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for bytes behind `offset`, and returns how many there are; none are at the end.
    fn wait(&self, offset: u64) -> io::Result<u64> {
        let waiting = |state: &mut State| state.stage == Stage::Arriving && state.ready <= offset;
        let state = self.changed.wait_while(self.lock(), waiting).unwrap_or_else(PoisonError::into_inner);
        match state.stage {
            Stage::Failed => Err(io::Error::other("the blob did not arrive")),
            Stage::Arriving | Stage::Verified => Ok(state.ready.saturating_sub(offset)),
        }
    }
}

/// Reads a blob while it arrives. For threads that may block.
#[derive(Debug)]
pub struct ArrivalReader {
    arrival: Arc<Arrival>,
    offset: u64,
}

impl Read for ArrivalReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let ready = usize::try_from(self.arrival.wait(self.offset)?).unwrap_or(usize::MAX);
        if ready == 0 {
            return Ok(0);
        }
        let want = ready.min(buffer.len());
        match self.arrival.file.read_at(&mut buffer[..want], self.offset)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.offset += read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(arrival: &Arc<Arrival>) -> std::thread::JoinHandle<io::Result<Vec<u8>>> {
        let mut reader = arrival.reader();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        })
    }

    fn arriving(bytes: &[u8], ready: &[u64]) -> Arc<Arrival> {
        let arrival = Arrival::new(tempfile::tempfile().unwrap());
        arrival.file.write_all_at(bytes, 0).unwrap();
        ready.iter().for_each(|ready| arrival.set_ready(*ready));
        arrival
    }

    #[test]
    fn readers_get_bytes_as_they_come_and_the_end_when_all_is_verified() {
        let arrival = arriving(b"abcdef", &[3]);
        let mut reader = arrival.reader();
        let mut buffer = [0; 10];
        assert_eq!((reader.read(&mut buffer).unwrap(), &buffer[..3]), (3, &b"abc"[..]));
        let reading = reading(&arrival);
        arrival.set_ready(6);
        assert!(!reading.is_finished(), "the end is not known yet");
        arrival.set_verified();
        assert_eq!(reading.join().unwrap().unwrap(), b"abcdef");
        arrival.abandon();
        assert_eq!(reader.read(&mut buffer).unwrap(), 3, "what is verified stays");
    }

    #[test]
    fn readers_of_what_was_abandoned_fail() {
        let arrival = arriving(b"abcdef", &[3, 6]);
        let reading = reading(&arrival);
        arrival.abandon();
        assert!(reading.join().unwrap().is_err());
    }

    #[test]
    fn an_empty_blob_ends_at_once() {
        let arrival = arriving(b"", &[]);
        arrival.set_verified();
        assert_eq!(reading(&arrival).join().unwrap().unwrap(), b"");
    }
}
