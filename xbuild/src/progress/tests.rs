//! What the renderers print for given events.

use std::io;
use std::sync::{Mutex, PoisonError};

use frontend::graph::{HttpOp, Label, Op, RunOp, Step, StepId};
use oci::{Digest, Platform};
use solver::{Finish, Stream};

use super::*;

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader is gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Remembers what is written to a terminal, without its movements.
#[derive(Debug, Clone, Default)]
struct Screen(Arc<Mutex<String>>);

impl Screen {
    fn contents(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

impl indicatif::TermLike for Screen {
    fn width(&self) -> u16 {
        100
    }

    fn move_cursor_up(&self, _lines: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _lines: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _columns: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _columns: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        let mut all = self.0.lock().unwrap();
        all.push_str(text);
        all.push('\n');
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

fn graph() -> Arc<StepGraph> {
    let mut graph = StepGraph::default();
    let mut push = |op, text: &str, position, parent| {
        let label =
            Label { stage: "app".into(), position, text: text.into(), lines: (position.0, position.0) };
        let platform = Platform::host();
        graph.push(Step {
            op,
            parent,
            inputs: Vec::new(),
            platform,
            source_date_epoch: None,
            no_cache: false,
            label,
        })
    };
    let http = HttpOp { url: "u".into(), digest: Digest::of(b""), filename: "f".into(), last_modified: None };
    let base = push(Op::Http(http), "FROM base", (1, 3), None);
    push(Op::Run(RunOp::default()), "RUN one", (2, 3), Some(base));
    push(Op::Run(RunOp::default()), "RUN two\x1b[2J", (3, 3), Some(base));
    Arc::new(graph)
}

const BASE: StepId = StepId(0);
const ONE: StepId = StepId(1);
const TWO: StepId = StepId(2);

fn log(step: StepId, text: &str) -> Event {
    Event::Log { step, stream: Stream::Stdout, bytes: text.as_bytes().to_vec() }
}

fn done(step: StepId, finish: Finish) -> Event {
    Event::Done { step, finish, took: Duration::from_millis(1250) }
}

fn render(style: Style, events: &[Event], ending: Ending) -> (String, Report) {
    let buffer = Buffer::default();
    let progress = Progress::on(style, Box::new(buffer.clone()));
    let observer = progress.observer(graph());
    for (number, event) in events.iter().enumerate() {
        observer.event(Duration::from_millis(number as u64 * 100), event.clone());
    }
    let report = progress.finish(ending);
    (buffer.text(), report)
}

/// The plain output without the summary's time.
#[track_caller]
fn check_plain(events: &[Event], expected: &[&str]) {
    let (text, _) = render(Style::Plain, events, Ending::Done);
    let mut lines: Vec<_> = text.lines().collect();
    let summary = lines.pop().unwrap();
    assert!(summary.starts_with("# ") && summary.contains(" steps, "), "{summary}");
    assert_eq!(lines, expected);
}

#[test]
fn plain_numbers_steps_as_they_appear() {
    let events = [
        Event::Planned { steps: 2, cached: 1 },
        Event::Cached(TWO),
        Event::Started(ONE),
        log(ONE, "hello\nwor"),
        log(ONE, "ld\n"),
        done(ONE, Finish::New),
        Event::Settled { step: ONE, size: 10 },
    ];
    check_plain(
        &events,
        &[
            "#1 [app 3/3] RUN two",
            "#1 CACHED",
            "#2 [app 2/3] RUN one",
            "#2 0.100 hello",
            "#2 0.200 world",
            "#2 DONE 1.2s",
        ],
    );
}

#[test]
fn plain_keeps_the_lines_of_a_step_together() {
    let events = [
        Event::Started(ONE),
        Event::Started(TWO),
        log(TWO, "b1\n"),
        log(ONE, "a1\n"),
        log(TWO, "b2\n"),
        log(ONE, "a2\n"),
        done(ONE, Finish::Unchanged),
        log(TWO, "b3"),
        done(TWO, Finish::New),
    ];
    check_plain(
        &events,
        &[
            "#1 [app 2/3] RUN one",
            "#1 0.300 a1",
            "#1 0.500 a2",
            "#1 DONE 1.2s, same result as before",
            "#2 [app 3/3] RUN two",
            "#2 0.100 b1",
            "#2 0.300 b2",
            "#2 0.700 b3",
            "#2 DONE 1.2s",
        ],
    );
}

#[test]
fn plain_hands_the_output_on_when_much_is_waiting() {
    let mut events = vec![Event::Started(ONE), Event::Started(TWO)];
    events.extend((0..300).map(|_| log(TWO, &format!("{}\n", "x".repeat(8000)))));
    events.push(log(ONE, "late\n"));
    let (text, _) = render(Style::Plain, &events, Ending::Done);
    let late = text.lines().position(|line| line.ends_with(" late")).unwrap();
    let first = text.lines().position(|line| line.contains("xxx")).unwrap();
    assert!(first < late, "the waiting lines were printed before the memory filled");
    assert_eq!(text.lines().filter(|line| line.contains("xxx")).count(), 300);
}

#[test]
fn df_11_no_line_of_a_step_starts_at_the_first_column_or_moves_the_cursor() {
    let evil = "::set-env name=A::b\n\r::add-mask::x\n##vso[task.complete]\n\x1b]0;title\x07\n\x1b[2Jx\n";
    let failed = Event::Failed { step: ONE, message: "a\n::error::b\x1b[2J".into(), took: Duration::ZERO };
    let events = [
        Event::Started(ONE),
        log(ONE, evil),
        Event::Waiting { step: ONE, on: "\n::error::y".into() },
        Event::Transfer { step: ONE, name: "\n::error::z".into(), done: 1, total: Some(1) },
        failed,
    ];
    for style in [Style::Plain, Style::Json] {
        let (text, report) = render(style, &events, Ending::Failed);
        for line in text.lines() {
            assert!(line.starts_with("#1 ") || line.starts_with("# ") || line.starts_with('{'), "{line:?}");
            assert!(!line.chars().any(char::is_control), "{line:?}");
            assert!(style == Style::Json || !line.contains("##vso["), "{line:?}");
        }
        assert!(report.tails[0].lines.iter().all(|line| !line.chars().any(char::is_control)));
    }
}

#[test]
fn the_last_lines_of_a_failed_step_are_kept() {
    let mut events = vec![Event::Started(ONE), Event::Started(TWO), log(TWO, "fine\n")];
    events.extend((0..30).map(|n| log(ONE, &format!("line {n}\n"))));
    events.push(log(ONE, "no line end"));
    events.push(Event::Failed { step: ONE, message: "exit code 1".into(), took: Duration::ZERO });
    events.push(Event::Cancelled(TWO));
    for style in [Style::Plain, Style::Json, Style::Quiet] {
        let (_, report) = render(style, &events, Ending::Failed);
        let [tail] = &report.tails[..] else { panic!("{report:?}") };
        assert_eq!((tail.step, tail.left_out, tail.lines.len()), (ONE, 11, 20));
        assert_eq!(tail.lines.last().unwrap(), "no line end");
    }
}

#[test]
fn json_is_an_object_a_line_and_loses_nothing() {
    let events = [
        Event::Planned { steps: 2, cached: 0 },
        Event::Started(ONE),
        log(ONE, "a\u{9b}\n"),
        done(ONE, Finish::New),
        Event::Transfer { step: BASE, name: "sha256:1".into(), done: 1, total: None },
    ];
    let (text, _) = render(Style::Json, &events, Ending::Done);
    let values: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<_> = values.iter().map(|value| value["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["planned", "started", "log", "done", "transfer", "finished"]);
    assert_eq!(values[2]["data"], "a\u{9b}\n");
    assert_eq!(values[2]["name"], "[app 2/3] RUN one");
    assert_eq!((&values[3]["took"], &values[3]["line"]), (&1.25.into(), &2.into()));
    assert_eq!((&values[5]["steps"], &values[5]["ran"]), (&2.into(), &1.into()));
}

#[test]
fn lines_that_come_together_are_written_together() {
    struct Calls(Arc<Mutex<usize>>);
    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            *self.0.lock().unwrap() += 1;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let calls = Arc::new(Mutex::new(0));
    let progress = Progress::on(Style::Plain, Box::new(Calls(Arc::clone(&calls))));
    progress.observer(graph()).event(Duration::ZERO, log(StepId(1), &"y\n".repeat(10_000)));
    progress.finish(Ending::Done);
    assert!(*calls.lock().unwrap() < 10, "{calls:?}");
}

#[test]
fn quiet_is_silent_and_a_closed_pipe_harmless() {
    let events = [Event::Started(ONE), log(ONE, "x\n"), done(ONE, Finish::New)];
    assert_eq!(render(Style::Quiet, &events, Ending::Done).0, "");
    for style in [Style::Plain, Style::Json] {
        let progress = Progress::on(style, Box::new(Closed));
        let observer = progress.observer(graph());
        progress.note("before");
        events.iter().for_each(|event| observer.event(Duration::ZERO, event.clone()));
        progress.finish(Ending::Done);
        observer.event(Duration::ZERO, Event::Started(TWO));
    }
}

#[test]
fn notes_and_summaries_carry_the_mark_of_the_build() {
    let buffer = Buffer::default();
    let progress = Progress::on(Style::Plain, Box::new(buffer.clone()));
    progress.note("resolving base\n::error::x");
    let observer = progress.observer(graph());
    observer.event(Duration::ZERO, Event::Planned { steps: 2, cached: 1 });
    observer.event(Duration::ZERO, Event::Cached(ONE));
    assert_eq!(progress.finish(Ending::Failed).cached, 1);
    let text = buffer.text();
    assert!(text.starts_with("# resolving base^J::error::x\n"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("# stopped after 1 of 2 steps, 1 cached, 0."), "{text}");
}

#[test]
fn the_terminal_gets_every_step_and_the_summary() {
    let terminal = Screen::default();
    let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
    let mut tty = Tty::new(target);
    let mut steps = Steps::default();
    steps.add_graph(0, graph());
    let events =
        [Event::Cached(TWO), Event::Started(ONE), log(ONE, "\x1b[2Jcompiling\n"), done(ONE, Finish::New)];
    tty.note("warning: look");
    let (digest, to) = (Digest::of(b"x"), "r/app".to_owned());
    let sent = oci::registry::Event::Sent { digest, to: to.clone(), bytes: 5, end: 5, size: 10 };
    tty.registry(Duration::ZERO, &sent);
    assert!(terminal.contents().contains("pushing 1 layer, 5 B of 10 B"), "{}", terminal.contents());
    let way = oci::registry::Way::Uploaded;
    tty.registry(Duration::ZERO, &oci::registry::Event::Pushed { digest, to, size: 10, way });
    for (number, event) in events.iter().enumerate() {
        let lines = steps.hear(0, Duration::ZERO, event);
        let step = steps::step_of(event).unwrap();
        tty.event(&steps, Key { graph: 0, step }, event, &lines);
        tty.tick(&steps);
        if number == 2 {
            assert!(terminal.contents().contains("compiling"), "{}", terminal.contents());
        }
    }
    tty.finish("2 steps, 1 cached, 0.1s");
    let contents = terminal.contents();
    for line in [
        "CACHED [app 3/3] RUN two",
        "1.2s [app 2/3] RUN one",
        "2 steps, 1 cached, 0.1s",
        "warning: look",
        "pushed sha256:2d711642b726 to r/app, 10 B",
    ] {
        assert_eq!(contents.matches(line).count(), 1, "{line} in {contents}");
    }
}

#[test]
fn auto_is_moving_lines_on_a_terminal_only() {
    assert_eq!(Style::of(args::Progress::Auto, Terminal::Yes), Style::Tty);
    assert_eq!(Style::of(args::Progress::Auto, Terminal::No), Style::Plain);
    assert_eq!(Style::of(args::Progress::Tty, Terminal::No), Style::Tty);
    assert_eq!(Style::of(args::Progress::Json, Terminal::Yes), Style::Json);
    assert_eq!(Style::of(args::Progress::Quiet, Terminal::Yes), Style::Quiet);
}
