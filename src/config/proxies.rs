//! Proxies that are believed about who their client is.

use std::net::IpAddr;

use super::{Cidr, ConfigError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    pub ranges: Vec<Cidr>,
    /// Whoever connects to one of our unix sockets. Not by itself: a proxy that passes on what its clients say about
    /// themselves would let them say anything.
    pub unix: bool,
}

impl TrustedProxies {
    /// Addresses, ranges, and the word `unix`.
    pub(super) fn read(name: &str, written: &[String]) -> Result<Self, ConfigError> {
        let mut out = Self::default();
        for text in written {
            match text.trim() {
                "unix" => out.unix = true,
                range => {
                    let problem = |why| ConfigError::value(name, text, format!("{why}, or unix for our unix sockets"));
                    out.ranges.push(Cidr::parse_exact(range).map_err(problem)?);
                }
            }
        }
        Ok(out)
    }

    /// As [`Self::read`] takes it.
    pub(super) fn written(&self) -> Vec<String> {
        let ranges = self.ranges.iter().map(ToString::to_string);
        ranges.chain(self.unix.then(|| "unix".to_owned())).collect()
    }

    /// `None` is the peer of a unix socket.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(ip) => self.ranges.iter().any(|range| range.contains(ip)),
            None => self.unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(written: &[&str]) -> Result<TrustedProxies, String> {
        let written: Vec<_> = written.iter().map(ToString::to_string).collect();
        TrustedProxies::read("--trusted-proxy", &written).map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_is_trusted_who_is_not_named() {
        let ip = |text: &str| Some(text.parse().unwrap());
        let some = read(&["10.0.0.0/8", " 2001:db8::1"]).unwrap();
        assert!(some.trusts(ip("10.1.2.3")) && some.trusts(ip("::ffff:10.1.2.3")) && some.trusts(ip("2001:db8::1")));
        assert!(!some.trusts(ip("11.0.0.1")) && !some.trusts(ip("127.0.0.1")) && !some.trusts(None));
        let unix = read(&["unix"]).unwrap();
        assert!(unix.trusts(None) && !unix.trusts(ip("127.0.0.1")));
        assert!(!TrustedProxies::default().trusts(None));
    }

    #[test]
    fn a_wrong_form_says_what_to_write() {
        let error = read(&["here"]).unwrap_err();
        assert!(error.starts_with("--trusted-proxy \"here\": the length is missing"), "{error}");
        assert!(error.ends_with("or unix for our unix sockets"), "{error}");
    }
}
