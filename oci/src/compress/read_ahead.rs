//! A reader that works on a thread of its own, so that decompressing overlaps with what is done to the result.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Bytes read at once, and how many of such pieces wait: 1 MiB in all.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 3;

/// Reads from another thread. Dropping it ends the thread after its current read.
pub struct ReadAhead {
    pieces: Receiver<io::Result<Vec<u8>>>,
    spare: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    done: bool,
}

impl ReadAhead {
    /// Starts reading `input` to its end.
    ///
    /// # Errors
    /// Where no thread can be had.
    pub fn new(input: impl Read + Send + 'static) -> io::Result<Self> {
        let (send, pieces) = sync_channel(WAITING);
        let (spare, recycle) = sync_channel(WAITING);
        let run = move || read_pieces(input, &send, &recycle);
        std::thread::Builder::new().name("read layer".to_owned()).spawn(run)?;
        Ok(Self { pieces, spare, current: Vec::new(), at: 0, done: false })
    }
}

fn read_pieces(mut input: impl Read, send: &SyncSender<io::Result<Vec<u8>>>, recycle: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = recycle.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        piece.clear();
        let result = input.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let ends = result.is_err() || piece.is_empty();
        // An empty piece is the end; a receiver that is gone needs nothing more.
        if send.send(result.map(|_| piece)).is_err() || ends {
            return;
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() && !self.done {
            let next = self.pieces.recv();
            self.done = !matches!(&next, Ok(Ok(piece)) if !piece.is_empty());
            let next = next.map_err(|_| io::Error::other("the reading thread panicked"))??;
            // Full when there are spare buffers enough.
            let _ = self.spare.try_send(std::mem::replace(&mut self.current, next));
            self.at = 0;
        }
        let read = (&self.current[self.at..]).read(out)?;
        self.at += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_errors_arrive_in_order() {
        let data: Vec<u8> = (0..1_000_003_u32).map(|at| at as u8).collect();
        let mut back = Vec::new();
        ReadAhead::new(io::Cursor::new(data.clone())).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == data);

        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::InvalidData.into())
            }
        }
        let mut reader = ReadAhead::new(io::Cursor::new(vec![1; 5]).chain(Fails)).unwrap();
        let mut out = Vec::new();
        let error = reader.read_to_end(&mut out).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0, "nothing after an error");
    }

    #[test]
    fn the_end_is_reported_every_time() {
        let mut reader = ReadAhead::new(io::empty()).unwrap();
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
        assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    }
}
