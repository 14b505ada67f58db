//! Names of bases and sources: which of named context, stage and image is meant, and its step.

use std::sync::Arc;

use oci::reference::Reference;
use oci::{ImageConfig, Platform};

use super::{
    Context, ImageNeed, KnownImage, LayoutNeed, Lowering, Need, SelectionError, SelectionNeed, UrlNeed,
};
use super::{GitNeed, KnownGit, KnownUrl, MISSING_SOURCE};
use crate::graph::{ImageOp, LocalOp, OciLayoutOp, Op, Selection, SelectionRequest, StepId};
use crate::instruction::Span;
use crate::{Diagnostic, suggest};

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Nothing: `scratch`.
    Scratch,
    /// A stage.
    Stage(usize),
    /// An image by its reference.
    Image(ImageNeed),
    /// An image of an OCI layout.
    Layout(LayoutNeed),
    /// Files of a named context.
    Files(String),
}

impl Lowering<'_> {
    /// Returns what a name in `--from` or `from=` of stage `index` means.
    pub(super) fn origin(
        &mut self,
        name: &str,
        index: usize,
        platform: &Platform,
        span: Span,
    ) -> Option<Origin> {
        if name.contains('$') {
            let message = "variable expansion is not supported for --from, define a new stage with FROM \
                           using ARG from global scope as a workaround";
            self.error(Diagnostic::error(span, message));
            return None;
        }
        let stages = &self.stages;
        let by_index = || name.parse::<usize>().ok().filter(|index| *index < stages.stages.len());
        let stage = stages.earlier(name, index).or_else(|| stages.last(name)).or_else(by_index);
        match stage {
            Some(stage) if stage < index => Some(Origin::Stage(stage)),
            Some(stage) => {
                self.error(self.too_late(stage, index, span));
                None
            }
            None if name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
                let message = format!("invalid stage index {name}");
                let help = format!("stages before this one are 0 to {}", index.saturating_sub(1));
                self.error(Diagnostic::error(span, message).with_help(help));
                None
            }
            None => self.outside(name, platform, span),
        }
    }

    fn too_late(&self, stage: usize, index: usize, span: Span) -> Diagnostic {
        let title = |index: usize| self.stages.stages[index].title();
        let message = format!(
            "cannot copy from stage {:?}, it needs to be defined before current stage {:?}",
            title(stage),
            title(index)
        );
        Diagnostic::error(span, message).with_help("move the stage up")
    }

    /// Returns what a name that is no stage means: scratch, a named context or an image.
    pub(super) fn outside(&mut self, name: &str, platform: &Platform, span: Span) -> Option<Origin> {
        if name == "scratch" {
            return Some(Origin::Scratch);
        }
        if let Some((key, context)) = self.options.context(name, platform) {
            return Some(match context {
                // BuildKit's name of the empty image, which no registry has.
                Context::Image(reference) if reference.familiar() == "scratch" => Origin::Scratch,
                Context::Files => Origin::Files(key.to_owned()),
                Context::Image(reference) if reference.familiar() == "scratch" => Origin::Scratch,
                Context::Image(reference) => Origin::Image(ImageNeed {
                    reference: reference.clone().with_default_tag(),
                    platform: platform.clone(),
                }),
                Context::OciLayout => {
                    Origin::Layout(LayoutNeed { context: key.to_owned(), platform: platform.clone() })
                }
            });
        }
        match name.parse::<Reference>() {
            Ok(reference) => Some(Origin::Image(ImageNeed {
                reference: reference.with_default_tag(),
                platform: platform.clone(),
            })),
            Err(error) => {
                let help = suggest::nearest(name, &self.stages.names().collect::<Vec<_>>());
                let help = help.map(|near| format!("did you mean the stage {near}?"));
                let message = format!("failed to parse stage name {name:?}: {error}");
                self.error(Diagnostic::error(span, message).with_optional_help(help));
                None
            }
        }
    }

    /// Returns an image that is known, or notes that it is needed.
    pub(super) fn image(&mut self, need: &ImageNeed, span: Span) -> Option<&KnownImage> {
        let known = self.known.images.get(need);
        if known.is_none() {
            let written = need.reference.familiar();
            let short = written.split([':', '@']).next().unwrap_or_default();
            let near = suggest::nearest(short, &self.stages.names().collect::<Vec<_>>());
            let hint = near.map(|near| format!("did you mean the stage {near}?"));
            self.need(Need::Image(need.clone()), span, hint);
        }
        known
    }

    /// Returns an image of an OCI layout that is known, or notes that it is needed.
    pub(super) fn layout(&mut self, need: &LayoutNeed, span: Span) -> Option<&KnownImage> {
        let known = self.known.layouts.get(need);
        if known.is_none() {
            self.need(Need::Layout(need.clone()), span, None);
        }
        known
    }

    /// Returns the config of an image.
    pub(super) fn config(&mut self, known: &KnownImage, span: Span) -> Option<ImageConfig> {
        match serde_json::from_slice(&known.config) {
            Ok(config) => Some(config),
            Err(error) => {
                let message = format!("image {} has a config that cannot be read: {error}", known.name);
                self.error(Diagnostic::error(span, message));
                None
            }
        }
    }

    /// Returns the step of an image; `None` for an image without layers.
    pub(super) fn image_step(
        &mut self,
        origin: &Origin,
        known: &KnownImage,
        config: &ImageConfig,
    ) -> Option<StepId> {
        let layered =
            !config.rootfs.diff_ids.is_empty() || config.history.iter().any(|entry| !entry.empty_layer);
        if !layered {
            return None;
        }
        let platform = match origin {
            Origin::Image(need) => &need.platform,
            Origin::Layout(need) => &need.platform,
            Origin::Scratch | Origin::Stage(_) | Origin::Files(_) => return None,
        };
        let key = (known.manifest, platform.clone());
        if let Some(step) = self.images.get(&key) {
            return Some(*step);
        }
        let op = match origin {
            Origin::Layout(need) => {
                Op::OciLayout(OciLayoutOp { path: need.context.clone(), manifest: known.manifest })
            }
            Origin::Image(_) | Origin::Scratch | Origin::Stage(_) | Origin::Files(_) => Op::Image(ImageOp {
                reference: known.name.clone(),
                manifest: known.manifest,
                platform: platform.clone(),
            }),
        };
        let step = self.source_step(op, platform, format!("FROM {}@{}", known.name, known.manifest));
        self.images.insert(key, step);
        Some(step)
    }

    /// Returns the step whose files a name stands for, with all of a context's files. `Err` if something is
    /// missing or wrong.
    pub(super) fn tree(&mut self, origin: &Origin, span: Span) -> Result<StepId, Missing> {
        match origin {
            Origin::Scratch => Ok(self.nothing()),
            Origin::Stage(index) => {
                let state = self.states.get(index).filter(|state| !state.unknown).ok_or(Missing)?;
                Ok(state.step.unwrap_or_else(|| self.nothing()))
            }
            Origin::Image(need) => {
                let known = self.image(need, span).cloned();
                self.image_tree(origin, known, span)
            }
            Origin::Layout(need) => {
                let known = self.layout(need, span).cloned();
                self.image_tree(origin, known, span)
            }
            Origin::Files(context) => {
                let request = everything();
                self.select(context, request, span, &[])
            }
        }
    }

    fn image_tree(
        &mut self,
        origin: &Origin,
        known: Option<KnownImage>,
        span: Span,
    ) -> Result<StepId, Missing> {
        let known = known.ok_or(Missing)?;
        let config = self.config(&known, span).ok_or(Missing)?;
        Ok(self.image_step(origin, &known, &config).unwrap_or_else(|| self.nothing()))
    }

    /// Returns a step of no files.
    fn nothing(&mut self) -> StepId {
        let op =
            Op::Local(LocalOp { context: String::new(), selection: Arc::new(Selection::new(Vec::new())) });
        let platform = self.options.build_platform.clone();
        self.source_step(op, &platform, "no files".to_owned())
    }

    /// Returns the step of selected files, or notes that they are needed. `places` tells where each pattern
    /// stands, for errors.
    pub(super) fn select(
        &mut self,
        context: &str,
        request: SelectionRequest,
        span: Span,
        places: &[(String, Span)],
    ) -> Result<StepId, Missing> {
        let need = SelectionNeed { context: context.to_owned(), request };
        match self.known.selections.get(&need) {
            None => {
                self.need(Need::Selection(need), span, None);
                Err(Missing)
            }
            Some(Err(error)) => {
                self.error(not_selected(error, context, span, places));
                Err(Missing)
            }
            Some(Ok(selection)) => {
                let name = if context.is_empty() { "build context" } else { context };
                let patterns = need
                    .request
                    .patterns
                    .iter()
                    .map(|pattern| if pattern.is_empty() { "." } else { pattern });
                let text = format!("{name}: {}", patterns.collect::<Vec<_>>().join(" "));
                let op = Op::Local(LocalOp { context: context.to_owned(), selection: Arc::clone(selection) });
                let platform = self.options.build_platform.clone();
                Ok(self.source_step(op, &platform, super::text::one_line(&text)))
            }
        }
    }

    /// Returns what a URL serves, or notes that it is needed.
    pub(super) fn url(&mut self, need: UrlNeed, span: Span) -> Option<KnownUrl> {
        let known = self.known.urls.get(&need).cloned();
        if known.is_none() {
            self.need(Need::Url(need), span, None);
        }
        known
    }

    /// Returns what a git reference stands for, or notes that it is needed.
    pub(super) fn git(&mut self, need: GitNeed, span: Span) -> Option<KnownGit> {
        let known = self.known.git.get(&need).cloned();
        if known.is_none() {
            self.need(Need::Git(need), span, None);
        }
        known
    }
}

/// Something is not known yet, or an error was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing;

/// Returns the request for all files of a context.
pub(super) fn everything() -> SelectionRequest {
    SelectionRequest {
        patterns: vec![String::new()],
        wildcards: false,
        parents: false,
        excludes: Vec::new(),
        follow: false,
    }
}

fn not_selected(error: &SelectionError, context: &str, span: Span, places: &[(String, Span)]) -> Diagnostic {
    let mut diagnostic = match error {
        SelectionError::Refused(why) => Diagnostic::error(span, why.clone()),
        SelectionError::NotFound { path, nearest, ignored_by } => {
            let place = places.iter().find(|(pattern, _)| pattern == path).map_or(span, |(_, place)| *place);
            let title = if context.is_empty() {
                "the build context".to_owned()
            } else {
                format!("context {context}")
            };
            let why = ignored_by
                .as_ref()
                .map(|rule| format!(": excluded by {} line {}: {:?}", rule.file, rule.line, rule.pattern));
            let message = format!("{path:?} not found in {title}{}", why.as_deref().unwrap_or_default());
            let help = match (ignored_by, nearest) {
                (Some(rule), _) => Some(format!("add `!{path}` below that line of {}", rule.file)),
                (None, Some(near)) => Some(format!("did you mean {near}?")),
                (None, None) => None,
            };
            Diagnostic::error(place, message).with_optional_help(help)
        }
    };
    diagnostic.rule = Some(MISSING_SOURCE);
    diagnostic
}
