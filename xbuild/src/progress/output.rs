//! Standard error, or in tests a buffer: a reader that went away ends the output and nothing else.

use std::io::Write;

/// Where progress goes.
pub(super) struct Output {
    writer: Option<Box<dyn Write + Send>>,
}

impl Output {
    /// Writes to `writer`.
    pub(super) fn new(writer: Box<dyn Write + Send>) -> Self {
        Self { writer: Some(writer) }
    }

    /// Writes a line. After an error (a closed pipe, a terminal that is gone) nothing more is written: the build
    /// goes on, its result does not depend on who watches. `eprintln!` would panic.
    pub(super) fn line(&mut self, line: &str) {
        let Some(writer) = &mut self.writer else { return };
        let bytes = [line.as_bytes(), b"\n"].concat();
        if writer.write_all(&bytes).and_then(|()| writer.flush()).is_err() {
            self.writer = None;
        }
    }
}
