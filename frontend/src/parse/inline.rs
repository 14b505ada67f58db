//! What the instructions make of heredocs: bodies as they are meant, and delimiters that become file names.

use super::context::Context;
use crate::heredoc;
use crate::instruction::{Heredoc, Span};

/// Returns a heredoc with the tabs removed that `<<-` removes.
pub(super) fn as_meant(heredoc: &Heredoc) -> Heredoc {
    let mut heredoc = heredoc.clone();
    if heredoc.chomp {
        heredoc.content = heredoc::chomp(&heredoc.content);
    }
    heredoc
}

/// A heredoc's delimiter becomes a file name: it must be one.
pub(super) fn check_file_name(name: &str, span: Span, context: &mut Context) {
    if name.contains(['/', '\0']) || matches!(name, "." | "..") {
        let message = format!("heredoc delimiter {name:?} becomes a file name and cannot be one");
        context.error_with_help(span, message, "use a delimiter such as EOF");
    }
}
