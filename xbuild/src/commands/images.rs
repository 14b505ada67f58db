//! `xbuild images`: what the store has names for.

use std::collections::BTreeMap;

use oci::Platform;
use oci::document::{self, Descriptor, INDEX_DEPTH, Manifest, Root};
use oci::layout::Layout;
use oci::reference::Reference;

use super::{human, print};
use crate::args::ImagesArgs;
use crate::failure::Failure;
use crate::image;

/// What tables show where there is no name, as docker's do.
const NONE: &str = "<none>";

struct Row {
    repository: String,
    tag: String,
    digest: String,
    created: String,
    size: u64,
    platforms: Vec<String>,
}

/// Prints a table, JSON, or digests.
///
/// # Errors
/// Store failures. An image that cannot be read is listed with what is known of it.
pub fn run(layout: &Layout, args: &ImagesArgs) -> Result<(), Failure> {
    let rows = rows(layout)?;
    let text = if args.quiet {
        rows.iter().map(|row| format!("{}\n", row.digest)).collect()
    } else if args.json {
        let list: Vec<_> = rows.iter().map(json).collect();
        format!("{}\n", serde_json::Value::Array(list))
    } else {
        table(&rows)
    };
    print(&text)
}

fn rows(layout: &Layout) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for named in layout.names()? {
        let reference = named.name.parse::<Reference>().ok();
        let manifests = manifests(layout, &named.descriptor);
        let any = manifests.first().and_then(|(platform, _)| platform.clone());
        let loaded = image::read(layout, named.descriptor.clone(), &Platform::host())
            .or_else(|failure| image::read(layout, named.descriptor.clone(), any.as_ref().ok_or(failure)?));
        rows.push(Row {
            repository: reference.as_ref().map_or_else(
                || NONE.to_owned(),
                |reference| Reference { tag: None, digest: None, ..reference.clone() }.familiar(),
            ),
            tag: reference.and_then(|reference| reference.tag).unwrap_or_else(|| NONE.to_owned()),
            digest: named.descriptor.digest().to_string(),
            platforms: manifests
                .iter()
                .filter_map(|(platform, _)| platform.clone())
                .chain(
                    loaded
                        .as_ref()
                        .ok()
                        .filter(|_| any.is_none())
                        .map(|image| image.config.parsed.platform()),
                )
                .map(|platform| platform.full())
                .collect(),
            created: loaded.ok().and_then(|image| image.config.parsed.created).unwrap_or_default(),
            size: size(&manifests),
        });
    }
    rows.sort_by(|a, b| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)));
    Ok(rows)
}

/// Returns the manifests that a name stands for, with their platforms where an index says them. Attestations and what
/// cannot be read are left out.
fn manifests(layout: &Layout, descriptor: &Descriptor) -> Vec<(Option<Platform>, Manifest)> {
    let mut found = Vec::new();
    let mut waiting = vec![(descriptor.clone(), 0)];
    while let Some((descriptor, depth)) = waiting.pop() {
        match layout.read_root(&descriptor) {
            Ok(Root::Manifest(manifest)) if depth == 0 => found.push((None, manifest)),
            Ok(Root::Manifest(manifest)) => found.push((document::platform_of(&descriptor), manifest)),
            Ok(Root::Index(index)) if depth < INDEX_DEPTH => {
                let images = index.parsed.manifests().iter().filter(|entry| !document::is_attestation(entry));
                waiting.extend(images.rev().map(|entry| (entry.clone(), depth + 1)));
            }
            Ok(Root::Index(_)) | Err(_) => {}
        }
    }
    found
}

/// Bytes of all layers, each once.
fn size(manifests: &[(Option<Platform>, Manifest)]) -> u64 {
    let layers = manifests.iter().flat_map(|(_, manifest)| manifest.parsed.layers());
    let sizes: BTreeMap<&str, u64> = layers.map(|layer| (layer.digest().as_ref(), layer.size())).collect();
    sizes.values().sum()
}

fn json(row: &Row) -> serde_json::Value {
    let or_null = |text: &str| (text != NONE).then(|| text.to_owned());
    serde_json::json!({
        "repository": or_null(&row.repository), "tag": or_null(&row.tag), "digest": row.digest, "created": row.created, "size": row.size,
        "platforms": row.platforms,
    })
}

fn table(rows: &[Row]) -> String {
    let width = |column: fn(&Row) -> &str, title: &str| {
        rows.iter().map(|row| column(row).chars().count()).chain([title.len()]).max().unwrap_or(0)
    };
    let (repository, tag) = (width(|row| &row.repository, "REPOSITORY"), width(|row| &row.tag, "TAG"));
    let mut text =
        format!("{:repository$}  {:tag$}  {:12}  {:20}  SIZE\n", "REPOSITORY", "TAG", "DIGEST", "CREATED");
    for row in rows {
        let digest: String = row.digest.rsplit(':').next().unwrap_or_default().chars().take(12).collect();
        let created: String = row.created.chars().take(19).collect();
        let size = human(row.size);
        text +=
            &format!("{:repository$}  {:tag$}  {digest:12}  {created:20}  {size}\n", row.repository, row.tag);
    }
    text
}
