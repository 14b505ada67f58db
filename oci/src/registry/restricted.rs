//! Layers that are marked as not to be distributed: which of them a push sends, and what a registry says of them.
//! Sends nothing itself.
//!
//! image-spec wants none of them uploaded, but deprecates the mark. A layer that has no URL could then be had nowhere,
//! so it is sent, as by BuildKit and skopeo; what has one is left where that leads.

use std::collections::BTreeSet;

use super::error::Problem;
use super::push::{PushBlob, PushPlan};
use crate::Digest;
use crate::media_type::is_nondistributable;

/// Returns whether a blob is named by its manifest, but stays away from registries.
pub(super) fn is_elsewhere(blob: &PushBlob) -> bool {
    is_nondistributable(&blob.media_type) && !blob.urls.is_empty()
}

/// Returns those of `blobs` that have the mark.
pub(super) fn layers(blobs: &[PushBlob]) -> BTreeSet<Digest> {
    let marked = blobs.iter().filter(|blob| is_nondistributable(&blob.media_type));
    marked.map(|blob| blob.digest).collect()
}

/// Returns whether a manifest was refused for one of the layers: the registry names it.
pub(super) fn are_named(plan: &PushPlan, problem: &Problem) -> bool {
    named(plan, problem).is_some()
}

/// Says so.
pub(super) fn refused(plan: &PushPlan, problem: Problem) -> Problem {
    match named(plan, &problem) {
        Some(layer) => Problem::Restricted { layer, refused: Box::new(problem) },
        None => problem,
    }
}

fn named(plan: &PushPlan, problem: &Problem) -> Option<Digest> {
    let messages = match problem {
        Problem::Exhausted { last, .. } => return named(plan, last),
        Problem::Status { messages, .. } => messages,
        _ => return None,
    };
    let is_named = |layer: &&Digest| messages.iter().any(|message| message.text.contains(&layer.to_string()));
    plan.restricted.iter().find(is_named).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::error::Message;
    use crate::registry::{BlobSource, PushImage, plan_push};

    const WINDOWS: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

    fn plan(media_type: &str, urls: &[&str]) -> PushPlan {
        let blob = PushBlob {
            digest: Digest::of(b"w"),
            size: 1,
            media_type: media_type.to_owned(),
            urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            source: BlobSource::File("/x".into()),
            found_in: Vec::new(),
        };
        let target = "r.example/a/b".parse().expect("a name");
        plan_push(&target, &PushImage { blobs: vec![blob], documents: Vec::new() })
    }

    #[test]
    fn layers_with_the_mark_are_sent_unless_they_are_elsewhere() {
        let (url, gzip) = ("https://vendor.example/w", crate::media_type::OCI_LAYER_GZIP);
        let zstd = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
        for (media_type, urls, sent) in
            [(WINDOWS, &[url][..], 0), (zstd, &[url], 0), (WINDOWS, &[], 1), (gzip, &[url], 1)]
        {
            assert_eq!(plan(media_type, urls).uploads.len(), sent, "{media_type} {urls:?}");
        }
    }

    #[test]
    fn a_refusal_that_names_such_a_layer_is_told_from_others() {
        let layer = Digest::of(b"w").to_string();
        for (media_type, text, is) in [
            (WINDOWS, layer.as_str(), true),
            (WINDOWS, "manifest invalid", false),
            (crate::media_type::OCI_LAYER, layer.as_str(), false),
        ] {
            let message = Message { code: "MANIFEST_INVALID".to_owned(), text: text.to_owned() };
            let problem = Problem::Status {
                host: "h".to_owned(),
                status: reqwest::StatusCode::BAD_REQUEST,
                messages: vec![message],
                retry_after: None,
            };
            let problem = refused(&plan(media_type, &[]), problem);
            assert_eq!(matches!(problem, Problem::Restricted { .. }), is, "{media_type} {text}");
        }
    }
}
