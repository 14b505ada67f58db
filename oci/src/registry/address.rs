//! Which network addresses a registry's words may lead to. Knows addresses only: no DNS, no sockets.
//!
//! A registry chooses the realm of its token server, the targets of redirects and the Location of uploads.
//! Without a check each of them is a way to make the builder talk to the cloud's metadata service or to a
//! database on the inside (reliability REG-01, REG-02).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

/// `host:port` of a URL, the unit in which trust is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Authority {
    /// Host in lower case, without brackets.
    pub host: String,
    /// Port, the scheme's own where the URL names none.
    pub port: u16,
}

impl Authority {
    /// Returns where `url` leads; `None` for a URL without a host.
    pub fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?.trim_matches(['[', ']']).to_ascii_lowercase();
        Some(Self { host, port: url.port_or_known_default()? })
    }

    /// Parses `host[:port]`; the port is 443 where it is absent.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(&Url::parse(&format!("https://{text}/")).ok()?)
    }
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why an address is not reachable for a stranger's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This machine.
    Loopback,
    /// A link's own range, where clouds put their metadata services.
    LinkLocal,
    /// A network that is not routed on the internet.
    Private,
    /// No host's address: unspecified, multicast, broadcast, reserved.
    Special,
    /// Anything else.
    Public,
}

impl Kind {
    /// Returns the word for a message.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Private => "private",
            Self::Special => "special",
            Self::Public => "public",
        }
    }
}

/// Returns what `address` is.
pub fn classify(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(v4) => classify_v4(v4),
        IpAddr::V6(v6) => classify_v6(v6),
    }
}

fn classify_v4(address: Ipv4Addr) -> Kind {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, ..) => Kind::Loopback,
        (169, 254, _) => Kind::LinkLocal,
        // RFC 1918 and carrier-grade NAT (RFC 6598), which clouds use on the inside.
        (10, ..) | (192, 168, _) => Kind::Private,
        (172, 16..=31, _) | (100, 64..=127, _) => Kind::Private,
        // RFC 6890: this network, protocol assignments, benchmarking.
        (0, ..) | (192, 0, 0) | (198, 18..=19, _) | (224.., ..) => Kind::Special,
        _ => Kind::Public,
    }
}

fn classify_v6(address: Ipv6Addr) -> Kind {
    if let Some(v4) = embedded_v4(address) {
        return classify_v4(v4);
    }
    let first = address.segments()[0];
    if address == Ipv6Addr::LOCALHOST {
        return Kind::Loopback;
    }
    match first {
        0xfe80..=0xfebf => Kind::LinkLocal,
        // fc00::/7 (RFC 4193); fec0::/10 was site-local (RFC 3879). AWS' metadata service is fd00:ec2::254.
        0xfc00..=0xfdff | 0xfec0..=0xfeff => Kind::Private,
        0xff00.. => Kind::Special,
        _ if address.is_unspecified() => Kind::Special,
        _ => Kind::Public,
    }
}

/// The IPv4 address inside a mapped, compatible, NAT64 (RFC 6052) or 6to4 (RFC 3056) address.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let last = || Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    match s {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(last()),
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0, ..] => Some(last()),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

/// Returns the literal address in `url`'s host. `url` has already turned decimal, octal and hexadecimal
/// spellings of IPv4 into an address (WHATWG URL, host parsing).
pub fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Returns whether a registry of this host speaks plain HTTP unless told otherwise: 127.0.0.0/8, ::1, localhost.
pub fn is_loopback_host(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: IpAddr| classify(address) == Kind::Loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<Kind>) {
        let url = Url::parse(url).unwrap();
        assert_eq!(literal(&url).map(classify), expected, "{url}");
    }

    #[test]
    fn reg_01_addresses_in_every_spelling() {
        check("http://127.0.0.1/", Some(Kind::Loopback));
        check("http://2130706433/", Some(Kind::Loopback));
        check("http://0x7f.1/", Some(Kind::Loopback));
        check("http://0177.0.0.1/", Some(Kind::Loopback));
        check("http://[::1]/", Some(Kind::Loopback));
        check("http://[::ffff:127.0.0.1]/", Some(Kind::Loopback));
        check("http://0.0.0.0/", Some(Kind::Special));
        check("http://[::]/", Some(Kind::Special));
        check("http://169.254.169.254/latest", Some(Kind::LinkLocal));
        check("http://[fe80::1]/", Some(Kind::LinkLocal));
        check("http://[64:ff9b::a9fe:a9fe]/", Some(Kind::LinkLocal));
        check("http://[2002:a9fe:a9fe::1]/", Some(Kind::LinkLocal));
        check("http://[fd00:ec2::254]/", Some(Kind::Private));
        check("http://10.1.2.3/", Some(Kind::Private));
        check("http://172.31.0.1/", Some(Kind::Private));
        check("http://192.168.0.1/", Some(Kind::Private));
        check("http://100.100.100.200/", Some(Kind::Private));
    }

    #[test]
    fn reg_01_public_addresses_and_names_pass() {
        check("https://1.1.1.1/", Some(Kind::Public));
        check("https://172.32.0.1/", Some(Kind::Public));
        check("https://[2606:4700::1111]/", Some(Kind::Public));
        check("https://auth.docker.io/token", None);
    }

    #[test]
    fn loopback_registries_are_plain() {
        for host in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1", "docker.io"] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
