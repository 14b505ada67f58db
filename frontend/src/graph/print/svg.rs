//! A definition as a picture: a box per step, lines to what it stands on and reads of.
//!
//! Only text and pixels are here; `place` and `route` decide where things stand. Texts of the Dockerfile
//! are a stranger's: whatever is shown goes through [`xml`]. The bytes depend on nothing but the arguments.

use std::fmt::Write as _;

use super::place::{self, Cell, Node};
use super::route::{self, Edge, Port, Routes, Tie, Way};
use super::{Mark, Note, visible};
use crate::graph::{Definition, Op, Step, StepId};

/// Pixels of a box.
const WIDTH: i64 = 336;
const HEIGHT: i64 = 70;
/// Pixels around the drawing, and above it for the title.
const MARGIN: i64 = 24;
const TITLE: i64 = 84;
/// Pixels of a gap and a gutter without tracks, and of a track.
const GAP: i64 = 34;
const GUTTER: i64 = 32;
const TRACK: i64 = 9;
/// Pixels between a gap's upper edge and its first track, so that lines leave their box before they bend.
const LEAD: i64 = 12;
/// Characters of the instruction on a line of a box; half-wide ones of a monospaced font of 12 pixels.
const LINE: usize = 42;
/// Characters of a stage name in a box, and of a text in a tooltip.
const STAGE: usize = 26;
const TOOLTIP: usize = 2_000;

/// Viewers that know no `prefers-color-scheme` take the light colours, which stand on a ground of their own.
const STYLE: &str = "\
text{font:12px sans-serif;fill:#1f2328}\
.mono{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}\
.title{font-size:17px;font-weight:bold}\
.stage{font-weight:bold}\
.word{font-weight:bold;text-anchor:end}\
.ground{fill:#ffffff}\
.box{fill:#f6f8fa;stroke:#8c959f;stroke-width:1}\
.bar{fill:#8c959f}\
.hit .box{fill:#eaf7ec;stroke:#2da44e}.hit .bar{fill:#2da44e}.hit .word{fill:#116329}\
.miss .box{fill:#fff1e5;stroke:#d4630c}.miss .bar{fill:#d4630c}.miss .word{fill:#953800}\
.source .box{fill:#eaf3fd;stroke:#5a8fcf}.source .bar{fill:#5a8fcf}.source .word{fill:#0a3069}\
.target .box{stroke-width:3}\
.line{fill:none;stroke:#57606a;stroke-width:1.5}\
.input{stroke-dasharray:5 3}\
.head{fill:#57606a}\
@media (prefers-color-scheme:dark){\
text{fill:#e6edf3}\
.ground{fill:#0d1117}\
.box{fill:#161b22;stroke:#6e7681}\
.bar{fill:#6e7681}\
.hit .box{fill:#0f2a17}.hit .word{fill:#56d364}\
.miss .box{fill:#331c0b}.miss .word{fill:#ffa657}\
.source .box{fill:#0f2239}.source .word{fill:#79c0ff}\
.line{stroke:#9198a1}\
.head{fill:#9198a1}\
}";

/// Returns the graph as an SVG document.
pub fn svg(definition: &Definition, note: impl Fn(StepId) -> Note) -> String {
    let graph = &definition.graph;
    let notes: Vec<Note> = graph.iter().map(|(id, _)| note(id)).collect();
    let nodes = nodes(definition);
    let cells = place::place(&nodes);
    let routes = route::route(&nodes, &cells);
    let grid = Grid::new(&routes);
    let (width, height) = grid.size();
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n\
         <defs><marker id=\"head\" markerWidth=\"8\" markerHeight=\"8\" refX=\"7\" refY=\"4\" orient=\"auto\" \
         markerUnits=\"userSpaceOnUse\"><path class=\"head\" d=\"M0 0L8 4L0 8Z\"/></marker></defs>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
        xml(&heading(definition)),
    );
    write_title(&mut out, definition, &notes);
    for edge in &routes.edges {
        let class = match edge.tie {
            Tie::Parent => "line",
            Tie::Input => "line input",
        };
        let path = path(&grid.points(&cells, edge));
        write(&mut out, format_args!("<path class=\"{class}\" marker-end=\"url(#head)\" d=\"{path}\"/>\n"));
    }
    for (((id, step), note), cell) in graph.iter().zip(&notes).zip(&cells) {
        let is_target = if definition.image.target == Some(id) { " target" } else { "" };
        let (x, y) = (grid.left(cell.column), grid.top(cell.row));
        write_box(&mut out, step, note, is_target, x, y);
    }
    out + "</svg>\n"
}

fn write(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes all text");
}

fn nodes(definition: &Definition) -> Vec<Node> {
    let mut groups = std::collections::BTreeMap::new();
    let index = |id: StepId| id.0 as usize;
    let node = |(_, step): (StepId, &Step)| {
        let count = groups.len();
        let group = *groups.entry(step.label.stage.clone()).or_insert(count);
        Node {
            parent: step.parent.map(index),
            inputs: step.inputs.iter().copied().map(index).collect(),
            group,
        }
    };
    definition.graph.iter().map(node).collect()
}

fn heading(definition: &Definition) -> String {
    // A joint graph of several platforms wants the targets of the others too.
    let mut platforms = vec![definition.image.platform.to_string()];
    for id in &definition.image.also {
        let other = definition.graph.step(*id).platform.to_string();
        if !platforms.contains(&other) {
            platforms.push(other);
        }
    }
    format!("stage {} for {}", shorten(&visible(&definition.image.stage), 60), visible(&platforms.join(", ")))
}

/// Title, counts and what the lines mean.
fn write_title(out: &mut String, definition: &Definition, notes: &[Note]) {
    let count = |mark: Mark| notes.iter().filter(|note| note.mark == mark).count();
    let recorded: std::time::Duration = notes.iter().filter_map(|note| note.duration).sum();
    let marks = [Mark::Hit, Mark::Miss, Mark::Source].map(|mark| (count(mark), mark.word()));
    let mut summary: Vec<_> = marks.iter().map(|(count, word)| (*count, *word)).collect();
    summary.retain(|(count, _)| *count > 0);
    let mut parts = vec![plural(notes.len(), "step")];
    parts.extend(summary.into_iter().map(|(count, word)| match word {
        "miss" if count > 1 => format!("{count} misses"),
        word => plural(count, word),
    }));
    if !recorded.is_zero() {
        parts.push(format!("{} in recorded runs", super::duration(recorded)));
    }
    let (title, summary) = (xml(&heading(definition)), xml(&parts.join(" · ")));
    write(out, format_args!("<text class=\"title\" x=\"{MARGIN}\" y=\"38\">{title}</text>\n"));
    write(out, format_args!("<text x=\"{MARGIN}\" y=\"58\">{summary}</text>\n"));
    let legend = "solid line: stands on · dashed line: reads of · thick box: the image";
    write(out, format_args!("<text x=\"{MARGIN}\" y=\"76\">{legend}</text>\n"));
}

fn plural(count: usize, word: &str) -> String {
    match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    }
}

fn write_box(out: &mut String, step: &Step, note: &Note, is_target: &str, x: i64, y: i64) {
    let class = note.mark.word();
    let class = if class.is_empty() { "unmarked" } else { class };
    write(out, format_args!("<g class=\"{class}{is_target}\"><title>{}</title>", tooltip(step, note)));
    write(
        out,
        format_args!(
            "<rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"5\"/>\
             <rect class=\"bar\" x=\"{x}\" y=\"{y}\" width=\"6\" height=\"{HEIGHT}\" rx=\"3\"/>"
        ),
    );
    let (left, right) = (x + 16, x + WIDTH - 12);
    let (name, words) = (xml(&name(step)), xml(&note.words()));
    write(out, format_args!("<text class=\"stage\" x=\"{left}\" y=\"{}\">{name}</text>", y + 19));
    write(out, format_args!("<text class=\"word\" x=\"{right}\" y=\"{}\">{words}</text>", y + 19));
    for (line, offset) in wrapped(&visible(&step.label.text)).into_iter().zip([40, 58]) {
        let line = xml(&line);
        write(out, format_args!("<text class=\"mono\" x=\"{left}\" y=\"{}\">{line}</text>", y + offset));
    }
    out.push_str("</g>\n");
}

/// The stage and the position in it, or what kind of thing a step outside stages names.
fn name(step: &Step) -> String {
    let kind = match &step.op {
        Op::Image(_) => "image",
        Op::OciLayout(_) => "layout",
        Op::Local(_) => "context",
        Op::Git(_) => "git",
        Op::Http(_) => "url",
        Op::Run(_) => "run",
        Op::Copy(_) => "copy",
        Op::Mkdir(_) => "directory",
    };
    let stage = shorten(&visible(&step.label.stage), STAGE);
    match (stage.as_str(), step.label.position) {
        ("", (0, _)) => kind.to_owned(),
        ("", (position, count)) => format!("{position}/{count}"),
        (stage, (0, _)) => stage.to_owned(),
        (stage, (position, count)) => format!("{stage} {position}/{count}"),
    }
}

fn tooltip(step: &Step, note: &Note) -> String {
    let mut lines = vec![shorten(&visible(&step.label.text), TOOLTIP)];
    lines.push(match step.label.lines {
        (0, _) => String::new(),
        (first, last) if first == last => format!("line {first}"),
        (first, last) => format!("lines {first} to {last}"),
    });
    lines.push(note.words());
    lines.push(note.reason.as_deref().map(|reason| shorten(&visible(reason), TOOLTIP)).unwrap_or_default());
    lines.retain(|line| !line.is_empty());
    xml(&lines.join("\n"))
}

/// Returns text for an element's content. What XML cannot hold is gone already, but for line breaks.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

/// How many half-wide places a character takes; nothing but ASCII is sure to take one.
fn places(char: char) -> usize {
    if char.is_ascii() { 1 } else { 2 }
}

/// Cuts text that takes more than `limit` places, and says so.
fn shorten(text: &str, limit: usize) -> String {
    let end = fitting(text, limit);
    if end == text.len() {
        return text.to_owned();
    }
    text[..fitting(text, limit - 2)].trim_end().to_owned() + "…"
}

/// Returns how many bytes of the text take at most `limit` places.
fn fitting(text: &str, limit: usize) -> usize {
    let mut used = 0;
    let mut over = text.char_indices().filter_map(|(at, char)| {
        used += places(char);
        (used > limit).then_some(at)
    });
    over.next().unwrap_or(text.len())
}

/// At most two lines, broken where people would if such a place is in the second half of the first.
fn wrapped(text: &str) -> Vec<String> {
    let end = fitting(text, LINE);
    if end == text.len() {
        return vec![text.to_owned()];
    }
    let breaks = |(at, char): (usize, char)| match char {
        ' ' | '@' => Some(at),
        ',' | ';' | '|' if at + 1 < end => Some(at + 1),
        _ => None,
    };
    // A space or an @ may be the first character that does not fit.
    let candidates = text[..end].char_indices().chain(text[end..].chars().next().map(|char| (end, char)));
    let at = candidates.filter_map(breaks).rfind(|at| *at >= end / 2).unwrap_or(end);
    let (first, rest) = text.split_at(at);
    vec![first.trim_end().to_owned(), shorten(rest.trim_start(), LINE)]
}

/// From rows, columns and tracks to pixels.
struct Grid {
    tops: Vec<i64>,
    lefts: Vec<i64>,
}

impl Grid {
    fn new(routes: &Routes) -> Self {
        let tracks = |count: &usize| TRACK * i64::try_from(*count).expect("fewer tracks than steps");
        let mut tops = vec![MARGIN + TITLE];
        for gap in &routes.gaps {
            tops.push(tops[tops.len() - 1] + HEIGHT + GAP + tracks(gap));
        }
        let (first, others) = routes.gutters.split_first().unwrap_or((&0, &[]));
        let mut lefts = vec![MARGIN + tracks(first)];
        for gutter in others {
            lefts.push(lefts[lefts.len() - 1] + WIDTH + GUTTER + tracks(gutter));
        }
        Self { tops, lefts }
    }

    /// Width and height; the title needs some even where there is no step.
    fn size(&self) -> (i64, i64) {
        let last = |edges: &[i64]| edges[edges.len() - 1];
        (
            (last(&self.lefts) - GUTTER + MARGIN).max(560),
            (last(&self.tops) - GAP + MARGIN).max(TITLE + MARGIN),
        )
    }

    fn top(&self, row: usize) -> i64 {
        self.tops[row]
    }

    fn left(&self, column: usize) -> i64 {
        self.lefts[column]
    }

    /// The height of a track of the gap below a row.
    fn gap_track(&self, row: usize, track: usize) -> i64 {
        self.tops[row] + HEIGHT + LEAD + TRACK * i64::try_from(track).expect("fewer tracks than steps")
    }

    /// The place of a track of the gutter left of a column, counted from the column.
    fn gutter_track(&self, gutter: usize, track: usize) -> i64 {
        self.lefts[gutter] - GUTTER / 2 - TRACK * i64::try_from(track).expect("fewer tracks than steps")
    }

    /// The corners of a line.
    fn points(&self, cells: &[Cell], edge: &Edge) -> Vec<(i64, i64)> {
        let (from, to) = (cells[edge.from], cells[edge.to]);
        let (out, bottom) = (self.left(from.column) + WIDTH / 2, self.top(from.row) + HEIGHT);
        let (into, top) = (self.left(to.column) + WIDTH / 2 + offset(edge.port), self.top(to.row));
        // Bent lines leave beside the straight one, so that none lies on another.
        let bent = out + LEAD;
        match edge.way {
            Way::Straight => vec![(out, bottom), (out, top)],
            Way::Gap { track } => {
                let y = self.gap_track(from.row, track);
                vec![(bent, bottom), (bent, y), (into, y), (into, top)]
            }
            Way::Gutter { upper, gutter, track, lower } => {
                let x = self.gutter_track(gutter, track);
                let (upper, lower) = (self.gap_track(from.row, upper), self.gap_track(to.row - 1, lower));
                vec![(bent, bottom), (bent, upper), (x, upper), (x, lower), (into, lower), (into, top)]
            }
        }
    }
}

/// How far from the middle a line ends: closer together where there are many, so that all meet the box.
fn offset(port: Port) -> i64 {
    let (first, last) = (26, WIDTH / 2 - 12);
    let step = ((last - first) / port.of.max(1)).clamp(1, 14);
    port.position.signum() * (first + step * (port.position.abs() - 1)).min(last)
}

/// A line through corners, which are rounded.
fn path(points: &[(i64, i64)]) -> String {
    let mut out = format!("M{} {}", points[0].0, points[0].1);
    for corner in points.windows(3) {
        let [before, at, after] = [corner[0], corner[1], corner[2]];
        let length = |a: (i64, i64), b: (i64, i64)| (a.0 - b.0).abs() + (a.1 - b.1).abs();
        let radius = (length(before, at) / 2).min(length(at, after) / 2).min(5);
        let toward = |end: (i64, i64)| {
            (at.0 + (end.0 - at.0).signum() * radius, at.1 + (end.1 - at.1).signum() * radius)
        };
        let (enter, leave) = (toward(before), toward(after));
        write(&mut out, format_args!("L{} {}Q{} {} {} {}", enter.0, enter.1, at.0, at.1, leave.0, leave.1));
    }
    let end = points[points.len() - 1];
    write(&mut out, format_args!("L{} {}", end.0, end.1));
    out
}

#[cfg(test)]
#[path = "svg_tests.rs"]
mod tests;
