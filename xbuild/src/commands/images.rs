//! `xbuild images`: what the store has names for.

use oci::Platform;
use oci::layout::Layout;
use oci::reference::Reference;

use super::{human, print};
use crate::args::ImagesArgs;
use crate::failure::Failure;
use crate::image;

struct Row {
    repository: String,
    tag: String,
    digest: String,
    created: String,
    size: u64,
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
        let loaded = image::read(layout, named.descriptor.clone(), &Platform::host()).ok();
        let layers = loaded
            .as_ref()
            .map_or(0, |image| image.manifest.parsed.layers().iter().map(|layer| layer.size()).sum());
        rows.push(Row {
            repository: reference.as_ref().map_or_else(
                || "<none>".to_owned(),
                |reference| Reference { tag: None, digest: None, ..reference.clone() }.familiar(),
            ),
            tag: reference.and_then(|reference| reference.tag).unwrap_or_else(|| "<none>".to_owned()),
            digest: named.descriptor.digest().to_string(),
            created: loaded.and_then(|image| image.config.parsed.created).unwrap_or_default(),
            size: layers,
        });
    }
    rows.sort_by(|a, b| (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag)));
    Ok(rows)
}

fn json(row: &Row) -> serde_json::Value {
    serde_json::json!({
        "repository": row.repository, "tag": row.tag, "digest": row.digest, "created": row.created, "size": row.size,
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
