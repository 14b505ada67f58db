//! Images written out in every form, read back by our own reader and by foreign tools.

mod archives;
mod fixture;
mod loading;
