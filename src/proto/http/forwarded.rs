//! Who asks, behind proxies: each trusted one is believed about the hop before it, and nobody about more.

use std::net::{IpAddr, SocketAddr};

use super::head::Head;
use super::{HttpError, Visitor};

/// Who a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// As far back as somebody is believed. `None`: the peer of a unix socket, of whom nothing is known.
    pub address: Option<SocketAddr>,
    /// Whether this is the address of who asks, and not that of a proxy which did not say for whom.
    pub known: bool,
}

/// Goes back over the hops that the headers name, from the last proxy on, for as long as each is trusted.
///
/// # Errors
/// The two headers contradict each other. A proxy writes one of them and passes on what its client wrote into the
/// other, and nobody can tell which is which.
pub(super) fn client(head: &Head<'_>, visitor: Visitor<'_>) -> Result<Client, HttpError> {
    let named = !head.x_forwarded_for.is_empty() || !head.forwarded.is_empty();
    if !visitor.proxies.trusts(visitor.address.map(|a| a.ip())) {
        // A proxy that nobody told us of makes every peer look like itself; its header gives it away.
        return Ok(Client { address: visitor.address, known: visitor.address.is_some() && !named });
    }
    let plain = head.x_forwarded_for.iter().rev().flat_map(|line| line.rsplit(|&b| b == b','));
    let plain = plain.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty());
    let plain = back(visitor, plain.map(node));
    if head.forwarded.is_empty() {
        return Ok(plain);
    }
    let elements: Vec<_> = head.forwarded.iter().flat_map(|line| elements(line)).collect();
    let standard = back(visitor, elements.into_iter().rev());
    let ip = |client: Client| client.address.map(|a| a.ip());
    match head.x_forwarded_for.is_empty() || ip(plain) == ip(standard) {
        true => Ok(standard),
        false => Err(HttpError::Forwarded),
    }
}

/// `hops`: the last proxy's word first; `None` is one whose address is not told.
fn back(visitor: Visitor<'_>, mut hops: impl Iterator<Item = Option<SocketAddr>>) -> Client {
    let mut client = Client { address: visitor.address, known: false };
    while visitor.proxies.trusts(client.address.map(|a| a.ip())) {
        match hops.next() {
            Some(Some(hop)) => client = Client { address: Some(hop), known: true },
            Some(None) => return Client { known: false, ..client },
            None => break,
        }
    }
    client
}

/// The hops of one line of `Forwarded`, in its order. One that is malformed names nobody.
fn elements(line: &[u8]) -> impl Iterator<Item = Option<SocketAddr>> {
    let elements = split(line, b',').filter(|element| !element.trim_ascii().is_empty());
    elements.map(|element| {
        let pairs = split(element, b';').filter_map(|pair| {
            let at = pair.iter().position(|&b| b == b'=')?;
            Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
        });
        let mut named = pairs.filter(|(name, _)| name.eq_ignore_ascii_case(b"for"));
        match (named.next(), named.next()) {
            (Some((_, value)), None) => node(unquote(value)),
            _ => None,
        }
    })
}

/// At each `separator` outside of quotes.
fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |&byte| {
        let ends = byte == separator && !quoted;
        quoted ^= byte == b'"' && !escaped;
        escaped = byte == b'\\' && quoted && !escaped;
        ends
    })
}

/// No address needs a backslash, so what holds one is no address.
fn unquote(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// An address with or without a port, an IPv6 one with brackets where it has one. `None`: `unknown`, a name that hides
/// the address, or nonsense.
fn node(text: &[u8]) -> Option<SocketAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip.to_canonical(), 0));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
        None => text.split_once(':').map(|(host, port)| (host, Some(port)))?,
    };
    // RFC 7239 lets a proxy hide the port alone.
    let hidden =
        |port: &str| port.starts_with('_') && port.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    let ip: IpAddr = host.parse().ok()?;
    let fits =
        port.is_none_or(hidden) && ip.is_ipv6() == text.starts_with('[') && (port.is_some() || text.ends_with(']'));
    fits.then(|| SocketAddr::new(ip.to_canonical(), 0))
}

#[cfg(test)]
mod tests {
    use super::super::{Door, Services, next};
    use super::*;
    use crate::config::TrustedProxies;
    use crate::proto::http::tests::{site, trusted};

    fn ask(peer: Option<&str>, proxies: &TrustedProxies, headers: &str) -> Result<(String, bool), HttpError> {
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        let head = Head::parse(request.as_bytes())?.unwrap();
        let address = peer.map(|peer| SocketAddr::new(peer.parse().unwrap(), 4));
        let visitor = Visitor { address, proxies, door: Door::Main { tls: false }, last: false };
        let found = client(&head, visitor);
        let exchange = next(request.as_bytes(), &site(), Services::default(), visitor);
        assert_eq!(exchange.map(|e| e.unwrap().client), found.map(|client| client.address), "what the edge is told");
        found.map(|client| (client.address.map_or("nobody".into(), |a| a.to_string()), client.known))
    }

    /// 10.0.0.0/8, 2001:db8:1::/48 and unix are trusted.
    fn of(peer: &str, headers: &str) -> (String, bool) {
        let peer = Some(peer).filter(|peer| *peer != "unix");
        ask(peer, &trusted(), headers).unwrap_or_else(|error| (error.to_string(), false))
    }

    fn is(address: &str, known: bool) -> (String, bool) {
        (address.to_owned(), known)
    }

    #[test]
    fn strangers_are_not_believed() {
        assert_eq!(of("192.0.2.1", ""), is("192.0.2.1:4", true));
        for header in ["X-Forwarded-For: 127.0.0.1\r\n", "Forwarded: for=127.0.0.1\r\n", "Forwarded: nonsense\r\n"] {
            assert_eq!(of("192.0.2.1", header), is("192.0.2.1:4", false), "{header}");
        }
        let header = "X-Forwarded-For: 127.0.0.1\r\n";
        assert_eq!(ask(None, &TrustedProxies::default(), header), Ok(is("nobody", false)));
    }

    #[test]
    fn the_last_hop_that_no_proxy_of_ours_made_is_the_client() {
        for (header, client) in [
            ("192.0.2.1", is("192.0.2.1:0", true)),
            // What the client wrote itself comes first.
            ("127.0.0.1, 192.0.2.1", is("192.0.2.1:0", true)),
            ("127.0.0.1 ,,192.0.2.1,10.9.9.9 , ", is("192.0.2.1:0", true)),
            ("198.51.100.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 10.9.9.9", is("192.0.2.1:0", true)),
            ("192.0.2.1:4711", is("192.0.2.1:4711", true)),
            ("[2001:db8::7]:4711", is("[2001:db8::7]:4711", true)),
            ("[2001:db8::7]", is("[2001:db8::7]:0", true)),
            ("2001:db8::7", is("[2001:db8::7]:0", true)),
            ("::ffff:192.0.2.1", is("192.0.2.1:0", true)),
            ("192.0.2.1, 2001:db8:1::9", is("192.0.2.1:0", true)),
            // All of them are ours: the first one is who asked.
            ("10.1.1.1, 10.2.2.2", is("10.1.1.1:0", true)),
            // Who hides the client hides what was before it as well.
            ("192.0.2.1, unknown", is("10.0.0.1:4", false)),
            ("192.0.2.1, _hidden, 10.3.3.3", is("10.3.3.3:0", false)),
            ("192.0.2.1.5", is("10.0.0.1:4", false)),
            ("192.0.2.1:", is("10.0.0.1:4", false)),
            ("[192.0.2.1]", is("10.0.0.1:4", false)),
            ("", is("10.0.0.1:4", false)),
        ] {
            assert_eq!(of("10.0.0.1", &format!("X-Forwarded-For: {header}\r\n")), client, "{header}");
        }
        assert_eq!(of("10.0.0.1", ""), is("10.0.0.1:4", false), "a proxy that says nothing is nobody in particular");
        assert_eq!(of("unix", "X-Forwarded-For: 192.0.2.1\r\n"), is("192.0.2.1:0", true));
        assert_eq!(of("unix", ""), is("nobody", false));
    }

    #[test]
    fn the_standard_header_by_its_grammar() {
        for (header, client) in [
            ("for=192.0.2.1", is("192.0.2.1:0", true)),
            ("For=\"192.0.2.1:80\";proto=https;by=10.0.0.1", is("192.0.2.1:80", true)),
            ("proto=http ; FOR = 192.0.2.1 ; host=\"a,b;for=127.0.0.1\"", is("192.0.2.1:0", true)),
            ("for=127.0.0.1, for=\"[2001:db8::7]:4711\", for=10.1.1.1", is("[2001:db8::7]:4711", true)),
            ("for=\"[2001:db8::7]\"", is("[2001:db8::7]:0", true)),
            ("for=\"[2001:db8::7]:_port\"", is("[2001:db8::7]:0", true)),
            ("for=\"192.0.2.1:_p.0-1\"", is("192.0.2.1:0", true)),
            ("for=192.0.2.1\r\nForwarded: for=10.4.4.4", is("192.0.2.1:0", true)),
            ("for=192.0.2.1, for=unknown", is("10.0.0.1:4", false)),
            ("for=192.0.2.1, for=_gazonk", is("10.0.0.1:4", false)),
            ("for=192.0.2.1, proto=https", is("10.0.0.1:4", false)),
            ("for=192.0.2.1;for=127.0.0.1", is("10.0.0.1:4", false)),
            // A quote that never ends swallows the rest, which then is one hop that names nobody.
            ("for=\"192.0.2.1, for=127.0.0.1", is("10.0.0.1:4", false)),
            ("for=\"a\\\", for=127.0.0.1\", for=192.0.2.1", is("192.0.2.1:0", true)),
        ] {
            assert_eq!(of("10.0.0.1", &format!("Forwarded: {header}\r\n")), client, "{header}");
        }
    }

    #[test]
    fn two_headers_must_tell_the_same() {
        let both = |plain: &str, standard: &str| {
            let headers = format!("X-Forwarded-For: {plain}\r\nForwarded: {standard}\r\n");
            ask(Some("10.0.0.1"), &trusted(), &headers)
        };
        assert_eq!(both("192.0.2.1", "for=\"192.0.2.1:99\""), Ok(is("192.0.2.1:99", true)));
        assert_eq!(both("192.0.2.1", "for=127.0.0.1"), Err(HttpError::Forwarded));
        assert_eq!(both("127.0.0.1", "for=192.0.2.1"), Err(HttpError::Forwarded));
        assert_eq!(both("192.0.2.1", "for=unknown"), Err(HttpError::Forwarded));
    }
}
