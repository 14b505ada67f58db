//! RUN: its flags, and what its heredocs turn its command into.
//!
//! Bodies are never expanded here or later: the shell does that.

use super::context::Context;
use super::flags::{self, Flags, Takes};
use super::inline::{as_meant, check_file_name};
use super::mount;
use super::node::Node;
use crate::diagnostic::Diagnostic;
use crate::graph::{InlineFile, Network, Security};
use crate::heredoc;
use crate::instruction::{Command, MountSpec, Run, Spanned};
use crate::suggest::nearest;

const FLAGS: [(&str, Takes); 4] =
    [("mount", Takes::Texts), ("network", Takes::Text), ("security", Takes::Text), ("device", Takes::Texts)];

/// Directory of heredoc scripts inside the step.
const PIPES: &str = "/dev/pipes";

/// Reads a RUN.
pub(super) fn run(node: &Node, context: &mut Context) -> Option<Run> {
    let flags = flags::read(node, &FLAGS, context.diagnostics);
    if let Some(device) = flags.given_text("device") {
        let help = "CDI devices belong to Docker's labs channel; pass files with --mount instead";
        context.error_with_help(device.span, "--device is not supported", help);
    }
    let network = flags.given_text("network").map(|text| {
        let value = network(&text.value).unwrap_or_else(|| {
            let help = choice_help(&text.value, &["default", "none", "host"]);
            context.error_with_help(text.span, format!("invalid network mode {:?}", text.value), help);
            Network::Default
        });
        Spanned { value, span: text.span }
    });
    let security = flags.given_text("security").map(|text| {
        let value = security(&text.value).unwrap_or_else(|| {
            let help = choice_help(&text.value, &["sandbox", "insecure"]);
            context.error_with_help(text.span, format!("security {:?} is not valid", text.value), help);
            Security::Sandbox
        });
        Spanned { value, span: text.span }
    });
    let written = node.command();
    let (command, files) = with_heredocs(node, &written, context);
    Some(Run {
        command,
        written,
        files,
        heredocs: node.heredocs.iter().map(as_meant).collect(),
        mounts: mounts(&flags, context),
        network,
        security,
    })
}

/// Reads all mounts of a RUN.
fn mounts(flags: &Flags, context: &mut Context) -> Vec<Spanned<MountSpec>> {
    let mut mounts = Vec::new();
    for text in flags.texts("mount") {
        match mount::parse(&text.value, context.escape) {
            Ok(value) => mounts.push(Spanned { value, span: text.span }),
            Err(error) => context
                .diagnostics
                .push(Diagnostic::error(text.span, error.to_string()).with_optional_help(error.help())),
        }
    }
    mounts
}

fn choice_help(text: &str, options: &[&str]) -> String {
    match nearest(text, options) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => format!("expected one of {}", options.join(" ")),
    }
}

fn network(text: &str) -> Option<Network> {
    match text {
        "default" => Some(Network::Default),
        "none" => Some(Network::None),
        "host" => Some(Network::Host),
        _ => None,
    }
}

fn security(text: &str) -> Option<Security> {
    match text {
        "sandbox" => Some(Security::Sandbox),
        "insecure" => Some(Security::Insecure),
        _ => None,
    }
}

/// A single heredoc with `#!` becomes a file that is run; without, it is the shell's script; anything else is
/// put together again and left to the shell.
fn with_heredocs(node: &Node, written: &Command, context: &mut Context) -> (Command, Vec<InlineFile>) {
    let (Command::Shell(text), Some(first)) = (written, node.heredocs.first()) else {
        return (written.clone(), Vec::new());
    };
    if !matches!(heredoc::opening(text), Ok(Some(_))) {
        let mut script = text.clone();
        for heredoc in &node.heredocs {
            script.push('\n');
            script.push_str(&heredoc.content);
            script.push_str(&heredoc.name);
        }
        return (Command::Shell(script), Vec::new());
    }
    let body = as_meant(first).content;
    if !body.starts_with("#!") {
        return (Command::Shell(body), Vec::new());
    }
    check_file_name(&first.name, node.line_span, context);
    let file = InlineFile { name: first.name.clone(), data: body.into_bytes(), mode: 0o755 };
    (Command::Shell(format!("{PIPES}/{}", first.name)), vec![file])
}
