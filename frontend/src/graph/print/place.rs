//! Where the boxes of a drawing stand: rows by longest path, columns by chains of parents.
//!
//! A chain is a step and the steps that follow it one on another, so mostly a stage with its base. It stays in
//! one column, which is kept free of others from its first row to its last: lines between a step and its parent
//! are straight and run behind no box. Columns are ordered by barycentre. No text, no pixel, no line is here.

use std::collections::BTreeMap;

/// How often chains are sorted by the places of their neighbours; more changes little.
const SWEEPS: usize = 8;

/// How many columns are tried for a chain, so that the cost stays linear.
const WINDOW: usize = 64;

/// What placing must know of a step. Parents and inputs come before their users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The step below it.
    pub(super) parent: Option<usize>,
    /// Further inputs.
    pub(super) inputs: Vec<usize>,
    /// Its stage, as a number.
    pub(super) group: usize,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    /// From the top.
    pub(super) row: usize,
    /// From the left.
    pub(super) column: usize,
    /// The chain it belongs to.
    pub(super) chain: usize,
}

impl Node {
    /// Iterates over the parent, then the inputs.
    pub(super) fn needs(&self) -> impl Iterator<Item = usize> {
        self.parent.into_iter().chain(self.inputs.iter().copied())
    }
}

/// A chain: its rows, and the chains that it takes from or gives to.
#[derive(Debug, Clone)]
struct Chain {
    first: usize,
    last: usize,
    length: usize,
    neighbours: Vec<usize>,
}

/// Returns the place of every step.
pub(super) fn place(nodes: &[Node]) -> Vec<Cell> {
    let rows = rows(nodes);
    let members = chains(nodes);
    let chains = describe(nodes, &rows, &members);
    let columns = columns(&chains);
    let cell = |(row, chain): (&usize, &usize)| Cell { row: *row, column: columns[*chain], chain: *chain };
    rows.iter().zip(&members).map(cell).collect()
}

/// Rows by longest path; steps that need nothing stand right above their first user.
fn rows(nodes: &[Node]) -> Vec<usize> {
    let mut rows: Vec<usize> = Vec::with_capacity(nodes.len());
    let mut first_use = vec![usize::MAX; nodes.len()];
    for node in nodes {
        let row = node.needs().map(|need| rows[need] + 1).max().unwrap_or(0);
        node.needs().for_each(|need| first_use[need] = first_use[need].min(row));
        rows.push(row);
    }
    for (id, node) in nodes.iter().enumerate() {
        if node.needs().next().is_none() && first_use[id] != usize::MAX {
            rows[id] = first_use[id] - 1;
        }
    }
    rows
}

/// Returns the chain of every step. A step goes on its parent's chain if it is the first child of the parent's
/// stage, or the first child at all where that stage has none.
fn chains(nodes: &[Node]) -> Vec<usize> {
    let mut next: Vec<Option<usize>> = vec![None; nodes.len()];
    for (id, node) in nodes.iter().enumerate() {
        let Some(parent) = node.parent else { continue };
        let stays = |child: usize| nodes[child].group == nodes[parent].group;
        if next[parent].is_none_or(|other| !stays(other) && stays(id)) {
            next[parent] = Some(id);
        }
    }
    let mut chains = Vec::with_capacity(nodes.len());
    let mut count = 0;
    for (id, node) in nodes.iter().enumerate() {
        let above = node.parent.filter(|parent| next[*parent] == Some(id));
        chains.push(above.map_or(count, |parent| chains[parent]));
        count += usize::from(above.is_none());
    }
    chains
}

fn describe(nodes: &[Node], rows: &[usize], members: &[usize]) -> Vec<Chain> {
    let count = members.iter().max().map_or(0, |last| last + 1);
    let empty = Chain { first: usize::MAX, last: 0, length: 0, neighbours: Vec::new() };
    let mut chains = vec![empty; count];
    for (id, node) in nodes.iter().enumerate() {
        let chain = &mut chains[members[id]];
        chain.first = chain.first.min(rows[id]);
        chain.last = chain.last.max(rows[id]);
        chain.length += 1;
        for need in node.needs().filter(|need| members[*need] != members[id]) {
            chains[members[id]].neighbours.push(members[need]);
            chains[members[need]].neighbours.push(members[id]);
        }
    }
    chains
}

/// Sorts chains by the mean place of their neighbours. The own place counts half: else the middle of a star
/// and its points would change places for ever.
fn order(chains: &[Chain]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..chains.len()).collect();
    let mut place: Vec<f64> = order.iter().map(|chain| *chain as f64).collect();
    for _ in 0..SWEEPS {
        let wanted: Vec<f64> = (0..chains.len())
            .map(|chain| {
                (place[chain] + mean(&chains[chain], |id| Some(place[id])).unwrap_or(place[chain])) / 2.0
            })
            .collect();
        order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]).then(a.cmp(b)));
        order.iter().enumerate().for_each(|(position, chain)| place[*chain] = position as f64);
    }
    order
}

fn mean(chain: &Chain, place: impl Fn(usize) -> Option<f64>) -> Option<f64> {
    let places: Vec<f64> = chain.neighbours.iter().filter_map(|id| place(*id)).collect();
    (!places.is_empty()).then(|| places.iter().sum::<f64>() / places.len() as f64)
}

/// Gives columns: first to chains of several steps from left to right, then to single steps near their users.
fn columns(chains: &[Chain]) -> Vec<usize> {
    let order = order(chains);
    let mut taken: Vec<BTreeMap<usize, usize>> = Vec::new();
    let mut columns: Vec<Option<usize>> = vec![None; chains.len()];
    let (long, single): (Vec<usize>, Vec<usize>) = order.iter().partition(|id| chains[**id].length > 1);
    for id in long.into_iter().chain(single) {
        let chain = &chains[id];
        let wanted = match chain.length {
            1 => mean(chain, |id| columns[id].map(|column| column as f64))
                .map_or(0, |mean| mean.round() as usize),
            _ => taken.len().saturating_sub(WINDOW),
        };
        let column = nearest_free(&taken, chain, wanted);
        if column == taken.len() {
            taken.push(BTreeMap::new());
        }
        taken[column].insert(chain.first, chain.last);
        columns[id] = Some(column);
    }
    columns.into_iter().map(|column| column.expect("every chain is long or single")).collect()
}

/// Returns the column nearest to `wanted` that is free in the chain's rows; a new one at the right is one of them.
fn nearest_free(taken: &[BTreeMap<usize, usize>], chain: &Chain, wanted: usize) -> usize {
    let is_free = |column: &usize| match taken.get(*column) {
        Some(rows) => rows.range(..=chain.last).next_back().is_none_or(|(_, last)| *last < chain.first),
        None => true,
    };
    let from = wanted.saturating_sub(WINDOW);
    let to = (wanted + WINDOW).min(taken.len());
    let free = (from..=to).filter(is_free).min_by_key(|column| column.abs_diff(wanted));
    free.unwrap_or(taken.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `parent:input,input` of every step, `-` for none; a step of another stage ends in `!`.
    fn nodes(text: &str) -> Vec<Node> {
        let mut group = 0;
        let mut node = |word: &str| {
            group += usize::from(word.ends_with('!'));
            let (parent, inputs) =
                word.trim_end_matches('!').split_once(':').unwrap_or((word.trim_end_matches('!'), ""));
            let inputs = inputs.split(',').filter_map(|input| input.parse().ok()).collect();
            Node { parent: parent.parse().ok(), inputs, group }
        };
        text.split_whitespace().map(&mut node).collect()
    }

    #[track_caller]
    fn check(text: &str, expect: &[(usize, usize)]) {
        let cells = place(&nodes(text));
        let found: Vec<_> = cells.iter().map(|cell| (cell.row, cell.column)).collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn a_stage_is_one_column() {
        check("", &[]);
        check("- 0 1 2", &[(0, 0), (1, 0), (2, 0), (3, 0)]);
    }

    #[test]
    fn sources_stand_right_above_their_first_user() {
        check("- 0 1 - 2:3 4:3", &[(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0)]);
    }

    #[test]
    fn a_stage_that_takes_from_others_stands_between_them() {
        let cells = place(&nodes("- 0 -! 2 -! 4 -! 6:1 7:3 8:5"));
        assert_eq!((cells[7].row, cells[8].row, cells[9].row), (2, 3, 4));
        let columns: Vec<_> = [1, 3, 5, 9].map(|id| cells[id].column).to_vec();
        assert!(columns[3] > columns[0] && columns[3] < columns[2], "{columns:?}");
    }

    #[test]
    fn a_base_of_several_stages_stays_with_one_of_them() {
        let cells = place(&nodes("- 0 0! 0!"));
        assert_eq!(cells[0].chain, cells[1].chain);
        assert_eq!(cells.iter().map(|cell| cell.row).collect::<Vec<_>>(), [0, 1, 1, 1]);
    }

    #[test]
    fn no_two_steps_share_a_place_and_none_stands_in_anothers_chain() {
        let mut state = 7_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for _ in 0..200 {
            let nodes: Vec<Node> = (0..60)
                .map(|id| Node {
                    parent: (id > 0 && random(5) > 0).then(|| random(id)),
                    inputs: (0..random(3)).filter(|_| id > 0).map(|_| random(id)).collect(),
                    group: random(4),
                })
                .collect();
            let cells = place(&nodes);
            let mut spans: BTreeMap<usize, (usize, usize, usize)> = BTreeMap::new();
            for (node, cell) in nodes.iter().zip(&cells) {
                assert!(node.needs().all(|need| cells[need].row < cell.row), "needs stand above");
                let span = spans.entry(cell.chain).or_insert((cell.column, cell.row, cell.row));
                assert_eq!(span.0, cell.column, "a chain has one column");
                *span = (span.0, span.1.min(cell.row), span.2.max(cell.row));
            }
            let mut spans: Vec<_> = spans.into_values().collect();
            spans.sort_unstable();
            let apart = |pair: &[(usize, usize, usize)]| pair[0].0 != pair[1].0 || pair[0].2 < pair[1].1;
            assert!(spans.windows(2).all(apart), "{spans:?}");
        }
    }
}
