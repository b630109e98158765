//! Where the relay is, and how to speak to it.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::{Args, Cipher, Version};
use crate::error::Error;
use crate::tls::config::{self, Trust};

#[derive(Debug)]
pub struct Target {
    pub addr: SocketAddr,
    pub authority: String,
    pub path: String,
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

impl Target {
    pub fn new(args: &Args) -> Result<Self, Error> {
        let url = Url::parse(&args.url).ok_or_else(|| {
            Error::Usage(format!("--url {} is not of the form http[s]://HOST[:PORT][/PATH]", args.url))
        })?;
        let addr = match args.connect {
            Some(addr) => addr,
            None => resolve(&url)?,
        };
        let tls = if url.tls {
            Some(tls_target(args, &url)?)
        } else if args.fast_start {
            return Err(Error::Usage(
                "--fast-start needs an https URL: the relay's key is in the certificate chain".into(),
            ));
        } else {
            None
        };
        Ok(Self { addr, authority: url.authority, path: url.path, tls })
    }
}

fn tls_target(args: &Args, url: &Url) -> Result<TlsTarget, Error> {
    let trust = if let Some(path) = &args.ca {
        Trust::Roots(path.clone())
    } else if let Some(pin) = &args.pin {
        Trust::Pin(parse_hash(pin).ok_or_else(|| {
            Error::Usage("--pin must be 64 hex digits (openssl x509 -in CERT -outform der | sha256sum)".into())
        })?)
    } else if args.insecure {
        Trust::Any
    } else {
        return Err(Error::Usage("an https URL needs --ca FILE, --pin SHA256 or --insecure".into()));
    };
    let name = args.server_name.as_ref().unwrap_or(&url.host);
    let name = ServerName::try_from(name.clone())
        .map_err(|_| Error::Usage(format!("{name} is neither a host name nor an IP address: give --server-name")))?;
    Ok(TlsTarget {
        config: config::client(trust, args.tls, args.cipher)?,
        name,
        fast_start: args.fast_start,
        version: args.tls,
        cipher: args.cipher,
    })
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
struct Url {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Url {
    fn parse(text: &str) -> Option<Self> {
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
