//! An image into the daemon or the storage of another tool: `docker load` or `podman load`, fed through a pipe.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci::document::Descriptor;
use oci::{Layout, Reference};

use crate::archive;
use crate::error::{Error, Result};

/// How much of a program's output is kept for an error.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// Returns the program that can load images: docker, else podman. `search` is the value of PATH.
pub fn find(search: &std::ffi::OsStr) -> Option<PathBuf> {
    ["docker", "podman"].into_iter().find_map(|name| {
        std::env::split_paths(search).map(|directory| directory.join(name)).find(|path| path.is_file())
    })
}

/// Streams the image into `program load`; returns what the program printed.
///
/// # Errors
/// [`Error::Load`] with the program's own words, and the errors of [`archive::docker`].
pub fn load(layout: &Layout, root: &Descriptor, names: &[Reference], program: &Path) -> Result<String> {
    load_with(Command::new(program).arg("load"), layout, root, names)
}

fn load_with(
    command: &mut Command,
    layout: &Layout,
    root: &Descriptor,
    names: &[Reference],
) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |what: String| Error::Load { program: program.clone(), what };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let (written, printed, complaint) = std::thread::scope(|scope| {
        let printed = scope.spawn(move || read(stdout));
        let complaint = scope.spawn(move || read(stderr));
        let written = archive::docker(layout, root, names, &mut File::from(OwnedFd::from(stdin)));
        (written, printed.join().unwrap_or_default(), complaint.join().unwrap_or_default())
    });
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        // A program that ends early breaks the pipe; its own words say why.
        let words = if complaint.trim().is_empty() { &printed } else { &complaint };
        return Err(failed(format!("{status}: {}", words.trim())));
    }
    written?;
    Ok(printed)
}

/// Reads to the end, so that the program never waits for us, and keeps the beginning.
fn read(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    // What cannot be read is not shown.
    let _ = from.by_ref().take(OUTPUT_LIMIT).read_to_end(&mut kept);
    let _ = std::io::copy(&mut from, &mut std::io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
