//! Logical lines to nodes: keyword, flags and arguments of every instruction, and the heredocs behind it.
//!
//! This is the syntax alone. Whether flags exist, how many arguments there must be and what they mean is
//! decided in [`super::typed`]. The shape of arguments depends on the keyword only, as in BuildKit's
//! line_parsers.go.

use super::json::{self, Array};
use super::words::{Piece, split_blanks, split_first, split_flags, split_quoted};
use crate::diagnostic::Diagnostic;
use crate::heredoc;
use crate::instruction::{Command, Heredoc, Span, Spanned};
use crate::lines::{Logical, Map, Reader};
use crate::source::{BODY_LINE_LIMIT, check_length};

/// One instruction as syntax.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// The keyword as written.
    pub keyword: Spanned<String>,
    /// Flags with their dashes, quotes removed.
    pub flags: Vec<Spanned<String>>,
    /// Arguments, quotes kept; ENV and LABEL as key, value, key, value.
    pub args: Vec<Spanned<String>>,
    /// How the arguments were read.
    pub form: Form,
    /// ENV or LABEL without equals sign.
    pub legacy: bool,
    /// Heredocs, bodies as written.
    pub heredocs: Vec<Heredoc>,
    /// The trigger of ONBUILD.
    pub trigger: Option<Box<Node>>,
    /// The logical line, trimmed.
    pub original: String,
    /// Without heredoc bodies.
    pub line_span: Span,
    /// With heredoc bodies.
    pub span: Span,
    /// First and last physical line.
    pub lines: (u32, u32),
    /// Comments directly above.
    pub comments: Vec<String>,
}

impl Node {
    /// Returns the arguments as a command, in shell or exec form.
    pub(super) fn command(&self) -> Command {
        let mut texts = self.args.iter().map(|argument| argument.value.clone());
        match self.form {
            Form::Json => Command::Exec(texts.collect()),
            Form::Plain | Form::Fallback | Form::NotStrings => {
                Command::Shell(texts.next().unwrap_or_default())
            }
        }
    }
}

/// How arguments were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Words or text.
    Plain,
    /// A JSON array of strings.
    Json,
    /// Begins like JSON but is none: taken as words or text.
    Fallback,
    /// A JSON array that holds something other than strings.
    NotStrings,
}

/// Reads all nodes of a text.
pub(crate) fn nodes(text: &str, diagnostics: &mut Vec<Diagnostic>) -> (Vec<Node>, char) {
    let mut reader = Reader::new(text);
    let mut nodes = Vec::new();
    while let Some(mut logical) = reader.next(diagnostics) {
        if logical.empty_continuation {
            let message = format!("Empty continuation line found in: {}", logical.text);
            let help = "remove the blank line, or turn it into a comment";
            diagnostics
                .push(Diagnostic::warning("NoEmptyContinuation", logical.last_span, message).with_help(help));
        }
        let comments = std::mem::take(&mut logical.comments);
        let mut node = line(Piece::new(&logical.text), &logical, reader.machine.escape, 0, diagnostics);
        node.comments = comments;
        if takes_heredocs(&node) {
            read_heredocs(&mut node, &logical, &mut reader, diagnostics);
        }
        nodes.push(node);
    }
    (nodes, reader.machine.escape)
}

/// Reads one logical line, or the trigger inside one.
fn line(
    piece: Piece<'_>,
    logical: &Logical,
    escape: char,
    depth: usize,
    diagnostics: &mut Vec<Diagnostic>,
) -> Node {
    let map = &logical.map;
    let piece = piece.trim();
    let (keyword, rest) = split_first(piece);
    let (flags, rest) = split_flags(rest.unwrap_or(piece.part(piece.text.len(), piece.text.len())), escape);
    let line_span = map.span(piece.at, piece.end());
    let mut node = Node {
        keyword: spanned(map, keyword),
        flags: flags
            .into_iter()
            .map(|flag| Spanned { value: flag.text, span: map.span(flag.start, flag.end) })
            .collect(),
        args: Vec::new(),
        form: Form::Plain,
        legacy: false,
        heredocs: Vec::new(),
        trigger: None,
        original: piece.text.to_owned(),
        line_span,
        span: line_span,
        lines: (logical.first, logical.last),
        comments: Vec::new(),
    };
    arguments(&mut node, rest.trim(), logical, escape, depth, diagnostics);
    node
}

fn spanned(map: &Map, piece: Piece<'_>) -> Spanned<String> {
    Spanned { value: piece.text.to_owned(), span: map.span(piece.at, piece.end()) }
}

/// Reads the arguments in the way the keyword demands.
fn arguments(
    node: &mut Node,
    rest: Piece<'_>,
    logical: &Logical,
    escape: char,
    depth: usize,
    diagnostics: &mut Vec<Diagnostic>,
) {
    const JSON_FORM: [&str; 7] = ["ADD", "COPY", "VOLUME", "CMD", "ENTRYPOINT", "RUN", "SHELL"];
    let map = &logical.map;
    let keyword = node.keyword.value.to_ascii_uppercase();
    if JSON_FORM.contains(&keyword.as_str()) && json_arguments(node, rest, map) {
        return;
    }
    match keyword.as_str() {
        "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" => whole(node, rest, map),
        "HEALTHCHECK" => healthcheck(node, rest, map),
        "ARG" => node.args = split_quoted(rest, escape).into_iter().map(|word| spanned(map, word)).collect(),
        "ENV" | "LABEL" => pairs(node, rest, map, escape, diagnostics),
        "ADD" | "COPY" | "VOLUME" | "EXPOSE" | "FROM" => {
            node.args = split_blanks(rest).into_iter().map(|word| spanned(map, word)).collect()
        }
        "MAINTAINER" | "STOPSIGNAL" | "USER" | "WORKDIR" => whole(node, rest, map),
        // A trigger inside a trigger is refused later; reading on would only recurse.
        "ONBUILD" if !rest.text.is_empty() && depth < 2 => {
            node.trigger = Some(Box::new(line(rest, logical, escape, depth + 1, diagnostics)));
        }
        _ => {}
    }
}

fn whole(node: &mut Node, rest: Piece<'_>, map: &Map) {
    if !rest.text.is_empty() {
        node.args = vec![spanned(map, rest)];
    }
}

/// Takes a JSON array as arguments; says whether it was one.
fn json_arguments(node: &mut Node, rest: Piece<'_>, map: &Map) -> bool {
    match json::array(rest) {
        Some(Array::Strings(items)) => {
            node.form = Form::Json;
            node.args = items
                .into_iter()
                .map(|(value, start, end)| Spanned { value, span: map.span(start, end) })
                .collect();
        }
        Some(Array::NotStrings) => node.form = Form::NotStrings,
        Some(Array::NotJson) => node.form = Form::Fallback,
        None => {}
    }
    node.form == Form::Json
}

/// HEALTHCHECK has a type before its command.
fn healthcheck(node: &mut Node, rest: Piece<'_>, map: &Map) {
    let end = rest.text.find(char::is_whitespace).unwrap_or(rest.text.len());
    if end == 0 {
        return;
    }
    let kind = spanned(map, rest.part(0, end));
    let command = rest.part(end, rest.text.len()).trim();
    if !json_arguments(node, command, map) {
        whole(node, command, map);
    }
    node.args.insert(0, kind);
}

/// `key=value …`, or the old `key value` that takes the rest of the line.
fn pairs(node: &mut Node, rest: Piece<'_>, map: &Map, escape: char, diagnostics: &mut Vec<Diagnostic>) {
    let words = split_quoted(rest, escape);
    let Some(first) = words.first() else { return };
    if !first.text.contains('=') {
        let (key, value) = split_first(rest);
        node.legacy = true;
        node.args.push(spanned(map, key));
        match value {
            Some(value) => node.args.push(spanned(map, value)),
            None => {
                let keyword = node.keyword.value.to_ascii_uppercase();
                let message = format!("{keyword} must have two arguments");
                let help = format!("write {keyword} {}=VALUE", key.text);
                diagnostics.push(Diagnostic::error(node.line_span, message).with_help(help));
            }
        }
        return;
    }
    for word in words {
        let Some(at) = word.text.find('=') else {
            let message =
                format!("Syntax error - can't find = in {:?}. Must be of the form: name=value", word.text);
            let help = "quote values with blanks: name=\"a b\"";
            diagnostics.push(Diagnostic::error(map.span(word.at, word.end()), message).with_help(help));
            continue;
        };
        node.args.push(spanned(map, word.part(0, at)));
        node.args.push(spanned(map, word.part(at + 1, word.text.len())));
    }
}

/// RUN, COPY and ADD in plain form may open heredocs, also behind ONBUILD.
fn takes_heredocs(node: &Node) -> bool {
    let inner = node.trigger.as_deref().unwrap_or(node);
    matches!(inner.keyword.value.to_ascii_uppercase().as_str(), "ADD" | "COPY" | "RUN")
        && inner.form != Form::Json
}

fn read_heredocs(
    node: &mut Node,
    logical: &Logical,
    reader: &mut Reader<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let openings = match heredoc::openings(&logical.text) {
        Ok(openings) => openings,
        Err(error) => {
            diagnostics.push(Diagnostic::error(node.line_span, error.to_string()));
            return;
        }
    };
    for opening in openings {
        let start = reader.lines.offset();
        let mut end = start;
        let mut content = String::new();
        let mut terminated = false;
        for line in reader.lines.by_ref() {
            check_length(line, BODY_LINE_LIMIT, diagnostics);
            let text = line.text();
            let text = if opening.chomp { text.trim_start_matches('\t') } else { text };
            node.span.end = line.span().end;
            if text == opening.name {
                terminated = true;
                break;
            }
            content.push_str(line.raw);
            end = line.start + line.raw.len();
        }
        if !terminated {
            let message = format!("unterminated heredoc: no line is exactly {:?}", opening.name);
            let help = format!("end it with a line {}", opening.name);
            diagnostics.push(Diagnostic::error(node.line_span, message).with_help(help));
        }
        node.heredocs.push(Heredoc {
            name: opening.name,
            content,
            expand: opening.expand,
            chomp: opening.chomp,
            fd: opening.fd,
            span: Span { start, end },
        });
    }
    node.lines.1 = reader.lines.number();
}
