//! What becomes of the images of a build: names, pushes and files together, and one image or an index of several.

use std::collections::BTreeSet;

use oci::Platform;
use oci::reference::Reference;

use super::annotation::{self, Annotation, Place};
use super::image_output::{ImageOutput, PushBy};
use super::output::{self, BuildOutput, Output, OutputKind};
use super::{usage, values, variable};
use crate::args::BuildArgs;
use crate::failure::Failure;

/// What a build makes of its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One image.
    Image,
    /// An index of the images of all platforms.
    Index,
}

/// Where results go.
pub struct Destinations {
    /// Names.
    pub tags: Vec<Reference>,
    /// Repositories that get the image without a tag.
    pub by_digest: Vec<Reference>,
    /// Whether the names are pushed to.
    pub push: bool,
    /// Files.
    pub outputs: Vec<Output>,
    /// What outputs say about the image.
    pub annotations: Vec<Annotation>,
}

/// Says what `-t`, `-o` and `--push` mean together.
///
/// # Errors
/// A usage failure where something is to be pushed and has no name.
pub fn together(args: &BuildArgs, tags: Vec<Reference>) -> Result<Destinations, Failure> {
    let mut found = Destinations {
        tags,
        by_digest: Vec::new(),
        push: args.push,
        outputs: Vec::new(),
        annotations: Vec::new(),
    };
    for text in &args.output {
        match output::parse_of_build("-o", text)? {
            BuildOutput::File(output) => {
                found.annotations.extend(output.annotations.iter().cloned());
                found.outputs.push(output);
            }
            BuildOutput::Image(ImageOutput { names, push, annotations }) => {
                found.annotations.extend(annotations);
                found.push |= push == PushBy::Tag;
                if push != PushBy::Digest {
                    found.tags.extend(names);
                } else if names.is_empty() {
                    let why = "there is no repository to push to";
                    return Err(usage(&format!("-o {text}"), why, "add name=REPOSITORY, without a tag"));
                } else {
                    found.by_digest.extend(names);
                }
            }
        }
    }
    // Who names an image twice is told of it once.
    let mut seen = BTreeSet::new();
    found.tags.retain(|tag| seen.insert(tag.clone().with_default_tag()));
    if found.push && found.tags.is_empty() {
        let flag = if args.push { "--push" } else { "-o push=true" };
        return Err(usage(flag, "there is no name to push to", "give one with -t"));
    }
    Ok(found)
}

/// Returns the platforms of the flag, else of docker's variable.
///
/// # Errors
/// A usage failure.
pub fn platforms(values: &[String]) -> Result<Vec<Platform>, Failure> {
    const NAME: &str = "DOCKER_DEFAULT_PLATFORM";
    match variable(NAME).filter(|text| values.is_empty() && !text.is_empty()) {
        Some(text) => values::platforms(&[text]),
        None => values::platforms(values),
    }
}

/// Several platforms make an index; `BUILDKIT_MULTI_PLATFORM` asks for one of a single image too.
///
/// # Errors
/// A usage failure where it is neither true nor false.
pub fn form(platforms: &[Platform], build_args: &[(String, String)]) -> Result<Form, Failure> {
    const NAME: &str = "BUILDKIT_MULTI_PLATFORM";
    let given = build_args.iter().rev().find(|(name, _)| name == NAME);
    let asked = match given.map(|(_, value)| value.as_str()) {
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        Some(other) => {
            return Err(usage(&format!("--build-arg {NAME}={other}"), "it is neither true nor false", ""));
        }
    };
    Ok(if asked || platforms.len() > 1 { Form::Index } else { Form::Image })
}

/// Refuses an index where one image is wanted: what `docker load` reads holds one.
///
/// # Errors
/// A usage failure that names the flag.
pub fn check_outputs(form: Form, outputs: &[Output], load: bool) -> Result<(), Failure> {
    let docker = outputs.iter().find(|output| output.kind == OutputKind::Docker);
    let flag = match (form, docker, load) {
        (Form::Image, _, _) | (Form::Index, None, false) => return Ok(()),
        (Form::Index, Some(_), _) => "-o type=docker",
        (Form::Index, None, true) => "--load",
    };
    let why = "docker's archives do not support manifest lists (several platforms)";
    Err(usage(flag, why, "give one --platform, or use -o type=oci,dest=PATH, or --push"))
}

/// Returns all annotations: those of `--annotation`, then those that outputs say.
///
/// # Errors
/// A usage failure where one is none, or of an index that there is not.
pub fn annotations(form: Form, texts: &[String], said: Vec<Annotation>) -> Result<Vec<Annotation>, Failure> {
    let mut annotations = values::each(texts, |text| annotation::parse("--annotation", text))?.concat();
    annotations.extend(said);
    check_annotations(form, &annotations)?;
    Ok(annotations)
}

/// Refuses annotations of an index where there is none.
fn check_annotations(form: Form, annotations: &[Annotation]) -> Result<(), Failure> {
    let of_index = annotations
        .iter()
        .find(|annotation| matches!(annotation.place, Some(Place::Index | Place::IndexDescriptor)));
    match (form, of_index) {
        (Form::Image, Some(annotation)) => Err(usage(
            &format!("--annotation index:{}", annotation.key),
            "index annotations are not supported for a single platform, which has no index",
            "give several platforms, or annotate the manifest",
        )),
        (Form::Image | Form::Index, _) => Ok(()),
    }
}
