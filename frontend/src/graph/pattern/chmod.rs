//! `--chmod`: octal bits, or clauses as in chmod(1).
//!
//! Clauses follow FreeBSD's setmode(3), as BuildKit's library does, with a file creation mask of 0. `X` is
//! `x` for directories and for what was executable to whomever before the first clause.

use crate::graph::Chmod;

/// Why a text is no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777, \
     or clauses such as u=rwX,go=rX"
)]
pub struct ChmodError(pub String);

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Reads a mode.
///
/// # Errors
/// If it is neither octal within 07777 nor well-formed clauses.
pub fn parse(text: &str) -> Result<Chmod, ChmodError> {
    let error = || ChmodError(text.to_owned());
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        let bits = u32::from_str_radix(text, 8).map_err(|_| error())?;
        return if bits <= 0o7777 { Ok(Chmod::Octal(bits)) } else { Err(error()) };
    }
    clauses(text).ok_or_else(error)?;
    Ok(Chmod::Symbolic(text.to_owned()))
}

/// Returns the mode that `chmod` makes of `mode`. Malformed clauses, which [`parse`] refuses, change nothing.
pub fn apply(chmod: &Chmod, mode: u32, kind: Node) -> u32 {
    match chmod {
        Chmod::Octal(bits) => *bits,
        Chmod::Symbolic(text) => {
            let executable = mode & 0o111 != 0 || kind == Node::Directory;
            clauses(text)
                .unwrap_or_default()
                .into_iter()
                .fold(mode & 0o7777, |now, action| action.apply(now, executable))
        }
    }
}

/// What a mode belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// Anything else.
    Other,
}

/// `who operator what`, such as the `g-w` of `u+r,g-w`.
#[derive(Debug, Clone, Copy)]
struct Action {
    /// Bits that may change.
    who: u32,
    operator: Operator,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Debug, Clone, Copy)]
enum What {
    /// These bits, and `x` where `X` applies.
    Bits { bits: u32, conditional: u32 },
    /// The bits that a class has: its shift.
    Copy(u32),
}

impl Action {
    fn apply(self, mode: u32, executable: bool) -> u32 {
        let bits = match self.what {
            What::Bits { bits, conditional } => bits | if executable { conditional } else { 0 },
            What::Copy(shift) => (mode >> shift & 7) * 0o111,
        } & self.who;
        match self.operator {
            Operator::Add => mode | bits,
            Operator::Remove => mode & !bits,
            Operator::Set => mode & !self.who | bits,
        }
    }
}

fn clauses(text: &str) -> Option<Vec<Action>> {
    let mut actions = Vec::new();
    for clause in text.split(',') {
        let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
        let who = classes(&clause[..clause.len() - rest.len()]);
        let mut rest = rest.chars().peekable();
        let mut operator = operator(rest.next()?)?;
        loop {
            let first = actions.len();
            let mut bits = Bits::default();
            let next = loop {
                match rest.next() {
                    Some(class @ ('u' | 'g' | 'o')) => {
                        bits.flush(&mut actions, who, operator);
                        // `=` clears once; what follows in the same clause adds to it.
                        let operator = if actions.len() > first { added(operator) } else { operator };
                        actions.push(Action {
                            who: who.permissions(),
                            operator,
                            what: What::Copy(shift(class)),
                        });
                    }
                    Some(char) if bits.add(char, who) => {}
                    other => break other,
                }
            };
            if !bits.is_empty() || actions.len() == first {
                let operator = if actions.len() > first { added(operator) } else { operator };
                bits.flush_always(&mut actions, who, operator);
            }
            match next {
                None => break,
                Some(char) => operator = self::operator(char)?,
            }
        }
    }
    Some(actions)
}

fn operator(char: char) -> Option<Operator> {
    match char {
        '+' => Some(Operator::Add),
        '-' => Some(Operator::Remove),
        '=' => Some(Operator::Set),
        _ => None,
    }
}

fn added(operator: Operator) -> Operator {
    match operator {
        Operator::Set | Operator::Add => Operator::Add,
        Operator::Remove => Operator::Remove,
    }
}

fn shift(class: char) -> u32 {
    match class {
        'u' => 6,
        'g' => 3,
        _ => 0,
    }
}

/// The classes before an operator; empty means all of them.
#[derive(Debug, Clone, Copy)]
struct Who {
    bits: u32,
}

fn classes(text: &str) -> Who {
    let bits = text.chars().fold(0, |bits, class| {
        bits | match class {
            'u' => SETUID | 0o700,
            'g' => SETGID | 0o070,
            'o' => 0o007,
            _ => SETUID | SETGID | 0o777,
        }
    });
    Who { bits }
}

impl Who {
    fn all(self) -> u32 {
        if self.bits == 0 { SETUID | SETGID | 0o777 } else { self.bits }
    }

    fn permissions(self) -> u32 {
        self.all() & 0o777
    }

    /// For others alone, `s` and `t` mean nothing.
    fn only_others(self) -> bool {
        self.bits != 0 && self.bits & !0o007 == 0
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Bits {
    bits: u32,
    conditional: u32,
    sticky: bool,
}

impl Bits {
    /// Adds a permission letter; `false` if it is none.
    fn add(&mut self, char: char, who: Who) -> bool {
        match char {
            'r' => self.bits |= 0o444,
            'w' => self.bits |= 0o222,
            'x' => self.bits |= 0o111,
            'X' => self.conditional |= 0o111,
            's' if who.only_others() => {}
            's' => self.bits |= SETUID | SETGID,
            't' if who.only_others() => {}
            't' => {
                self.bits |= STICKY;
                self.sticky = true;
            }
            _ => return false,
        }
        true
    }

    fn is_empty(self) -> bool {
        self.bits == 0 && self.conditional == 0
    }

    fn flush(&mut self, actions: &mut Vec<Action>, who: Who, operator: Operator) {
        if !self.is_empty() {
            self.flush_always(actions, who, operator);
        }
    }

    fn flush_always(&mut self, actions: &mut Vec<Action>, who: Who, operator: Operator) {
        let sticky = if self.sticky { STICKY } else { 0 };
        let what = What::Bits { bits: self.bits, conditional: self.conditional };
        actions.push(Action { who: who.all() | sticky, operator, what });
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, mode: u32, kind: Node, expected: u32) {
        let found = apply(&parse(spec).unwrap(), mode, kind);
        assert_eq!(found, expected, "{spec} on {mode:o}: {found:o}");
    }

    #[test]
    fn symbolic_modes() {
        check("go-w", 0o666, Node::Other, 0o644);
        check("u=rwX,go=rX", 0o644, Node::Other, 0o644);
        check("u=rwX,go=rX", 0o700, Node::Directory, 0o755);
        check("u=rX,go=r", 0o755, Node::Other, 0o544);
        check("a=r", 0o4755, Node::Other, 0o444);
        check("u+s,g+s,+t", 0o755, Node::Other, 0o7755);
        check("o+s", 0o755, Node::Other, 0o755);
        check("go=u-w", 0o755, Node::Other, 0o755);
        check("g=u", 0o741, Node::Other, 0o771);
        check("g=uo", 0o651, Node::Other, 0o671);
        check("+x", 0o644, Node::Other, 0o755);
        check("=", 0o7777, Node::Other, 0o1000);
        check("u+x-w", 0o644, Node::Other, 0o544);
    }

    #[test]
    fn octal_modes() {
        check("755", 0o4644, Node::Other, 0o755);
        check("07777", 0, Node::Other, 0o7777);
        check("0", 0o777, Node::Other, 0);
    }

    #[test]
    fn malformed_modes_are_refused() {
        for bad in ["", "64a", "10000", "u~x", "g=z", "u", "u+x,", ",u+x", "-1", "99999999999", "8"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
