//! Cache keys: what decides whether a step has to run.
//!
//! # What is in a key
//! | value | in the key? | why |
//! |---|---|---|
//! | op digest (see `frontend::graph`): command, environment, flags, mounts, platform of commands, SOURCE_DATE_EPOCH | yes | decides what the step makes |
//! | state key of the parent | yes | the step sees and changes that file system |
//! | state key of the parent of a detached step (`COPY --link`) | no | the layer is the same on any parent |
//! | state keys of further inputs, in their order | yes | the step reads them |
//! | content of a context, commit, URL body, manifest digest | yes | they are the op digests of source steps |
//! | what an earlier step was *called* or how it was written | no | only the content of its result counts, see below |
//! | mtimes of files | no | a fresh checkout and a re-run change them all |
//! | layer digests, compression, blob digests | no | they hold mtimes and encodings |
//! | `--no-cache` | no | it decides whether a key is looked up, not what it is |
//! | clock, host, user, job count, isolation mode, secret values, cache mounts' contents | no | belong to the machine |
//!
//! # The four keys
//! - [`step_key`]: op digest and the state keys of what it stands on. Looked up before a step runs.
//! - [`selection_key`]: the same with the *content* that the step selects from its inputs instead of the inputs'
//!   keys. Looked up second, once the inputs are there: a stage that was rebuilt but whose one copied file is
//!   the same does not bust the COPY.
//! - [`result_key`]: the parent's state and the content id of the layer that was made. Two runs that made the same
//!   files on the same state have the same result key, so what follows keeps its keys (early cut-off). A step
//!   whose re-run made something else never shares a key with what was built on the earlier result.
//! - [`state_key`]: names a whole file system state. It is the result key, and for detached steps the result key
//!   bound to the state below, so that one layer on two stacks gives two states.
//!
//! # Encoding
//! Every key is blake3 of: the tag's length and bytes; then 32-byte values as they are; numbers as 8 bytes little
//! endian. `step_key` is tag `xbuild-key-1`, op digest, below, number of inputs, input keys. `selection_key` is tag
//! `xbuild-select-1`, op digest, below, content digest. `result_key` is tag `xbuild-result-1`, below, content id.
//! `state_key` of a detached step is tag `xbuild-state-1`, below, result key. *below* is the number 0 for no
//! parent, 1 followed by the parent's state key, or 2 for a parent that is left out.

use std::fmt;
use std::str::FromStr;

use frontend::graph::OpDigest;
use oci::layer::ContentHash;

/// A key of the cache: 32 bytes, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheKey(pub [u8; 32]);

/// What a step stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Below {
    /// The empty file system.
    Nothing,
    /// A file system state.
    State(CacheKey),
    /// Whatever it is: it does not matter to what is made.
    Ignored,
}

/// A text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 64 lower-case hexadecimal digits")]
pub struct KeyError(pub String);

/// Returns the key under which a step is looked up.
pub fn step_key(op: OpDigest, below: Below, inputs: &[CacheKey]) -> CacheKey {
    let mut hasher = tagged("xbuild-key-1");
    hasher.update(&op.0);
    add_below(&mut hasher, below);
    hasher.update(&(inputs.len() as u64).to_le_bytes());
    inputs.iter().for_each(|input| {
        hasher.update(&input.0);
    });
    CacheKey(hasher.finalize().into())
}

/// Returns the key of a step by the content that it selects from its inputs.
pub fn selection_key(op: OpDigest, below: Below, selected: ContentHash) -> CacheKey {
    let mut hasher = tagged("xbuild-select-1");
    hasher.update(&op.0);
    add_below(&mut hasher, below);
    hasher.update(&selected.0);
    CacheKey(hasher.finalize().into())
}

/// Returns the key of what a step made: `content` on top of `below`.
pub fn result_key(below: Below, content: ContentHash) -> CacheKey {
    let mut hasher = tagged("xbuild-result-1");
    add_below(&mut hasher, below);
    hasher.update(&content.0);
    CacheKey(hasher.finalize().into())
}

/// Returns the key of the state that a detached result makes on top of `below`.
pub fn detached_state_key(below: Below, result: CacheKey) -> CacheKey {
    let mut hasher = tagged("xbuild-state-1");
    add_below(&mut hasher, below);
    hasher.update(&result.0);
    CacheKey(hasher.finalize().into())
}

fn tagged(tag: &str) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(tag.len() as u64).to_le_bytes());
    hasher.update(tag.as_bytes());
    hasher
}

fn add_below(hasher: &mut blake3::Hasher, below: Below) {
    let (number, key) = match &below {
        Below::Nothing => (0_u64, None),
        Below::State(key) => (1, Some(key)),
        Below::Ignored => (2, None),
    };
    hasher.update(&number.to_le_bytes());
    if let Some(key) = key {
        hasher.update(&key.0);
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CacheKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self).ok_or_else(|| KeyError(text.to_owned()))
    }
}

impl serde::Serialize for CacheKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CacheKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Returns the 32 bytes that 64 lower-case hexadecimal digits stand for.
pub(crate) fn decode(text: &str) -> Option<[u8; 32]> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    blake3::Hash::from_hex(text).ok().map(|hash| *hash.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OpDigest = OpDigest([1; 32]);
    const A: CacheKey = CacheKey([2; 32]);
    const B: CacheKey = CacheKey([3; 32]);

    fn check(key: CacheKey, expected: &str) {
        assert_eq!(key.to_string(), expected);
    }

    #[test]
    fn known_answers() {
        check(
            step_key(OP, Below::Nothing, &[]),
            "c84f4c36bfd089dfd241d2839a8c9f07918aa57eb6a77434788bd90241595030",
        );
        check(
            step_key(OP, Below::State(A), &[B, A]),
            "20480ad0042c76fc98f01979829b54c8fef799d09da9b7b30d8b0a75ef135b95",
        );
        check(
            step_key(OP, Below::Ignored, &[B]),
            "5becf6869a2f49d4516d2e9229f4610549166a5ae36ac650e9f0acdba4900152",
        );
        check(
            selection_key(OP, Below::State(A), ContentHash([4; 32])),
            "a1e697f98cb2434bdcd119db012a774d0a50e1beb239e1a8fba10e2f94f00cac",
        );
        check(
            result_key(Below::State(A), ContentHash([4; 32])),
            "3ebeb4c00da66562940dd319c9377270079986611aaad55e20b328f471315726",
        );
        check(
            detached_state_key(Below::State(A), B),
            "447bd6568fd824f555de253b7313b51fd8791a4593b31824735794e5a825a40f",
        );
    }

    #[test]
    fn every_part_matters() {
        let keys = [
            step_key(OP, Below::Nothing, &[]),
            step_key(OpDigest([9; 32]), Below::Nothing, &[]),
            step_key(OP, Below::Ignored, &[]),
            step_key(OP, Below::State(A), &[]),
            step_key(OP, Below::State(B), &[]),
            step_key(OP, Below::Nothing, &[A]),
            step_key(OP, Below::Nothing, &[A, B]),
            step_key(OP, Below::Nothing, &[B, A]),
            result_key(Below::Nothing, ContentHash([1; 32])),
            selection_key(OP, Below::Nothing, ContentHash([1; 32])),
            detached_state_key(Below::Nothing, A),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn text_round_trips_and_refuses_paths() {
        assert_eq!(A.to_string().parse(), Ok(A));
        for text in ["", "..", "../x", &"A".repeat(64), &"a".repeat(63), &"/".repeat(64)] {
            assert!(text.parse::<CacheKey>().is_err(), "{text}");
        }
    }
}
