//! Which handshakes get the certificate.

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// What a client must ask for.
#[derive(Debug)]
pub(super) enum SniRule {
    /// Clients of a relay without a name send none, or whatever they were told to.
    Any,
    /// A DNS name, in any case; anything else, or nothing, ends the handshake.
    Only(String),
}

#[derive(Debug)]
pub(super) struct Resolver {
    rule: SniRule,
    identity: Arc<CertifiedKey>,
}

impl Resolver {
    pub(super) fn new(rule: SniRule, identity: CertifiedKey) -> Self {
        Self { rule, identity: Arc::new(identity) }
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let welcome = match &self.rule {
            SniRule::Any => true,
            SniRule::Only(name) => hello.server_name().is_some_and(|asked| asked.eq_ignore_ascii_case(name)),
        };
        welcome.then(|| Arc::clone(&self.identity))
    }
}
