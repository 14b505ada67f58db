//! The subcommands, one file each; `build` has a folder of its own beside.

pub mod build;
pub mod debug;
pub mod history;
pub mod images;
pub mod inspect;
pub mod lint;
pub mod names;
pub mod run;
pub mod save;
pub mod transfer;

use std::io::Write as _;

use crate::failure::Failure;

/// Writes a result to standard output. A reader that went away is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(
            crate::failure::io_class(&error, crate::failure::Class::Resource),
            &["cannot write to standard output", "", &error.to_string()],
        )),
        Ok(()) => Ok(()),
    }
}

/// Returns bytes as people read them: `12.3MB`, in powers of 1000 as docker prints them.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.3}").chars().take(4).collect::<String>().trim_end_matches('.').to_owned()
            + UNITS[unit]
    }
}

/// Does `work`, which may be dropped at any time, unless a signal comes first.
///
/// # Errors
/// Those of the work, and the signal.
pub async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        signal = signalled() => Err(Failure::new(crate::failure::Class::Signal(signal), &["interrupted"])),
    }
}

/// Returns the number of the first SIGINT or SIGTERM.
pub async fn signalled() -> i32 {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    tokio::select! {
        _ = interrupt.recv() => 2,
        _ = terminate.recv() => 15,
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_short() {
        for (bytes, expect) in
            [(0, "0B"), (999, "999B"), (1000, "1.00kB"), (12_345_678, "12.3MB"), (123_456_789, "123MB")]
        {
            assert_eq!(human(bytes), expect);
        }
    }
}
