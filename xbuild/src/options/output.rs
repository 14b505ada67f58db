//! `-o type=…,dest=…`: where a result goes besides the store.

use std::path::PathBuf;

use super::annotation::{self, Annotation};
use super::image_output::{self, ImageOutput};
use super::usage;
use crate::failure::Failure;

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// In which form.
    pub kind: OutputKind,
    /// Where to; `-` is standard output.
    pub dest: PathBuf,
    /// What it says about the image.
    pub annotations: Vec<Annotation>,
}

/// The form of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// An OCI layout in a tar archive.
    OciArchive,
    /// An OCI layout directory.
    OciDirectory,
    /// An archive for `docker load`.
    Docker,
    /// The root file system as a tar archive.
    Tar,
    /// The root file system as a directory.
    Local,
}

/// An output of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildOutput {
    /// Files.
    File(Output),
    /// The image itself.
    Image(ImageOutput),
}

/// Parses the value of the flag of a build.
///
/// # Errors
/// Unknown types and keys, and a missing destination.
pub fn parse_of_build(flag: &str, text: &str) -> Result<BuildOutput, Failure> {
    let fields = fields(text);
    let kind = fields.iter().find_map(|field| field.strip_prefix("type="));
    match kind.filter(|kind| matches!(*kind, "image" | "registry")) {
        Some(kind) => image_output::parse(&format!("{flag} {text}"), kind, &fields).map(BuildOutput::Image),
        None => parse(flag, text).map(BuildOutput::File),
    }
}

/// Splits at commas; a field in quotes may hold some (RFC 4180), as buildx has it.
pub fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let (mut quoted, mut characters) = (false, text.chars().peekable());
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("there is always one");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

/// Parses the value of a flag that says files.
///
/// # Errors
/// Unknown types and keys, and a missing destination.
pub fn parse(flag: &str, text: &str) -> Result<Output, Failure> {
    if !text.contains('=') {
        let kind = if text == "-" { OutputKind::Tar } else { OutputKind::Local };
        return Ok(Output { kind, dest: text.into(), annotations: Vec::new() });
    }
    let place = format!("{flag} {text}");
    let said = Said::read(&place, text)?;
    let kind = kind(&place, &said)?;
    let dest = match (said.dest, kind) {
        (Some(dest), _) => dest,
        (None, OutputKind::OciArchive | OutputKind::Docker | OutputKind::Tar) => PathBuf::from("-"),
        (None, OutputKind::OciDirectory | OutputKind::Local) => {
            return Err(usage(&place, "there is no destination", "add dest=PATH"));
        }
    };
    match kind {
        OutputKind::Tar | OutputKind::Local if !said.annotations.is_empty() => {
            Err(usage(&place, "a root file system has no annotations", "leave them out, or write type=oci"))
        }
        OutputKind::Tar
        | OutputKind::Local
        | OutputKind::OciArchive
        | OutputKind::OciDirectory
        | OutputKind::Docker => Ok(Output { kind, dest, annotations: said.annotations }),
    }
}

/// The fields of an output, as they are written.
struct Said {
    kind: Option<String>,
    dest: Option<PathBuf>,
    packing: Packing,
    annotations: Vec<Annotation>,
}

/// What `tar=` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    Archive,
    Directory,
}

impl Said {
    fn read(place: &str, text: &str) -> Result<Self, Failure> {
        let mut said = Self { kind: None, dest: None, packing: Packing::Archive, annotations: Vec::new() };
        for field in fields(text) {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            if let Some(annotation) = annotation::of_output(place, key, value) {
                said.annotations.push(annotation?);
                continue;
            }
            match (key, value) {
                ("type", value) => said.kind = Some(value.to_owned()),
                ("dest", value) if !value.is_empty() => said.dest = Some(PathBuf::from(value)),
                ("tar", "true") => said.packing = Packing::Archive,
                ("tar", "false") => said.packing = Packing::Directory,
                // Layer times follow SOURCE_DATE_EPOCH whenever it is set, so there is nothing left to rewrite.
                ("rewrite-timestamp", "true") => {}
                _ => {
                    let why = format!("unknown or unsupported {field:?}");
                    return Err(usage(place, &why, "the keys are type, dest, tar and annotation.KEY"));
                }
            }
        }
        Ok(said)
    }
}

fn kind(place: &str, said: &Said) -> Result<OutputKind, Failure> {
    match (said.kind.as_deref(), said.packing) {
        (Some("oci"), Packing::Directory) => Ok(OutputKind::OciDirectory),
        (Some("oci"), Packing::Archive) => Ok(OutputKind::OciArchive),
        (Some("docker"), Packing::Archive) => Ok(OutputKind::Docker),
        (Some("tar"), _) => Ok(OutputKind::Tar),
        (Some("local"), _) => Ok(OutputKind::Local),
        (Some(other), _) => {
            let fix = "the types are oci, docker, tar and local; of builds also image and registry";
            Err(usage(place, &format!("unknown type {other:?}"), fix))
        }
        (None, _) => Err(usage(place, "there is no type", "write type=oci,dest=PATH")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<(OutputKind, &str)>) {
        let output = parse("-o", text).ok().map(|output| (output.kind, output.dest));
        assert_eq!(output, expect.map(|(kind, dest)| (kind, dest.into())), "{text}");
    }

    #[test]
    fn quoted_fields_hold_commas() {
        let check = |text: &str, expect: &[&str]| assert_eq!(fields(text), expect, "{text}");
        check("type=oci,dest=a", &["type=oci", "dest=a"]);
        check("\"name=a,b\",\"k=\"\"v\"\"\"", &["name=a,b", "k=\"v\""]);
        check("k=a\"b", &["k=a\"b"]);
        check("", &[""]);
    }

    #[test]
    fn outputs_are_typed() {
        check("type=oci,dest=a.tar", Some((OutputKind::OciArchive, "a.tar")));
        check("type=oci,dest=d,tar=false", Some((OutputKind::OciDirectory, "d")));
        check("type=docker", Some((OutputKind::Docker, "-")));
        check("out", Some((OutputKind::Local, "out")));
        check("-", Some((OutputKind::Tar, "-")));
        check("type=local", None);
        check("type=image,dest=x", None);
        check("type=oci,dst=x", None);
        check(
            "type=oci,dest=a.tar,annotation.k=v,annotation-index.k=v",
            Some((OutputKind::OciArchive, "a.tar")),
        );
        check("type=local,dest=d,annotation.k=v", None);
        check("type=oci,annotation-nope.k=v", None);
    }
}
