//! The base of a stage: what FROM names, and the state with which the stage begins.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use oci::{History, ImageConfig, Platform};

use super::command::Command;
use super::sources::{Origin, everything};
use super::state::{State, empty_config};
use super::{KnownImage, Lowering, Need, SelectionNeed};
use crate::graph::{CopyOp, CopySource, HistoryEntry, Label, Op, Owner, Step, StepId, Unpack};
use crate::instruction::{InstructionKind, Span};
use crate::{Diagnostic, suggest};

/// The base of a stage.
#[derive(Debug, Clone)]
pub(super) enum Base {
    /// `scratch`.
    Scratch,
    /// A stage.
    Stage(usize),
    /// An image whose config is known.
    Image {
        /// Where it is from.
        origin: Box<Origin>,
        /// The image.
        known: KnownImage,
        /// Its config.
        config: Box<ImageConfig>,
    },
    /// Files of a named context.
    Files(String),
    /// Not known yet, or wrong.
    Unknown,
}

impl<'a> Lowering<'a> {
    /// Finds out what a stage's FROM names, and which instructions the stage has: triggers of the base, then
    /// its own. A named context that has the stage's name takes its place.
    pub(super) fn resolve(&mut self, index: usize) {
        let stage = &self.stages.stages[index];
        let (from, instruction, own) = (stage.from, stage.instruction, stage.instructions);
        let command = Command::own(instruction);
        let platform = self.platform(index);
        let replaced = from.name.as_ref().is_some_and(|name| {
            self.options
                .context(&name.value, platform.as_ref().unwrap_or(self.options.target_platform()))
                .is_some()
        });
        let wanted = match (&from.name, replaced) {
            (Some(name), true) => Some(name.value.clone()),
            _ => self.base_name(&command, index),
        };
        let origin = wanted.and_then(|name| match self.stages.earlier(&name, index).filter(|_| !replaced) {
            Some(stage) => Some(Origin::Stage(stage)),
            None => {
                let platform = platform.as_ref().unwrap_or(self.options.target_platform());
                self.outside(&name, &platform.clone(), from.image.span)
            }
        });
        let base = origin.map_or(Base::Unknown, |origin| self.base(origin, from.image.span));
        let mut commands = if replaced { Vec::new() } else { self.triggers(&base, index) };
        if !replaced {
            commands.extend(own.iter().map(Command::own));
        }
        self.bases.insert(index, base);
        self.commands.insert(index, commands);
    }

    fn base_name(&mut self, command: &Command<'_>, index: usize) -> Option<String> {
        let from = self.stages.stages[index].from;
        let scope = self.global_scope();
        let expanded =
            match crate::expand::word(&from.image.value, self.file.directives.escape, &scope.lookup()) {
                Ok(expanded) => expanded,
                Err(error) => {
                    self.error(Diagnostic::error(from.image.span, error.to_string()));
                    return None;
                }
            };
        self.undefined_in_from(command, from.image.span, &expanded.unmatched);
        if expanded.value.is_empty() {
            let names: Vec<&str> = self.globals.names().collect();
            let help = expanded.unmatched.iter().find_map(|name| suggest::nearest(name, &names));
            let help = help.map(|near| format!("did you mean ${near}?"));
            let message = format!("base name ({}) should not be blank", from.image.value);
            self.error(Diagnostic::error(from.image.span, message).with_optional_help(help));
            return None;
        }
        Some(expanded.value)
    }

    fn undefined_in_from(&mut self, command: &Command<'_>, span: Span, names: &BTreeSet<String>) {
        let declared: Vec<&str> = self
            .stages
            .globals
            .iter()
            .filter_map(|global| match &global.kind {
                InstructionKind::Arg(arguments) => Some(arguments),
                _ => None,
            })
            .flatten()
            .map(|argument| argument.name.value.as_str())
            .chain(self.globals.names())
            .collect();
        let messages: Vec<String> = names
            .iter()
            .filter(|name| !declared.contains(&name.as_str()))
            .map(|name| {
                let near = suggest::nearest(name, &declared);
                let suggestion = near.map_or(String::new(), |near| format!(" (did you mean {near}?)"));
                format!("FROM argument '{name}' is not declared{suggestion}")
            })
            .collect();
        for message in messages {
            self.warn(command, "UndefinedArgInFrom", span, message);
        }
    }

    /// Returns what `--platform` of a FROM says.
    fn platform(&mut self, index: usize) -> Option<Platform> {
        let stage = &self.stages.stages[index];
        let written = stage.from.platform.as_ref()?;
        let command = Command::own(stage.instruction);
        let scope = self.global_scope();
        let expanded = match crate::expand::word(&written.value, self.file.directives.escape, &scope.lookup())
        {
            Ok(expanded) => expanded,
            Err(error) => {
                self.error(Diagnostic::error(written.span, error.to_string()));
                return None;
            }
        };
        self.undefined_in_from(&command, written.span, &expanded.unmatched);
        self.lint_platform(&command, &expanded, &written.value);
        let value = expanded.value;
        if value.is_empty() {
            let message = format!("empty platform value from expression {}", written.value);
            self.error(Diagnostic::error(written.span, message));
            return None;
        }
        match Platform::parse(&value, &self.options.build_platform) {
            Ok(platform) => Some(platform),
            Err(error) => {
                let message = format!("failed to parse platform {}: {error}", written.value);
                self.error(Diagnostic::error(written.span, message));
                None
            }
        }
    }

    fn base(&mut self, origin: Origin, span: Span) -> Base {
        let known = match &origin {
            Origin::Scratch => return Base::Scratch,
            Origin::Stage(stage) => return Base::Stage(*stage),
            Origin::Files(context) => return Base::Files(context.clone()),
            Origin::Image(need) => self.image(need, span).cloned(),
            Origin::Layout(need) => self.layout(need, span).cloned(),
        };
        let config = known.as_ref().and_then(|known| self.config(known, span));
        match (known, config) {
            (Some(known), Some(config)) => {
                Base::Image { origin: Box::new(origin), known, config: Box::new(config) }
            }
            _ => Base::Unknown,
        }
    }

    /// Returns the instructions that a base has for its children.
    fn triggers(&mut self, base: &Base, index: usize) -> Vec<Command<'a>> {
        /// More triggers than any real image has.
        const LIMIT: usize = 1000;
        let stage = &self.stages.stages[index];
        let from = (stage.instruction.span, stage.instruction.lines);
        match base {
            Base::Stage(parent) => self.stages.stages[*parent]
                .instructions
                .iter()
                .filter_map(|instruction| match &instruction.kind {
                    InstructionKind::Onbuild { trigger, .. } => Some(Command {
                        instruction: Cow::Borrowed(&**trigger),
                        triggered: Some((trigger.span, trigger.lines)),
                    }),
                    _ => None,
                })
                .collect(),
            Base::Image { known, config, .. } => {
                let texts = config.config.on_build.as_deref().unwrap_or_default();
                if texts.len() > LIMIT {
                    let message = format!(
                        "image {} has {} ONBUILD triggers, more than {LIMIT}",
                        known.name,
                        texts.len()
                    );
                    self.error(Diagnostic::error(from.0, message));
                    return Vec::new();
                }
                let name = known.name.clone();
                texts.iter().filter_map(|text| self.trigger(text, &name, from)).collect()
            }
            Base::Scratch | Base::Files(_) | Base::Unknown => Vec::new(),
        }
    }

    fn trigger(&mut self, text: &str, image: &str, from: (Span, (u32, u32))) -> Option<Command<'a>> {
        let mut file = crate::parse_trigger(text);
        let problem = match file.diagnostics.iter().find(|found| found.severity == crate::Severity::Error) {
            Some(found) => Some(found.message.clone()),
            None if file.instructions.len() != 1 => Some("it should be a single instruction".to_owned()),
            None => forbidden(&file.instructions[0].kind),
        };
        if let Some(problem) = problem {
            let message = format!("ONBUILD trigger {:?} of {image}: {problem}", super::text::one_line(text));
            self.error(Diagnostic::error(from.0, message));
            return None;
        }
        let instruction = file.instructions.pop()?;
        Some(Command { instruction: Cow::Owned(instruction), triggered: Some(from) })
    }

    /// Returns the state with which a stage begins; `None` after an error.
    pub(super) fn begin(&mut self, index: usize) -> Option<State> {
        let stage = &self.stages.stages[index];
        let (span, title) = (stage.from.image.span, stage.title());
        let target = self.options.target_platform().clone();
        let platform = self.platform(index).unwrap_or(target);
        match self.bases.get(&index)?.clone() {
            Base::Scratch => Some(State::scratch(self.options.target_platform())),
            Base::Stage(parent) => Some(self.states.get(&parent)?.child(parent)),
            Base::Image { origin, known, config } => {
                let step = self.image_step(&origin, &known, &config);
                let mut state = State::of_config(cleaned(*config), platform, step);
                self.check_platform(index, &mut state);
                Some(state)
            }
            Base::Files(context) => Some(self.files_base(&context, platform, span, &title)),
            Base::Unknown => {
                let mut state = State::scratch(&platform);
                state.unknown = true;
                Some(state)
            }
        }
    }

    fn check_platform(&mut self, index: usize, state: &mut State) {
        let stage = &self.stages.stages[index];
        let (wanted, found) = (state.platform.normalize(), &state.config);
        if (wanted.os.as_str(), wanted.architecture.as_str()) != (&found.os, &found.architecture) {
            let message = format!(
                "Base image {} was pulled with platform \"{}/{}\", expected \"{wanted}\" for current build",
                stage.from.image.value, found.os, found.architecture
            );
            let (span, command) = (stage.from.image.span, Command::own(stage.instruction));
            self.warn(&command, "InvalidBaseImagePlatform", span, message);
        }
    }

    /// Makes a root file system of a context's files: one layer with all of them.
    fn files_base(&mut self, context: &str, platform: Platform, span: Span, title: &str) -> State {
        let mut state = State::of_config(empty_config(&platform), platform, None);
        let Ok(input) = self.select(context, everything(), span, &[]) else {
            state.unknown = true;
            return state;
        };
        let step = self.context_layer(context, input, &state, title);
        let history = History {
            created_by: Some(format!("FROM {context}")),
            comment: Some("buildkit.exporter.image.v0".to_owned()),
            ..History::default()
        };
        state.history.push(HistoryEntry { history, step: Some(step) });
        state.step = Some(step);
        state
    }

    fn context_layer(&mut self, context: &str, input: StepId, state: &State, title: &str) -> StepId {
        let op = Op::Copy(CopyOp {
            sources: vec![CopySource::Input { input: 0, path: String::new(), wildcards: false }],
            dest: "/".to_owned(),
            dest_is_dir: true,
            chown: Some(Owner { user: "0".to_owned(), group: Some("0".to_owned()) }),
            chmod: None,
            link: false,
            parents: false,
            excludes: Vec::new(),
            unpack: Unpack::Never,
        });
        self.graph.push(Step {
            op,
            parent: None,
            inputs: vec![input],
            platform: state.platform.clone(),
            source_date_epoch: self.epoch,
            no_cache: false,
            label: Label { stage: title.to_owned(), text: format!("FROM {context}"), ..Label::default() },
        })
    }

    /// Notes what a stage of an unknown base needs in any case: files of the main context that are named
    /// without variables. It saves a round while the base is looked up.
    pub(super) fn foresee(&mut self, command: &Command<'_>) {
        let (InstructionKind::Copy(copy) | InstructionKind::Add(copy)) = &command.instruction.kind else {
            return;
        };
        let plain =
            copy.sources.iter().all(|source| !source.value.contains(['$', '\'', '"', '\\', '`', ':']));
        if copy.from.is_some() || !plain {
            return;
        }
        let sources: Vec<String> = copy.sources.iter().map(|source| source.value.clone()).collect();
        if let Some(request) = super::copy::request(copy, &sources) {
            let need = SelectionNeed { context: String::new(), request };
            if !self.known.selections.contains_key(&need) {
                self.need(Need::Selection(need), command.span(), None);
            }
        }
    }
}

fn forbidden(kind: &InstructionKind) -> Option<String> {
    match kind {
        InstructionKind::From(_) => Some("FROM isn't allowed as an ONBUILD trigger".to_owned()),
        InstructionKind::Maintainer(_) => Some("MAINTAINER isn't allowed as an ONBUILD trigger".to_owned()),
        InstructionKind::Onbuild { .. } => {
            Some("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned())
        }
        _ => None,
    }
}

/// Drops what describes the base and not what is made of it: triggers, and leftovers of old Docker versions
/// that BuildKit does not pass on either.
fn cleaned(mut config: ImageConfig) -> ImageConfig {
    const IMAGE: [&str; 7] = [
        "container",
        "container_config",
        "docker_version",
        "id",
        "parent",
        "throwaway",
        "moby.buildkit.cache.v0",
    ];
    const RUNTIME: [&str; 17] = [
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "CpuShares",
        "Cpuset",
        "Domainname",
        "Hostname",
        "Image",
        "MacAddress",
        "Memory",
        "MemorySwap",
        "NetworkDisabled",
        "OpenStdin",
        "PublishService",
        "StdinOnce",
        "Tty",
        "VolumeDriver",
    ];
    config.config.on_build = None;
    let drop = |rest: &mut BTreeMap<String, serde_json::Value>, keys: &[&str]| {
        rest.retain(|key, _| !keys.contains(&key.as_str()));
    };
    drop(&mut config.rest, &IMAGE);
    config.rest.retain(|key, _| !key.starts_with("moby.buildkit."));
    drop(&mut config.config.rest, &RUNTIME);
    config
}
