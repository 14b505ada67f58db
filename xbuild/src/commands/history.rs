//! `xbuild history`: how an image was made, newest first.

use oci::Platform;
use oci::layout::Layout;

use super::{human, print};
use crate::failure::Failure;
use crate::image;

/// Prints a line per history entry with the packed size of its layer.
///
/// # Errors
/// Where the image is not in the store, or damaged.
pub fn run(layout: &Layout, name: &str) -> Result<(), Failure> {
    let found = image::load(layout, name, &Platform::host())?;
    let mut layers = found.manifest.parsed.layers().iter();
    let mut lines = Vec::new();
    for entry in &found.config.parsed.history {
        let layer = if entry.empty_layer { None } else { layers.next() };
        let created: String = entry.created.as_deref().unwrap_or("-").chars().take(19).collect();
        let size = layer.map_or_else(|| "0B".to_owned(), |layer| human(layer.size()));
        let text: String = entry
            .created_by
            .as_deref()
            .unwrap_or("-")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        lines.push(format!("{created:20} {size:>8}  {text}\n"));
    }
    lines.push(format!("{:20} {:>8}  CREATED BY\n", "CREATED", "SIZE"));
    print(&lines.into_iter().rev().collect::<String>())
}
