//! Checks before anything is lowered: which frontend a file asks for.

use super::{Options, REFUSED};
use crate::instruction::Span;
use crate::{Diagnostic, File};

/// Refuses external frontends: xbuild executes none. Docker's own Dockerfile frontends are taken as built in.
pub(super) fn frontend(file: &File, options: &Options) -> Result<(), Vec<Diagnostic>> {
    let directive = file.directives.syntax.as_ref().map(|syntax| (syntax.value.as_str(), syntax.span));
    let argument = options.build_arg("BUILDKIT_SYNTAX").map(|name| (name, Span::default()));
    let Some((name, span)) = argument.or(directive).filter(|(name, _)| !is_built_in(name)) else {
        return Ok(());
    };
    let mut diagnostic = Diagnostic::error(span, format!("external frontend {name:?} is never executed"))
        .with_help("remove the syntax line, or use docker/dockerfile, which is built in");
    diagnostic.rule = Some(REFUSED);
    Err(vec![diagnostic])
}

fn is_built_in(name: &str) -> bool {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let bare = name.split(['@', ':']).next().unwrap_or(name);
    matches!(bare, "" | "docker/dockerfile" | "docker/dockerfile-upstream" | "dockerfile.v0" | "dockerfile")
}
