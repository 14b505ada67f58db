//! Shell text as commands and what joins them: as much as lint must see, not a shell grammar.
//!
//! Quotes, comments and continuations are understood; expansions are not, and what stands in double quotes is
//! one word. Never fails: a text that no shell could read gives some commands.

/// What stands before a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// Nothing, a new line, `;` or `&`: it runs whatever happened before.
    Sequence,
    /// `&&` or `||`.
    Condition,
    /// `|`.
    Pipe,
}

/// A simple command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Simple {
    /// What stands before it.
    pub(super) joint: Joint,
    /// Its words without quotes; assignments and words such as `then`, `!`, `sudo` before the program left out.
    pub(super) words: Vec<String>,
}

impl Simple {
    /// Returns the program's name without directories.
    pub(super) fn program(&self) -> &str {
        let program = self.words.first().map_or("", String::as_str);
        program.rsplit('/').next().unwrap_or(program)
    }

    /// Returns the arguments that are no options.
    pub(super) fn operands(&self) -> impl Iterator<Item = &str> {
        self.words.iter().skip(1).map(String::as_str).filter(|word| !word.starts_with('-'))
    }
}

/// Splits a script into its commands. Costs time linear in the text.
pub(super) fn commands(text: &str) -> Vec<Simple> {
    let mut reader =
        Reader { joint: Joint::Sequence, words: Vec::new(), word: None, commands: Vec::new(), cases: 0 };
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('\n') | None => reader.end_word(),
                Some(escaped) => reader.push(escaped),
            },
            '\'' => {
                reader.open();
                letters.by_ref().take_while(|letter| *letter != '\'').for_each(|letter| reader.push(letter));
            }
            '"' => quoted(&mut letters, &mut reader),
            '#' if reader.word.is_none() => while letters.next_if(|letter| *letter != '\n').is_some() {},
            '|' if letters.next_if_eq(&'|').is_some() => reader.end_command(Joint::Condition),
            // `a|b)` of a case is no pipe, and `>|` only writes over a file.
            '|' if reader.word.as_deref().is_some_and(|word| word.ends_with('>')) => {}
            '|' if reader.cases > 0 && reader.word.is_some() => reader.end_word(),
            '|' => {
                letters.next_if_eq(&'&');
                reader.end_command(Joint::Pipe);
            }
            '&' if letters.next_if_eq(&'&').is_some() => reader.end_command(Joint::Condition),
            // `2>&1` and `&>file` are redirections.
            '&' if reader.word.as_deref().is_some_and(|word| word.ends_with(['>', '<'])) => reader.push('&'),
            '&' if letters.peek() == Some(&'>') => reader.push('&'),
            '&' | ';' | '\n' | '(' | ')' | '`' => reader.end_command(Joint::Sequence),
            letter if letter.is_whitespace() => reader.end_word(),
            letter => reader.push(letter),
        }
    }
    reader.end_command(Joint::Sequence);
    reader.commands
}

fn quoted(letters: &mut std::iter::Peekable<std::str::Chars<'_>>, reader: &mut Reader) {
    reader.open();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return,
            '\\' => letters.next().into_iter().for_each(|escaped| reader.push(escaped)),
            letter => reader.push(letter),
        }
    }
}

/// The state of splitting.
struct Reader {
    joint: Joint,
    words: Vec<String>,
    word: Option<String>,
    commands: Vec<Simple>,
    /// Depth of `case … esac`.
    cases: usize,
}

impl Reader {
    fn open(&mut self) {
        self.word.get_or_insert_default();
    }

    fn push(&mut self, letter: char) {
        self.word.get_or_insert_default().push(letter);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        match word.as_str() {
            "case" if self.words.is_empty() => self.cases += 1,
            "esac" if self.words.is_empty() => self.cases = self.cases.saturating_sub(1),
            _ => {}
        }
        if !self.words.is_empty() || !is_prefix(&word) {
            self.words.push(word);
        }
    }

    fn end_command(&mut self, next: Joint) {
        self.end_word();
        if self.words.is_empty() {
            // `then`, `do` and the like stand alone; what joins them to what follows is theirs.
            if self.joint == Joint::Sequence || next != Joint::Sequence {
                self.joint = next;
            }
            return;
        }
        let joint = std::mem::replace(&mut self.joint, next);
        self.commands.push(Simple { joint, words: std::mem::take(&mut self.words) });
    }
}

/// Words before a program: keywords, `sudo` and the like, assignments.
fn is_prefix(word: &str) -> bool {
    const WORDS: [&str; 17] = [
        "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "!", "{", "}", "sudo", "env",
        "exec", "time", "esac",
    ];
    let assigned = word.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    });
    assigned || WORDS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let shown = |command: &Simple| {
            let joint = match command.joint {
                Joint::Sequence => "",
                Joint::Condition => "& ",
                Joint::Pipe => "| ",
            };
            format!("{joint}{}", command.words.join(" "))
        };
        assert_eq!(commands(text).iter().map(shown).collect::<Vec<_>>(), expect, "{text}");
    }

    #[test]
    fn commands_and_what_joins_them() {
        check("a b && c || d; e | f", &["a b", "& c", "& d", "e", "| f"]);
        check("a |\n b\nc \\\n d # e | f\n", &["a", "| b", "c d"]);
        check("echo 'a | b' \"c; d\" e\\|f", &["echo a | b c; d e|f"]);
        check("A=1 sudo apt-get install -y x 2>&1 &>log", &["apt-get install -y x 2>&1 &>log"]);
        check("if a; then b; fi", &["a", "b"]);
        check("case $x in a|b) c;; esac; d | e", &["case $x in a b", "c", "d", "| e"]);
        check("x=$(a | b)", &["a", "| b"]);
        check("echo a >| b", &["echo a > b"]);
        check("'unclosed | ", &["unclosed | "]);
        check("", &[]);
    }
}
