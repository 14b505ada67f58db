//! Loading into another tool, played by a script.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use exporter::load;
use oci::compress::Encoding;
use oci::media_type::Types;

use crate::fixture::{Fixture, name};

fn program(fixture: &Fixture, body: &str) -> PathBuf {
    let path = fixture.path("docker");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn the_archive_is_streamed_into_the_program() {
    let fixture = Fixture::new();
    let image = fixture.image(Types::Docker, Encoding::GZIP).descriptor();
    let got = fixture.path("got.tar");
    let loader = program(
        &fixture,
        &format!("[ \"$1\" = load ] && cat > {} && echo Loaded image: demo", got.display()),
    );
    assert_eq!(load::find(fixture.directory.path().as_os_str()), Some(loader.clone()));
    let printed = load::load(&fixture.layout, &image, &[name("demo")], &loader).unwrap();
    assert_eq!(printed, "Loaded image: demo\n");
    let mut archive = tar::Archive::new(fs::File::open(got).unwrap());
    assert!(
        archive.entries().unwrap().any(|entry| entry.unwrap().path().unwrap().ends_with("manifest.json"))
    );
}

#[test]
fn a_program_that_fails_is_quoted() {
    let fixture = Fixture::new();
    let image = fixture.image(Types::Docker, Encoding::GZIP).descriptor();
    let loader = program(&fixture, "echo 'is the daemon running?' >&2; exit 1");
    let error = load::load(&fixture.layout, &image, &[], &loader).unwrap_err().to_string();
    assert!(error.contains("is the daemon running?") && error.contains("exit status: 1"), "{error}");
    let missing = load::load(&fixture.layout, &image, &[], &fixture.path("missing")).unwrap_err();
    assert!(matches!(missing, exporter::Error::Load { .. }), "{missing}");
    assert_eq!(load::find("/nonexistent".as_ref()), None);
}
