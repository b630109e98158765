//! Listen addresses: `[::]:443`, `192.0.2.1:443`, `localhost:3340`, `:https`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

/// Where connections are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Turns an address as people write it into one socket address, by the rules of Go's listener: no host means every
/// address, and of the addresses of a name the first IPv4 one counts.
///
/// # Errors
/// Says what is wrong with `text`, to be printed after it.
pub(super) fn resolve(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = split(text)?;
    let port = parse_port(port)?;
    if host.is_empty() {
        return Ok(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(SocketAddr::from((ip, port)));
    }
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().map_err(|e| format!("cannot resolve {host:?}: {e}"))?.collect();
    let first_v4 = found.iter().find(|addr| addr.is_ipv4());
    first_v4.or(found.first()).copied().ok_or_else(|| format!("{host:?} has no address"))
}

/// Host (brackets removed) and port.
pub(super) fn split(text: &str) -> Result<(&str, &str), String> {
    const FORM: &str = "write HOST:PORT, [IPV6]:PORT, or :PORT for every address";
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:").ok_or_else(|| FORM.to_owned());
    }
    match text.rsplit_once(':') {
        None => Err(format!("the port is missing; {FORM}")),
        Some((host, _)) if host.contains(':') => Err(format!("an IPv6 address needs brackets; {FORM}")),
        Some(parts) => Ok(parts),
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    match text {
        "https" => Ok(443),
        "http" => Ok(80),
        _ => text.parse().map_err(|_| format!("{text:?} is not a port: give a number up to 65535, http or https")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_written_form_resolves() {
        for (text, expected) in [
            (":443", "[::]:443"),
            (":https", "[::]:443"),
            ("[::]:0", "[::]:0"),
            ("[::1]:3340", "[::1]:3340"),
            ("127.0.0.1:http", "127.0.0.1:80"),
            ("localhost:3340", "127.0.0.1:3340"),
        ] {
            assert_eq!(resolve(text), Ok(expected.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_wrong_form_says_what_to_write() {
        for (text, hint) in [
            ("443", "port is missing"),
            ("::1:443", "needs brackets"),
            ("[::1]", "write HOST:PORT"),
            (":70000", "not a port"),
            ("127.0.0.1:", "not a port"),
            ("no such host:443", "cannot resolve"),
        ] {
            let problem = resolve(text).unwrap_err();
            assert!(problem.contains(hint), "{text}: {problem}");
        }
    }
}
