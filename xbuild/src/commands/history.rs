//! `xbuild history`: how an image was made, newest first.

use std::path::PathBuf;

use oci::Platform;
use oci::document::{Config, Manifest};

use super::{Platforms, human, places, print};
use crate::args::HistoryArgs;
use crate::failure::Failure;
use crate::images::{Absent, Source};
use crate::location::Location;

/// Prints a line per history entry with the packed size of its layer.
///
/// # Errors
/// Where there is no such image, or its documents are damaged.
pub fn run(args: &HistoryArgs, root: PathBuf) -> Result<(), Failure> {
    let location = Location::parse(&args.image)?;
    let platforms = Platforms::parse(args.platform.as_deref(), Platforms::Host)?;
    let places = places(root, &args.registry, [&location])?;
    let reading = async {
        let mut source = Source::open(&places, &location, Absent::Refuse).await?;
        platforms.apply(&mut source).await?;
        let manifest = source.select(&Platform::host()).await?;
        let config = source.config(&manifest).await?;
        Ok(table(&manifest, &config))
    };
    let table = super::await_result(reading)?;
    print(&table)
}

fn table(manifest: &Manifest, config: &Config) -> String {
    let mut layers = manifest.parsed.layers().iter();
    let mut lines = Vec::new();
    for entry in &config.parsed.history {
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
    lines.into_iter().rev().collect()
}
