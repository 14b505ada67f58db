//! Images written out in every form, read back by our own reader and by foreign tools.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod archives;
mod fixture;
mod loading;
