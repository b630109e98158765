//! Where the relay is, and how to speak to it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use super::map::{self, Node};
use super::{Args, Cipher, Transport, Version};
use crate::derp::login::Upgrade;
use crate::error::Error;
use crate::tls::config::{self, Trust};

#[derive(Debug)]
pub struct Target {
    pub addr: SocketAddr,
    pub authority: String,
    pub path: String,
    pub websocket: bool,
    pub tls: Option<TlsTarget>,
}

#[derive(Debug)]
pub struct TlsTarget {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
    pub fast_start: bool,
    /// For the report.
    pub version: Version,
    pub cipher: Cipher,
}

/// What the flags name by place: read once, so that others can be given the same.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Given {
    pub ca: Option<String>,
    pub map: Option<String>,
}

impl Given {
    pub fn load(args: &Args) -> Result<Self, Error> {
        let read =
            |path: &PathBuf| std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source });
        let ca = args.ca.as_ref().map(read).transpose()?;
        let mut given = Self { ca, map: None };
        if let Some(place) = &args.map {
            given.map = Some(map::read(place, given.trust(args)?)?);
        }
        Ok(given)
    }

    fn trust(&self, args: &Args) -> Result<Trust, Error> {
        Ok(match (&self.ca, &args.pin) {
            (Some(pem), _) => Trust::Roots(pem.clone()),
            (None, Some(pin)) => Trust::Pin(parse_hash(pin).ok_or_else(|| {
                Error::Usage("--pin must be 64 hex digits (openssl x509 -in CERT -outform der | sha256sum)".into())
            })?),
            (None, None) if args.insecure => Trust::Any,
            (None, None) => Trust::System,
        })
    }
}

/// All relays that the flags name, in their order.
pub fn targets(args: &Args, given: &Given) -> Result<Vec<Target>, Error> {
    let usage = |text: &str| Err(Error::Usage(text.into()));
    match (&args.url[..], &given.map) {
        ([], None) => return usage("name a relay with --url, or several with --map"),
        ([_, ..], Some(_)) => return usage("--url and --map both name relays: give one of them"),
        _ => {}
    }
    if args.connect.is_some() && args.url.len() != 1 {
        return usage("--connect needs exactly one --url");
    }
    if args.transport == Transport::Websocket && args.fast_start {
        return usage("--fast-start is not for WebSockets: their handshake waits for an answer");
    }
    match &given.map {
        None => args.url.iter().map(|url| Target::of_url(url, args, given)).collect(),
        Some(text) => {
            let nodes = map::nodes(text, args.region.as_deref())?;
            nodes.iter().map(|node| Target::of_node(node, args, given)).collect()
        }
    }
}

impl Target {
    fn of_url(text: &str, args: &Args, given: &Given) -> Result<Self, Error> {
        let url = Url::parse(text)
            .ok_or_else(|| Error::Usage(format!("--url {text} is not of the form http[s]://HOST[:PORT][/PATH]")))?;
        let addr = match args.connect {
            Some(addr) => addr,
            None => resolve(&url)?,
        };
        let tls = if url.tls {
            Some(TlsTarget::new(args, given.trust(args)?, &url.host, None)?)
        } else if args.fast_start {
            return Err(Error::Usage(
                "--fast-start needs an https URL: the relay's key is in the certificate chain".into(),
            ));
        } else {
            None
        };
        let websocket = args.transport == Transport::Websocket;
        Ok(Self { addr, authority: url.authority, path: url.path, websocket, tls })
    }

    /// As a client connects to a relay of its map; --pin, --ca and --insecure go before it.
    fn of_node(node: &Node, args: &Args, given: &Given) -> Result<Self, Error> {
        let mut trust = given.trust(args)?;
        let mut checked = None;
        if trust == Trust::System && node.insecure_for_tests {
            trust = Trust::Any;
        } else if let (Trust::System, Some(hex)) = (&trust, node.cert_name.strip_prefix("sha256-raw:")) {
            trust = Trust::Pin(parse_hash(hex).ok_or_else(|| {
                Error::Usage(format!("the CertName of {} is no SHA-256: correct the map", node.name))
            })?);
        } else if !node.cert_name.is_empty() && !node.cert_name.starts_with("sha256-raw:") {
            checked = Some(server_name(&node.cert_name)?);
        }
        let port = node.port();
        let host = if node.host_name.contains(':') { format!("[{}]", node.host_name) } else { node.host_name.clone() };
        Ok(Self {
            addr: node.addr()?,
            authority: if port == 443 { host } else { format!("{host}:{port}") },
            path: "/derp".into(),
            websocket: args.transport == Transport::Websocket,
            tls: Some(TlsTarget::new(args, trust, &node.host_name, checked)?),
        })
    }

    /// How to ask for DERP when the relay's certificates name this key.
    pub fn upgrade(&self, relay_key: Option<[u8; 32]>) -> Upgrade {
        let fast_start = self.tls.as_ref().is_some_and(|tls| tls.fast_start);
        match relay_key {
            _ if self.websocket => Upgrade::WebSocket,
            Some(key) if fast_start => Upgrade::FastStart(key),
            _ => Upgrade::Derp,
        }
    }
}

impl TlsTarget {
    /// `checked` is the name that the certificate must have, if not the one that is asked for.
    fn new(args: &Args, trust: Trust, host: &str, checked: Option<ServerName<'static>>) -> Result<Self, Error> {
        Ok(Self {
            config: config::client(trust, checked, args.tls, args.cipher)?,
            name: server_name(args.server_name.as_deref().unwrap_or(host))?,
            fast_start: args.fast_start,
            version: args.tls,
            cipher: args.cipher,
        })
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| Error::Usage(format!("{name} is neither a host name nor an IP address: give --server-name")))
}

fn resolve(url: &Url) -> Result<SocketAddr, Error> {
    let failed = |source| Error::Resolve { host: url.host.clone(), source };
    (url.host.as_str(), url.port)
        .to_socket_addrs()
        .map_err(failed)?
        .next()
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))
}

#[derive(Debug, Eq, PartialEq)]
pub struct Url {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub authority: String,
    pub path: String,
}

impl Url {
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/derp"),
        };
        let default_port = if tls { 443 } else { 80 };
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            match rest.strip_prefix(':') {
                Some(port) => (host, port.parse().ok()?),
                None if rest.is_empty() => (host, default_port),
                None => return None,
            }
        } else {
            match authority.split_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (authority, default_port),
            }
        };
        let sound = !host.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        sound.then(|| Self { tls, host: host.into(), port, authority: authority.into(), path: path.into() })
    }
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("https://derp.test:8443").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("derp.test", 8443, "/derp"));
        let url = Url::parse("http://[::1]/x").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.path.as_str()), ("::1", 80, "/x"));
        for bad in ["derp.test", "ftp://x", "http://", "http://[::1", "http://a:b/", "http://a b/"] {
            assert_eq!(Url::parse(bad), None, "{bad}");
        }
    }
}
