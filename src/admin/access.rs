//! Who may ask on an admin listener.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};

use crate::config::AdminConfig;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Peer {
    Tcp(SocketAddr),
    /// The file's permissions let them in.
    Unix,
}

/// Why somebody may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// From this machine.
    Local,
    Token,
    /// From an address in `--admin-allow`.
    Allowed,
}

/// # Errors
/// What to tell them, and how to open it.
pub(super) fn check(config: &AdminConfig, peer: Peer, headers: &HeaderMap) -> Result<Via, String> {
    if config.token.as_ref().is_some_and(|token| bearer(headers).is_some_and(|given| token.is(given))) {
        return Ok(Via::Token);
    }
    match peer {
        Peer::Unix => Ok(Via::Local),
        Peer::Tcp(peer) if peer.ip().to_canonical().is_loopback() => match host(headers) {
            Some(name) if !is_here(name) => Err(format!(
                "403: this machine asks for {name:?}: a web page elsewhere may be behind that; use 127.0.0.1, \
                 localhost, or --admin-token-file"
            )),
            _ => Ok(Via::Local),
        },
        Peer::Tcp(peer) if config.allow.iter().any(|range| range.contains(peer.ip())) => Ok(Via::Allowed),
        Peer::Tcp(peer) => Err(format!(
            "403: {} is not this machine: --admin-allow {} lets it in, or --admin-token-file with the header \
             \"Authorization: Bearer TOKEN\"",
            peer.ip().to_canonical(),
            peer.ip().to_canonical()
        )),
    }
}

/// Whether this peer's requests are answered without a token.
pub(super) fn known(config: &AdminConfig, peer: Peer) -> bool {
    match peer {
        Peer::Unix => true,
        Peer::Tcp(peer) => {
            peer.ip().to_canonical().is_loopback() || config.allow.iter().any(|range| range.contains(peer.ip()))
        }
    }
}

/// Whether a request that changes something was made by a page of another site. Browsers send such requests without
/// asking us first, but say where they come from.
pub(super) fn from_another_site(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let ours = headers.get(HOST).map(|host| host.as_bytes());
    let site = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, site)| site.as_bytes());
    site.is_none() || site != ours
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Without its port. What is no text is no name of ours.
fn host(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(HOST)?.to_str().unwrap_or("?");
    match value.strip_prefix('[') {
        Some(rest) => Some(rest.split(']').next().unwrap_or(rest)),
        None => Some(value.split(':').next().unwrap_or(value)),
    }
}

/// A name that somebody else owns may lead here for a moment, and a browser then takes us for their site; an address
/// cannot be lent that way.
fn is_here(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.is_empty() || host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cidr;
    use crate::config::admin::Token;

    fn headers(pairs: &[(hyper::header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn tcp(text: &str) -> Peer {
        Peer::Tcp(SocketAddr::new(text.parse().unwrap(), 1))
    }

    #[test]
    fn this_machine_the_allowed_and_who_has_the_token() {
        let closed = AdminConfig::default();
        let open = AdminConfig {
            allow: vec![Cidr::parse_exact("192.0.2.0/24").unwrap()],
            token: Some(Token::new(b"s3cret")),
            ..closed.clone()
        };
        let none = HeaderMap::new();
        for (peer, plain, opened) in [
            (Peer::Unix, Some(Via::Local), Some(Via::Local)),
            (tcp("127.0.0.1"), Some(Via::Local), Some(Via::Local)),
            (tcp("::ffff:127.0.0.5"), Some(Via::Local), Some(Via::Local)),
            (tcp("::1"), Some(Via::Local), Some(Via::Local)),
            (tcp("192.0.2.9"), None, Some(Via::Allowed)),
            (tcp("::ffff:192.0.2.9"), None, Some(Via::Allowed)),
            (tcp("198.51.100.1"), None, None),
        ] {
            assert_eq!((check(&closed, peer, &none).ok(), check(&open, peer, &none).ok()), (plain, opened), "{peer:?}");
        }
        let stranger = tcp("198.51.100.1");
        let text = check(&open, stranger, &none).unwrap_err();
        assert!(text.contains("--admin-allow 198.51.100.1 ") && text.contains("--admin-token-file"), "{text}");
        for (value, opens) in [
            ("Bearer s3cret", true),
            ("bearer  s3cret", true),
            ("Bearer s3cre", false),
            ("Bearer s3crets", false),
            ("Bearer", false),
            ("Basic s3cret", false),
            ("s3cret", false),
        ] {
            let given = headers(&[(AUTHORIZATION, value)]);
            assert_eq!(check(&open, stranger, &given).ok(), opens.then_some(Via::Token), "{value}");
            assert!(check(&closed, stranger, &given).is_err(), "there is no token");
        }
    }

    #[test]
    fn a_name_that_may_be_anybodys_is_not_this_machine() {
        let config = AdminConfig { token: Some(Token::new(b"s3cret")), ..AdminConfig::default() };
        for (host, here) in [
            ("127.0.0.1:2112", true),
            ("localhost:2112", true),
            ("LOCALHOST", true),
            ("relay.localhost", true),
            ("[::1]:2112", true),
            ("192.0.2.1", true),
            ("evil.example:2112", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("[evil.example]", false),
        ] {
            let given = headers(&[(HOST, host)]);
            assert_eq!(check(&config, tcp("127.0.0.1"), &given).is_ok(), here, "{host}");
            assert!(check(&config, Peer::Unix, &given).is_ok(), "no browser asks there");
        }
        let given = headers(&[(HOST, "relay.example"), (AUTHORIZATION, "Bearer s3cret")]);
        assert_eq!(check(&config, tcp("127.0.0.1"), &given), Ok(Via::Token));
    }

    #[test]
    fn other_sites_are_known_by_their_origin() {
        let from = |origin: &str| from_another_site(&headers(&[(HOST, "127.0.0.1:2112"), (ORIGIN, origin)]));
        assert!(!from("http://127.0.0.1:2112"));
        assert!(from("http://127.0.0.1:80") && from("https://evil.example") && from("null"));
        assert!(!from_another_site(&headers(&[(HOST, "127.0.0.1:2112")])), "not a browser");
    }
}
