//! Progress for programs: one JSON object a line, one line an event.

use std::time::Duration;

use oci::registry::Way;
use serde_json::{Map, Value, json};
use solver::{Event, Finish, Stream};

use super::output::Output;
use super::steps::{Key, Steps};
use super::transfer::{Direction, News, Stage, Transfers};

/// The renderer.
pub(super) struct Json {
    output: Output,
    blobs: Transfers,
}

/// How often a blob that moves is mentioned.
const MOVES: Duration = Duration::from_millis(500);

impl Json {
    pub(super) fn new(output: Output) -> Self {
        Self { output, blobs: Transfers::new(MOVES) }
    }

    pub(super) fn note(&mut self, text: &str) {
        self.write(&json!({ "event": "note", "text": text }));
    }

    pub(super) fn registry(&mut self, at: Duration, event: &oci::registry::Event) {
        if let Some(news) = self.blobs.hear(at, event) {
            self.write(&blob(at, &news));
        }
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

/// A blob on its way, or at its end.
fn blob(at: Duration, news: &News) -> Value {
    let News { passage, size, stage } = news;
    let (event, more) = match (stage, passage.direction) {
        (Stage::Moving(done), Direction::Pull) => ("pulling", json!({ "done": done })),
        (Stage::Moving(done), Direction::Push) => ("pushing", json!({ "done": done })),
        (Stage::Pulled, _) => ("pulled", json!({})),
        (Stage::Pushed(Way::Existed), _) => ("pushed", json!({ "how": "existed" })),
        (Stage::Pushed(Way::Mounted { from }), _) => ("pushed", json!({ "how": "mounted", "from": from })),
        (Stage::Pushed(Way::Uploaded), _) => ("pushed", json!({ "how": "uploaded" })),
    };
    let mut value = json!({
        "event": event,
        "time": seconds(at),
        "digest": passage.digest.to_string(),
        "repository": passage.place,
        "size": size,
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
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
