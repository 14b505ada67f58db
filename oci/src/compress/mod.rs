//! Compressing layer blobs on all cores, and decompressing whatever others wrote.
//!
//! Bytes in, bytes out: nothing here knows tar, digests or files.

mod decoder;
mod encoder;
mod encoding;
mod gzip;
mod read_ahead;

pub use decoder::{Decoder, Format};
pub use encoder::Encoder;
pub use encoding::{Encoding, UnknownEncoding};
pub use read_ahead::ReadAhead;
