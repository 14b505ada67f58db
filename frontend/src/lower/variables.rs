//! Names with values, in order: environments and arguments.

use std::collections::BTreeMap;

/// Variables in the order in which their names came first; setting and finding cost O(log n).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Variables {
    entries: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Variables {
    /// Reads `NAME=value` entries of an image config; what has no equals sign has an empty value.
    pub(super) fn of_config(entries: &[String]) -> Self {
        let mut variables = Self::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            variables.set(name, value);
        }
        variables
    }

    /// Sets a variable; a name that is there keeps its place.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.index.get(name) {
            Some(at) => value.clone_into(&mut self.entries[*at].1),
            None => {
                self.index.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    /// Returns a value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|at| self.entries[*at].1.as_str())
    }

    /// Iterates in order.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &(String, String)> {
        self.entries.iter()
    }

    /// Iterates over the names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Returns `NAME=value` entries.
    pub(super) fn to_config(&self) -> Vec<String> {
        self.entries.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}
