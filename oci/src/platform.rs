//! Platforms: `os/architecture[/variant]`, their aliases, and which image may run where.
//!
//! The rules are those of containerd/platforms, which Docker uses. It knows nothing of manifests; choosing
//! from an index is in `document`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on, in Go's words (image-spec image-index.md, "platform").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS value.
    pub os: String,
    /// GOARCH value.
    pub architecture: String,
    /// CPU variant such as `v7`; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Version of the operating system; empty where there is none.
    #[serde(rename = "os.version", default, skip_serializing_if = "String::is_empty")]
    pub os_version: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform {text:?}: {reason}, expected OS[/ARCHITECTURE[/VARIANT]] such as linux/arm64")]
pub struct PlatformError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

/// The oldest 32-bit ARM variant that counts as compatible with newer ones.
const OLDEST_ARM: u32 = 5;

impl Platform {
    /// Returns the platform this binary was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "x86" => ("386", ""),
            "aarch64" => ("arm64", ""),
            "arm" => ("arm", "v7"),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os_version: String::new(),
        }
    }

    /// Parses `text`; what it leaves out is taken from `host`. Aliases are resolved, the variant stays as
    /// written where it says more than the default.
    ///
    /// # Errors
    /// [`PlatformError`] for characters outside `[A-Za-z0-9_.-]`, wildcards, four parts, and a single part
    /// that is neither an operating system nor an architecture.
    pub fn parse(text: &str, host: &Self) -> Result<Self, PlatformError> {
        let fail = |reason| PlatformError { text: text.chars().take(200).collect(), reason };
        let parts: Vec<&str> = text.splitn(4, '/').collect();
        let (os, os_version) = parse_os(parts[0]).map_err(fail)?;
        if parts[1..].iter().any(|part| !is_word(part)) {
            return Err(fail("a part is empty or has characters other than letters, digits, _ . -"));
        }
        let (architecture, variant, os) = match parts[..] {
            [_] if SYSTEMS.contains(&os.as_str()) => (host.architecture.clone(), host.variant.clone(), os),
            [single] => {
                let (architecture, variant) = normalize_architecture(single, "");
                if !ARCHITECTURES.contains(&architecture.as_str()) {
                    return Err(fail("unknown operating system or architecture"));
                }
                (architecture, variant, host.os.clone())
            }
            [_, architecture] => {
                let (architecture, variant) = normalize_architecture(architecture, "");
                (architecture, variant, os)
            }
            [_, architecture, variant] => {
                let (architecture, variant) = normalize_architecture(architecture, variant);
                let variant =
                    if architecture == "arm64" && variant.is_empty() { "v8".into() } else { variant };
                return Ok(Self { os, architecture, variant, os_version });
            }
            _ => return Err(fail("too many parts")),
        };
        // linux/arm means v7 and stays short, as images write it.
        let variant = if architecture == "arm" && variant == "v7" { String::new() } else { variant };
        Ok(Self { os, architecture, variant, os_version })
    }

    /// Returns the form in which equal platforms are equal: aliases resolved, default variants dropped, except
    /// that `arm` always carries one.
    pub fn normalize(&self) -> Self {
        let (architecture, variant) = normalize_architecture(&self.architecture, &self.variant);
        Self { os: normalize_os(&self.os), architecture, variant, os_version: self.os_version.clone() }
    }

    /// Returns the platform with its version, as `os(version)/architecture[/variant]`: what names it among others.
    pub fn full(&self) -> String {
        let text = self.to_string();
        if self.os_version.is_empty() {
            return text;
        }
        format!("{}({}){}", self.os, self.os_version, text.strip_prefix(&self.os).unwrap_or_default())
    }

    /// Returns whether an image of `candidate` may be used where this platform is asked for: the same, an older
    /// variant of the same architecture, 386 on amd64, or 32-bit ARM on arm64.
    pub fn accepts(&self, candidate: &Self) -> bool {
        self.rank(candidate).is_some()
    }

    /// Returns how well an image of `candidate` fits: 0 is exact, larger is worse, `None` does not run.
    pub fn rank(&self, candidate: &Self) -> Option<usize> {
        let candidate = candidate.normalize();
        let wanted = self.normalize();
        if wanted.os != candidate.os || !version_fits(&wanted, &candidate) {
            return None;
        }
        let pair = (candidate.architecture, candidate.variant);
        compatible(&wanted.architecture, &wanted.variant).iter().position(|accepted| *accepted == pair)
    }
}

/// Windows images run on hosts of their own version only (containerd compares build numbers); elsewhere the
/// version means nothing.
fn version_fits(wanted: &Platform, candidate: &Platform) -> bool {
    let build = |version: &str| version.splitn(4, '.').take(3).collect::<Vec<_>>().join(".");
    wanted.os != "windows"
        || wanted.os_version.is_empty()
        || candidate.os_version.is_empty()
        || build(&wanted.os_version) == build(&candidate.os_version)
}

/// Architectures and variants that run on the given normalised one, best first.
fn compatible(architecture: &str, variant: &str) -> Vec<(String, String)> {
    let pair = |architecture: &str, variant: String| normalize_architecture(architecture, &variant);
    let number = |text: &str| text.strip_prefix('v').unwrap_or(text).parse::<u32>().ok();
    let mut list = vec![(architecture.to_owned(), variant.to_owned())];
    match architecture {
        "amd64" => {
            let older = (1..number(variant).unwrap_or(1).min(64)).rev();
            list.extend(older.map(|version| pair("amd64", format!("v{version}"))));
            list.push(("386".to_owned(), String::new()));
        }
        "arm" => list.extend(older_arm(number(variant).unwrap_or(0))),
        "arm64" => {
            let Some((major, minor)) = arm64_version(variant) else { return list };
            // Armv9.N includes Armv8.(N+5) (Arm Architecture Reference Manual, "Architecture versions").
            let eight = if major == 9 { (minor + 5).min(9) } else { minor };
            let nine = if major == 9 { Some(minor) } else { None };
            let mut versions: Vec<String> = Vec::new();
            versions
                .extend(nine.into_iter().flat_map(|top| (0..=top).rev()).map(|minor| arm64_name(9, minor)));
            versions.extend((0..=eight).rev().map(|minor| arm64_name(8, minor)));
            list.extend(versions.into_iter().map(|variant| pair("arm64", variant)));
            list.push(("arm".to_owned(), "v8".to_owned()));
            list.extend(older_arm(8));
        }
        _ => {}
    }
    list
}

fn older_arm(version: u32) -> impl Iterator<Item = (String, String)> {
    (OLDEST_ARM..version.min(64)).rev().map(|version| ("arm".to_owned(), format!("v{version}")))
}

fn arm64_version(variant: &str) -> Option<(u32, u32)> {
    if variant.is_empty() {
        return Some((8, 0));
    }
    let (major, minor) = variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
    match (major.parse(), minor.parse()) {
        (Ok(major @ (8 | 9)), Ok(minor @ 0..=9)) => Some((major, minor)),
        _ => None,
    }
}

fn arm64_name(major: u32, minor: u32) -> String {
    if minor == 0 { format!("v{major}") } else { format!("v{major}.{minor}") }
}

/// `OS` or `OS(VERSION)`; the version may have %XX escapes.
fn parse_os(text: &str) -> Result<(String, String), &'static str> {
    let (name, version) = match text.split_once('(') {
        Some((name, rest)) => {
            let version = rest.strip_suffix(')').ok_or("a parenthesis is not closed")?;
            (name, unescape(version)?)
        }
        None => (text, String::new()),
    };
    if !is_word(name) || name.contains('.') {
        return Err("the operating system is empty or has characters other than letters, digits, _ -");
    }
    Ok((normalize_os(name), version))
}

fn unescape(version: &str) -> Result<String, &'static str> {
    if version.contains('+') {
        return Err("features of an operating system are not supported");
    }
    let mut bytes = Vec::new();
    let mut rest = version.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                bytes.push(byte.ok_or("% is not followed by two hexadecimal digits")?);
                rest = &rest[2..];
            }
            byte if is_word(char::from(*byte).encode_utf8(&mut [0; 4])) => bytes.push(*byte),
            _ => return Err("the version has characters other than letters, digits, _ . % -"),
        }
    }
    String::from_utf8(bytes).map_err(|_| "the version is not UTF-8")
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn normalize_os(os: &str) -> String {
    match os.to_ascii_lowercase() {
        os if os == "macos" => "darwin".to_owned(),
        os => os,
    }
}

fn normalize_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = (architecture.to_ascii_lowercase(), variant.to_ascii_lowercase());
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        (architecture, variant) => (architecture, variant),
    };
    (architecture.to_owned(), variant.to_owned())
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Self::parse(text, &Self::host())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amd64() -> Platform {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: String::new(),
            os_version: String::new(),
        }
    }

    fn parsed(text: &str) -> Platform {
        Platform::parse(text, &amd64()).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn aliases_are_resolved() {
        let cases = [
            ("Linux/x86_64", "linux/amd64"),
            ("macOS", "darwin/amd64"),
            ("Aarch64", "linux/arm64"),
            ("armhf", "linux/arm"),
            ("armel", "linux/arm/v6"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("windows(10.0.17763)", "windows/amd64"),
            ("i386", "linux/386"),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text).to_string(), expected, "{text}");
        }
        assert_eq!(parsed("windows(10.0%2Bb)").os_version, "10.0+b");
        assert_eq!(parsed("windows(10.0.17763)").full(), "windows(10.0.17763)/amd64");
        assert_eq!(parsed("linux/arm/v6").full(), "linux/arm/v6");
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        let refused =
            ["", "/linux/arm", "linux/arm/", "linux /arm", "linux/&arm", "a/b/c/d", "*", "linux/*", "nope"];
        for text in refused.into_iter().chain(["windows(", "windows(1%2)", "windows(a b)", "linux(+gpu)"]) {
            assert!(Platform::parse(text, &amd64()).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn older_variants_are_accepted_and_ranked_lower() {
        assert!(parsed("linux/arm/v7").accepts(&parsed("linux/arm/v6")));
        assert!(!parsed("linux/arm/v6").accepts(&parsed("linux/arm/v7")));
        assert!(parsed("linux/arm64").accepts(&parsed("linux/arm/v5")));
        assert!(parsed("linux/amd64").accepts(&parsed("linux/386")));
        assert!(!parsed("linux/amd64").accepts(&parsed("linux/amd64/v2")));
        assert!(!parsed("linux/amd64").accepts(&parsed("windows/amd64")));
        assert_eq!(parsed("linux/arm64/v8").rank(&parsed("linux/arm64")), Some(0));
        let wanted = parsed("linux/amd64/v3");
        assert!(wanted.rank(&parsed("linux/amd64/v2")) < wanted.rank(&parsed("linux/amd64")));
    }
}
