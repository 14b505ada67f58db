//! COPY and ADD: their flags, sources and destination, and the files that heredocs make.

use super::context::Context;
use super::flags::{self, Flags, Takes};
use super::inline::{as_meant, check_file_name};
use super::node::{Form, Node};
use crate::heredoc;
use crate::instruction::{Copy, Spanned};

/// Flags of COPY.
pub(super) const FLAGS: [(&str, Takes); 6] = [
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Boolean),
    ("parents", Takes::Boolean),
    ("exclude", Takes::Texts),
];

/// Flags of ADD.
pub(super) const FLAGS_OF_ADD: [(&str, Takes); 7] = [
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Boolean),
    ("keep-git-dir", Takes::Boolean),
    ("checksum", Takes::Text),
    ("unpack", Takes::Boolean),
    ("exclude", Takes::Texts),
];

/// Reads a COPY, or an ADD: `keyword` with its `known` flags.
pub(super) fn copy(
    node: &Node,
    keyword: &str,
    known: &[(&'static str, Takes)],
    context: &mut Context,
) -> Option<Copy> {
    let flags = flags::read(node, known, context.diagnostics);
    let Some((dest, sources)) = node.args.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        let message = format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        );
        context.error_with_help(node.line_span, message, format!("write {keyword} SOURCE … DESTINATION"));
        return None;
    };
    let opening = |text: &str| match node.form {
        Form::Json => None,
        Form::Plain | Form::Fallback | Form::NotStrings => heredoc::opening(text).ok().flatten(),
    };
    if opening(&dest.value).is_some() {
        context.error(dest.span, format!("{keyword} cannot accept a heredoc as a destination"));
        return None;
    }
    let mut copy = empty_copy(dest.clone(), &flags);
    for source in sources {
        match opening(&source.value) {
            Some(opening) => {
                // Of several heredocs with one delimiter the last one's body counts, as in BuildKit.
                let body = node.heredocs.iter().rev().find(|heredoc| heredoc.name == opening.name);
                let Some(body) = body else { continue };
                check_file_name(&opening.name, source.span, context);
                copy.inline.push(as_meant(body));
            }
            None => copy.sources.push(source.clone()),
        }
    }
    Some(copy)
}

fn empty_copy(dest: Spanned<String>, flags: &Flags) -> Copy {
    Copy {
        sources: Vec::new(),
        inline: Vec::new(),
        dest,
        from: flags.text("from"),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.boolean("link").unwrap_or(false),
        parents: flags.boolean("parents").unwrap_or(false),
        excludes: flags.texts("exclude"),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.boolean("keep-git-dir"),
        unpack: flags.boolean("unpack"),
    }
}
