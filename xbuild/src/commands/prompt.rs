//! Asks whoever sits at the terminal. What is typed of a password is not shown, and the terminal is as before
//! whatever happens.

use std::io::{BufRead as _, IsTerminal as _, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::failure::{Class, Failure};

/// Whether what is typed is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// Longest line that is read.
const LIMIT: u64 = 64 << 10;

/// Whether there is a terminal to ask at.
pub fn is_possible() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks for a line. Dropped before the answer, it leaves the terminal as it was.
///
/// # Errors
/// Where the terminal cannot be used.
pub async fn line(question: &str, echo: Echo) -> Result<String, Failure> {
    let quiet = match echo {
        Echo::On => None,
        Echo::Off => Some(Quiet::new()?),
    };
    // Nobody may be reading standard error; the answer counts all the same.
    let _ = write!(std::io::stderr().lock(), "{question}");
    let line = aside(read).await?;
    if quiet.is_some() {
        let _ = writeln!(std::io::stderr().lock());
    }
    Ok(line)
}

/// Does what waits for standard input on a thread of its own, so that a signal ends the wait.
///
/// # Errors
/// Those of `work`.
pub async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(unusable(&error.to_string())))
}

fn read() -> Result<String, Failure> {
    let mut line = String::new();
    let read = std::io::stdin().lock().take(LIMIT).read_line(&mut line);
    match read.map_err(|error| unusable(&error.to_string()))? {
        0 => Err(unusable("it ended before an answer")),
        _ => Ok(line.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

fn unusable(why: &str) -> Failure {
    Failure::new(
        Class::Usage,
        &["cannot ask at the terminal", "", why, "pipe the password in: --password-stdin"],
    )
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> Result<Self, Failure> {
        let before = tcgetattr(std::io::stdin()).map_err(|error| unusable(&error.to_string()))?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &quiet)
            .map_err(|error| unusable(&error.to_string()))?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
