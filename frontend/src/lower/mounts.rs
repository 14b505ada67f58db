//! `RUN --mount`: what is mounted where, from which inputs.

use super::Lowering;
use super::command::Command;
use super::sources::{Missing, Origin};
use super::state::Work;
use super::words::Scope;
use crate::Diagnostic;
use crate::graph::pattern::join;
use crate::graph::pattern::{clean, clean_below_root};
use crate::graph::{
    BindMount, CacheMount, Mount, SecretMount, SelectionRequest, SshMount, StepId, TmpfsMount,
};
use crate::instruction::{MountKind, MountSpec, Span, Spanned};

/// One mount while it is lowered.
struct Place<'p> {
    spec: &'p MountSpec,
    span: Span,
    cwd: &'p str,
    stage: usize,
}

impl Lowering<'_> {
    /// Lowers the mounts of a RUN; `None` after an error or while something is not known.
    pub(super) fn mounts(
        &mut self,
        work: &Work,
        command: &Command<'_>,
        scope: &Scope,
        specs: &[Spanned<MountSpec>],
    ) -> Option<(Vec<Mount>, Vec<StepId>)> {
        let mut mounts = Vec::with_capacity(specs.len());
        let mut inputs = Vec::new();
        let mut agents = 0;
        let mut complete = true;
        for written in specs {
            let span = command.at(written.span);
            let Some(spec) = self.expanded(command, scope, written) else {
                complete = false;
                continue;
            };
            let place = Place { spec: &spec, span, cwd: work.state.workdir(), stage: work.index };
            let mount = match spec.kind {
                MountKind::Bind => self.bind(&place, &mut inputs),
                MountKind::Cache => self.cache(&place, &mut inputs),
                MountKind::Tmpfs => self.tmpfs(&place),
                MountKind::Secret => self.secret(&place),
                MountKind::Ssh => Ok(ssh(&place, &mut agents)),
            };
            match mount {
                Ok(mount) => mounts.push(mount),
                Err(Missing) => complete = false,
            }
        }
        complete.then_some((mounts, inputs))
    }

    fn expanded(
        &mut self,
        command: &Command<'_>,
        scope: &Scope,
        written: &Spanned<MountSpec>,
    ) -> Option<MountSpec> {
        if !written.value.text.contains('$') {
            return Some(written.value.clone());
        }
        let escape = self.file.directives.escape;
        let mut unmatched = std::collections::BTreeSet::new();
        let expanded = written.value.expand(&mut |value| {
            let expanded = crate::expand::word(value, escape, &scope.lookup())?;
            unmatched.extend(expanded.unmatched);
            Ok(expanded.value)
        });
        self.undefined(command, scope, written.span, &unmatched);
        match expanded {
            Ok(spec) => Some(spec),
            Err(error) => {
                let diagnostic = Diagnostic::error(command.at(written.span), error.to_string());
                self.error(diagnostic.with_optional_help(error.help()));
                None
            }
        }
    }

    fn bind(&mut self, place: &Place<'_>, inputs: &mut Vec<StepId>) -> Result<Mount, Missing> {
        let target = self.mount_target(place)?;
        let source = clean(&format!("/{}", place.spec.source.as_deref().unwrap_or_default()));
        let tree = self.mount_tree(place, &source)?;
        let writable = place.spec.read_only == Some(false);
        Ok(Mount::Bind(BindMount { input: position(inputs, tree), source, target, writable }))
    }

    fn cache(&mut self, place: &Place<'_>, inputs: &mut Vec<StepId>) -> Result<Mount, Missing> {
        let spec = place.spec;
        let target = self.mount_target(place)?;
        let written = spec.target.as_deref().unwrap_or_default();
        let name = spec.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| clean(written));
        let namespace = self.options.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
        let source = clean(&format!("/{}", spec.source.as_deref().unwrap_or_default()));
        let from = match spec.from.as_deref().unwrap_or_default() {
            "" | "scratch" => None,
            _ => Some((position(inputs, self.mount_tree(place, &source)?), source)),
        };
        Ok(Mount::Cache(CacheMount {
            id: format!("{namespace}/{name}"),
            target,
            sharing: spec.sharing.unwrap_or_default(),
            from,
            mode: spec.mode.unwrap_or(0o755),
            uid: spec.uid.unwrap_or_default(),
            gid: spec.gid.unwrap_or_default(),
            read_only: spec.read_only == Some(true),
        }))
    }

    fn tmpfs(&mut self, place: &Place<'_>) -> Result<Mount, Missing> {
        Ok(Mount::Tmpfs(TmpfsMount { target: self.mount_target(place)?, size: place.spec.size }))
    }

    fn secret(&mut self, place: &Place<'_>) -> Result<Mount, Missing> {
        let spec = place.spec;
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let target = some(&spec.target);
        let id = some(&spec.source).or_else(|| some(&spec.id));
        let Some(id) = id.or_else(|| target.as_deref().map(last_part)) else {
            self.error(Diagnostic::error(place.span, "one of source, target required"));
            return Err(Missing);
        };
        let default = || format!("/run/secrets/{}", last_part(&id));
        let target = match (target, &spec.env) {
            (None, Some(_)) => None,
            (target, _) => Some(join(place.cwd, &target.unwrap_or_else(default))),
        };
        Ok(Mount::Secret(SecretMount {
            id,
            target,
            env: spec.env.clone(),
            required: spec.required,
            mode: spec.mode.unwrap_or(0o400),
            uid: spec.uid.unwrap_or_default(),
            gid: spec.gid.unwrap_or_default(),
        }))
    }

    /// Returns the absolute target of a mount, which must not be the root.
    fn mount_target(&mut self, place: &Place<'_>) -> Result<String, Missing> {
        let target = join(place.cwd, place.spec.target.as_deref().unwrap_or_default());
        if target == "/" {
            self.error(Diagnostic::error(place.span, format!("invalid mount target {target:?}")));
            return Err(Missing);
        }
        Ok(target)
    }

    /// Returns the files that a mount shows: of the main context, a named one, a stage or an image.
    fn mount_tree(&mut self, place: &Place<'_>, source: &str) -> Result<StepId, Missing> {
        let from = place.spec.from.as_deref().unwrap_or_default();
        let platform = self.options.target_platform().clone();
        let context = if from.is_empty() {
            String::new()
        } else {
            match self.origin(from, place.stage, &platform, place.span).ok_or(Missing)? {
                Origin::Files(context) => context,
                origin @ (Origin::Scratch | Origin::Stage(_) | Origin::Image(_) | Origin::Layout(_)) => {
                    return self.tree(&origin, place.span);
                }
            }
        };
        let pattern = clean_below_root(source);
        let places = [(pattern.clone(), place.span)];
        let request = SelectionRequest {
            patterns: vec![pattern],
            wildcards: false,
            parents: false,
            excludes: Vec::new(),
            follow: true,
        };
        self.select(&context, request, place.span, &places)
    }
}

fn ssh(place: &Place<'_>, agents: &mut u32) -> Mount {
    let spec = place.spec;
    let target = spec.target.clone().filter(|target| !target.is_empty());
    let target = target.unwrap_or_else(|| format!("/run/buildkit/ssh_agent.{agents}"));
    *agents += 1;
    Mount::Ssh(SshMount {
        id: spec.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| "default".to_owned()),
        target: join(place.cwd, &target),
        required: spec.required,
        mode: spec.mode.unwrap_or(0o600),
        uid: spec.uid.unwrap_or_default(),
        gid: spec.gid.unwrap_or_default(),
    })
}

fn last_part(path: &str) -> String {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

/// Returns where a step stands among the inputs, adding it if it is new.
pub(super) fn position(inputs: &mut Vec<StepId>, step: StepId) -> usize {
    if let Some(at) = inputs.iter().position(|known| *known == step) {
        return at;
    }
    inputs.push(step);
    inputs.len() - 1
}
