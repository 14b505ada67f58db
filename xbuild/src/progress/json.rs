//! Progress for programs: one JSON object a line, one line an event.

use std::time::Duration;

use serde_json::{Map, Value, json};
use solver::{Event, Finish, Stream};

use super::output::Output;
use super::steps::{Key, Steps};

/// The renderer.
pub(super) struct Json {
    output: Output,
}

impl Json {
    pub(super) fn new(output: Output) -> Self {
        Self { output }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.write(&json!({ "event": "note", "text": text }));
    }

    pub(super) fn planned(&mut self, at: Duration, steps: usize, cached: usize) {
        self.write(&json!({ "event": "planned", "time": seconds(at), "steps": steps, "cached": cached }));
    }

    pub(super) fn event(&mut self, steps: &Steps, key: Key, at: Duration, event: &Event) {
        let (name, more) = fields(event);
        let seen = steps.get(key);
        let label = steps.label(key);
        let mut object = Map::new();
        object.insert("event".into(), name.into());
        object.insert("time".into(), seconds(at));
        object.insert("step".into(), seen.number.into());
        object.insert("name".into(), seen.name.as_str().into());
        if label.lines.0 > 0 {
            object.insert("line".into(), label.lines.0.into());
        }
        object.extend(more);
        self.write(&Value::Object(object));
    }

    pub(super) fn finish(&mut self, steps: &Steps, took: Duration, succeeded: &str) {
        self.write(&json!({
            "event": "finished",
            "result": succeeded,
            "steps": steps.planned(),
            "cached": steps.cached,
            "ran": steps.ran,
            "time": seconds(took),
        }));
    }

    /// Writes an object. JSON escapes controls below U+0020 only; a terminal obeys those from U+007F on too.
    fn write(&mut self, value: &Value) {
        let mut line = String::new();
        for character in value.to_string().chars() {
            match character {
                '\u{7f}'..='\u{9f}' => line.push_str(&format!("\\u{:04x}", u32::from(character))),
                _ => line.push(character),
            }
        }
        self.output.line(&line);
    }
}

fn fields(event: &Event) -> (&'static str, Vec<(String, Value)>) {
    let list = |pairs: &[(&str, Value)]| -> Vec<(String, Value)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    match event {
        Event::Planned { steps, cached } => {
            ("planned", list(&[("steps", (*steps).into()), ("cached", (*cached).into())]))
        }
        Event::Started(_) => ("started", Vec::new()),
        Event::Cached(_) => ("cached", Vec::new()),
        Event::Done { finish, took, .. } => {
            let unchanged = match finish {
                Finish::New => false,
                Finish::Unchanged => true,
            };
            ("done", list(&[("took", seconds(*took)), ("unchanged", unchanged.into())]))
        }
        Event::Settled { size, .. } => ("settled", list(&[("size", (*size).into())])),
        Event::Failed { message, took, .. } => {
            ("failed", list(&[("took", seconds(*took)), ("message", message.as_str().into())]))
        }
        Event::Cancelled(_) => ("canceled", Vec::new()),
        Event::Log { stream, bytes, .. } => {
            let stream = match stream {
                Stream::Stdout => "stdout",
                Stream::Stderr => "stderr",
                Stream::Note => "note",
            };
            let text = String::from_utf8_lossy(bytes);
            ("log", list(&[("stream", stream.into()), ("data", text.as_ref().into())]))
        }
        Event::Waiting { on, .. } => ("waiting", list(&[("on", on.as_str().into())])),
        Event::Transfer { name, done, total, .. } => (
            "transfer",
            list(&[("object", name.as_str().into()), ("done", (*done).into()), ("total", (*total).into())]),
        ),
    }
}

/// Seconds with millisecond resolution.
fn seconds(duration: Duration) -> Value {
    let millis = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
    (f64::from(millis) / 1000.0).into()
}
