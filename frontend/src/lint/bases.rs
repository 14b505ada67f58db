//! Rules about base images: a name that means another image tomorrow.

use oci::reference::Reference;

use super::stages::View;
use crate::instruction::InstructionKind;
use crate::lower::Options;
use crate::{Diagnostic, expand};

/// Looks at every FROM.
pub(super) fn check(view: &View<'_>, options: &Options, found: &mut Vec<Diagnostic>) {
    for seen in view.stages.iter().filter(|seen| seen.base.is_none()) {
        let from = seen.stage.from;
        let lookup = |name: &str| default_of(view, options, name);
        let Ok(name) = expand::word(&from.image.value, view.file.directives.escape, &lookup) else {
            continue;
        };
        let replaced = |name: &str| options.context(name, options.target_platform()).is_some();
        let title = from.name.as_ref().map_or("", |title| title.value.as_str());
        let stage = || view.names.earlier(&name.value, seen.stage.index).is_some();
        if name.value == "scratch" || replaced(&name.value) || replaced(title) || stage() {
            continue;
        }
        let Ok(reference) = name.value.parse::<Reference>() else { continue };
        if reference.digest.is_some() {
            continue;
        }
        let message = match reference.tag.as_deref() {
            None => format!("base {:?} has no tag: it is whatever latest is that day", name.value),
            Some("latest") => format!("base {:?} is whatever latest is that day", name.value),
            Some(_) => continue,
        };
        found.push(Diagnostic::warning("xbuild/UnpinnedBase", from.image.span, message));
    }
}

/// Returns what an argument before the first FROM is worth, its default as written.
fn default_of(view: &View<'_>, options: &Options, name: &str) -> Option<String> {
    if let Some(given) = options.build_arg(name) {
        return Some(given.to_owned());
    }
    let first = view.stages.first()?.stage.instruction.span;
    let globals = view.file.instructions.iter().take_while(|instruction| instruction.span < first);
    let arguments = globals.filter_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(arguments) => Some(arguments),
        _ => None,
    });
    let argument = arguments.flatten().filter(|argument| argument.name.value == name).last()?;
    let default = &argument.default.as_ref()?.value;
    expand::word(default, view.file.directives.escape, &|_: &str| None).ok().map(|expanded| expanded.value)
}
