//! Mutations that know the syntax: seeds are cut, joined, repeated, and sown with its pieces.
//!
//! All of it hangs on one number, so that a failing input can be had again.

/// Inputs grow to this length at most.
pub const LIMIT: usize = 64 * 1024;

/// Random numbers: SplitMix64, good enough to choose bytes with, and the same everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 for an empty range.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.next() % end as u64) as usize }
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// Returns the next input: a seed after one to six edits.
pub fn input(random: &mut Random, seeds: &[Vec<u8>], pieces: &[&str]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(6) {
        edit(random, &mut bytes, seeds, pieces);
    }
    bytes.truncate(LIMIT);
    bytes
}

fn edit(random: &mut Random, bytes: &mut Vec<u8>, seeds: &[Vec<u8>], pieces: &[&str]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(12)).min(bytes.len());
    let piece = random.of(pieces).as_bytes();
    match random.below(64) {
        0..=23 => drop(bytes.splice(at..at, piece.iter().copied())),
        24..=35 => drop(bytes.splice(at..end, piece.iter().copied())),
        36..=45 => drop(bytes.drain(at..end)),
        46..=50 => line(random, bytes),
        51..=54 => {
            let seed = &seeds[random.below(seeds.len())];
            let from = random.below(seed.len());
            let to = (from + random.below(60)).min(seed.len());
            bytes.splice(at..at, seed[from..to].iter().copied());
        }
        55..=58 => {
            let byte = random.below(256) as u8;
            if let Some(found) = bytes.get_mut(at) {
                *found = byte;
            }
        }
        59..=61 => {
            let part = bytes[at..end].to_vec();
            let times = random.below(16);
            bytes.splice(at..at, part.repeat(times));
        }
        62 => bytes.truncate(at),
        // Rarely a bomb: one piece very often.
        _ => {
            let reach = [64, 64, 256, 256, 256, 4096][random.below(6)];
            let times = random.below(reach);
            bytes.splice(at..at, piece.repeat(times));
        }
    }
}

/// Copies, moves or drops a line.
fn line(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let from = random.below(lines.len());
    let line = match random.below(2) {
        0 => lines[from].clone(),
        _ => lines.remove(from),
    };
    if random.below(3) > 0 {
        let to = random.below(lines.len() + 1);
        lines.insert(to, line);
    }
    *bytes = lines.concat();
}
