//! Names to addresses through hickory, with the address check inside: what is checked is what is connected to.
//!
//! A check before the connection could be undone by a second answer of the same name (rebinding, reliability
//! REG-02). Reads /etc/hosts and /etc/resolv.conf; calls nothing of libc.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::{Kind, classify};

/// A name that resolves to addresses inside only.
#[derive(Debug, thiserror::Error)]
#[error("{name} resolves to {address}")]
pub(super) struct RefusedAddress {
    /// The name.
    pub name: String,
    /// One of its addresses.
    pub address: IpAddr,
    /// What is wrong with it.
    pub kind: Kind,
}

/// The look-up shared by all connections; its configuration is read when the first name is looked up.
#[derive(Clone, Default)]
pub(super) struct Lookup(Arc<OnceLock<TokioResolver>>);

impl Lookup {
    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Error> {
        // RFC 6761 §6.3: localhost is this machine, whatever a resolver says.
        if name.eq_ignore_ascii_case("localhost") {
            return Ok(vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
        }
        let resolver = match self.0.get() {
            Some(resolver) => resolver,
            None => {
                let resolver = system_resolver()?;
                self.0.get_or_init(|| resolver)
            }
        };
        Ok(resolver.lookup_ip(name).await?.iter().collect())
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The resolver of /etc/resolv.conf. There is no fall-back to a public server: a machine without DNS shall not
/// tell strangers which registries it uses.
fn system_resolver() -> Result<TokioResolver, Error> {
    let mut builder = TokioResolver::builder_tokio()?;
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    Ok(builder.build()?)
}

/// Resolves any name: for the registry itself, which the user named.
pub(super) struct Open(pub Lookup);

/// Resolves to public addresses only, except for the proxies, which the user named.
pub(super) struct Guarded {
    /// The look-up.
    pub lookup: Lookup,
    /// Names of proxies.
    pub exempt: BTreeSet<String>,
}

impl Resolve for Open {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.0.clone();
        Box::pin(async move { Ok(sockets(lookup.addresses(name.as_str()).await?)) })
    }
}

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let lookup = self.lookup.clone();
        let exempt = self.exempt.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let addresses = lookup.addresses(name.as_str()).await?;
            if exempt {
                return Ok(sockets(addresses));
            }
            Ok(sockets(public(name.as_str(), addresses)?))
        })
    }
}

/// Keeps the public addresses, or says why there are none.
fn public(name: &str, addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, RefusedAddress> {
    let (public, inside): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| classify(*address) == Kind::Public);
    match inside.first() {
        Some(address) if public.is_empty() => {
            Err(RefusedAddress { name: name.to_owned(), address: *address, kind: classify(*address) })
        }
        _ => Ok(public),
    }
}

fn sockets(addresses: Vec<IpAddr>) -> Addrs {
    Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &[&str], expected: Option<&[&str]>) {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(public("n", parse(addresses)).ok(), expected.map(parse), "{addresses:?}");
    }

    #[test]
    fn reg_02_a_name_leads_to_public_addresses_only() {
        check(&["1.1.1.1"], Some(&["1.1.1.1"]));
        check(&["169.254.169.254"], None);
        check(&["::ffff:10.0.0.1", "fd00:ec2::254"], None);
        check(&["10.0.0.1", "1.1.1.1"], Some(&["1.1.1.1"]));
        check(&[], Some(&[]));
    }

    /// Answers questions for addresses with one of `answers` after the other, the last for good; for one look-up
    /// there are two questions, of which that for IPv6 is answered with nothing. Every answer is good for no time.
    async fn serve(socket: tokio::net::UdpSocket, answers: Vec<[u8; 4]>) {
        let mut asked = 0;
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            // RFC 1035 §4.1: a head of 12 bytes, the name in labels up to an empty one, type and class.
            let end = 12 + buffer[12..length].iter().position(|byte| *byte == 0).expect("a name ends") + 5;
            let is_v4 = buffer[end - 4..end - 2] == [0, 1];
            let mut answer = buffer[..2].to_vec();
            answer.extend_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
            answer.extend_from_slice(&buffer[12..end]);
            if is_v4 {
                answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend_from_slice(&answers[asked.min(answers.len() - 1)]);
                asked += 1;
            }
            let _ = socket.send_to(&answer, peer).await;
        }
    }

    async fn lookup(answers: Vec<[u8; 4]>) -> Lookup {
        use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
        use hickory_resolver::net::runtime::TokioRuntimeProvider;

        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        tokio::spawn(serve(socket, answers));
        let mut server = NameServerConfig::udp([127, 0, 0, 1].into());
        server.connections = vec![connection];
        let config = ResolverConfig::from_name_servers(vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Lookup(Arc::new(OnceLock::from(builder.build().unwrap())))
    }

    async fn resolve(resolver: &impl Resolve) -> Result<Vec<IpAddr>, Error> {
        let name = "rebinding.example".parse().unwrap();
        Ok(resolver.resolve(name).await?.map(|address| address.ip()).collect())
    }

    #[tokio::test]
    async fn reg_02_a_name_that_changes_its_address_is_checked_again() {
        let answers = vec![[93, 184, 216, 34], [169, 254, 169, 254], [93, 184, 216, 35], [127, 0, 0, 1]];
        let guarded = Guarded { lookup: lookup(answers.clone()).await, exempt: BTreeSet::new() };
        // What a look-up returns is what is connected to, so each connection has had its check.
        assert_eq!(resolve(&guarded).await.unwrap(), [IpAddr::from([93, 184, 216, 34])]);
        let refused = resolve(&guarded).await.unwrap_err();
        let refused = refused.downcast_ref::<RefusedAddress>().unwrap();
        assert_eq!((refused.address, refused.kind), ([169, 254, 169, 254].into(), Kind::LinkLocal));
        assert_eq!(resolve(&guarded).await.unwrap(), [IpAddr::from([93, 184, 216, 35])]);
        assert!(resolve(&guarded).await.is_err());
        // The registry itself and proxies, which the user named, may be anywhere.
        let exempt = BTreeSet::from(["rebinding.example".to_owned()]);
        for resolver in [
            Box::new(Open(lookup(vec![[10, 0, 0, 1]]).await)) as Box<dyn Resolve>,
            Box::new(Guarded { lookup: lookup(vec![[10, 0, 0, 1]]).await, exempt }),
        ] {
            let name = "rebinding.example".parse().unwrap();
            let found: Vec<IpAddr> = resolver.resolve(name).await.unwrap().map(|found| found.ip()).collect();
            assert_eq!(found, [IpAddr::from([10, 0, 0, 1])]);
        }
    }

    #[tokio::test]
    async fn localhost_needs_no_resolver() {
        let addresses = Lookup::default().addresses("LocalHost").await.unwrap();
        assert!(addresses.iter().all(|address| address.is_loopback()) && addresses.len() == 2);
    }
}
