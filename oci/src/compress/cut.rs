//! Where a chunk ends. Decided by the bytes near the end alone, so that an insertion or a change moves the ends around
//! it and no others, and what two archives share becomes the same chunks.
//!
//! The rule: from [`LEAST`] bytes on, a chunk ends before the first block of 512 bytes, counted from the chunk's start,
//! whose first 160 bytes have a hash with ten leading zero bits (in a tar, 160 bytes of a header reach from the name to
//! the checksum); else where it is as large as a chunk may be. It is part of a blob's identity
//! ([`super::Encoding`]), and the hash need not withstand anybody: whoever chooses bytes for it gets odd chunks.

/// The shortest chunk but the last. Deflate loses its window at every chunk, and each has a header.
const LEAST: usize = 128 << 10;

/// Archives change in multiples of this.
const BLOCK: usize = 512;

/// How much of a block is looked at.
const SEEN: usize = 160;

/// One block in so many ends a chunk: with [`LEAST`], the mean is 640 KiB, less what the upper limit takes.
const ONE_IN_BITS: u32 = 10;

/// How far a chunk has been looked at.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    looked: usize,
}

impl Cutter {
    /// Returns where `chunk` ends, if it does; `most` is the largest that it may be. It does not matter how often, and at
    /// which lengths, this is asked.
    pub(super) fn find(&mut self, chunk: &[u8], most: usize) -> Option<usize> {
        let mut at = self.looked.max(LEAST);
        while at + SEEN <= chunk.len() {
            if ends_before(&chunk[at..at + SEEN]) {
                self.looked = 0;
                return Some(at);
            }
            at += BLOCK;
        }
        self.looked = at;
        (chunk.len() >= most).then(|| {
            self.looked = 0;
            most
        })
    }
}

fn ends_before(block: &[u8]) -> bool {
    let words = block.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    let hash = words.fold(0x9e37_79b9_7f4a_7c15_u64, |hash, word| {
        (hash.rotate_left(23) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd)
    });
    (hash ^ hash >> 32).wrapping_mul(0xc4ce_b9fe_1a85_ec53) >> (u64::BITS - ONE_IN_BITS) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 1 << 20;

    fn noise(size: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..size).map(|_| random()).collect()
    }

    /// Returns the chunks' lengths when `bytes` come in pieces of `piece`.
    fn lengths(bytes: &[u8], piece: usize) -> Vec<usize> {
        let (mut cutter, mut lengths, mut start, mut end) = (Cutter::default(), Vec::new(), 0, 0);
        while end < bytes.len() {
            end = (end + piece).min(bytes.len()).min(start + MOST);
            while let Some(at) = cutter.find(&bytes[start..end], MOST) {
                lengths.push(at);
                start += at;
            }
        }
        lengths.push(end - start);
        lengths
    }

    #[test]
    fn ends_do_not_depend_on_how_bytes_come() {
        for size in [0, 1, 511, LEAST + SEEN, 5_000_000, 12 << 20] {
            let bytes = noise(size, 7);
            let whole = lengths(&bytes, MOST);
            assert_eq!(whole.iter().sum::<usize>(), size);
            for piece in [512, 1000, 65_536, 100_001] {
                assert_eq!(lengths(&bytes, piece), whole, "{size} by {piece}");
            }
        }
    }

    #[test]
    fn chunks_are_neither_tiny_nor_too_large() {
        let lengths = lengths(&noise(64 << 20, 3), MOST);
        let (last, others) = lengths.split_last().unwrap();
        assert!(*last <= MOST && others.iter().all(|length| (LEAST..=MOST).contains(length)), "{lengths:?}");
        assert!((80..150).contains(&lengths.len()), "{}", lengths.len());
        assert_eq!(
            super::tests::lengths(&vec![0; 3 << 20], MOST),
            [MOST, MOST, MOST, 0],
            "zeros end no chunk"
        );
    }

    #[test]
    fn an_insertion_moves_the_ends_around_it_only() {
        let bytes = noise(32 << 20, 5);
        let at = 10 << 20;
        let longer = [&bytes[..at], &noise(3 * BLOCK, 9), &bytes[at..]].concat();
        let ends = |bytes: &[u8], back: usize| -> std::collections::BTreeSet<usize> {
            let mut end = 0;
            lengths(bytes, MOST)
                .iter()
                .map(|length| {
                    end += length;
                    end.wrapping_sub(back)
                })
                .collect()
        };
        let (before, after) = (ends(&bytes, 0), ends(&longer, 0));
        let same_before = |end: &&usize| **end < at;
        assert_eq!(
            before.iter().filter(same_before).collect::<Vec<_>>(),
            after.iter().filter(same_before).collect::<Vec<_>>()
        );
        let moved = ends(&longer, 3 * BLOCK);
        let lost = before.iter().filter(|end| **end > at && !moved.contains(end)).count();
        assert!(lost <= 4, "{lost} ends were moved behind the insertion");
    }
}
