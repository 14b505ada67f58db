//! A world for lowering that does no IO: every image is the same, every selection is empty.

use std::sync::Arc;

use frontend::graph::{Definition, Selection};
use frontend::lower::{Known, KnownGit, KnownImage, KnownUrl, Need};
use frontend::{Diagnostic, File, Lowered, Options, lower};
use oci::{Digest, Platform};

/// The config of every image.
const CONFIG: &[u8] = br#"{"architecture":"amd64","os":"linux",
"config":{"Env":["PATH=/bin","A=base"],"Cmd":["sh"],"WorkingDir":"/w","OnBuild":["ENV T=$A"]},
"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

/// Lowering asks for contexts, bases and triggers' sources in turn; more rounds than this are a loop.
const ROUNDS: usize = 64;

/// Options that hang on no machine.
pub fn options() -> Options {
    let build_platform = Platform {
        os: "linux".to_owned(),
        architecture: "amd64".to_owned(),
        variant: String::new(),
        os_version: String::new(),
    };
    Options { build_platform, ..Options::default() }
}

/// Lowers a file, answering all needs.
///
/// # Errors
/// The file's mistakes.
pub fn definition(file: &File, options: &Options) -> Result<Definition, Vec<Diagnostic>> {
    let mut known = Known::default();
    for _ in 0..ROUNDS {
        match lower(file, options, &known)? {
            Lowered::Done { definition, .. } => return Ok(*definition),
            Lowered::Needs(needs) => needs.into_keys().for_each(|need| answer(&mut known, need)),
        }
    }
    panic!("lowering needs more than {ROUNDS} rounds");
}

fn answer(known: &mut Known, need: Need) {
    let image =
        |name: String| KnownImage { manifest: Digest::of(name.as_bytes()), name, config: Arc::from(CONFIG) };
    match need {
        Need::Image(need) => {
            let name = need.reference.to_string();
            known.images.insert(need, image(name));
        }
        Need::Layout(need) => {
            let name = need.context.clone();
            known.layouts.insert(need, image(name));
        }
        Need::Selection(need) => {
            known.selections.insert(need, Ok(Arc::new(Selection::new(Vec::new()))));
        }
        Need::Url(need) => {
            let digest = need.checksum.unwrap_or_else(|| Digest::of(b"url"));
            known.urls.insert(need, KnownUrl { digest, last_modified: Some(7), newest_entry: None });
        }
        Need::Git(need) => {
            let commit = "c0ffee".repeat(7)[..40].to_owned();
            let (remote, object) = (need.remote.clone(), commit.clone());
            known.git.insert(need, KnownGit { remote, commit, object, committed: None });
        }
    }
}
