//! Properties that hold for any text: no panic, places inside the text, nothing lost that has no meaning.

use frontend::instruction::Span;
use frontend::render::{self, Style};
use frontend::{File, expand, parse};
use proptest::prelude::*;

/// A Dockerfile with most of the syntax, to be mutated.
const SAMPLE: &str = r#"# syntax=docker/dockerfile:1
# escape=\
ARG V="1 2"
FROM --platform=$BUILDPLATFORM alpine:${V:-3} AS build
ENV a=b c='d e' f=\"g
ENV old style $value
RUN --mount=type=cache,id=x,target=/c --network=none echo a && \
  # comment

  echo "${V}" 'x'
RUN ["/bin/sh", "-c", "échó \u00e9"]
RUN <<EOF bash
echo <<x
EOF
COPY --chown=1:2 --chmod=u=rwX --exclude=*.md a b <<-'E1' <<E2 /d/
	one
	E1
two $V
E2
ADD --checksum=sha256:0 https://x/y /z
HEALTHCHECK --interval=1m30s --retries=3 CMD curl x
ONBUILD COPY <<E /x
E
EXPOSE 80/tcp 90-92
VOLUME ["/a"]
SHELL ["/bin/bash", "-c"]
LABEL a.b=c
STOPSIGNAL 9
USER a:b
WORKDIR /x
ENTRYPOINT exec "x"
CMD []
"#;

/// Pieces of syntax that mutations insert.
const PIECES: [&str; 24] = [
    "\\\n",
    "\\",
    "`",
    "\n",
    "\r\n",
    "\n\n",
    "#",
    "# escape=`\n",
    "<<E",
    "<<-",
    "\nE\n",
    "\"",
    "'",
    "[",
    "]",
    "${",
    "}",
    "$",
    " --",
    "=",
    "ONBUILD ",
    "FROM ",
    "\0",
    "\u{2028}é",
];

const KEYWORDS: [&str; 19] = [
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
    "x",
];

fn check_places(file: &File) {
    let inside = |span: Span| {
        assert!(span.start <= span.end && span.end <= file.text.len(), "{span:?} in {}", file.text.len());
        assert!(file.text.is_char_boundary(span.start) && file.text.is_char_boundary(span.end), "{span:?}");
    };
    for instruction in &file.instructions {
        inside(instruction.span);
        inside(instruction.keyword.span);
        assert!(instruction.lines.0 <= instruction.lines.1);
    }
    for found in &file.diagnostics {
        inside(found.span);
        assert!(!render::snippet(file, "D", found, Style::Plain).is_empty());
        assert!(render::line(file, "D", found).starts_with("D:"));
    }
}

fn mutate(text: &str, edits: &[(usize, usize, usize)]) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    for (at, length, piece) in edits {
        let at = at % (characters.len() + 1);
        let end = (at + length % 8).min(characters.len());
        let piece = PIECES.get(*piece).copied().unwrap_or_default();
        characters.splice(at..end, piece.chars());
    }
    characters.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_bytes_parse(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_places(&parse(&bytes));
    }

    #[test]
    fn any_text_after_any_instruction_parses(
        keyword in 0usize..KEYWORDS.len(),
        rest in "(\\PC|[ \t\n\"'\\\\$<>={}\\[\\]#-]){0,60}",
    ) {
        check_places(&parse(format!("FROM a\n{} {rest}", KEYWORDS[keyword]).as_bytes()));
    }

    #[test]
    fn mutated_dockerfiles_parse(
        edits in proptest::collection::vec((any::<usize>(), any::<usize>(), 0usize..30), 1..12),
    ) {
        check_places(&parse(mutate(SAMPLE, &edits).as_bytes()));
    }

    #[test]
    fn any_text_expands_or_says_why(
        text in "(\\PC|[ \"'\\\\$<>={}:/#%*?+-]){0,60}",
        value in "[a-z/*. ]{0,9}",
    ) {
        let lookup = |name: &str| (name != "b").then(|| value.clone());
        let _ = expand::word(&text, '\\', &lookup);
        let _ = expand::words(&text, '`', &lookup);
        let _ = expand::body(&text, &lookup);
        let _ = expand::shown(&text, '\\', &lookup);
    }

    #[test]
    fn text_without_signs_expands_to_itself(text in "[a-zA-Z0-9 ./:=_,é-]{0,60}") {
        let value = expand::word(&text, '\\', &|_| None).expect("nothing to expand").value;
        prop_assert_eq!(&value, &text);
        let words = expand::words(&text, '\\', &|_| None).expect("nothing to expand").words;
        prop_assert_eq!(words, text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    }
}

#[test]
fn the_sample_has_no_mistakes() {
    let file = parse(SAMPLE.as_bytes());
    let errors: Vec<_> = file.diagnostics.iter().filter(|found| found.rule.is_none()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(file.instructions.len(), 20);
}
