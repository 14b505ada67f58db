//! `xbuild debug instructions`: typed instructions, and what lowering makes of them without looking anything up.
//!
//! Every base is taken to be an image that sets nothing, every source to be there.

use std::sync::Arc;

use oci::{DiffId, Digest, ImageConfig};
use serde_json::{Value, json};

use super::{Answer, known_keys, text};
use crate::graph::{Definition, Selection};
use crate::instruction::{Command, FileWork, Heredoc, Instruction};
use crate::lower::{Known, KnownGit, KnownImage, KnownUrl, Lowered, Need, Options, lower};
use crate::{Diagnostic, File};

pub(super) fn answer(input: &Value) -> Answer {
    known_keys(input, &["text", "target"])?;
    let file = crate::parse(text(input, "text")?.as_bytes());
    let target = input.get("target").map(|_| text(input, "target").map(str::to_owned)).transpose()?;
    let definition = assume(&file, &Options { target, ..Options::default() })?;
    Ok(json!({
        "instructions": file.instructions.iter().map(|found| instruction(&file, found)).collect::<Vec<_>>(),
        "config": config(&definition),
    }))
}

/// Lowers a file, assuming that everything it needs is there.
fn assume(file: &File, options: &Options) -> Result<Definition, String> {
    let mut known = Known::default();
    loop {
        match lower(file, options, &known).map_err(|errors| messages(&errors))? {
            Lowered::Done { definition, .. } => return Ok(*definition),
            Lowered::Needs(needs) => needs.into_keys().for_each(|need| assume_need(&mut known, need)),
        }
    }
}

fn messages(errors: &[Diagnostic]) -> String {
    errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ")
}

fn assume_need(known: &mut Known, need: Need) {
    match need {
        Need::Image(need) => {
            let image = image(need.reference.to_string(), &need.platform);
            known.images.insert(need, image);
        }
        Need::Layout(need) => {
            let image = image(need.context.clone(), &need.platform);
            known.layouts.insert(need, image);
        }
        Need::Selection(need) => {
            known.selections.insert(need, Ok(Arc::new(Selection::new(Vec::new()))));
        }
        Need::Url(need) => {
            let digest = need.checksum.unwrap_or(Digest::of(need.url.as_bytes()));
            known.urls.insert(need, KnownUrl { digest, last_modified: None, newest_entry: None });
        }
        Need::Git(need) => {
            let commit = Digest::of(need.reference.as_bytes()).hex();
            let (remote, object) = (need.remote.clone(), commit.clone());
            known.git.insert(need, KnownGit { remote, commit, object, committed: None });
        }
    }
}

fn image(name: String, platform: &oci::Platform) -> KnownImage {
    let mut config = ImageConfig {
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        ..ImageConfig::default()
    };
    config.rootfs.diff_ids.push(DiffId(Digest::of(name.as_bytes())));
    let config = serde_json::to_vec(&config).expect("an image config is JSON");
    KnownImage { manifest: Digest::of(name.as_bytes()), name, config: config.into() }
}

/// Returns what the file sets: without the default PATH and working directory.
fn config(definition: &Definition) -> Value {
    let mut config = definition.image.config.config.clone();
    config.env.retain(|entry| entry != "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    if config.working_dir == "/" {
        config.working_dir.clear();
    }
    json!(config)
}

fn instruction(file: &File, instruction: &Instruction) -> Value {
    let mut output = json!({ "cmd": instruction.keyword.value.to_uppercase() });
    match instruction.kind.file_work() {
        FileWork::Copies(copy) => {
            output["sources"] = copy.sources.iter().map(|source| source.value.as_str()).collect();
            output["dest"] = json!(copy.dest.value);
            output["inline"] = copy.inline.iter().map(inline).collect();
        }
        FileWork::Runs(run) => {
            let (shell, command) = match &run.written {
                Command::Shell(script) => (true, vec![script.clone()]),
                Command::Exec(args) => (false, args.clone()),
            };
            output["shell"] = json!(shell);
            output["command"] = json!(command);
            output["files"] = run.heredocs.iter().map(|heredoc| script(file, heredoc)).collect();
        }
        FileWork::Nothing => {}
    }
    output
}

fn inline(file: &Heredoc) -> Value {
    json!({ "name": file.name, "data": file.content, "expand": file.expand })
}

/// The table wants a script's body as it stands, before `<<-` takes its tabs.
fn script(file: &File, heredoc: &Heredoc) -> Value {
    json!({ "name": heredoc.name, "data": file.slice(heredoc.span), "chomp": heredoc.chomp })
}
