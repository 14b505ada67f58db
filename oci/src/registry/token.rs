//! Bearer tokens: what is asked for, what the answer means, how long it lasts. Sends nothing.
//!
//! Scopes are computed by us and never taken from a challenge: a registry could otherwise ask for a token to
//! somebody else's repository (reliability REG-06).

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::error::Problem;

/// What a request is allowed to do, as the distribution spec writes it: `repository:<name>:<actions>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Scopes(BTreeSet<String>);

impl Scopes {
    /// Reading `repository`.
    pub fn pull(repository: &str) -> Self {
        Self(BTreeSet::from([format!("repository:{repository}:pull")]))
    }

    /// Reading and writing `repository`, with the right to link blobs of `sources`.
    pub fn push<'a>(repository: &str, sources: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes = BTreeSet::from([format!("repository:{repository}:pull,push")]);
        let others = sources.into_iter().filter(|source| *source != repository);
        scopes.extend(others.map(|source| format!("repository:{source}:pull")));
        Self(scopes)
    }

    /// Nothing in particular: whether the credentials are right.
    pub fn none() -> Self {
        Self::default()
    }

    /// Iterates over the scopes.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.iter().collect();
        f.write_str(&all.join(" "))
    }
}

/// A token and when it ends.
#[derive(Clone)]
pub struct Token {
    /// Goes behind `Bearer `; has no control characters.
    pub value: String,
    /// From then on a new one is fetched.
    pub renew: Instant,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// The life of a token whose server names none, and the shortest that is believed (distribution-spec, "Token
/// Response Fields"). `issued_at` is not read: it is by the server's clock.
const MIN_LIFE: Duration = Duration::from_secs(60);

/// The longest life that is believed; a registry that ends it earlier answers 401, which renews it.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Reads the answer of the token server `host` that came at `now`.
///
/// # Errors
/// No JSON, no token, or a token that could not stand in a header.
pub fn parse(body: &[u8], host: &str, now: Instant) -> Result<Token, Problem> {
    let malformed = |detail: &str| Problem::Malformed {
        host: host.to_owned(),
        what: "a token answer".to_owned(),
        detail: detail.to_owned(),
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|_| malformed("it is not a JSON object"))?;
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let value =
        filled(answer.token).or(filled(answer.access_token)).ok_or_else(|| malformed("it has no token"))?;
    // A line break in a header would let the server write headers of our requests (REG-12).
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(malformed("the token has characters that no token has"));
    }
    let life = life(&answer.expires_in);
    // A tenth of the life is kept in reserve, so that a token does not end under a request.
    Ok(Token { value, renew: now + life - life / 10 })
}

fn life(expires_in: &serde_json::Value) -> Duration {
    let seconds = match expires_in {
        serde_json::Value::Number(number) => number.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds >= MAX_LIFE.as_secs_f64() => MAX_LIFE,
        Some(seconds) if seconds >= MIN_LIFE.as_secs_f64() => Duration::from_secs_f64(seconds),
        _ => MIN_LIFE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<(&str, u64)>) {
        let now = Instant::now();
        let parsed = parse(body.as_bytes(), "h", now).ok();
        let parsed = parsed.map(|token| (token.value, (token.renew - now).as_secs()));
        assert_eq!(parsed.as_ref().map(|(value, life)| (value.as_str(), *life)), expected, "{body}");
    }

    #[test]
    fn reg_12_answers_of_token_servers() {
        check(r#"{"token":"a.b-c","expires_in":300}"#, Some(("a.b-c", 270)));
        check(r#"{"access_token":"x"}"#, Some(("x", 54)));
        check(r#"{"token":"t","access_token":"a"}"#, Some(("t", 54)));
        check(r#"{"token":"","access_token":"a"}"#, Some(("a", 54)));
        for life in ["0", "-1", "null", "\"abc\"", "[]", "59"] {
            check(&format!(r#"{{"token":"t","expires_in":{life}}}"#), Some(("t", 54)));
        }
        check(r#"{"token":"t","expires_in":"100"}"#, Some(("t", 90)));
        check(r#"{"token":"t","expires_in":1000000000000000000}"#, Some(("t", 77760)));
        check(r#"{"token":"t","issued_at":"1990-01-01T00:00:00Z","expires_in":100}"#, Some(("t", 90)));
        check(r#"{"token":"a\r\nX: y"}"#, None);
        check(r#"{"token":"a b"}"#, None);
        check(r#"{"token":7}"#, None);
        check("{}", None);
        check("nonsense", None);
    }

    #[test]
    fn scopes_name_what_is_done_and_where_from() {
        assert_eq!(Scopes::pull("library/x").to_string(), "repository:library/x:pull");
        let push = Scopes::push("a/b", ["base/c", "a/b"]);
        assert_eq!(push.to_string(), "repository:a/b:pull,push repository:base/c:pull");
    }
}
