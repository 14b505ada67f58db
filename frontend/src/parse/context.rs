//! Where the findings of one file go while its instructions are read.

use crate::diagnostic::Diagnostic;
use crate::instruction::Span;

/// Where findings go, and the escape character.
pub(super) struct Context<'a> {
    pub diagnostics: &'a mut Vec<Diagnostic>,
    pub escape: char,
}

impl Context<'_> {
    pub(super) fn error(&mut self, span: Span, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(span, message));
    }

    pub(super) fn error_with_help(
        &mut self,
        span: Span,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.diagnostics.push(Diagnostic::error(span, message).with_help(help));
    }
}
