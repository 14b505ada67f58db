//! `WWW-Authenticate`: what a registry asks for (RFC 9110 §11.6.1). Parses only; trusts nothing.
//!
//! Bounded against hostile headers (reliability REG-07): at most 16 challenges of 8 KiB in sum are looked at.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Bytes of challenges that are read; the rest is ignored.
const MAX_BYTES: usize = 8 * 1024;

/// Challenges that are read; the rest is ignored.
const MAX_CHALLENGES: usize = 16;

/// One way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A token from `realm` (distribution-spec token authentication).
    Bearer {
        /// URL of the token server, as the registry wrote it.
        realm: String,
        /// Name of the service the token is for.
        service: Option<String>,
    },
    /// Name and password on each request.
    Basic,
}

/// Returns the challenge to follow: Bearer before Basic, whatever their order; `None` for neither.
pub fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let mut left = MAX_BYTES;
    let mut found = Vec::new();
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        if text.len() > left {
            break;
        }
        left -= text.len();
        found.extend(parse(text));
    }
    found.truncate(MAX_CHALLENGES);
    let bearer = found.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or(found.first()).cloned()
}

/// Returns whether a token was refused for what it does not allow (RFC 6750 §3.1), not for its age.
pub fn lacks_scope(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts.filter(|text| text.len() <= MAX_BYTES).any(|text| text.contains("\"insufficient_scope\""))
}

/// Parses one header value, which may hold several challenges. Malformed ones are left out.
fn parse(text: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = text;
    while challenges.len() < MAX_CHALLENGES {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (scheme, after) = token(rest);
        if scheme.is_empty() {
            break;
        }
        let (parameters, after) = parameters(after);
        rest = after;
        challenges.extend(challenge(scheme, &parameters));
    }
    challenges
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| {
        parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
    };
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Challenge::Bearer { realm: get("realm")?, service: get("service") });
    }
    None
}

/// Reads `key=value` pairs up to the next scheme, which is a token without `=` behind it.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut pairs = Vec::new();
    loop {
        let start = rest.trim_start_matches([' ', '\t', ',']);
        let (key, after) = token(start);
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=').filter(|_| !key.is_empty()) else {
            return (pairs, start);
        };
        let value = value.trim_start_matches([' ', '\t']);
        let Some((text, after)) = value_of(value) else {
            return (pairs, "");
        };
        pairs.push((key.to_owned(), text));
        rest = after;
    }
}

/// A quoted string or a run up to the next comma; `None` for a quote that never ends.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Registries write unquoted realms although `:` and `/` are no token characters.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(values: &[&str], expected: Option<Challenge>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        assert_eq!(choose(&headers), expected, "{values:?}");
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
    }

    #[test]
    fn challenges_of_registries_in_the_wild() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#;
        check(&[hub], bearer("https://auth.docker.io/token", Some("registry.docker.io")));
        check(&[r#"Basic realm="Registry Realm""#], Some(Challenge::Basic));
        check(&["Basic"], Some(Challenge::Basic));
        check(&[r#"basic realm="x", BEARER Realm="https://h/t""#], bearer("https://h/t", None));
        check(&[r#"Basic realm="x""#, r#"Bearer realm="https://h/t""#], bearer("https://h/t", None));
        check(&["Bearer realm=https://h/t,service=s"], bearer("https://h/t", Some("s")));
        check(&[r#"Negotiate, Bearer realm = "https://h/\"t" "#], bearer("https://h/\"t", None));
        check(&[r#"Bearer error="insufficient_scope", realm="https://h/t""#], bearer("https://h/t", None));
    }

    #[test]
    fn reg_07_malformed_challenges_are_left_out() {
        check(&[], None);
        check(&[r#"Bearer realm="https://h/t"#], None);
        check(&["Bearer"], None);
        check(&["Bearer realm"], None);
        check(&["=,=,="], None);
        check(&[&"x".repeat(MAX_BYTES + 1)], None);
        check(&[&"Basic, ".repeat(1000)], Some(Challenge::Basic));
    }

    #[test]
    fn a_scope_that_is_missing_is_told_from_a_token_that_is_old() {
        for (text, expected) in [
            (r#"Bearer realm="https://h/t",error="insufficient_scope""#, true),
            (r#"Bearer realm="https://h/t",error="invalid_token""#, false),
            (r#"Basic realm="insufficient_scope, no""#, false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, text.parse().unwrap());
            assert_eq!(lacks_scope(&headers), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn reg_07_no_header_makes_the_parser_panic(text in "[ -~\t]{0,200}") {
            parse(&text);
        }
    }
}
