//! COPY and ADD: what is selected, from where, and how it lands.

use super::Lowering;
use super::command::Command;
use super::mounts::position;
use super::sources::{Missing, Origin};
use super::state::Work;
use super::words::Scope;
use crate::giturl::is_remote;
use crate::graph::pattern::ignore::Rules;
use crate::graph::pattern::wildcard::{self, Wildcard};
use crate::graph::pattern::{chmod, clean, clean_below_root, join};
use crate::graph::{Chmod, CopyOp, CopySource, InlineFile, Op, Owner, SelectionRequest, StepId, Unpack};
use crate::instruction::{Copy, Span, Spanned};
use crate::{Diagnostic, expand};

/// Which of the two instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyword {
    /// COPY.
    Copy,
    /// ADD.
    Add,
}

impl Keyword {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "COPY",
            Self::Add => "ADD",
        }
    }
}

/// An instruction with its words expanded.
pub(super) struct Expanded<'c> {
    pub(super) written: &'c Copy,
    pub(super) keyword: Keyword,
    sources: Vec<Spanned<String>>,
    inline: Vec<InlineFile>,
    dest: String,
    chown: Option<String>,
    chmod: Option<(String, Chmod)>,
    pub(super) checksum: Option<Spanned<String>>,
}

/// One source with its input.
struct Resolved {
    source: CopySource,
    /// Whether archives are unpacked if the instruction does not say.
    local: bool,
}

impl Lowering<'_> {
    /// Lowers COPY or ADD.
    pub(super) fn copy(&mut self, work: &mut Work, command: &Command<'_>, copy: &Copy, keyword: Keyword) {
        let Some(expanded) = self.expand_copy(work, command, copy, keyword) else { return };
        let created_by = created_by(&expanded);
        let mut inputs = Vec::new();
        let Ok((sources, owner)) = self.resolve_sources(work, command, &expanded, &mut inputs) else {
            return;
        };
        for (sources, unpack) in grouped(sources, unpack_of(&expanded)) {
            let op = Op::Copy(copy_op(work, &expanded, sources, owner.clone(), unpack));
            let step = self.layer_step(work, command, op, inputs.clone());
            work.state.advance(created_by.clone(), step);
        }
    }

    fn expand_copy<'c>(
        &mut self,
        work: &Work,
        command: &Command<'_>,
        copy: &'c Copy,
        keyword: Keyword,
    ) -> Option<Expanded<'c>> {
        let scope = Scope::of(&work.state);
        let errors = self.errors.len();
        let sources = copy
            .sources
            .iter()
            .filter_map(|source| {
                Some(Spanned { value: self.word(command, &scope, source)?, span: source.span })
            })
            .collect();
        let dest = self.word(command, &scope, &copy.dest);
        let inline = copy.inline.iter().filter_map(|file| self.inline(command, &scope, file)).collect();
        let chown = self.flag(command, &scope, copy.chown.as_ref()).map(|chown| chown.value);
        let chmod = self.flag(command, &scope, copy.chmod.as_ref());
        let chmod = chmod.and_then(|written| match chmod::parse(&written.value) {
            Ok(chmod) => Some((written.value, chmod)),
            Err(error) => {
                self.error(Diagnostic::error(command.at(written.span), error.to_string()));
                None
            }
        });
        let checksum = self.flag(command, &scope, copy.checksum.as_ref());
        self.check_excludes(command, copy);
        let expanded =
            Expanded { written: copy, keyword, sources, inline, dest: dest?, chown, chmod, checksum };
        self.check_checksum(command, &expanded);
        (self.errors.len() == errors).then_some(expanded)
    }

    fn inline(
        &mut self,
        command: &Command<'_>,
        scope: &Scope,
        file: &crate::instruction::Heredoc,
    ) -> Option<InlineFile> {
        let data = if file.expand {
            match expand::body(&file.content, &scope.lookup()) {
                Ok(expanded) => {
                    self.undefined(command, scope, file.span, &expanded.unmatched);
                    expanded.value
                }
                Err(error) => {
                    self.error(Diagnostic::error(command.at(file.span), error.to_string()));
                    return None;
                }
            }
        } else {
            file.content.clone()
        };
        Some(InlineFile { name: file.name.clone(), data: data.into_bytes(), mode: 0o644 })
    }

    fn check_excludes(&mut self, command: &Command<'_>, copy: &Copy) {
        for exclude in &copy.excludes {
            if let Err(error) = Rules::of_patterns([exclude.value.as_str()]) {
                let message = format!("invalid --exclude {:?}: {}", exclude.value, error.kind);
                self.error(Diagnostic::error(command.at(exclude.span), message));
            }
        }
    }

    fn check_checksum(&mut self, command: &Command<'_>, copy: &Expanded<'_>) {
        let Some(checksum) = &copy.checksum else { return };
        let message = match (copy.keyword, copy.sources.as_slice()) {
            (Keyword::Copy, _) => "checksum can't be specified for COPY",
            (Keyword::Add, [source]) if is_remote(&source.value) => return,
            (Keyword::Add, [_]) => "checksum requires HTTP(S) or Git sources",
            (Keyword::Add, _) => "checksum can't be specified for multiple sources",
        };
        self.error(Diagnostic::error(command.at(checksum.span), message));
    }

    /// Finds the input of every source, and who owns what is copied.
    fn resolve_sources(
        &mut self,
        work: &Work,
        command: &Command<'_>,
        copy: &Expanded<'_>,
        inputs: &mut Vec<StepId>,
    ) -> Result<(Vec<Resolved>, Option<Owner>), Missing> {
        let (local, owner) = self.local_input(work, command, copy)?;
        let mut sources = Vec::with_capacity(copy.sources.len() + copy.inline.len());
        let mut complete = true;
        for source in &copy.sources {
            let resolved = match self.remote(command, copy, source) {
                Ok(Some((step, path))) => Ok((step, path, false)),
                Ok(None) => local.map(|step| (step, self.path(copy, &source.value), true)).ok_or(Missing),
                Err(Missing) => Err(Missing),
            };
            match resolved {
                Ok((step, path, local)) => {
                    let wildcards = local && wildcard::is_pattern(&path);
                    let input = position(inputs, step);
                    sources.push(Resolved { source: CopySource::Input { input, path, wildcards }, local });
                }
                Err(Missing) => complete = false,
            }
        }
        let inline = copy.inline.iter().cloned();
        sources.extend(inline.map(|file| Resolved { source: CopySource::Inline(file), local: false }));
        if complete { Ok((sources, owner)) } else { Err(Missing) }
    }

    /// Returns the step that sources without a scheme are taken from, if there are any, and the owner.
    fn local_input(
        &mut self,
        work: &Work,
        command: &Command<'_>,
        copy: &Expanded<'_>,
    ) -> Result<(Option<StepId>, Option<Owner>), Missing> {
        // Selections of contexts belong to root already; archives keep the owners that they name.
        let owner = || copy.chown.as_deref().map(owner_of);
        let context = match &copy.written.from {
            None => String::new(),
            Some(from) => {
                let platform = work.state.platform.clone();
                let span = command.at(from.span);
                match self.origin(&from.value, work.index, &platform, span).ok_or(Missing)? {
                    Origin::Files(context) => context,
                    origin @ (Origin::Scratch | Origin::Stage(_) | Origin::Image(_) | Origin::Layout(_)) => {
                        self.check_patterns(command, copy)?;
                        let tree = self.tree(&origin, span)?;
                        return Ok((Some(tree), owner()));
                    }
                }
            }
        };
        let local: Vec<&Spanned<String>> = copy
            .sources
            .iter()
            .filter(|source| copy.written.from.is_some() || !is_remote(&source.value))
            .collect();
        if local.is_empty() {
            return Ok((None, owner()));
        }
        self.check_patterns(command, copy)?;
        let texts: Vec<String> = local.iter().map(|source| source.value.clone()).collect();
        let request = request(copy.written, &texts).ok_or(Missing)?;
        self.check_ignored(command, copy, &context);
        let places: Vec<(String, Span)> = request
            .patterns
            .iter()
            .cloned()
            .zip(local.iter().map(|source| command.at(source.span)))
            .collect();
        let step = self.select(&context, request, command.span(), &places)?;
        self.check_empty(command, copy, step, &places);
        Ok((Some(step), owner()))
    }

    fn check_patterns(&mut self, command: &Command<'_>, copy: &Expanded<'_>) -> Result<(), Missing> {
        let mut result = Ok(());
        for source in copy.sources.iter().filter(|source| wildcard::is_pattern(&source.value)) {
            let error = if copy.written.parents {
                wildcard::ParentsPattern::compile(&source.value).err().map(|error| error.kind)
            } else {
                Wildcard::compile(&source.value).err()
            };
            if let Some(error) = error {
                let message = format!("invalid source {:?}: {error}", source.value);
                self.error(Diagnostic::error(command.at(source.span), message));
                result = Err(Missing);
            }
        }
        result
    }

    /// Warns of a wildcard that matches nothing; BuildKit copies nothing and says nothing.
    fn check_empty(
        &mut self,
        command: &Command<'_>,
        copy: &Expanded<'_>,
        step: StepId,
        places: &[(String, Span)],
    ) {
        if copy.written.parents || !places.iter().any(|(pattern, _)| wildcard::is_pattern(pattern)) {
            return;
        }
        let Op::Local(local) = &self.graph.step(step).op else { return };
        let empty: Vec<(String, Span)> = places
            .iter()
            .filter(|(pattern, _)| wildcard::is_pattern(pattern))
            .filter(|(pattern, _)| {
                Wildcard::compile(pattern).is_ok_and(|pattern| {
                    !local
                        .selection
                        .entries
                        .iter()
                        .any(|entry| pattern.matches(&entry.path.to_string_lossy()))
                })
            })
            .cloned()
            .collect();
        for (pattern, span) in empty {
            let message = format!("source {pattern:?} matches nothing in the build context");
            self.warn(command, "CopyNothingMatched", span, message);
        }
    }

    /// Warns of a source that the ignore file hides, as BuildKit's rule CopyIgnoredFile.
    fn check_ignored(&mut self, command: &Command<'_>, copy: &Expanded<'_>, context: &str) {
        let Some(rules) =
            self.options.ignore.as_ref().filter(|rules| context.is_empty() && !rules.has_negations())
        else {
            return;
        };
        for source in copy.sources.iter().filter(|source| !is_remote(&source.value)) {
            let path = clean(&source.value);
            let whole = matches!(path.as_str(), "." | "/");
            let all =
                || rules.rules().iter().any(|rule| matches!(rule.pattern.as_str(), "*" | "**" | "**/*"));
            if (whole && all()) || (!whole && rules.ignores(&path)) {
                let verb = match copy.keyword {
                    Keyword::Copy => "Copy",
                    Keyword::Add => "Add",
                };
                let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.warn(command, "CopyIgnoredFile", command.at(source.span), message);
            }
        }
    }

    /// Returns the cleaned path of a source below its root.
    fn path(&self, copy: &Expanded<'_>, source: &str) -> String {
        below_root(copy.written, source)
    }
}

/// Returns which files a COPY or ADD wants of a context; `None` if it wants none.
pub(super) fn request(copy: &Copy, sources: &[String]) -> Option<SelectionRequest> {
    let patterns: Vec<String> = sources.iter().map(|source| below_root(copy, source)).collect();
    if patterns.is_empty() {
        return None;
    }
    Some(SelectionRequest {
        wildcards: patterns.iter().any(|pattern| wildcard::is_pattern(pattern)),
        patterns,
        parents: copy.parents,
        excludes: copy.excludes.iter().map(|exclude| exclude.value.clone()).collect(),
        follow: true,
    })
}

/// Cleans a source; with `--parents` the pivot `/./` stays.
fn below_root(copy: &Copy, source: &str) -> String {
    let Some((head, tail)) = source.split_once("/./").filter(|_| copy.parents) else {
        return clean_below_root(source);
    };
    match (clean_below_root(head).as_str(), clean_below_root(tail).as_str()) {
        ("", tail) => tail.to_owned(),
        // Nothing after the pivot is everything below it.
        (head, "") => format!("{head}/./**"),
        (head, tail) => format!("{head}/./{tail}"),
    }
}

fn owner_of(text: &str) -> Owner {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let user = if user.is_empty() { "0" } else { user };
    Owner { user: user.to_owned(), group: (!group.is_empty()).then(|| group.to_owned()) }
}

fn unpack_of(copy: &Expanded<'_>) -> impl Fn(&Resolved) -> Unpack + use<> {
    let (said, keyword) = (copy.written.unpack, copy.keyword);
    move |source| match (keyword, said) {
        (Keyword::Copy, _) | (Keyword::Add, Some(false)) => Unpack::Never,
        (Keyword::Add, Some(true)) => Unpack::Archives,
        (Keyword::Add, None) if source.local => Unpack::Archives,
        (Keyword::Add, None) => Unpack::Never,
    }
}

/// Cuts sources into runs that unpack alike: an ADD of local archives and URLs at once makes several layers,
/// because by default only the former are unpacked.
fn grouped(sources: Vec<Resolved>, unpack: impl Fn(&Resolved) -> Unpack) -> Vec<(Vec<CopySource>, Unpack)> {
    let mut groups: Vec<(Vec<CopySource>, Unpack)> = Vec::new();
    for resolved in sources {
        let unpack = match &resolved.source {
            // Inline files follow their neighbours: they are never archives.
            CopySource::Inline(_) => groups.last().map_or(Unpack::Never, |(_, unpack)| *unpack),
            CopySource::Input { .. } => unpack(&resolved),
        };
        match groups.last_mut() {
            Some((group, same)) if *same == unpack => group.push(resolved.source),
            _ => groups.push((vec![resolved.source], unpack)),
        }
    }
    groups
}

fn copy_op(
    work: &Work,
    copy: &Expanded<'_>,
    sources: Vec<CopySource>,
    chown: Option<Owner>,
    unpack: Unpack,
) -> CopyOp {
    let written = copy.dest.as_str();
    let several = copy.sources.len() + copy.inline.len() > 1;
    let directory = written.is_empty() || written == "." || written.ends_with('/') || written.ends_with("/.");
    let dest = join(work.state.workdir(), written);
    CopyOp {
        sources,
        dest_is_dir: directory || several || copy.written.parents || dest == "/",
        dest,
        chown,
        chmod: copy.chmod.as_ref().map(|(_, chmod)| chmod.clone()),
        link: copy.written.link,
        parents: copy.written.parents,
        excludes: copy.written.excludes.iter().map(|exclude| exclude.value.clone()).collect(),
        unpack,
    }
}

/// Returns the history text.
fn created_by(copy: &Expanded<'_>) -> String {
    let mut text = copy.keyword.name().to_owned();
    if copy.written.parents {
        text.push_str(" --parents");
    }
    if let Some(chown) = &copy.chown {
        text.extend([" --chown=", chown]);
    }
    if let Some((written, _)) = &copy.chmod {
        text.extend([" --chmod=", written]);
    }
    for source in &copy.sources {
        text.extend([" ", &super::text::without_credentials(&source.value)]);
    }
    for file in &copy.inline {
        text.extend([" <<", &file.name]);
    }
    text.extend([" ", &copy.dest, " # buildkit"]);
    text
}
