//! The subcommands, one file each; `build` has a folder of its own beside.

pub mod build;
pub mod copy;
pub mod debug;
pub mod history;
pub mod images;
pub mod index;
pub mod inspect;
pub mod lint;
pub mod load;
pub mod login;
pub mod names;
pub mod prompt;
pub mod run;
pub mod save;
pub mod send;
pub mod transfer;
pub mod writable;

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oci::Platform;
use oci::reference::Reference;
use tokio::sync::watch;

use crate::args::RegistryArgs;
use crate::failure::{Class, Failure};
use crate::images::{Places, Source};
use crate::location::{Location, reference};
use crate::options::RegistryOptions;
use crate::registries::Registries;

/// Writes a result to standard output. A reader that went away is no error.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(
            crate::failure::io_class(&error, Class::Resource),
            &["cannot write to standard output", "", &error.to_string()],
        )),
        Ok(()) => Ok(()),
    }
}

/// Tells of something beside the result. Where nobody reads any more, `eprintln!` would panic.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Returns what opens the images of a command; the command line's user is for the registries of `locations`.
///
/// # Errors
/// Usage failures of the flags.
pub fn places<'a>(
    root: PathBuf,
    args: &RegistryArgs,
    locations: impl IntoIterator<Item = &'a Location>,
) -> Result<Places, Failure> {
    let references: Vec<Reference> = locations.into_iter().filter_map(Location::reference).collect();
    let options = RegistryOptions::new(args)?.for_images(&references)?;
    Ok(Places::new(root, Arc::new(Registries::new(options, |note| tell(&note)))))
}

/// Which of an image's platforms are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Platforms {
    /// The whole index.
    All,
    /// The one that fits this machine best.
    Host,
    /// This one and no other.
    One(Platform),
}

impl Platforms {
    /// Parses `--platform`; `usual` is meant where it is not given.
    ///
    /// # Errors
    /// A usage failure.
    pub fn parse(text: Option<&str>, usual: Self) -> Result<Self, Failure> {
        match text {
            None => Ok(usual),
            Some("all") => Ok(Self::All),
            Some(text) => text.parse().map(Self::One).map_err(|error| {
                let why = format!("{error}");
                Failure::new(Class::Usage, &["unusable platform", text, &why, "write os/arch[/variant]"])
            }),
        }
    }

    /// Leaves of `source` what is meant.
    ///
    /// # Errors
    /// A source failure where there is no such platform.
    pub async fn apply(&self, source: &mut Source) -> Result<(), Failure> {
        match self {
            Self::All => Ok(()),
            Self::Host => source.prefer(&Platform::host()).await,
            Self::One(platform) => source.narrow(platform).await,
        }
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
        // First, so that signals are heard before the work occupies the thread for long.
        biased;
        signal = signalled() => Err(Failure::new(Class::Signal(signal), &["interrupted"])),
        done = work => done,
    }
}

/// Waits for `work` on a runtime of its own, unless a signal comes first.
///
/// # Errors
/// As [`interruptible`].
pub fn await_result<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    crate::runtime()?.block_on(interruptible(work))
}

/// How long a command that does not wait for steps may take to end after a signal.
const PATIENCE: Duration = Duration::from_secs(1);

/// The first SIGINT or SIGTERM, once there was one.
static SIGNAL: OnceLock<watch::Sender<Option<i32>>> = OnceLock::new();

/// Whether the command waits for steps that were asked to end.
static STEPS_END: AtomicBool = AtomicBool::new(false);

/// Returns the number of the first SIGINT or SIGTERM. The second ends the process at once, and so does the first
/// where something that cannot be interrupted goes on. Signals are heard from this call on, not from the first poll.
pub fn signalled() -> impl Future<Output = i32> {
    let mut first = SIGNAL.get_or_init(listen).subscribe();
    async move {
        let signal = first.wait_for(Option::is_some).await.map(|signal| *signal);
        signal.ok().flatten().expect("the sender is never dropped")
    }
}

/// How long what was asked to end may take before that is told.
const BLINK: Duration = Duration::from_millis(300);

/// Waits for `work`, which was asked to end, and tells where `what` takes its time.
pub async fn until_ended<T>(what: &str, work: impl Future<Output = T>, tell: impl FnOnce(String)) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(BLINK) => {
            tell(format!("interrupted: {what} has 10 s to end; Ctrl-C again ends it at once"));
        }
    }
    work.await
}

/// Says that a signalled command gives its steps their time to end.
pub fn steps_end() {
    STEPS_END.store(true, Ordering::Relaxed);
}

/// Listens on a thread of its own: a command may have several runtimes one after the other, and signals must be
/// heard as long as the process lives.
fn listen() -> watch::Sender<Option<i32>> {
    use tokio::signal::unix::{SignalKind, signal};
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let own = own.expect("a runtime can be made where there is one already");
    let entered = own.enter();
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be handled");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let sender = watch::Sender::new(None);
    let first = sender.clone();
    let mut next = async move || {
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
        }
    };
    drop(entered);
    let heard = async move {
        let signal = next().await;
        first.send_replace(Some(signal));
        tokio::select! {
            second = next() => end(second),
            () = tokio::time::sleep(PATIENCE) => {}
        }
        if !STEPS_END.load(Ordering::Relaxed) {
            end(signal);
        }
        end(next().await)
    };
    std::thread::spawn(move || own.block_on(heard));
    sender
}

/// Ends the process. Its steps end with it, what it was writing is removed.
fn end(signal: i32) -> ! {
    oci::lock::abandon();
    crate::images::abandon();
    let rest = if STEPS_END.load(Ordering::Relaxed) { " — finished steps stay cached" } else { "" };
    // Nobody may be reading any more.
    let _ = writeln!(std::io::stderr().lock(), "error: interrupted{rest}");
    std::process::exit(i32::from(Class::Signal(signal).code()))
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
