//! Content digests: what names a blob, an uncompressed layer and a stack of layers.
//!
//! A digest is checked when it is parsed and never later, so no unvalidated text can become a path
//! (image-spec descriptor.md, "Digests").

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest algorithm that image-spec registers (descriptor.md, "Registered algorithms"). What xbuild writes is
/// sha256; what others wrote is verified by the algorithm that they chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Algorithm {
    /// SHA-256, which every implementation has.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A content digest, written `sha256:<64 lower-case hex digits>` or `sha512:<128 of them>`. The same bytes have one
/// of each; the two are never equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256's.
    Sha256([u8; 32]),
    /// SHA-512's.
    Sha512([u8; 64]),
}

/// A digest in the making.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// The digest of a layer's uncompressed tar (image-spec config.md, "Layer DiffID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DiffId(pub Digest);

/// The identity of a stack of layers (image-spec config.md, "Layer ChainID").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub Digest);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` prefix.
    #[error("digest {0:?} has no algorithm, expected sha256:<64 hex digits>")]
    NoAlgorithm(String),
    /// The algorithm is neither sha256 nor sha512.
    #[error("digest algorithm {0:?} is not supported, expected sha256 or sha512")]
    Algorithm(String),
    /// The encoded part is not as many lower-case hexadecimal digits as its algorithm has.
    #[error(
        "digest {text:?} is not {} lower-case hexadecimal digits after {algorithm}:",
        .algorithm.digits()
    )]
    Encoded {
        /// The whole text.
        text: String,
        /// What it says it is.
        algorithm: Algorithm,
    },
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Returns the name, which is also that of the directory of such blobs in a layout.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Returns how many hexadecimal digits a digest has.
    pub const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }

    /// Returns the digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Starts a digest.
    pub fn hasher(self) -> Hasher {
        Hasher(match self {
            Self::Sha256 => State::Sha256(Sha256::new()),
            Self::Sha512 => State::Sha512(Sha512::new()),
        })
    }
}

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the digest of what was added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            State::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }
}

impl Digest {
    /// Returns the sha256 digest of `bytes`: that of everything we write.
    pub fn of(bytes: &[u8]) -> Self {
        Algorithm::Sha256.digest(bytes)
    }

    /// Reads `reader` to its end and returns the digest and the number of bytes.
    ///
    /// # Errors
    /// Whatever `reader` returns.
    pub fn of_reader(mut reader: impl Read, algorithm: Algorithm) -> io::Result<(Self, u64)> {
        let mut hasher = algorithm.hasher();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                return Ok((hasher.finish(), size));
            }
            hasher.update(&buffer[..read]);
            size += read as u64;
        }
    }

    /// Returns the digest whose encoded part is `hex`: its length says which algorithm it is of.
    pub fn from_hex(hex: &str) -> Option<Self> {
        decode(hex).map(Self::Sha256).or_else(|| decode(hex).map(Self::Sha512))
    }

    /// Returns the algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Returns whether `bytes` have this digest.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.algorithm().digest(bytes) == *self
    }

    /// Returns the encoded part: 64 or 128 lower-case hexadecimal digits, safe as a file name. The length keeps
    /// algorithms apart.
    pub fn hex(&self) -> String {
        let bytes = self.bytes();
        bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
            text
        })
    }

    /// Returns the path below the `blobs` of a layout: `sha256/<64 digits>` (image-spec image-layout.md, "Blobs").
    pub fn path(&self) -> String {
        format!("{}/{}", self.algorithm(), self.hex())
    }

    const fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }
}

impl DiffId {
    /// Returns the chain id of this layer alone at the bottom of a stack.
    pub const fn bottom(self) -> ChainId {
        ChainId(self.0)
    }
}

impl ChainId {
    /// Returns the chain id of `layer` on top of this stack: sha256 of `"<parent> <diff id>"`, whatever those two
    /// are of.
    pub fn extend(self, layer: DiffId) -> Self {
        Self(Digest::of(format!("{} {}", self.0, layer.0).as_bytes()))
    }

    /// Returns the chain id of a whole stack, lowest layer first; `None` for no layers.
    pub fn of(layers: &[DiffId]) -> Option<Self> {
        let (first, rest) = layers.split_first()?;
        Some(rest.iter().fold(first.bottom(), |chain, layer| chain.extend(*layer)))
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) =
            text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(text.to_owned()))?;
        let algorithm = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name);
        let algorithm = algorithm.ok_or_else(|| DigestError::Algorithm(name.to_owned()))?;
        let digest = match algorithm {
            Algorithm::Sha256 => decode(encoded).map(Self::Sha256),
            Algorithm::Sha512 => decode(encoded).map(Self::Sha512),
        };
        digest.ok_or_else(|| DigestError::Encoded { text: text.to_owned(), algorithm })
    }
}

fn decode<const N: usize>(encoded: &str) -> Option<[u8; N]> {
    let digits = encoded.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DiffId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_id_known_answer() {
        let layers = [
            "sha256:7948c3e5790c6df89fe48041fabd8f1c576d4bb7c869183e03b9e3873a5f33d9",
            "sha256:4d1ab3827f6b69f4e55bd69cc8abe1dde7d7a7f61bd6e32c665f12e0a8efd1c9",
        ]
        .map(|text| DiffId(text.parse().unwrap()));
        let expected = "sha256:72df91e735ae2b70a23f1770aa365b67f4772a545ed0a23d3decc7643b21a4e4";
        assert_eq!(ChainId::of(&layers).unwrap().to_string(), expected);
        assert_eq!(ChainId::of(&[]), None);
    }

    #[test]
    fn a_chain_of_sha512_layers_is_sha256_of_their_texts() {
        let [one, two] = ["a", "b"].map(|text| DiffId(Algorithm::Sha512.digest(text.as_bytes())));
        assert_eq!(ChainId::of(&[one]), Some(ChainId(one.0)));
        let expected = Digest::of(format!("{one} {two}").as_bytes());
        assert_eq!(ChainId::of(&[one, two]), Some(ChainId(expected)));
    }

    #[test]
    fn img_04_refuses_what_is_no_digest() {
        for text in ["", "sha256", "sha256:", "sha256:../../x", "md5:00", "sha256:AB", "SHA256:00"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        for (algorithm, digits) in [("sha256", 64), ("sha512", 128)] {
            let parse = |encoded: String| format!("{algorithm}:{encoded}").parse::<Digest>();
            assert!(parse("a".repeat(digits)).is_ok(), "{algorithm}");
            for bad in [
                "A".repeat(digits),
                "a".repeat(digits - 1),
                "a".repeat(digits + 1),
                "a".repeat(192 - digits),
                "g".repeat(digits),
                "é".repeat(digits / 2),
                "../".repeat(digits / 3) + &"a".repeat(digits % 3),
            ] {
                assert!(matches!(parse(bad.clone()), Err(DigestError::Encoded { .. })), "{algorithm}:{bad}");
            }
        }
        for (algorithm, digits) in
            [("md5", 32), ("sha1", 40), ("sha384", 96), ("blake3", 64), ("Sha512", 128)]
        {
            let parsed = format!("{algorithm}:{}", "a".repeat(digits)).parse::<Digest>();
            assert_eq!(parsed, Err(DigestError::Algorithm(algorithm.to_owned())));
        }
    }

    #[test]
    fn text_round_trips() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let long = Algorithm::Sha512.digest(b"");
        assert_eq!(
            long.to_string(),
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e"
        );
        for digest in [digest, long] {
            assert_eq!(digest.to_string().parse(), Ok(digest));
            assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
            assert_eq!(digest.path(), digest.to_string().replace(':', "/"));
            let json = serde_json::to_string(&digest).unwrap();
            assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
            assert!(digest.is_of(b"") && !digest.is_of(b"a"));
        }
        assert_eq!(Digest::from_hex(&"a".repeat(96)), None);
        for algorithm in Algorithm::ALL {
            let found = Digest::of_reader(&b"abc"[..], algorithm).unwrap();
            assert_eq!(found, (algorithm.digest(b"abc"), 3));
        }
    }
}
