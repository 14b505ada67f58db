//! Values of single flags.

use std::path::PathBuf;

use frontend::graph::{ExtraHost, Network, Ulimit};
use oci::Platform;
use oci::reference::Reference;

use super::{Secret, SecretSource, usage, variable};
use crate::failure::Failure;

/// Parses the values of a flag that may be given several times.
pub fn each<T>(texts: &[String], parse: impl Fn(&str) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
    texts.iter().map(|text| parse(text)).collect()
}

/// Parses an image name.
pub fn tag(flag: &str, name: &str) -> Result<Reference, Failure> {
    name.parse().map_err(|error| usage(&format!("{flag} {name}"), &format!("{error}"), "write NAME[:TAG]"))
}

/// Parses `NAME=VALUE`.
pub fn pair(flag: &str, text: &str) -> Result<(String, String), Failure> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) => Err(usage(&format!("{flag} {text}"), "the name is empty", "write NAME=VALUE")),
        None if text.is_empty() => Err(usage(&format!("{flag} ''"), "the name is empty", "write NAME=VALUE")),
        None => Ok((text.to_owned(), String::new())),
    }
}

/// Returns the platforms to build for, each once, in the order in which they were named. As in BuildKit their names are
/// normalised: `linux/arm` is `linux/arm/v7`, `linux/arm64/v8` is `linux/arm64`.
pub fn platforms(values: &[String]) -> Result<Vec<Platform>, Failure> {
    let mut platforms = Vec::new();
    for text in values.iter().flat_map(|value| value.split(',')) {
        let platform = one_platform(&format!("--platform {text}"), text.trim())?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// Parses and normalises a platform; `local` is this machine's.
pub fn one_platform(flag: &str, text: &str) -> Result<Platform, Failure> {
    if text.eq_ignore_ascii_case("local") {
        return Ok(Platform::host().normalize());
    }
    let parsed = text.parse::<Platform>().map(|platform| platform.normalize());
    parsed.map_err(|error| usage(flag, &error.to_string(), "write os/arch[/variant]"))
}

/// Parses `--network`.
pub fn network(flag: &str, text: &str) -> Result<Network, Failure> {
    match text {
        "default" => Ok(Network::Default),
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        other => Err(usage(
            &format!("{flag} {other}"),
            "this network mode is not supported yet",
            "use default, host or none",
        )),
    }
}

/// Parses a size such as `64m`: bytes, with b, k, m, g or t for powers of 1024.
pub fn parse_size(flag: &str, text: &str) -> Result<u64, Failure> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[digits.len()..].trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => 64,
    };
    let bytes =
        digits.parse::<u64>().ok().filter(|_| shift < 64).and_then(|count| count.checked_mul(1 << shift));
    bytes.ok_or_else(|| usage(&format!("{flag} {text}"), "it is no size", "write a number with k, m or g"))
}

/// Parses a secret as [`secret`] does, and tells at once of a file that is not there: a cached build would never look.
pub fn readable_secret(text: &str) -> Result<Secret, Failure> {
    let secret = secret(text)?;
    if let SecretSource::File(path) = &secret.source {
        std::fs::metadata(path).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            usage(&format!("--secret {text}"), &why, "give a file that is there, or env=NAME")
        })?;
    }
    Ok(secret)
}

/// Parses `id=ID[,src=PATH|,env=NAME][,type=file|env]`.
pub fn secret(text: &str) -> Result<Secret, Failure> {
    let flag = format!("--secret {text}");
    let (mut id, mut file, mut env, mut kind) = (None, None, None, None);
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            return Err(usage(
                &flag,
                &format!("{field:?} has no value"),
                "write id=ID,src=PATH or id=ID,env=NAME",
            ));
        };
        match key {
            "id" => id = Some(value.to_owned()),
            "src" | "source" => file = Some(PathBuf::from(value)),
            "env" => env = Some(value.to_owned()),
            "type" if matches!(value, "file" | "env") => kind = Some(value.to_owned()),
            _ => {
                return Err(usage(
                    &flag,
                    &format!("unknown key {key:?}"),
                    "the keys are id, src, env and type",
                ));
            }
        }
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(usage(&flag, "there is no id", "write id=ID,src=PATH"));
    };
    let source = match (file, env, kind.as_deref()) {
        (Some(path), None, Some("env")) => SecretSource::Variable(path.to_string_lossy().into_owned()),
        (Some(path), None, _) => SecretSource::File(path),
        (None, Some(name), _) => SecretSource::Variable(name),
        (None, None, Some("file")) => SecretSource::File(PathBuf::from(&id)),
        (None, None, _) if variable(&id).is_some() => SecretSource::Variable(id.clone()),
        (None, None, _) => SecretSource::File(PathBuf::from(&id)),
        (Some(_), Some(_), _) => return Err(usage(&flag, "it has both src and env", "give one of them")),
    };
    Ok(Secret { id, source })
}

/// Parses `default` or `ID[=SOCKET]`; without a socket it is that of SSH_AUTH_SOCK.
pub fn ssh(text: &str) -> Result<(String, PathBuf), Failure> {
    let (id, socket) = match text.split_once('=') {
        Some((id, socket)) => (id, Some(PathBuf::from(socket))),
        None => (text, None),
    };
    let socket = socket.or_else(|| variable("SSH_AUTH_SOCK").map(PathBuf::from)).ok_or_else(|| {
        usage(
            &format!("--ssh {text}"),
            "there is no agent: SSH_AUTH_SOCK is not set",
            "start ssh-agent or give ID=SOCKET",
        )
    })?;
    Ok((id.to_owned(), socket))
}

/// Parses `HOST:IP` or `HOST=IP`.
pub fn extra_host(text: &str) -> Result<ExtraHost, Failure> {
    let flag = format!("--add-host {text}");
    let Some((name, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
        return Err(usage(&flag, "there is no address", "write HOST:IP"));
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(usage(&flag, "the host name is not usable", "write HOST:IP"));
    }
    if address.parse::<std::net::IpAddr>().is_err() {
        return Err(usage(&flag, &format!("{address:?} is no IP address"), "write HOST:IP"));
    }
    Ok(ExtraHost { name: name.to_owned(), address: address.to_owned() })
}

/// Parses `TYPE=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    const NAMES: &[&str] = &[
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let flag = format!("--ulimit {text}");
    let (name, limits) =
        text.split_once('=').ok_or_else(|| usage(&flag, "there is no value", "write TYPE=SOFT[:HARD]"))?;
    if !NAMES.contains(&name) {
        return Err(usage(
            &flag,
            &format!("unknown limit {name:?}"),
            &format!("the limits are {}", NAMES.join(", ")),
        ));
    }
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |text: &str| match text {
        "unlimited" => Ok(-1),
        _ => text
            .parse::<i64>()
            .map_err(|_| usage(&flag, &format!("{text:?} is no number"), "write TYPE=SOFT[:HARD]")),
    };
    let limit = Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? };
    if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
        return Err(usage(&flag, "the soft limit is above the hard one", "write TYPE=SOFT[:HARD]"));
    }
    Ok(limit)
}

/// Checks an entitlement's name.
pub fn entitlement(text: &str) -> Result<String, Failure> {
    match text {
        "network.host" | "security.insecure" => Ok(text.to_owned()),
        other => Err(usage(
            &format!("--allow {other}"),
            "unknown entitlement",
            "the entitlements are network.host and security.insecure",
        )),
    }
}

/// Returns SOURCE_DATE_EPOCH of the environment; empty means unset. A build argument of that name wins over it: what
/// that means is known when the Dockerfile is read, because it may name a context or a stage.
pub fn source_date_epoch(build_args: &[(String, String)]) -> Result<Option<i64>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    if build_args.iter().any(|(name, _)| name == NAME) {
        return Ok(None);
    }
    let Some(text) = variable(NAME).filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse::<i64>() {
        Ok(seconds) if seconds >= 0 => Ok(Some(seconds)),
        Ok(_) | Err(_) => Err(usage(
            &format!("{NAME}={text}"),
            "it is no count of seconds since 1970",
            "use `date +%s` or unset it",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        let check =
            |text: &str, expect: Option<u64>| assert_eq!(parse_size("--memory", text).ok(), expect, "{text}");
        check("10", Some(10));
        check("64m", Some(64 << 20));
        check("2Gb", Some(2 << 30));
        check("1kib", Some(1 << 10));
        check("m", None);
        check("-1", None);
        check("1x", None);
        check("99999999999t", None);
    }

    #[test]
    fn platforms_are_named_once_each() {
        let check = |values: &[&str], expect: Option<&str>| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            let names = platforms(&values)
                .ok()
                .map(|platforms| platforms.iter().map(Platform::full).collect::<Vec<_>>().join(" "));
            assert_eq!(names.as_deref(), expect, "{values:?}");
        };
        check(&[], Some(""));
        check(&["linux/arm64,linux/amd64", "linux/aarch64"], Some("linux/arm64 linux/amd64"));
        check(&["linux/arm", "linux/arm/v7, linux/arm/v6"], Some("linux/arm/v7 linux/arm/v6"));
        check(&["windows(1.2.3)/amd64,windows/amd64"], Some("windows(1.2.3)/amd64 windows/amd64"));
        check(&["linux/amd64,"], None);
        check(&["nope"], None);
    }

    #[test]
    fn secrets_name_a_file_or_a_variable() {
        assert_eq!(
            secret("id=a,src=/f").unwrap(),
            Secret { id: "a".into(), source: SecretSource::File("/f".into()) }
        );
        assert_eq!(
            secret("id=a,env=X").unwrap(),
            Secret { id: "a".into(), source: SecretSource::Variable("X".into()) }
        );
        assert!(secret("src=/f").is_err());
        assert!(secret("id=a,src=/f,env=X").is_err());
        assert!(secret("id=a,nope=1").is_err());
        assert!(readable_secret("id=a,src=/nowhere/at/all").is_err());
        assert!(readable_secret("id=a,src=/dev/null").is_ok());
    }

    #[test]
    fn hosts_and_limits_are_checked() {
        assert_eq!(extra_host("h:::1").unwrap().address, "::1");
        assert!(extra_host("h:nope").is_err());
        assert_eq!(ulimit("nofile=1:2").unwrap(), Ulimit { name: "nofile".into(), soft: 1, hard: 2 });
        assert!(ulimit("nofile=3:2").is_err());
        assert!(ulimit("nofiles=1").is_err());
    }
}
