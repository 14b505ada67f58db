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

/// A mirror's copy counts as Docker's own: nothing of it runs.
fn is_built_in(name: &str) -> bool {
    const OWN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];
    let name = name.split('@').next().unwrap_or(name);
    let (registry, last) = name.rsplit_once('/').unwrap_or(("", name));
    let bare = last.split(':').next().unwrap_or(last);
    let path = if registry.is_empty() { bare.to_owned() } else { format!("{registry}/{bare}") };
    let ends_with =
        |own: &&str| path.strip_suffix(*own).is_some_and(|left| left.is_empty() || left.ends_with('/'));
    matches!(path.as_str(), "" | "dockerfile.v0" | "dockerfile") || OWN.iter().any(ends_with)
}

#[cfg(test)]
mod tests {
    use super::is_built_in;

    #[test]
    fn df_09_dockers_frontends_are_built_in_also_from_mirrors() {
        for name in [
            "docker/dockerfile",
            "docker/dockerfile:1.9-labs",
            "docker.io/docker/dockerfile:1",
            "docker/dockerfile-upstream:master",
            "mirror.example:5000/hub/docker/dockerfile:1",
            "docker/dockerfile:1@sha256:00",
            "dockerfile.v0",
        ] {
            assert!(is_built_in(name), "{name}");
        }
        for name in ["evil/fe", "evil/docker/dockerfile2", "evil-docker/dockerfile", "docker/dockerfile/evil"]
        {
            assert!(!is_built_in(name), "{name}");
        }
    }
}
