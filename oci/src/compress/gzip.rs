//! A chunk to gzip members by libdeflate, noise stored. It knows nothing of threads or of what the bytes mean.

use std::io;

use libdeflater::{CompressionLvl, Compressor};

/// A compressor with its buffer, which is zeroed once and not for every chunk.
pub(super) struct Gzip {
    compressor: Compressor,
    stored: Compressor,
    level: u8,
    out: Vec<u8>,
}

impl Gzip {
    /// Starts with `level`, 1 to 12.
    ///
    /// # Errors
    /// Another level.
    pub(super) fn new(level: u8) -> io::Result<Self> {
        Ok(Self { compressor: at_level(level)?, stored: at_level(0)?, level, out: Vec::new() })
    }

    /// Compresses a chunk to one member, or to one for each part where parts of it are noise.
    ///
    /// # Errors
    /// What libdeflate says.
    pub(super) fn compress(&mut self, raw: &[u8]) -> io::Result<Vec<u8>> {
        let mut compressed = Vec::new();
        for Part { bytes, noise } in self.parts(raw) {
            let compressor = if noise { &mut self.stored } else { &mut self.compressor };
            let bound = compressor.gzip_compress_bound(bytes.len());
            if self.out.len() < bound {
                self.out.resize(bound, 0);
            }
            let size = compressor
                .gzip_compress(bytes, &mut self.out)
                .map_err(|error| io::Error::other(format!("compress layer: {error:?}")))?;
            compressed.extend_from_slice(&self.out[..size]);
        }
        Ok(compressed)
    }

    /// Cuts a chunk where random noise (archives, media, encrypted files), which would only slow deflate down,
    /// begins or ends. Decided by the chunk's bytes alone, so that the result does not depend on the machine.
    fn parts<'a>(&mut self, raw: &'a [u8]) -> Vec<Part<'a>> {
        if self.level >= 6 {
            return vec![Part { bytes: raw, noise: false }];
        }
        let mut parts = Vec::new();
        for Part { bytes, noise } in joined(raw, blocks(raw)) {
            let noise =
                noise && bytes.len() >= SHORTEST_NOISE && does_not_shrink(bytes, &mut self.compressor);
            parts.push((bytes.len(), noise));
        }
        joined(raw, parts)
    }
}

/// Bytes of a chunk that are handled alike.
struct Part<'a> {
    bytes: &'a [u8],
    noise: bool,
}

/// What is judged at once: short enough for a file in an archive to be seen, long enough to be sampled.
const BLOCK: usize = 64 << 10;

/// A member of its own costs deflate its window; shorter noise is compressed with what is around it.
const SHORTEST_NOISE: usize = 2 * BLOCK;

/// Returns lengths of blocks, which are the whole of `raw`, and whether four samples of 1 KiB of each look random.
fn blocks(raw: &[u8]) -> Vec<(usize, bool)> {
    const SAMPLES: usize = 4;
    const LENGTH: usize = 1024;
    let judge = |block: &[u8]| {
        let step = (block.len() - LENGTH) / (SAMPLES - 1);
        (0..SAMPLES).all(|sample| looks_random(&block[sample * step..][..LENGTH]))
    };
    let whole = raw.chunks_exact(BLOCK);
    let rest = whole.remainder().len();
    let mut blocks: Vec<_> = whole.map(|block| (block.len(), judge(block))).collect();
    match blocks.last_mut() {
        Some((length, _)) => *length += rest,
        None => blocks.push((rest, false)),
    }
    blocks
}

/// Joins neighbours of one kind.
fn joined(raw: &[u8], lengths: Vec<(usize, bool)>) -> Vec<Part<'_>> {
    let mut parts: Vec<Part<'_>> = Vec::new();
    let (mut start, mut end) = (0, 0);
    for (length, noise) in lengths {
        end += length;
        match parts.last_mut() {
            Some(last) if last.noise == noise => last.bytes = &raw[start..end],
            Some(_) | None => {
                start = end - length;
                parts.push(Part { bytes: &raw[start..end], noise });
            }
        }
    }
    parts
}

/// Whether 16 KiB from the middle do not shrink by a hundredth.
fn does_not_shrink(bytes: &[u8], compressor: &mut Compressor) -> bool {
    let middle = &bytes[bytes.len() / 2..][..16 << 10];
    let mut out = vec![0; middle.len() - middle.len() / 100];
    // An error means that the result does not fit.
    compressor.deflate_compress(middle, &mut out).is_err()
}

fn at_level(level: u8) -> io::Result<Compressor> {
    let level = CompressionLvl::new(level.into());
    let level =
        level.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "gzip level out of range 1 to 12"))?;
    Ok(Compressor::new(level))
}

/// Whether the sum of squares of byte counts is near that of uniform bytes: `n + n²/256`, 5120 for 1 Ki bytes,
/// with a standard deviation of 300. Base64 has 17 Ki, English text 70 Ki, machine code above 30 Ki.
fn looks_random(sample: &[u8]) -> bool {
    let mut counts = [0_u32; 256];
    for byte in sample {
        counts[usize::from(*byte)] += 1;
    }
    let squares: u32 = counts.iter().map(|count| count * count).sum();
    squares < 6400
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random.
    fn noise(size: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..size).map(|_| random()).collect()
    }

    fn check(raw: &[u8], expect: &[(usize, bool)]) {
        let mut gzip = Gzip::new(2).unwrap();
        let parts: Vec<_> = gzip.parts(raw).iter().map(|part| (part.bytes.len(), part.noise)).collect();
        assert_eq!(parts, expect);
        assert_eq!(gzip.parts(raw).iter().map(|part| part.bytes).collect::<Vec<_>>().concat(), raw);
        let mut back = vec![0; raw.len()];
        let compressed = gzip.compress(raw).unwrap();
        std::io::Read::read_exact(&mut flate2::read::MultiGzDecoder::new(&*compressed), &mut back).unwrap();
        assert_eq!(back, raw);
    }

    #[test]
    fn noise_is_stored_and_everything_else_is_not() {
        let size = 1 << 20;
        let noise = noise(size);
        check(&noise, &[(size, true)]);
        let ramp: Vec<u8> = (0..size).map(|at| at as u8).collect();
        check(&ramp, &[(size, false)]);
        let base64: Vec<u8> = noise.iter().map(|byte| b'0' + byte % 64).collect();
        check(&base64, &[(size, false)]);
        let mut mixed = noise.clone();
        mixed[5 * BLOCK..8 * BLOCK].fill(b'a');
        check(&mixed, &[(5 * BLOCK, true), (3 * BLOCK, false), (8 * BLOCK, true)]);
        mixed[BLOCK..4 * BLOCK].fill(b'b');
        check(&mixed, &[(8 * BLOCK, false), (8 * BLOCK, true)]);
        for short in [0, 1, BLOCK - 1, BLOCK] {
            check(&noise[..short], &[(short, false)]);
        }
        check(&noise[..3 * BLOCK - 1], &[(3 * BLOCK - 1, true)]);
        let stored = Gzip::new(2).unwrap().compress(&noise).unwrap();
        assert!(stored.len() < size + size / 1000, "{}", stored.len());
    }
}
