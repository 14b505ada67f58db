//! Lint: BuildKit's rules about stages, names and spelling, and which rules a file switches off.
//!
//! Rules that need values of variables stand where those are expanded. Nothing here is an error.

use std::collections::BTreeSet;

use oci::Platform;
use oci::reference::Reference;

use super::command::Command;
use super::{Lowering, Options, Variables};
use crate::file::Check;
use crate::instruction::{Instruction, InstructionKind};
use crate::{Diagnostic, File, directives, expand};

/// The rules that are off unless asked for.
const EXPERIMENTAL: [&str; 1] = ["InvalidDefinitionDescription"];

/// Returns what a file or the build argument says about rules; the argument wins.
pub(crate) fn settings(file: &File, options: &Options) -> Check {
    let argument =
        options.build_arg("BUILDKIT_DOCKERFILE_CHECK").and_then(|text| directives::parse_check(text).ok());
    argument.or_else(|| file.directives.check.as_ref().map(|check| check.value.clone())).unwrap_or_default()
}

/// Returns whether a rule is on.
pub(super) fn is_on(check: &Check, rule: &str) -> bool {
    let named = |names: &[String]| names.iter().any(|name| name == "all" || name.eq_ignore_ascii_case(rule));
    if EXPERIMENTAL.contains(&rule) { named(&check.experimental) } else { !named(&check.skip) }
}

impl Lowering<'_> {
    /// Looks at what can be seen without lowering.
    pub(super) fn lint(&mut self) {
        self.lint_casing();
        self.lint_stage_names();
        self.lint_default_bases();
        for instruction in &self.file.instructions {
            let command = Command::own(instruction);
            self.lint_description(&command);
            if let InstructionKind::Maintainer(_) = &instruction.kind {
                let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                self.warn(&command, "MaintainerDeprecated", instruction.span, message);
            }
        }
    }

    /// All keywords should be written as most are.
    fn lint_casing(&mut self) {
        let stages =
            self.file.instructions.iter().skip_while(|found| !matches!(found.kind, InstructionKind::From(_)));
        let stages: Vec<&Instruction> = stages.collect();
        let is_lower = |word: &str| word == word.to_lowercase();
        let is_upper = |word: &str| word == word.to_uppercase();
        let words = || stages.iter().map(|instruction| instruction.keyword.value.as_str());
        let lower = words().filter(|word| is_lower(word)).count();
        let upper = words().filter(|word| is_upper(word) && !is_lower(word)).count();
        let (majority, fits): (_, &dyn Fn(&str) -> bool) =
            if lower > upper { ("lowercase", &is_lower) } else { ("uppercase", &is_upper) };
        for instruction in stages.iter().filter(|instruction| !fits(&instruction.keyword.value)) {
            let word = &instruction.keyword.value;
            let message =
                format!("Command '{word}' should match the case of the command majority ({majority})");
            self.warn(&Command::own(instruction), "ConsistentInstructionCasing", instruction.span, message);
        }
    }

    fn lint_stage_names(&mut self) {
        let mut seen = BTreeSet::new();
        let stages: Vec<_> = self.stages.stages.iter().map(|stage| (stage.from, stage.instruction)).collect();
        for (from, instruction) in stages {
            let command = Command::own(instruction);
            let span = instruction.span;
            let Some(name) = &from.name else { continue };
            let written = &from.name_as_written;
            if *written != written.to_lowercase() {
                let message = format!("Stage name '{written}' should be lowercase");
                self.warn(&command, "StageNameCasing", span, message);
            }
            let keyword = &instruction.keyword.value;
            if !casing_matches(&from.as_keyword, keyword) {
                let message = format!("'{}' and '{keyword}' keywords' casing do not match", from.as_keyword);
                self.warn(&command, "FromAsCasing", span, message);
            }
            if matches!(name.value.as_str(), "scratch" | "context") {
                let message =
                    format!("Stage name should not use the same name as reserved stage {:?}", name.value);
                self.warn(&command, "ReservedStageName", span, message);
            }
            if !seen.insert(name.value.clone()) {
                let message = format!("Duplicate stage name {:?}, stage names should be unique", name.value);
                self.warn(&command, "DuplicateStageName", span, message);
            }
        }
    }

    /// Base names should be valid with the defaults of their arguments.
    fn lint_default_bases(&mut self) {
        let defaults = self.default_globals();
        let lookup = |name: &str| defaults.get(name).map(str::to_owned);
        let stages: Vec<_> = self.stages.stages.iter().map(|stage| (stage.from, stage.instruction)).collect();
        for (from, instruction) in stages {
            let Ok(expanded) = expand::word(&from.image.value, self.file.directives.escape, &lookup) else {
                return;
            };
            if expanded.value.parse::<Reference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    from.image.value
                );
                self.warn(&Command::own(instruction), "InvalidDefaultArgInFrom", instruction.span, message);
            }
        }
    }

    /// Returns the global arguments as they are without build arguments.
    fn default_globals(&self) -> Variables {
        let mut defaults = self.platform_arguments();
        for instruction in &self.stages.globals {
            let InstructionKind::Arg(arguments) = &instruction.kind else { continue };
            for argument in arguments {
                let Some(default) = &argument.default else { continue };
                let lookup = |name: &str| defaults.get(name).map(str::to_owned);
                if let Ok(expanded) = expand::word(&default.value, self.file.directives.escape, &lookup) {
                    defaults.set(&argument.name.value, &expanded.value);
                }
            }
        }
        defaults
    }

    /// Looks at `--platform` of a FROM.
    pub(super) fn lint_platform(
        &mut self,
        command: &Command<'_>,
        expanded: &expand::Expanded,
        written: &str,
    ) {
        let InstructionKind::From(from) = &command.instruction.kind else { return };
        let span = command.instruction.span;
        let only_target = expanded.unmatched.is_empty() && expanded.matched.iter().eq(["TARGETPLATFORM"]);
        if only_target && self.globals.get("TARGETPLATFORM") == Some(expanded.value.as_str()) {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            self.warn(command, "RedundantTargetPlatform", span, message);
        }
        if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
            return;
        }
        let Ok(platform) = Platform::parse(&expanded.value, &self.options.build_platform) else { return };
        let name = from.name.as_ref().map_or("", |name| name.value.as_str());
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {:?}", expanded.value);
            self.warn(command, "FromPlatformFlagConstDisallowed", span, message);
        }
    }

    /// A comment above ARG or FROM should begin with what it describes.
    fn lint_description(&mut self, command: &Command<'_>) {
        let (keyword, names): (&str, Vec<&str>) = match &command.instruction.kind {
            InstructionKind::Arg(arguments) => {
                ("ARG", arguments.iter().map(|argument| argument.name.value.as_str()).collect())
            }
            InstructionKind::From(from) => {
                ("FROM", from.name.iter().map(|name| name.value.as_str()).collect())
            }
            _ => return,
        };
        let (Some(comment), Some(first)) = (command.instruction.comments.last(), names.first()) else {
            return;
        };
        let word = comment.split(' ').next().unwrap_or_default();
        if names.contains(&word) {
            return;
        }
        let example = if names.len() > 1 { "<arg_key>" } else { first };
        let message = format!("Comment for {keyword} should follow the format: `# {example} <description>`");
        self.warn(command, "InvalidDefinitionDescription", command.instruction.span, message);
    }

    /// Returns the warnings of rules that are on, those of the parser too, in order of place.
    pub(super) fn take_warnings(&mut self) -> Vec<Diagnostic> {
        let check = settings(self.file, self.options);
        let parsed = self.file.diagnostics.iter().filter(|found| found.severity == crate::Severity::Warning);
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(parsed.cloned());
        warnings.retain(|warning| warning.rule.is_none_or(|rule| is_on(&check, rule)));
        warnings.sort_by(|a, b| (a.span, a.rule, &a.message).cmp(&(b.span, b.rule, &b.message)));
        warnings.dedup();
        warnings
    }

    /// Makes an error of warnings, if the file asks for that.
    pub(super) fn violation(&self, warnings: &[Diagnostic]) -> Option<Diagnostic> {
        let check = settings(self.file, self.options);
        let mut rules: Vec<&str> = warnings.iter().filter_map(|warning| warning.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        if !check.error || rules.is_empty() {
            return None;
        }
        let span = self.file.directives.check.as_ref().map(|check| check.span).unwrap_or_default();
        Some(Diagnostic::error(span, format!("lint violation found for rules: {}", rules.join(", "))))
    }
}

/// Whether AS is written like FROM; a FROM of mixed case is told of elsewhere.
fn casing_matches(keyword: &str, from: &str) -> bool {
    if from == from.to_lowercase() {
        keyword == keyword.to_lowercase()
    } else {
        from != from.to_uppercase() || keyword == keyword.to_uppercase()
    }
}
