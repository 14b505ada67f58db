//! Nodes to instructions: flags, numbers of arguments, values.
//!
//! Every mistake becomes a diagnostic with BuildKit's words first; an instruction that cannot be understood
//! is left out and the next one is read.

use super::context::Context;
use super::copy::{self, copy};
use super::flags::{self, Takes};
use super::healthcheck::healthcheck;
use super::node::{Form, Node};
use super::run;
use crate::directives;
use crate::instruction::{
    ArgDefinition, Command, From, Instruction, InstructionKind, KeyValue, Span, Spanned,
};
use crate::suggest::nearest;

/// Every keyword.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Reads one node. What the instruction keeps of it is moved: texts may be as long as the file.
pub(super) fn instruction(node: Node, context: &mut Context) -> Option<Instruction> {
    if node.form == Form::NotStrings {
        let message = "when using JSON array syntax, arrays must be comprised of strings only";
        let help = "quote every item, or use the shell form without brackets";
        context.error_with_help(node.line_span, message, help);
        return None;
    }
    let kind = kind(&node, context)?;
    let check = directives::check_of_comments(&node.comments).unwrap_or_default();
    Some(Instruction {
        kind,
        keyword: node.keyword,
        span: node.span,
        lines: node.lines,
        original: node.original,
        skipped_rules: check.skip,
        experimental_rules: check.experimental,
        comments: node.comments,
        json: node.form == Form::Json,
        json_fallback: node.form == Form::Fallback,
    })
}

fn kind(node: &Node, context: &mut Context) -> Option<InstructionKind> {
    let keyword = node.keyword.value.to_ascii_uppercase();
    let kind = match keyword.as_str() {
        "FROM" => InstructionKind::From(from(node, context)?),
        "ARG" => InstructionKind::Arg(arg(node, context)?),
        "ENV" => InstructionKind::Env(pairs(node, "ENV", context)?),
        "LABEL" => InstructionKind::Label(pairs(node, "LABEL", context)?),
        "RUN" => InstructionKind::Run(run::run(node, context)?),
        "COPY" => InstructionKind::Copy(copy(node, "COPY", &copy::FLAGS, context)?),
        "ADD" => InstructionKind::Add(copy(node, "ADD", &copy::FLAGS_OF_ADD, context)?),
        "WORKDIR" => InstructionKind::Workdir(exactly_one(node, "WORKDIR", context)?),
        "USER" => InstructionKind::User(exactly_one(node, "USER", context)?),
        "MAINTAINER" => InstructionKind::Maintainer(exactly_one(node, "MAINTAINER", context)?),
        "STOPSIGNAL" => {
            flags::ignored(node, context.diagnostics);
            InstructionKind::StopSignal(one_argument(node, "STOPSIGNAL", context)?)
        }
        "CMD" => InstructionKind::Cmd(command(node, context)),
        "ENTRYPOINT" => InstructionKind::Entrypoint(command(node, context)),
        "EXPOSE" => {
            let mut ports = at_least_one(node, "EXPOSE", context)?;
            ports.sort_by(|left, right| left.value.cmp(&right.value));
            InstructionKind::Expose(ports)
        }
        "VOLUME" => InstructionKind::Volume(volume(node, context)?),
        "SHELL" => InstructionKind::Shell(shell(node, context)?),
        "HEALTHCHECK" => InstructionKind::Healthcheck(healthcheck(node, context)?),
        "ONBUILD" => onbuild(node, context)?,
        _ => {
            let help = match nearest(&keyword, &KEYWORDS) {
                Some(nearest) if node.keyword.value == node.keyword.value.to_lowercase() => {
                    format!("did you mean {}?", nearest.to_lowercase())
                }
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("if it continues the line above, end that one with {}", context.escape),
            };
            let message = format!("unknown instruction: {}", node.keyword.value);
            context.error_with_help(node.keyword.span, message, help);
            return None;
        }
    };
    Some(kind)
}

fn no_flags(node: &Node, context: &mut Context) {
    flags::read(node, &[], context.diagnostics);
}

fn exactly_one(node: &Node, keyword: &str, context: &mut Context) -> Option<Spanned<String>> {
    no_flags(node, context);
    one_argument(node, keyword, context)
}

fn one_argument(node: &Node, keyword: &str, context: &mut Context) -> Option<Spanned<String>> {
    if let [argument] = node.args.as_slice() {
        return Some(argument.clone());
    }
    context.error(node.line_span, format!("{keyword} requires exactly one argument"));
    None
}

fn at_least_one(node: &Node, keyword: &str, context: &mut Context) -> Option<Vec<Spanned<String>>> {
    no_flags(node, context);
    if node.args.is_empty() {
        context.error(node.line_span, format!("{keyword} requires at least one argument"));
        return None;
    }
    Some(node.args.clone())
}

fn from(node: &Node, context: &mut Context) -> Option<From> {
    let flags = flags::read(node, &[("platform", Takes::Text)], context.diagnostics);
    let platform = flags.text("platform");
    let (image, name) = match node.args.as_slice() {
        [image] => (image, None),
        [image, keyword, name] if keyword.value.eq_ignore_ascii_case("as") => (image, Some((keyword, name))),
        _ => {
            let help = "write FROM image or FROM image AS name";
            context.error_with_help(node.line_span, "FROM requires either one or three arguments", help);
            return None;
        }
    };
    let mut from = From {
        image: image.clone(),
        platform,
        name: None,
        name_as_written: String::new(),
        as_keyword: String::new(),
    };
    if let Some((keyword, name)) = name {
        let lower = name.value.to_lowercase();
        if !is_stage_name(&lower) {
            let message = format!(
                "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
                name.value
            );
            context.error_with_help(name.span, message, "use letters, digits, `-`, `_`, `.` after a letter");
            return None;
        }
        from.name = Some(Spanned { value: lower, span: name.span });
        from.name_as_written = name.value.clone();
        from.as_keyword = keyword.value.clone();
    }
    Some(from)
}

fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'))
}

fn arg(node: &Node, context: &mut Context) -> Option<Vec<ArgDefinition>> {
    flags::ignored(node, context.diagnostics);
    if node.args.is_empty() {
        context.error(node.line_span, "ARG requires at least one argument");
        return None;
    }
    let mut definitions = Vec::new();
    for argument in &node.args {
        let Some(at) = argument.value.find('=') else {
            definitions.push(ArgDefinition { name: argument.clone(), default: None });
            continue;
        };
        if at == 0 {
            context.error(argument.span, "ARG names can not be blank");
            continue;
        }
        let (name, value) = split_span(argument, at);
        definitions.push(ArgDefinition { name, default: Some(value) });
    }
    Some(definitions)
}

/// Splits a word at its equals sign. Words hold no continuations inside their names.
fn split_span(word: &Spanned<String>, at: usize) -> (Spanned<String>, Spanned<String>) {
    let middle = (word.span.start + at).min(word.span.end);
    let behind = (middle + 1).min(word.span.end);
    (
        Spanned { value: word.value[..at].to_owned(), span: Span { start: word.span.start, end: middle } },
        Spanned { value: word.value[at + 1..].to_owned(), span: Span { start: behind, end: word.span.end } },
    )
}

fn pairs(node: &Node, keyword: &str, context: &mut Context) -> Option<Vec<KeyValue>> {
    no_flags(node, context);
    if node.args.is_empty() {
        context.error(node.line_span, format!("{keyword} requires at least one argument"));
        return None;
    }
    let mut pairs = Vec::new();
    for pair in node.args.chunks_exact(2) {
        let [key, value] = pair else { continue };
        if key.value.is_empty() {
            context.error(key.span, format!("{keyword} names can not be blank"));
            continue;
        }
        pairs.push(KeyValue { key: key.clone(), value: value.clone(), legacy: node.legacy });
    }
    (!pairs.is_empty()).then_some(pairs)
}

fn command(node: &Node, context: &mut Context) -> Command {
    no_flags(node, context);
    node.command()
}

fn volume(node: &Node, context: &mut Context) -> Option<Vec<Spanned<String>>> {
    let mut volumes = at_least_one(node, "VOLUME", context)?;
    for volume in &mut volumes {
        volume.value = volume.value.trim().to_owned();
        if volume.value.is_empty() {
            context.error(volume.span, "VOLUME specified can not be an empty string");
        }
    }
    Some(volumes)
}

fn shell(node: &Node, context: &mut Context) -> Option<Vec<String>> {
    let args = at_least_one(node, "SHELL", context)?;
    if node.form != Form::Json {
        let message = "SHELL requires the arguments to be in JSON form";
        context.error_with_help(node.line_span, message, "write for example SHELL [\"/bin/bash\", \"-c\"]");
        return None;
    }
    Some(args.into_iter().map(|argument| argument.value).collect())
}

fn onbuild(node: &Node, context: &mut Context) -> Option<InstructionKind> {
    no_flags(node, context);
    let Some(trigger) = node.trigger.as_deref() else {
        context.error(node.line_span, "ONBUILD requires at least one argument");
        return None;
    };
    let keyword = trigger.keyword.value.to_ascii_uppercase();
    match keyword.as_str() {
        "ONBUILD" => {
            context.error(trigger.keyword.span, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
            return None;
        }
        "MAINTAINER" | "FROM" => {
            context.error(trigger.keyword.span, format!("{keyword} isn't allowed as an ONBUILD trigger"));
            return None;
        }
        _ => {}
    }
    let mut text = node.original["ONBUILD".len()..].trim_start().to_owned();
    for heredoc in &node.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    let mut trigger = trigger.clone();
    trigger.heredocs.clone_from(&node.heredocs);
    trigger.span.end = node.span.end;
    trigger.lines = node.lines;
    let trigger = Box::new(instruction(trigger, context)?);
    Some(InstructionKind::Onbuild { text, trigger })
}
