//! Steps in real namespaces, on a busybox root file system. Needs root; elsewhere every case prints `SKIP`.
//!
//! Has its own main because [`Spawner::start`] must run before any thread exists. Speaks as much of libtest's command line
//! as test runners need: `--list`, `--exact NAME`, a filter.

mod caches;
mod escapes;
mod fixture;
mod identity;
mod lifecycle;
mod mounts;
mod probe;

use executor::sandbox::{SandboxError, Spawner};

/// A named case.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it does; panics where it fails.
    pub run: fn(&Spawner),
}

/// Names functions after themselves.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases of this theme.
        pub const CASES: &[crate::Case] = &[$(crate::Case { name: stringify!($name), run: $name }),*];
    };
}
pub(crate) use cases;

fn main() {
    executor::sandbox::reenter();
    // Children of a case that need a process without threads come back as this program.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--child") {
        return lifecycle::child(arguments.get(1).map_or("", String::as_str));
    }
    if arguments.first().is_some_and(|first| first == "--probe") {
        return probe::inside();
    }
    if arguments.first().is_some_and(|first| first == "--bench") {
        return lifecycle::bench();
    }
    let cases: Vec<&Case> =
        [caches::CASES, escapes::CASES, identity::CASES, lifecycle::CASES, mounts::CASES, probe::CASES]
            .into_iter()
            .flatten()
            .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            cases.iter().for_each(|case| println!("{}: test", case.name));
        }
        return;
    }
    let spawner = match Spawner::start() {
        Ok(spawner) => spawner,
        Err(error @ SandboxError::Namespace { .. }) => return skip(&error),
        Err(error) => panic!("starting the spawner: {error}"),
    };
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| if exact { name == filter.as_str() } else { name.contains(filter.as_str()) })
    };
    let mut failed = 0;
    for case in cases.into_iter().filter(|case| wanted(case.name)) {
        let passed = std::panic::catch_unwind(|| (case.run)(&spawner)).is_ok();
        println!("test {} ... {}", case.name, if passed { "ok" } else { "FAILED" });
        failed += usize::from(!passed);
    }
    drop(spawner);
    if failed > 0 {
        std::process::exit(101);
    }
}

#[expect(clippy::disallowed_methods, reason = "the strict mode of tests is asked for by the environment")]
fn skip(why: &dyn std::fmt::Display) {
    println!("SKIP: {why}");
    assert!(std::env::var_os("XBUILD_TEST_STRICT").is_none(), "XBUILD_TEST_STRICT is set");
}
