//! Compressing layer blobs on all cores, and decompressing whatever others wrote.
//!
//! Bytes in, bytes out: nothing here knows tar, digests or files.

mod cut;
mod decoder;
mod encoder;
mod encoding;
mod gzip;
mod read_ahead;

pub use decoder::{Decoder, Format};
pub use encoder::{ChunkName, Encoder, Known, Piece};
pub use encoding::{Encoding, UnknownEncoding};
pub use read_ahead::ReadAhead;
