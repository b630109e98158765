//! HTTP-01: what the authority will find at port 80.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use crate::proto::http::{Challenge, Challenges};

/// Key authorizations by token. Tokens are the authority's random words: who knows one was told it.
pub(super) struct Tokens {
    hostnames: Vec<String>,
    addresses: bool,
    open: RwLock<HashMap<String, String>>,
}

impl Tokens {
    pub fn new(hostnames: &[String], addresses: bool) -> Self {
        Self { hostnames: hostnames.to_vec(), addresses, open: RwLock::default() }
    }

    pub fn open(self: &Arc<Self>, token: &str, authorization: &str) -> OpenToken {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.insert(token.to_owned(), authorization.to_owned());
        OpenToken { tokens: self.clone(), token: token.to_owned() }
    }

    fn is_ours(&self, host: &str) -> bool {
        // As it stands in a Host header: a port may follow, IPv6 stands in brackets, a name may end in a dot.
        let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let name = name.strip_suffix('.').unwrap_or(name);
        match name.parse::<IpAddr>() {
            Ok(_) => self.addresses,
            Err(_) => self.hostnames.iter().any(|known| known.eq_ignore_ascii_case(name)),
        }
    }
}

impl Challenges for Tokens {
    fn http01(&self, host: &str, token: &str) -> Challenge {
        if !self.is_ours(host) {
            return Challenge::ForeignHost;
        }
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(token).map_or(Challenge::UnknownToken, |answer| Challenge::Authorization(answer.clone()))
    }
}

/// It is answered until this is dropped.
pub(super) struct OpenToken {
    tokens: Arc<Tokens>,
    token: String,
}

impl Drop for OpenToken {
    fn drop(&mut self) {
        self.tokens.open.write().unwrap_or_else(PoisonError::into_inner).remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_while_it_is_open_and_for_our_hosts() {
        let tokens = Arc::new(Tokens::new(&["relay.example".to_owned()], false));
        let unknown = || tokens.http01("relay.example", "word");
        assert_eq!(unknown(), Challenge::UnknownToken);
        let open = tokens.open("word", "word.print");
        for host in ["relay.example", "Relay.Example:80", "relay.example.", "relay.example.:8080"] {
            assert_eq!(tokens.http01(host, "word"), Challenge::Authorization("word.print".into()), "{host}");
        }
        for host in ["", "other.example", "192.0.2.1", "[2001:db8::1]:80", "[", "]:", "relay.example.evil"] {
            assert_eq!(tokens.http01(host, "word"), Challenge::ForeignHost, "{host}");
        }
        assert_eq!(tokens.http01("relay.example", "other"), Challenge::UnknownToken);
        drop(open);
        assert_eq!(unknown(), Challenge::UnknownToken);

        let tokens = Arc::new(Tokens::new(&[], true));
        let _open = tokens.open("word", "word.print");
        for host in ["192.0.2.1", "192.0.2.1:80", "[2001:db8::1]", "[2001:db8::1]:80"] {
            assert_eq!(tokens.http01(host, "word"), Challenge::Authorization("word.print".into()), "{host}");
        }
        assert_eq!(tokens.http01("relay.example", "word"), Challenge::ForeignHost);
    }
}
