//! EXPOSE: port specifications as BuildKit reads them.

/// One specification, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ports {
    /// Each as `80/tcp`.
    pub(super) ports: Vec<String>,
    /// The protocol was not written in lower case.
    pub(super) odd_case: bool,
    /// A host address or host port was given, which EXPOSE ignores.
    pub(super) host_part: bool,
}

/// Reads `[[ip:]host:]port[-port][/protocol]`.
pub(super) fn parse(spec: &str) -> Result<Ports, String> {
    let (ip, host, container) = split(spec);
    let (container, protocol) = container.split_once('/').unwrap_or((container, ""));
    if container.is_empty() {
        return Err(format!("invalid port: {spec:?}: no port specified"));
    }
    let lower = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid port: {spec:?}: invalid proto: {protocol}, expected tcp, udp or sctp"));
    }
    check_ip(ip)?;
    let (first, last) = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    if !host.is_empty() {
        let (low, high) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last != first && last - first != high - low {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {host}"
            ));
        }
    }
    Ok(Ports {
        ports: (first..=last).map(|port| format!("{port}/{lower}")).collect(),
        odd_case: !protocol.is_empty() && protocol != lower,
        host_part: !ip.is_empty() || !host.is_empty(),
    })
}

fn split(spec: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = spec.rsplit_once(':') else { return ("", "", spec) };
    match rest.rsplit_once(':') {
        Some((ip, host)) => (ip, host, container),
        None => ("", rest, container),
    }
}

fn check_ip(ip: &str) -> Result<(), String> {
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if bare.is_empty() || bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address: {ip}"))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_addresses_and_protocols() {
        let check = |spec: &str, expected: &[&str]| {
            assert_eq!(parse(spec).unwrap().ports, expected, "{spec}");
        };
        check("80", &["80/tcp"]);
        check("80-82/UDP", &["80/udp", "81/udp", "82/udp"]);
        check("0.0.0.0:1234-1235:3333-3334/tcp", &["3333/tcp", "3334/tcp"]);
        check("[::1]:80:80", &["80/tcp"]);
        check("2001:4860:0:2001::68::333", &["333/tcp"]);
        for bad in ["", "x", "80/icmp", "80-79", "65536", "localhost:1:1", "0.0.0.0:1:", "1-3:1-2", "+1", "-"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
