//! Progress as lines for logs: every line begins with its step's number, steps are not mixed line by line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use solver::{Event, Finish};

use super::output::Output;
use super::steps::{Key, Steps};
use super::text::{neutralise, size};
use super::transfer::Transfers;

/// How long one step has the output for itself while others have something to say.
const SLICE: Duration = Duration::from_secs(1);
/// Bytes that others may have waiting before the output is handed on early.
const BACKLOG: usize = 1 << 20;
/// How often a transfer that goes on is mentioned.
const TRANSFER: Duration = Duration::from_secs(5);

/// The renderer.
pub(super) struct Plain {
    output: Output,
    /// Which step has the output, and since when.
    current: Option<(Key, Instant)>,
    /// What others have to say, in the order in which they began to.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    introduced: BTreeSet<Key>,
    transfers: BTreeMap<(Key, String), Duration>,
    blobs: Transfers,
}

struct Waiting {
    key: Key,
    lines: Vec<String>,
    over: Over,
}

/// Whether a step will say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    Yes,
}

impl Plain {
    pub(super) fn new(output: Output) -> Self {
        Self {
            output,
            current: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            introduced: BTreeSet::new(),
            transfers: BTreeMap::new(),
            blobs: Transfers::new(TRANSFER),
        }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.output.line(&format!("# {}", neutralise(text)));
    }

    pub(super) fn registry(&mut self, at: Duration, event: &oci::registry::Event) {
        if let Some(news) = self.blobs.hear(at, event) {
            self.note(&news.text());
        }
    }

    pub(super) fn event(&mut self, steps: &Steps, key: Key, at: Duration, event: &Event, lines: &[String]) {
        let seen = steps.get(key);
        let number = seen.number;
        let mut say = Vec::new();
        if self.introduced.insert(key) {
            say.push(format!("#{number} {}", seen.name));
        }
        let since = at.saturating_sub(seen.begun).as_secs_f64();
        say.extend(lines.iter().map(|line| format!("#{number} {since:.3} {line}")));
        let over = match event {
            Event::Planned { .. } | Event::Started(_) | Event::Settled { .. } | Event::Log { .. } => Over::No,
            Event::Cached(_) => {
                say.push(format!("#{number} CACHED"));
                Over::Yes
            }
            Event::Done { finish: Finish::New, took, .. } => {
                say.push(format!("#{number} DONE {:.1}s", took.as_secs_f64()));
                Over::Yes
            }
            Event::Done { finish: Finish::Unchanged, took, .. } => {
                say.push(format!("#{number} DONE {:.1}s, same result as before", took.as_secs_f64()));
                Over::Yes
            }
            Event::Failed { message, took, .. } => {
                let message = neutralise(message);
                say.push(format!("#{number} ERROR {:.1}s: {message}", took.as_secs_f64()));
                Over::Yes
            }
            Event::Cancelled(_) => {
                say.push(format!("#{number} CANCELED"));
                Over::Yes
            }
            Event::Waiting { on, .. } => {
                say.push(format!("#{number} waiting for {}", neutralise(on)));
                Over::No
            }
            Event::Transfer { name, done, total, .. } => {
                say.extend(
                    self.transfer(key, at, name, *done, *total).map(|text| format!("#{number} {text}")),
                );
                Over::No
            }
        };
        // A layer settles long after its step said its last word: that opens no new turn.
        if !say.is_empty() || over == Over::Yes {
            self.say(key, say, over);
        }
    }

    fn transfer(
        &mut self,
        key: Key,
        at: Duration,
        name: &str,
        done: u64,
        total: Option<u64>,
    ) -> Option<String> {
        let last = self.transfers.entry((key, name.to_owned())).or_insert(at);
        let complete = total == Some(done);
        if !complete && at.saturating_sub(*last) < TRANSFER {
            return None;
        }
        *last = at;
        let name = neutralise(name);
        Some(match total {
            Some(total) => format!("{name} {} of {}", size(done), size(total)),
            None => format!("{name} {}", size(done)),
        })
    }

    fn say(&mut self, key: Key, lines: Vec<String>, over: Over) {
        match self.current {
            Some((current, _)) if current != key => self.queue(key, lines, over),
            Some(_) | None => {
                self.output.lines(&lines);
                if over == Over::Yes {
                    self.current = None;
                    self.hand_on();
                } else if self.current.is_none() {
                    self.current = Some((key, Instant::now()));
                }
            }
        }
        self.tick();
    }

    fn queue(&mut self, key: Key, lines: Vec<String>, over: Over) {
        self.waiting_bytes += lines.iter().map(String::len).sum::<usize>();
        match self.waiting.iter_mut().find(|waiting| waiting.key == key) {
            Some(waiting) => {
                waiting.lines.extend(lines);
                waiting.over = over;
            }
            None => self.waiting.push(Waiting { key, lines, over }),
        }
    }

    /// Gives the output to whoever waits longest and will say more, printing those that are over on the way.
    fn hand_on(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter();
        for Waiting { key, lines, over } in waiting.by_ref() {
            self.waiting_bytes -= lines.iter().map(String::len).sum::<usize>();
            self.output.lines(&lines);
            if over == Over::No {
                self.current = Some((key, Instant::now()));
                break;
            }
        }
        self.waiting = waiting.collect();
    }

    pub(super) fn tick(&mut self) {
        let Some((_, since)) = self.current else { return };
        if !self.waiting.is_empty() && (since.elapsed() >= SLICE || self.waiting_bytes > BACKLOG) {
            self.current = None;
            self.hand_on();
        }
    }

    pub(super) fn finish(&mut self, summary: &str) {
        while !self.waiting.is_empty() {
            self.hand_on();
        }
        self.output.line(&format!("# {summary}"));
    }
}
