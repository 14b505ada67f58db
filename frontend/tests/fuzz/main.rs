//! The fuzz targets in process: a fixed seed, 50,000 executions each, no panic, no input that takes a second
//! or 200 MiB. `cargo fuzz` looks further with the same targets (see `fuzz/`).
//!
//! A test binary of its own, since its allocator counts.

mod memory;
mod mutate;
mod pieces;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use memory::{Taken, measured};
use targets::Target;

/// Executions per target.
const EXECUTIONS: usize = 50_000;

/// No input may take longer, in a debug build too.
const TIME_LIMIT: Duration = Duration::from_secs(1);

/// No input may take more memory at once.
const MEMORY_LIMIT: usize = 200 << 20;

/// What was the worst of a run.
#[derive(Default)]
struct Worst {
    time: Duration,
    time_input: Vec<u8>,
    memory: usize,
}

/// Runs a target on mutations of the seeds in `testdata/fuzz/<name>`.
fn run(name: &str, target: Target, pieces: &[&str], split: Split) {
    let seeds = seeds(name, split);
    let mut random = mutate::Random::new(0x0078_6275_696c_6431);
    let mut worst = Worst::default();
    for seed in &seeds {
        execute(target, seed, &mut worst);
    }
    for _ in seeds.len()..EXECUTIONS {
        let input = mutate::input(&mut random, &seeds, pieces);
        execute(target, &input, &mut worst);
    }
    println!(
        "{name}: {EXECUTIONS} executions, slowest {:?} on {} bytes ({}), most memory {} KiB",
        worst.time,
        worst.time_input.len(),
        excerpt(&worst.time_input),
        worst.memory / 1024
    );
}

fn execute(target: Target, input: &[u8], worst: &mut Worst) {
    let (mut time, taken) = once(target, input);
    // On a busy machine the same work takes longer now and then: only what is slow each time is slow.
    for _ in 0..4 {
        if time > TIME_LIMIT {
            time = time.min(once(target, input).0);
        }
    }
    assert!(time <= TIME_LIMIT, "takes {time:?}: {} bytes, {}", input.len(), input.escape_ascii());
    assert!(taken.peak <= MEMORY_LIMIT, "takes {} bytes: {}", taken.peak, input.escape_ascii());
    worst.memory = worst.memory.max(taken.peak);
    if time > worst.time {
        worst.time = time;
        worst.time_input = input.to_vec();
    }
}

/// Runs a target once; an input that makes it panic is named.
fn once(target: Target, input: &[u8]) -> (Duration, Taken) {
    let start = processor_time();
    let (outcome, taken) = measured(|| catch_unwind(AssertUnwindSafe(|| target(input))));
    assert!(outcome.is_ok(), "panics on {} bytes: b\"{}\"", input.len(), input.escape_ascii());
    (processor_time().saturating_sub(start), taken)
}

/// What this thread has had of processors: how long it waited for one counts for nothing.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it does not run backwards")
}

fn excerpt(input: &[u8]) -> String {
    let text = input.escape_ascii().to_string();
    text.chars().take(120).collect()
}

/// What of a seed file is one seed.
#[derive(Clone, Copy)]
enum Split {
    Files,
    Lines,
}

fn seeds(name: &str, split: Split) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/fuzz").join(name);
    let entries = std::fs::read_dir(&directory).expect("the seeds are part of the source");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    let mut seeds = Vec::new();
    for path in paths {
        let bytes = std::fs::read(&path).expect("readable");
        match split {
            Split::Files => seeds.push(bytes),
            Split::Lines => seeds.extend(bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec)),
        }
    }
    assert!(seeds.len() > 3, "{} seeds in {}", seeds.len(), directory.display());
    seeds
}

#[test]
fn dockerfiles() {
    run("dockerfile", targets::dockerfile, &pieces::DOCKERFILE, Split::Files);
}

#[test]
fn words() {
    run("words", targets::words, &pieces::WORDS, Split::Lines);
}

#[test]
fn ignore_files() {
    run("ignore", targets::ignore, &pieces::IGNORE, Split::Files);
}

#[test]
fn mount_flags() {
    run("mounts", targets::mounts, &pieces::MOUNTS, Split::Lines);
}

#[test]
fn image_references() {
    run("reference", targets::reference, &pieces::REFERENCE, Split::Lines);
}

#[test]
fn git_urls() {
    run("giturl", targets::giturl, &pieces::GITURL, Split::Lines);
}

/// Twice the instructions may take twice the memory and a little more, parsed and planned.
#[test]
fn df_14_instructions_cost_linear_memory() {
    let mixed = |count: usize| -> String {
        let pair = |n: usize| format!("LABEL l{n}=x\nENV E{}=$A\n", n % 100);
        std::iter::once("FROM a\n".to_owned()).chain((0..count / 2).map(pair)).collect()
    };
    let cost = |count: usize| {
        let text = mixed(count);
        let (outcome, taken) = measured(|| {
            let file = frontend::parse(text.as_bytes());
            targets::world::definition(&file, &targets::world::options()).map(|plan| plan.image.history.len())
        });
        // The base's trigger is one more.
        assert_eq!(outcome, Ok(count + 1));
        taken
    };
    let (one, two, four) = (cost(25_000), cost(50_000), cost(100_000));
    println!("25,000: {one:?}, 50,000: {two:?}, 100,000: {four:?}");
    for (small, large) in [(one, two), (two, four)] {
        assert!(large.total < small.total * 5 / 2, "{small:?} {large:?}");
        assert!(large.peak < small.peak * 5 / 2, "{small:?} {large:?}");
    }
    assert!(four.peak < MEMORY_LIMIT, "{four:?}");
}

/// Peak memory of parsing is a few times the input: its text, and the one instruction that it may be as it is
/// written, split and meant. What is over the limits costs less than itself.
#[test]
fn df_02_memory_is_a_few_times_the_input() {
    let continued = format!("FROM a\nRUN x{}\n", " \\\n yyyyyyyyyyyy".repeat(500_000));
    let long = format!("FROM a\n{}", format!("LABEL a={}\n", "x".repeat(60_000)).repeat(150));
    let body = format!("FROM a\nCOPY <<E /e\n{}E\n", format!("{}\n", "x".repeat(1 << 20)).repeat(8));
    let comments = format!("FROM a\n{}", "# a comment that means nothing\n".repeat(300_000));
    for text in [continued, long, body, comments] {
        let (file, taken) = measured(|| frontend::parse(text.as_bytes()));
        println!("{} bytes, {} instructions: {} bytes", text.len(), file.instructions.len(), taken.peak);
        assert!(taken.peak <= 5 * text.len(), "{} bytes for {}", taken.peak, text.len());
    }
    let (_, taken) = measured(|| frontend::parse(&vec![b'x'; 17 << 20]));
    assert!(taken.peak <= 18 << 20, "{} bytes", taken.peak);
}

#[test]
fn df_04_values_that_double_take_bounded_memory() {
    let mut text = "FROM a\nENV A0=xxxxxxxx\n".to_owned();
    for n in 1..=40 {
        text += &format!("ENV A{n}=$A{p}$A{p}\n", p = n - 1);
    }
    let (refused, taken) = measured(|| {
        targets::world::definition(&frontend::parse(text.as_bytes()), &targets::world::options()).is_err()
    });
    assert!(refused && taken.peak < 16 << 20, "{taken:?}");
}
