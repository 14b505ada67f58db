//! Progress on a terminal: a moving line for every step that runs, a lasting one for every step that ended.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use solver::{Event, Finish};

use super::steps::{Key, Steps};
use super::text::{neutralise, shorten, size};
use super::transfer::{Stage, Transfers};

/// Characters of a step's name on its moving line; the rest of the line shows what it does.
const NAME: usize = 56;

/// The renderer.
pub(super) struct Tty {
    bars: MultiProgress,
    head: ProgressBar,
    running: BTreeMap<Key, ProgressBar>,
    blobs: Transfers,
    /// The line of all blobs that move, where one does.
    moving: Option<ProgressBar>,
    style: ProgressStyle,
    begun: Instant,
}

impl Tty {
    pub(super) fn new(target: ProgressDrawTarget) -> Self {
        let bars = MultiProgress::with_draw_target(target);
        let head = bars.add(ProgressBar::new_spinner());
        head.set_style(template("{spinner} {wide_msg}"));
        Self {
            bars,
            head,
            running: BTreeMap::new(),
            blobs: Transfers::new(Duration::ZERO),
            moving: None,
            style: template("  {prefix} {elapsed:>4} {wide_msg:.dim}"),
            begun: Instant::now(),
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        // A line of its own: the next tick would overwrite a warning, a digest or what was pushed.
        self.print(&neutralise(text));
    }

    pub(super) fn registry(&mut self, at: Duration, event: &oci::registry::Event) {
        match self.blobs.hear(at, event).map(|news| (news.text(), news.stage)) {
            Some((text, Stage::Pulled | Stage::Pushed(_))) => {
                self.print(&format!("       {}", neutralise(&text)))
            }
            Some((_, Stage::Moving(_))) | None => {}
        }
        match (self.blobs.line(), &self.moving) {
            (Some(line), Some(bar)) => bar.set_message(line),
            (Some(line), None) => {
                let bar = self.bars.add(ProgressBar::new_spinner().with_style(template("  {wide_msg}")));
                bar.set_message(line);
                self.moving = Some(bar);
            }
            (None, Some(bar)) => {
                bar.finish_and_clear();
                self.bars.remove(bar);
                self.moving = None;
            }
            (None, None) => {}
        }
    }

    pub(super) fn event(&mut self, steps: &Steps, key: Key, event: &Event, lines: &[String]) {
        let seen = steps.get(key);
        match event {
            Event::Planned { .. } | Event::Settled { .. } => {}
            Event::Started(_) => drop(self.bar(key, &seen.name)),
            Event::Cached(_) => self.end(key, &format!("CACHED {}", seen.name)),
            Event::Done { finish, took, .. } => {
                let same = match finish {
                    Finish::New => "",
                    Finish::Unchanged => ", same result as before",
                };
                self.end(key, &format!("{:>5.1}s {}{same}", took.as_secs_f64(), seen.name));
            }
            Event::Failed { message, .. } => {
                self.end(key, &format!("ERROR  {}: {}", seen.name, neutralise(message)));
            }
            Event::Cancelled(_) => self.end(key, &format!("CANCELED {}", seen.name)),
            Event::Log { .. } => {
                if let Some(line) = lines.iter().rev().find(|line| !line.trim().is_empty()) {
                    self.bar(key, &seen.name).set_message(line.replace('\t', " "));
                }
            }
            Event::Waiting { on, .. } => {
                self.bar(key, &seen.name).set_message(format!("waiting for {}", neutralise(on)));
            }
            Event::Transfer { name, done, total, .. } => {
                let of = total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
                let text = format!("{} {}{of}", neutralise(name), size(*done));
                self.bar(key, &seen.name).set_message(text);
            }
        }
        self.head.set_message(head(steps, self.begun.elapsed()));
    }

    fn bar(&mut self, key: Key, name: &str) -> ProgressBar {
        let (bars, style) = (&self.bars, &self.style);
        let make = || {
            let bar = bars.add(ProgressBar::new_spinner().with_style(style.clone()));
            bar.set_prefix(shorten(name, NAME));
            bar
        };
        self.running.entry(key).or_insert_with(make).clone()
    }

    fn end(&mut self, key: Key, line: &str) {
        if let Some(bar) = self.running.remove(&key) {
            bar.finish_and_clear();
            self.bars.remove(&bar);
        }
        self.print(line);
    }

    fn print(&self, line: &str) {
        // A terminal that is gone takes nothing; the build does not depend on it.
        let _ = self.bars.println(line);
    }

    pub(super) fn tick(&mut self, steps: &Steps) {
        self.head.set_message(head(steps, self.begun.elapsed()));
        self.head.tick();
        self.running.values().chain(&self.moving).for_each(ProgressBar::tick);
    }

    pub(super) fn finish(&mut self, summary: &str) {
        for bar in std::mem::take(&mut self.running).into_values().chain(self.moving.take()) {
            bar.finish_and_clear();
        }
        self.head.finish_and_clear();
        self.print(summary);
    }
}

fn head(steps: &Steps, took: Duration) -> String {
    let done = steps.cached + steps.ran;
    format!(
        "building {:.1}s, {done} of {} steps, {} cached",
        took.as_secs_f64(),
        steps.planned(),
        steps.cached
    )
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates here are valid")
}
