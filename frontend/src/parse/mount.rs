//! `RUN --mount=type=…,…`: keys and values, before and after expansion.
//!
//! The type is found first, so the order of keys does not matter (BuildKit refuses `required,type=secret`).

use super::values::{fields, size};
use crate::boolean;
use crate::expand::{self, ExpandError};
use crate::graph::CacheSharing;
use crate::instruction::{MountKind, MountSpec};
use crate::suggest::nearest;

/// Why a mount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// It is no list of fields.
    #[error("failed to parse csv mounts: {reason} in {text:?}")]
    Fields {
        /// The flag's value.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A field or a combination of fields is wrong.
    #[error("{message}")]
    Invalid {
        /// What is wrong.
        message: String,
        /// How to mend it.
        help: Option<String>,
    },
    /// A variable cannot be expanded.
    #[error(transparent)]
    Expand(#[from] ExpandError),
}

impl MountError {
    fn new(message: impl Into<String>) -> MountError {
        MountError::Invalid { message: message.into(), help: None }
    }

    fn near(message: String, text: &str, options: &[&str]) -> MountError {
        let help = match nearest(text, options) {
            Some(nearest) => format!("did you mean {nearest}?"),
            None => format!("expected one of {}", options.join(" ")),
        };
        MountError::Invalid { message, help: Some(help) }
    }

    /// How to mend it.
    pub fn help(&self) -> Option<String> {
        match self {
            MountError::Invalid { help, .. } => help.clone(),
            MountError::Fields { .. } | MountError::Expand(_) => None,
        }
    }
}

/// Expands one value.
pub type Expander<'a> = &'a mut dyn FnMut(&str) -> Result<String, ExpandError>;

impl MountSpec {
    /// Reads the mount again, with every value expanded.
    pub fn expand(&self, expander: Expander) -> Result<MountSpec, MountError> {
        let spec = read(&self.text, &mut |value| expander(value).map(Some))?;
        check(&spec)?;
        Ok(spec)
    }
}

/// Reads a mount as far as it is certain without the values of variables.
pub(super) fn parse(text: &str, escape: char) -> Result<MountSpec, MountError> {
    let spec = read(text, &mut |value| {
        if value.contains('$') {
            return Ok(None);
        }
        expand::word(value, escape, &|_| None).map(|expanded| Some(expanded.value))
    })?;
    if !text.contains('$') {
        check(&spec)?;
    }
    Ok(spec)
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Returns a value with its variables replaced, or nothing if that is not possible yet.
type Values<'a> = &'a mut dyn FnMut(&str) -> Result<Option<String>, ExpandError>;

fn read(text: &str, values: Values) -> Result<MountSpec, MountError> {
    let fields = fields(text).map_err(|reason| MountError::Fields { text: text.to_owned(), reason })?;
    let mut spec = MountSpec { text: text.to_owned(), ..MountSpec::default() };
    let mut pairs = Vec::new();
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        if !KEYS.contains(&key.as_str()) {
            return Err(MountError::near(format!("unexpected key '{key}' in '{field}'"), &key, &KEYS));
        }
        if key == "from" && value.is_some_and(|value| value.find('$').is_some_and(|at| at + 1 != value.len()))
        {
            let message = "'from' doesn't support variable expansion, define alias stage instead".to_owned();
            let help = Some("write FROM $IMAGE AS name, then from=name".to_owned());
            return Err(MountError::Invalid { message, help });
        }
        let expanded = match value {
            Some(value) => values(value)?.map(Some),
            None => Some(None),
        };
        if let Some(value) = expanded {
            pairs.push((key, value, field.as_str()));
        }
    }
    // Without the type nothing is certain that depends on it.
    let types_known = pairs.iter().filter(|(key, ..)| key == "type").count()
        == fields.iter().filter(|field| field.to_lowercase().starts_with("type=")).count();
    for (_, value, field) in pairs.iter().filter(|(key, ..)| key == "type") {
        spec.kind = kind(value.as_deref().ok_or_else(|| needs_value(field))?)?;
    }
    for (key, value, field) in pairs.iter().filter(|(key, ..)| key != "type") {
        match value {
            Some(value) => assign(&mut spec, key, value, types_known)?,
            None => switch(&mut spec, key, field, types_known)?,
        }
    }
    Ok(spec)
}

fn needs_value(field: &str) -> MountError {
    MountError::new(format!("invalid field '{field}' must be a key=value pair"))
}

fn kind(value: &str) -> Result<MountKind, MountError> {
    match value.to_lowercase().as_str() {
        "bind" => Ok(MountKind::Bind),
        "cache" => Ok(MountKind::Cache),
        "tmpfs" => Ok(MountKind::Tmpfs),
        "secret" => Ok(MountKind::Secret),
        "ssh" => Ok(MountKind::Ssh),
        _ => {
            let options = ["bind", "cache", "tmpfs", "secret", "ssh"];
            Err(MountError::near(format!("unsupported mount type {value:?}"), value, &options))
        }
    }
}

fn kind_name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

/// A key without a value.
fn switch(spec: &mut MountSpec, key: &str, field: &str, types_known: bool) -> Result<(), MountError> {
    match key {
        "readonly" | "ro" => spec.read_only = Some(true),
        "readwrite" | "rw" => spec.read_only = Some(false),
        "required" => {
            only_for(spec, key, &[MountKind::Secret, MountKind::Ssh], types_known)?;
            spec.required = true;
        }
        _ => return Err(needs_value(field)),
    }
    Ok(())
}

fn only_for(spec: &MountSpec, key: &str, kinds: &[MountKind], types_known: bool) -> Result<(), MountError> {
    if types_known && !kinds.contains(&spec.kind) {
        return Err(MountError::new(format!(
            "unexpected key '{key}' for mount type '{}'",
            kind_name(spec.kind)
        )));
    }
    Ok(())
}

fn assign(spec: &mut MountSpec, key: &str, value: &str, types_known: bool) -> Result<(), MountError> {
    let invalid = || MountError::new(format!("invalid value for {key}: {value}"));
    let number = |radix| {
        // Go's ParseUint takes no sign, Rust's takes a plus.
        let digits = Some(value).filter(|value| !value.starts_with('+'));
        digits
            .and_then(|value| u32::from_str_radix(value, radix).ok())
            .ok_or_else(|| MountError::new(format!("invalid value {value} for {key}")))
    };
    match key {
        "from" => spec.from = Some(value.to_owned()),
        "source" | "src" => spec.source = Some(value.to_owned()),
        "target" | "dst" | "destination" => spec.target = Some(value.to_owned()),
        "readonly" | "ro" => spec.read_only = Some(boolean::parse(value).ok_or_else(invalid)?),
        "readwrite" | "rw" => spec.read_only = Some(!boolean::parse(value).ok_or_else(invalid)?),
        "required" => {
            only_for(spec, key, &[MountKind::Secret, MountKind::Ssh], types_known)?;
            spec.required = boolean::parse(value).ok_or_else(invalid)?;
        }
        "size" => {
            only_for(spec, key, &[MountKind::Tmpfs], types_known)?;
            spec.size = Some(size(value).ok_or_else(invalid)?);
        }
        "id" => spec.id = Some(value.to_owned()),
        "sharing" => spec.sharing = Some(sharing(value)?),
        "mode" => spec.mode = Some(number(8)?),
        "uid" => spec.uid = Some(number(10)?),
        "gid" => spec.gid = Some(number(10)?),
        _ => spec.env = Some(value.to_owned()),
    }
    Ok(())
}

fn sharing(value: &str) -> Result<CacheSharing, MountError> {
    match value.to_lowercase().as_str() {
        "shared" => Ok(CacheSharing::Shared),
        "private" => Ok(CacheSharing::Private),
        "locked" => Ok(CacheSharing::Locked),
        _ => {
            let options = ["shared", "private", "locked"];
            Err(MountError::near(format!("unsupported sharing value {value:?}"), value, &options))
        }
    }
}

/// Checks what fields say together.
fn check(spec: &MountSpec) -> Result<(), MountError> {
    let kind = spec.kind;
    let given = |value: &Option<String>| value.as_ref().is_some_and(|value| !value.is_empty());
    if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
        for (key, value) in [("mode", spec.mode), ("uid", spec.uid), ("gid", spec.gid)] {
            if value.is_some() {
                return Err(MountError::new(format!(
                    "{key} not allowed for {:?} type mounts",
                    kind_name(kind)
                )));
            }
        }
    }
    if kind == MountKind::Secret {
        if given(&spec.from) {
            return Err(MountError::new("secret mount should not have a from"));
        }
        if spec.sharing.is_some() {
            return Err(MountError::new("secret mount should not define sharing"));
        }
        if !given(&spec.source) && !given(&spec.target) && !given(&spec.id) {
            let message = "invalid secret mount. one of source, target required".to_owned();
            return Err(MountError::Invalid { message, help: Some("write id=NAME".to_owned()) });
        }
        if given(&spec.source) && given(&spec.id) {
            return Err(MountError::new("both source and id can't be set"));
        }
    }
    if spec.sharing.is_some() && kind != MountKind::Cache {
        return Err(MountError::new(format!("invalid cache sharing set for {} mount", kind_name(kind))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<MountSpec, &str>) {
        let got = parse(text, '\\').map_err(|error| error.to_string());
        let expect = expect.map(|spec| MountSpec { text: text.to_owned(), ..spec }).map_err(str::to_owned);
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn fields_of_every_type() {
        let some = |text: &str| Some(text.to_owned());
        check("target=/x", Ok(MountSpec { target: some("/x"), ..MountSpec::default() }));
        check(
            "type=cache,id='a b',dst=/c,sharing=LOCKED,uid=1,mode=0700,ro=0",
            Ok(MountSpec {
                kind: MountKind::Cache,
                id: some("a b"),
                target: some("/c"),
                sharing: Some(CacheSharing::Locked),
                uid: Some(1),
                mode: Some(0o700),
                read_only: Some(false),
                ..MountSpec::default()
            }),
        );
        check(
            "required,type=secret,id=x,env=",
            Ok(MountSpec {
                kind: MountKind::Secret,
                id: some("x"),
                env: some(""),
                required: true,
                ..MountSpec::default()
            }),
        );
    }

    #[test]
    fn mistakes() {
        check("type=bnd", Err("unsupported mount type \"bnd\""));
        check("tagret=/x", Err("unexpected key 'tagret' in 'tagret=/x'"));
        check("target", Err("invalid field 'target' must be a key=value pair"));
        check("size=1m", Err("unexpected key 'size' for mount type 'bind'"));
        check("type=secret", Err("invalid secret mount. one of source, target required"));
        check("from=$x", Err("'from' doesn't support variable expansion, define alias stage instead"));
        check("uid=+1,type=cache", Err("invalid value +1 for uid"));
    }

    #[test]
    fn variables_are_left_open_until_they_are_known() {
        let spec = parse("type=$T,sharing=$S,target=/x,size=1m", '\\').expect("open");
        assert_eq!((spec.kind, spec.sharing), (MountKind::Bind, None));
        let full = spec.expand(&mut |value| Ok(value.replace("$T", "tmpfs").replace("$S", "shared")));
        assert_eq!(full.expect_err("tmpfs").to_string(), "invalid cache sharing set for tmpfs mount");
    }
}
