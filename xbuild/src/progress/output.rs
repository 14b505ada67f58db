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
        self.lines(&[line]);
    }

    /// Writes lines at once: a step that writes millions of short ones must not wait for as many system calls.
    pub(super) fn lines(&mut self, lines: &[impl AsRef<str>]) {
        let Some(writer) = &mut self.writer else { return };
        let mut bytes = Vec::with_capacity(lines.iter().map(|line| line.as_ref().len() + 1).sum());
        for line in lines {
            bytes.extend_from_slice(line.as_ref().as_bytes());
            bytes.push(b'\n');
        }
        if writer.write_all(&bytes).and_then(|()| writer.flush()).is_err() {
            self.writer = None;
        }
    }
}
