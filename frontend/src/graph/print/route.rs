//! Which way the lines of a drawing take: through the gaps between rows and the gutters between columns.
//!
//! Every line is straight or bends at right angles, and none runs behind a box. Lines from one step share a
//! track; lines of different steps never do where they would overlap. No pixel is here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::place::{Cell, Node};

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tie {
    /// The upper step is what the lower one stands on.
    Parent,
    /// The lower step reads of the upper one.
    Input,
}

/// A line between two steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    /// The upper step.
    pub(super) from: usize,
    /// The lower step.
    pub(super) to: usize,
    /// What it says.
    pub(super) tie: Tie,
    /// The way it takes.
    pub(super) way: Way,
    /// Where it ends on the lower step.
    pub(super) port: Port,
}

/// Where a line ends on a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Port {
    /// 0 in the middle, counted to the left (negative) and to the right.
    pub(super) position: i64,
    /// How many there are on that side.
    pub(super) of: i64,
}

/// The way of a line. Gap `n` is below row `n`, gutter `n` left of column `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight down.
    Straight,
    /// Along a track of the gap between two neighbouring rows.
    Gap {
        /// The track.
        track: usize,
    },
    /// Along a gap, down a gutter, along another gap.
    Gutter {
        /// Track of the gap below the upper step.
        upper: usize,
        /// The gutter.
        gutter: usize,
        /// Its track.
        track: usize,
        /// Track of the gap above the lower step.
        lower: usize,
    },
}

/// All lines, and how many tracks each gap and each gutter has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Routes {
    /// In the order of the lower steps.
    pub(super) edges: Vec<Edge>,
    /// Tracks of the gap below each row.
    pub(super) gaps: Vec<usize>,
    /// Tracks of the gutter left of each column, and right of the last.
    pub(super) gutters: Vec<usize>,
}

/// Lanes by number and by the step that its lines come from: the part that the lines take.
type Spans = BTreeMap<(usize, usize), (usize, usize)>;

/// Returns the way of every line.
pub(super) fn route(nodes: &[Node], cells: &[Cell]) -> Routes {
    let ties = ties(nodes, cells);
    let (mut gaps, mut gutters) = (Spans::new(), Spans::new());
    for &(from, to, _) in ties.iter().filter(|tie| !is_straight(cells, **tie)) {
        let (upper, lower) = (cells[from], cells[to]);
        let (start, end) = (middle(upper.column), middle(lower.column));
        if upper.row + 1 == lower.row {
            widen(&mut gaps, (upper.row, from), start, end);
        } else {
            let gutter = gutter(upper, lower);
            widen(&mut gaps, (upper.row, from), start, border(gutter));
            widen(&mut gutters, (gutter, from), upper.row, lower.row - 1);
            widen(&mut gaps, (lower.row - 1, from), border(gutter), end);
        }
    }
    let (gap_tracks, gaps) = tracks(&gaps, cells.iter().map(|cell| cell.row + 1).max().unwrap_or(0));
    let (gutter_tracks, gutters) =
        tracks(&gutters, cells.iter().map(|cell| cell.column + 2).max().unwrap_or(0));
    let way = |tie: (usize, usize, Tie)| {
        let (upper, lower) = (cells[tie.0], cells[tie.1]);
        let gutter = gutter(upper, lower);
        match () {
            () if is_straight(cells, tie) => Way::Straight,
            () if upper.row + 1 == lower.row => Way::Gap { track: gap_tracks[&(upper.row, tie.0)] },
            () => Way::Gutter {
                upper: gap_tracks[&(upper.row, tie.0)],
                gutter,
                track: gutter_tracks[&(gutter, tie.0)],
                lower: gap_tracks[&(lower.row - 1, tie.0)],
            },
        }
    };
    let ports = ports(cells, &ties);
    let edge = |(tie, port): (&(usize, usize, Tie), Port)| Edge {
        from: tie.0,
        to: tie.1,
        tie: tie.2,
        way: way(*tie),
        port,
    };
    Routes { edges: ties.iter().zip(ports).map(edge).collect(), gaps, gutters }
}

/// All lines, each once, by their lower step; those to the same step from left to right.
fn ties(nodes: &[Node], cells: &[Cell]) -> Vec<(usize, usize, Tie)> {
    let mut ties = Vec::new();
    for (to, node) in nodes.iter().enumerate() {
        ties.extend(node.parent.map(|from| (from, to, Tie::Parent)));
        let inputs: BTreeSet<_> = node.inputs.iter().map(|input| (cells[*input].column, *input)).collect();
        ties.extend(inputs.into_iter().map(|(_, from)| (from, to, Tie::Input)));
    }
    ties
}

fn is_straight(cells: &[Cell], (from, to, tie): (usize, usize, Tie)) -> bool {
    tie == Tie::Parent && cells[from].chain == cells[to].chain
}

/// The gutter beside the lower step, on the side that the line comes from.
fn gutter(upper: Cell, lower: Cell) -> usize {
    lower.column + usize::from(upper.column > lower.column)
}

/// Places along a gap: gutters are even, columns odd.
fn border(gutter: usize) -> usize {
    2 * gutter
}

fn middle(column: usize) -> usize {
    2 * column + 1
}

fn widen(spans: &mut Spans, lane: (usize, usize), a: usize, b: usize) {
    let span = spans.entry(lane).or_insert((a.min(b), a.max(b)));
    *span = (span.0.min(a).min(b), span.1.max(a).max(b));
}

/// Gives every span a track of its lane on which nothing else touches it; returns how many each lane has, too.
fn tracks(spans: &Spans, lanes: usize) -> (BTreeMap<(usize, usize), usize>, Vec<usize>) {
    let mut sorted: Vec<_> =
        spans.iter().map(|(&(lane, from), &(start, end))| (lane, start, end, from)).collect();
    sorted.sort_unstable();
    let mut counts = vec![0; lanes];
    let mut free: BinaryHeap<Reverse<(usize, usize)>> = BinaryHeap::new();
    let mut current = usize::MAX;
    let mut given = BTreeMap::new();
    for (lane, start, end, from) in sorted {
        if lane != current {
            (current, free) = (lane, BinaryHeap::new());
        }
        let track = match free.peek() {
            Some(&Reverse((last, track))) if last < start => {
                free.pop();
                track
            }
            Some(_) | None => {
                counts[lane] += 1;
                counts[lane] - 1
            }
        };
        free.push(Reverse((end, track)));
        given.insert((lane, from), track);
    }
    (given, counts)
}

/// Where each line ends: the parent's in the middle, inputs beside it on the side they come from.
fn ports(cells: &[Cell], ties: &[(usize, usize, Tie)]) -> Vec<Port> {
    let side = |&(from, to, tie): &(usize, usize, Tie)| match tie {
        Tie::Parent => 0,
        Tie::Input if cells[from].column <= cells[to].column => -1,
        Tie::Input => 1,
    };
    let mut counts: BTreeMap<(usize, i64), i64> = BTreeMap::new();
    let mut positions = Vec::with_capacity(ties.len());
    for tie in ties {
        let count = counts.entry((tie.1, side(tie))).or_insert(0);
        *count += 1;
        positions.push(*count * side(tie));
    }
    let of = |tie: &(usize, usize, Tie)| counts[&(tie.1, side(tie))];
    ties.iter().zip(positions).map(|(tie, position)| Port { position, of: of(tie) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::place::place;
    use super::*;

    fn node(parent: Option<usize>, inputs: &[usize]) -> Node {
        Node { parent, inputs: inputs.to_vec(), group: 0 }
    }

    #[test]
    fn chains_are_straight_and_inputs_go_around_boxes() {
        let nodes =
            [node(None, &[]), node(Some(0), &[]), node(None, &[]), node(Some(1), &[2]), node(Some(3), &[2])];
        let routes = route(&nodes, &place(&nodes));
        let ways: Vec<_> = routes.edges.iter().map(|edge| (edge.from, edge.to, edge.way)).collect();
        assert_eq!(
            ways,
            [
                (0, 1, Way::Straight),
                (1, 3, Way::Straight),
                (2, 3, Way::Gap { track: 0 }),
                (3, 4, Way::Straight),
                (2, 4, Way::Gutter { upper: 0, gutter: 1, track: 0, lower: 0 }),
            ]
        );
        assert_eq!(routes.gutters, [0, 1, 0]);
    }

    #[test]
    fn lines_of_different_steps_share_no_track() {
        let cell = |row, column, chain| Cell { row, column, chain };
        let cells = [cell(0, 0, 0), cell(0, 1, 1), cell(0, 2, 2), cell(1, 3, 3)];
        let nodes = [node(None, &[]), node(None, &[]), node(None, &[]), node(Some(0), &[1, 2, 2])];
        let routes = route(&nodes, &cells);
        assert_eq!(routes.gaps, [3, 0]);
        assert_eq!(routes.edges.iter().map(|edge| edge.port.position).collect::<Vec<_>>(), [0, -1, -2]);
    }

    #[test]
    fn a_track_is_used_again_where_it_is_free() {
        let spans: Spans = [((0, 1), (1, 3)), ((0, 2), (5, 7)), ((0, 3), (3, 5)), ((2, 1), (0, 0))].into();
        let (given, counts) = tracks(&spans, 3);
        assert_eq!(given.values().copied().collect::<Vec<_>>(), [0, 0, 1, 0]);
        assert_eq!(counts, [2, 0, 1]);
    }
}
