//! Rules about apt: lists that grow old in the cache, lists that stay in the image.

use super::script::{self, Simple};
use super::stages::{Running, View};
use crate::Diagnostic;
use crate::instruction::MountKind;

/// Looks at every RUN.
pub(super) fn check(view: &View<'_>, found: &mut Vec<Diagnostic>) {
    for stage in &view.stages {
        for running in &stage.runs {
            let commands: Vec<Simple> = running.scripts().into_iter().flat_map(script::commands).collect();
            if !commands.iter().any(|command| is_apt(command, &["update"])) || mounted(running) {
                continue;
            }
            let span = running.instruction.span;
            let uses =
                ["install", "upgrade", "dist-upgrade", "full-upgrade", "build-dep", "source", "download"];
            if !commands.iter().any(|command| is_apt(command, &uses)) {
                let message =
                    "apt-get update in a RUN of its own: later RUNs install from lists of the cache";
                found.push(Diagnostic::warning("xbuild/AptUpdateAlone", span, message));
            } else if stage.in_image && !commands.iter().any(removes_lists) {
                let message = "the lists of apt-get update stay in the image";
                found.push(Diagnostic::warning("xbuild/AptListsKept", span, message));
            }
        }
    }
}

/// Whether a command is apt with one of these verbs, also behind `xargs` and as the wrapper of tonistiigi/xx.
fn is_apt(command: &Simple, verbs: &[&str]) -> bool {
    const NAMES: [&str; 5] = ["apt-get", "apt", "aptitude", "xx-apt-get", "xx-apt"];
    let is_name = |word: &String| NAMES.contains(&word.rsplit('/').next().unwrap_or_default());
    let arguments = command.words.iter().skip_while(|word| !is_name(word)).skip(1);
    arguments.map(String::as_str).any(|word| verbs.contains(&word))
}

fn removes_lists(command: &Simple) -> bool {
    const LISTS: &str = "/var/lib/apt";
    let deletes = matches!(command.program(), "rm" | "find");
    // Debian 13's apt has a verb for it.
    is_apt(command, &["dist-clean", "distclean"])
        || (deletes && command.operands().any(|word| word.starts_with(LISTS)))
}

/// Whether the lists lie on a mount, which no layer holds.
fn mounted(running: &Running<'_>) -> bool {
    let over = |target: &str| {
        let target = target.trim_end_matches('/');
        ["/var", "/var/lib", "/var/lib/apt", "/var/lib/apt/lists"].contains(&target)
    };
    running.run.mounts.iter().any(|mount| match mount.value.kind {
        MountKind::Cache | MountKind::Tmpfs => mount.value.target.as_deref().is_some_and(over),
        MountKind::Bind | MountKind::Secret | MountKind::Ssh => false,
    })
}
