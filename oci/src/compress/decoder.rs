//! Decompression by content: what a blob or archive is decides its first bytes, never a name or media type.
//!
//! Damaged, truncated and over-long data is an error of kind `InvalidData` or `UnexpectedEof`. How much comes
//! out is limited by the reader of the result.

use std::io::{self, BufRead, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

/// What compressed data is, by its magic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// None of the others.
    Plain,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
    /// xz, any number of streams.
    Xz,
    /// bzip2, any number of streams.
    Bzip2,
}

/// Windows larger than 128 MiB are refused (zstd's own limit for programs without `--long`).
const ZSTD_WINDOW_LOG: u32 = 27;

/// xz -9 needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// Decompresses what its input turns out to be.
pub struct Decoder<R: BufRead>(Inner<R>);

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(Box<zstd::Decoder<'static, R>>),
    Xz(XzDecoder<R>),
    Bzip2(MultiBzDecoder<R>),
}

impl Format {
    /// Longest magic number.
    pub const MAGIC_LENGTH: usize = 6;

    /// Recognises the start of a file; [`Format::MAGIC_LENGTH`] bytes suffice.
    pub fn sniff(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable one, which pzstd writes first (RFC 8878, 3.1.2).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::Plain,
        }
    }
}

impl<R: BufRead> Decoder<Prefixed<R>> {
    /// Looks at the first bytes of `input` and decompresses accordingly.
    ///
    /// # Errors
    /// Whatever reading the first bytes gives.
    pub fn new(mut input: R) -> io::Result<(Self, Format)> {
        let mut start = Vec::with_capacity(Format::MAGIC_LENGTH);
        input.by_ref().take(Format::MAGIC_LENGTH as u64).read_to_end(&mut start)?;
        let format = Format::sniff(&start);
        Ok((Decoder::of(Prefixed { start, at: 0, input }, format)?, format))
    }
}

impl<R: BufRead> Decoder<R> {
    /// Decompresses `input`, which is known to be of `format`.
    ///
    /// # Errors
    /// Where a decoder cannot be set up.
    pub fn of(input: R, format: Format) -> io::Result<Self> {
        Ok(Self(match format {
            Format::Plain => Inner::Plain(input),
            Format::Gzip => Inner::Gzip(MultiGzDecoder::new(input)),
            Format::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Inner::Zstd(Box::new(decoder))
            }
            Format::Xz => {
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED);
                Inner::Xz(XzDecoder::new_stream(input, stream?))
            }
            Format::Bzip2 => Inner::Bzip2(MultiBzDecoder::new(input)),
        }))
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(reader) => reader.read(out),
            Inner::Gzip(reader) => reader.read(out),
            Inner::Zstd(reader) => reader.read(out),
            Inner::Xz(reader) => reader.read(out),
            Inner::Bzip2(reader) => reader.read(out),
        }
    }
}

/// The bytes that were looked at, then the rest.
pub struct Prefixed<R> {
    start: Vec<u8>,
    at: usize,
    input: R,
}

impl<R: BufRead> Read for Prefixed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.start.len() {
            return self.input.read(out);
        }
        let read = (&self.start[self.at..]).read(out)?;
        self.at += read;
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Prefixed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at < self.start.len() { Ok(&self.start[self.at..]) } else { self.input.fill_buf() }
    }

    fn consume(&mut self, count: usize) {
        if self.at < self.start.len() {
            self.at += count;
        } else {
            self.input.consume(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    fn decode(bytes: &[u8]) -> io::Result<(Vec<u8>, Format)> {
        // A tiny buffer, so that the decoders are fed in pieces.
        let (mut decoder, format) = Decoder::new(io::BufReader::with_capacity(7, bytes))?;
        let mut out = Vec::new();
        decoder.read_to_end(&mut out)?;
        Ok((out, format))
    }

    fn compressed(program: &str, input: &[u8]) -> Option<Vec<u8>> {
        let mut command = Command::new(program);
        let child = command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("SKIP: {program} is not installed");
            return None;
        };
        child.stdin.take().unwrap().write_all(input).unwrap();
        Some(child.wait_with_output().unwrap().stdout)
    }

    #[test]
    fn tar_53_foreign_formats_are_read_and_damage_is_refused() {
        let data: Vec<u8> = (0..20_000_u32).flat_map(|at| (at / 7).to_le_bytes()).collect();
        let formats =
            [("gzip", Format::Gzip), ("zstd", Format::Zstd), ("xz", Format::Xz), ("bzip2", Format::Bzip2)];
        for (program, format) in formats {
            let Some(bytes) = compressed(program, &data) else { continue };
            assert_eq!(decode(&bytes).unwrap(), (data.clone(), format));
            let twice = [&bytes[..], &bytes].concat();
            assert_eq!(decode(&twice).unwrap().0.len(), 2 * data.len(), "{program}: two members");
            for cut in [bytes.len() - 1, bytes.len() - 5, bytes.len() / 2, 12] {
                assert!(decode(&bytes[..cut]).is_err(), "{program} cut to {cut} of {}", bytes.len());
            }
            // Zeros in fours are legal behind an xz stream (xz file format, 2.2).
            for garbage in [&b"x"[..], b"\x1f", b"garbage behind the end", &[0; 511]] {
                let long = [&bytes[..], garbage].concat();
                assert!(decode(&long).is_err(), "{program} with {garbage:?} behind");
            }
            let mut flipped = bytes.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 0x10;
            assert!(decode(&flipped).map_or(true, |(out, _)| out != data), "{program} flipped");
            assert!(decode(&flipped).is_err(), "{program} flipped");
        }
    }

    #[test]
    fn plain_data_passes() {
        for data in [&b""[..], b"a", b"BZh", b"\x1f", b"plain text of some length"] {
            assert_eq!(decode(data).unwrap(), (data.to_vec(), Format::Plain));
        }
    }

    #[test]
    fn tar_50_large_zstd_windows_are_refused() {
        // Frame header: magic, descriptor without content size, window descriptor of 2^31 bytes.
        let bytes = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 0x01, 0x00, 0x00];
        assert!(decode(&bytes).unwrap_err().to_string().contains("memory"));
    }
}
