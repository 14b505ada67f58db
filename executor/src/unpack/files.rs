//! Files of one layer made at once on several threads.
//!
//! Their directories are there, each name is made once, and no link exists yet, so that it does not matter which
//! is made first. What comes out is what one thread would have given: the objects that a layer leaves out are in
//! path order, and of several errors the first in that order is told. Order of creation is all that differs.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;

use oci::layer::Entry;
use oci::pack::Content;

use super::{LeftOut, UnpackError, Unpacker};

/// A file to make.
pub(super) struct Job<'a> {
    pub entry: &'a Entry,
    pub content: Content,
}

/// Files that a thread takes at once: neighbours, since the kernel locks a directory for each new name.
pub(super) const SHARE: usize = 128;

/// More threads than that wait for the file system.
pub(super) const THREADS: usize = 8;

type Done = (usize, Result<Vec<LeftOut>, UnpackError>);

/// Makes the files of `jobs`, which are in path order, `share` of them at a time.
pub(super) fn make_all(
    unpacker: &mut Unpacker<'_>,
    jobs: Vec<Job<'_>>,
    share: usize,
) -> Result<(), UnpackError> {
    let queue = Queue::new(jobs, share);
    let mut done = queue.run(unpacker);
    done.sort_unstable_by_key(|(position, _)| *position);
    for (_, left_out) in done {
        unpacker.left_out.extend(left_out?);
    }
    Ok(())
}

/// Returns how many threads may work on `shares` parts.
pub(super) fn threads(shares: usize) -> usize {
    if shares < 2 { 1 } else { rayon::current_num_threads().clamp(1, THREADS).min(shares) }
}

/// Shares of the work, taken in order.
struct Queue<'a> {
    shares: Vec<Mutex<Vec<Job<'a>>>>,
    next: AtomicUsize,
    /// The lowest share that failed: later ones would not have been reached.
    failed: AtomicUsize,
}

impl<'a> Queue<'a> {
    fn new(jobs: Vec<Job<'a>>, share: usize) -> Self {
        let mut shares = Vec::with_capacity(jobs.len().div_ceil(share));
        let mut jobs = jobs.into_iter().peekable();
        while jobs.peek().is_some() {
            shares.push(Mutex::new(jobs.by_ref().take(share).collect()));
        }
        Self { shares, next: AtomicUsize::new(0), failed: AtomicUsize::new(usize::MAX) }
    }

    /// Has all shares done, on this thread too.
    fn run(&self, unpacker: &Unpacker<'_>) -> Vec<Done> {
        std::thread::scope(|scope| {
            // A thread that cannot be had is one less.
            let others = (1..threads(self.shares.len())).map_while(|_| {
                let spawned = Builder::new().name("unpack".to_owned());
                spawned.spawn_scoped(scope, || self.work(Unpacker::new(unpacker.root, unpacker.flavour))).ok()
            });
            let others: Vec<_> = others.collect();
            let mut done = self.work(Unpacker::new(unpacker.root, unpacker.flavour));
            for other in others {
                done.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        })
    }

    fn work(&self, mut unpacker: Unpacker<'_>) -> Vec<Done> {
        let mut done = Vec::new();
        loop {
            let position = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(share) = self.shares.get(position) else { return done };
            if position > self.failed.load(Ordering::Relaxed) {
                return done;
            }
            let jobs = std::mem::take(&mut *share.lock().unwrap_or_else(PoisonError::into_inner));
            let made = jobs.into_iter().try_for_each(|job| unpacker.make_file_of(job.entry, job.content));
            if made.is_err() {
                self.failed.fetch_min(position, Ordering::Relaxed);
            }
            done.push((position, made.map(|()| std::mem::take(&mut unpacker.left_out))));
        }
    }
}
