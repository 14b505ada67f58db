//! Progress: what the solver tells, shown on standard error while it happens.
//!
//! Events come from many threads and are shown by one. What steps write is made harmless first (see `text`):
//! nothing here passes control characters on, and no line of a step begins at the first column. Nothing here
//! decides anything about the build, and nothing fails: who does not listen misses it.

mod json;
mod output;
mod plain;
mod steps;
mod text;
mod transfer;
mod tty;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use frontend::graph::StepGraph;
use indicatif::ProgressDrawTarget;
use solver::{Event, Observer};

use crate::args;
use json::Json;
use output::Output;
use plain::Plain;
pub use steps::Tail;
use steps::{Key, Steps};
pub use text::{neutralise, shorten};
pub use transfer::{Transfers, note_of};
use tty::Tty;

/// Events that may wait to be shown. A terminal that is slower than the steps slows them down instead of
/// filling the memory.
const QUEUE: usize = 4096;
/// How often moving lines move.
const TICK: Duration = Duration::from_millis(100);

/// How progress looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Moving lines.
    Tty,
    /// A line per event.
    Plain,
    /// A JSON object per event.
    Json,
    /// Nothing.
    Quiet,
}

/// Whether standard error is a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It is.
    Yes,
    /// It is a file, a pipe or nothing.
    No,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Well.
    Done,
    /// With an error.
    Failed,
}

/// What is left to say after the progress.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The last lines of the steps that failed.
    pub tails: Vec<Tail>,
    /// Layer steps that the build had.
    pub steps: usize,
    /// How many of them were cached.
    pub cached: usize,
}

/// A running display of progress.
#[derive(Debug)]
pub struct Progress {
    sender: SyncSender<Message>,
    graphs: AtomicUsize,
    thread: JoinHandle<Report>,
}

enum Message {
    Graph(usize, Arc<StepGraph>),
    Event(usize, Duration, Event),
    Note(String),
    Registry(oci::registry::Event),
    Finish(Ending),
}

/// Shows one graph's events.
struct Watcher {
    sender: SyncSender<Message>,
    graph: usize,
}

impl Observer for Watcher {
    fn event(&self, at: Duration, event: Event) {
        // After the end nobody shows anything any more.
        let _ = self.sender.send(Message::Event(self.graph, at, event));
    }
}

impl Style {
    /// Returns what `--progress` asks for.
    pub fn of(progress: args::Progress, terminal: Terminal) -> Self {
        match (progress, terminal) {
            (args::Progress::Auto, Terminal::Yes) | (args::Progress::Tty, _) => Self::Tty,
            (args::Progress::Auto, Terminal::No) | (args::Progress::Plain, _) => Self::Plain,
            (args::Progress::Json, _) => Self::Json,
            (args::Progress::Quiet, _) => Self::Quiet,
        }
    }
}

impl Progress {
    /// Begins to show progress on standard error.
    pub fn start(style: Style) -> Self {
        Self::on(style, Box::new(std::io::stderr()))
    }

    fn on(style: Style, writer: Box<dyn Write + Send>) -> Self {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            let renderer = match style {
                Style::Tty => Renderer::Tty(Tty::new(ProgressDrawTarget::stderr())),
                Style::Plain => Renderer::Plain(Plain::new(Output::new(writer))),
                Style::Json => Renderer::Json(Json::new(Output::new(writer))),
                Style::Quiet => Renderer::Quiet,
            };
            show(&receiver, renderer)
        });
        let thread = thread.expect("a process that cannot start a second thread cannot build anything");
        Self { sender, graphs: AtomicUsize::new(0), thread }
    }

    /// Returns who is to be told of a solve of `graph`.
    pub fn observer(&self, graph: Arc<StepGraph>) -> Arc<dyn Observer> {
        let number = self.graphs.fetch_add(1, Ordering::Relaxed);
        self.send(Message::Graph(number, graph));
        Arc::new(Watcher { sender: self.sender.clone(), graph: number })
    }

    /// Shows something about the build as a whole.
    pub fn note(&self, text: impl Into<String>) {
        self.send(Message::Note(text.into()));
    }

    /// Shows what a registry client tells.
    pub fn registry(&self, event: oci::registry::Event) {
        match note_of(&event) {
            Some(text) => self.note(text),
            None => self.send(Message::Registry(event)),
        }
    }

    /// Shows what is left and the summary, and returns what the error report needs.
    pub fn finish(self, ending: Ending) -> Report {
        self.send(Message::Finish(ending));
        self.thread.join().unwrap_or_default()
    }

    fn send(&self, message: Message) {
        // Showing has ended only if its thread panicked, which `finish` survives too.
        let _ = self.sender.send(message);
    }
}

enum Renderer {
    Tty(Tty),
    Plain(Plain),
    Json(Json),
    Quiet,
}

fn show(receiver: &Receiver<Message>, mut renderer: Renderer) -> Report {
    let begun = Instant::now();
    let mut steps = Steps::default();
    let ending = loop {
        match receiver.recv_timeout(TICK) {
            Ok(Message::Graph(number, graph)) => steps.add_graph(number, graph),
            Ok(Message::Event(graph, at, event)) => {
                let lines = steps.hear(graph, at, &event);
                renderer.event(&steps, graph, at, &event, &lines);
            }
            Ok(Message::Note(text)) => renderer.note(&text),
            Ok(Message::Registry(event)) => renderer.registry(begun.elapsed(), &event),
            Ok(Message::Finish(ending)) => break ending,
            Err(RecvTimeoutError::Timeout) => renderer.tick(&steps),
            Err(RecvTimeoutError::Disconnected) => break Ending::Failed,
        }
    };
    renderer.finish(&steps, begun.elapsed(), ending);
    Report { tails: steps.tails(), steps: steps.planned(), cached: steps.cached }
}

impl Renderer {
    fn event(&mut self, steps: &Steps, graph: usize, at: Duration, event: &Event, lines: &[String]) {
        let key = steps::step_of(event).map(|step| Key { graph, step });
        match (self, key, event) {
            (Self::Json(json), None, Event::Planned { steps, cached }) => json.planned(at, *steps, *cached),
            (Self::Tty(tty), Some(key), _) => tty.event(steps, key, event, lines),
            (Self::Plain(plain), Some(key), _) => plain.event(steps, key, at, event, lines),
            (Self::Json(json), Some(key), _) => json.event(steps, key, at, event),
            (Self::Tty(_) | Self::Plain(_) | Self::Json(_), None, _) | (Self::Quiet, _, _) => {}
        }
    }

    fn note(&mut self, text: &str) {
        match self {
            Self::Tty(tty) => tty.note(text),
            Self::Plain(plain) => plain.note(text),
            Self::Json(json) => json.note(text),
            Self::Quiet => {}
        }
    }

    fn registry(&mut self, at: Duration, event: &oci::registry::Event) {
        match self {
            Self::Tty(tty) => tty.registry(at, event),
            Self::Plain(plain) => plain.registry(at, event),
            Self::Json(json) => json.registry(at, event),
            Self::Quiet => {}
        }
    }

    fn tick(&mut self, steps: &Steps) {
        match self {
            Self::Tty(tty) => tty.tick(steps),
            Self::Plain(plain) => plain.tick(),
            Self::Json(_) | Self::Quiet => {}
        }
    }

    fn finish(&mut self, steps: &Steps, took: Duration, ending: Ending) {
        let summary = summary(steps, took, ending);
        match (self, ending) {
            (Self::Tty(tty), _) => tty.finish(&summary),
            (Self::Plain(plain), _) => plain.finish(&summary),
            (Self::Json(json), Ending::Done) => json.finish(steps, took, "done"),
            (Self::Json(json), Ending::Failed) => json.finish(steps, took, "failed"),
            (Self::Quiet, _) => {}
        }
    }
}

fn summary(steps: &Steps, took: Duration, ending: Ending) -> String {
    let (all, cached, took) = (steps.planned(), steps.cached, took.as_secs_f64());
    match ending {
        Ending::Done => format!("{all} steps, {cached} cached, {took:.1}s"),
        Ending::Failed => {
            format!("stopped after {} of {all} steps, {cached} cached, {took:.1}s", cached + steps.ran)
        }
    }
}

#[cfg(test)]
mod tests;
