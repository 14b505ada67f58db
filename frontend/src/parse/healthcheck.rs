//! HEALTHCHECK: its command, intervals and retries.

use oci::config::Healthcheck;

use super::context::Context;
use super::flags::{self, Flags, Takes};
use super::node::{Form, Node};
use super::values::duration;

/// Reads a HEALTHCHECK.
pub(super) fn healthcheck(node: &Node, context: &mut Context) -> Option<Healthcheck> {
    const FLAGS: [(&str, Takes); 5] = [
        ("interval", Takes::Text),
        ("timeout", Takes::Text),
        ("start-period", Takes::Text),
        ("start-interval", Takes::Text),
        ("retries", Takes::Text),
    ];
    let flags = flags::read(node, &FLAGS, context.diagnostics);
    let Some((kind, args)) = node.args.split_first() else {
        context.error(node.line_span, "HEALTHCHECK requires at least one argument");
        return None;
    };
    match kind.value.to_ascii_uppercase().as_str() {
        "NONE" if args.is_empty() => {
            return Some(Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() });
        }
        "NONE" => {
            context.error(node.line_span, "HEALTHCHECK NONE takes no arguments");
            return None;
        }
        "CMD" => {}
        other => {
            context.error(kind.span, format!("Unknown type {other:?} in HEALTHCHECK (try CMD)"));
            return None;
        }
    }
    if args.is_empty() {
        context.error(node.line_span, "Missing command after HEALTHCHECK CMD");
        return None;
    }
    let word = if node.form == Form::Json { "CMD" } else { "CMD-SHELL" };
    let test = std::iter::once(word.to_owned()).chain(args.iter().map(|arg| arg.value.clone())).collect();
    Some(Healthcheck {
        test,
        interval: interval(&flags, "interval", context),
        timeout: interval(&flags, "timeout", context),
        start_period: interval(&flags, "start-period", context),
        start_interval: interval(&flags, "start-interval", context),
        retries: retries(&flags, context),
    })
}

fn interval(flags: &Flags, name: &str, context: &mut Context) -> i64 {
    const MINIMUM: i64 = 1_000_000;
    let Some(text) = flags.text(name) else { return 0 };
    match duration(&text.value) {
        Ok(value) if value == 0 || value >= MINIMUM => value,
        Ok(_) => {
            context.error(text.span, format!("Interval {name:?} cannot be less than 1ms"));
            0
        }
        Err(message) => {
            context.error(text.span, message);
            0
        }
    }
}

fn retries(flags: &Flags, context: &mut Context) -> i64 {
    let Some(text) = flags.text("retries") else { return 0 };
    match text.value.parse::<i32>() {
        Ok(value) if value >= 0 => i64::from(value),
        Ok(value) => {
            context.error(text.span, format!("--retries cannot be negative ({value})"));
            0
        }
        Err(_) => {
            context.error(text.span, format!("--retries must be a whole number, not {:?}", text.value));
            0
        }
    }
}
