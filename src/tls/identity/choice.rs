//! Which configuration a handshake runs with, where that is a question: while an authority looks whether a name is ours
//! (TLS-ALPN-01), and where a certificate belongs to the address that was connected to.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;

use super::{Certificates, IdentityError, handshake_config, made};
use crate::config::TlsMode;
use crate::limits;

/// What a handshake runs with.
#[derive(Debug)]
pub enum Choice {
    /// More of the ClientHello has to come first.
    Later,
    Usual,
    /// The usual, with the certificate of one of our addresses.
    Address(Arc<ServerConfig>),
    /// An authority's look at a challenge; nothing follows the handshake.
    Challenge(Arc<ServerConfig>),
}

/// Challenges that are open: a name, and what its handshakes run with. Empty nearly always.
#[derive(Debug, Default)]
pub(super) struct Challenges(ArcSwap<Vec<(String, Arc<ServerConfig>)>>);

/// An open challenge; it is closed when this is dropped.
pub struct OpenChallenge {
    certificates: Certificates,
    name: String,
}

impl Certificates {
    /// Shows `digest` to whoever asks for `name` by TLS-ALPN-01.
    ///
    /// # Errors
    /// Ours.
    pub fn open_challenge(&self, name: &str, digest: &[u8; 32]) -> Result<OpenChallenge, IdentityError> {
        let inner = &*self.0;
        let shown = made::challenge(&inner.provider, name, digest)?;
        let mut config = handshake_config(Arc::clone(&inner.provider), Arc::new(Only(Arc::new(shown))))?;
        config.alpn_protocols = vec![ACME_TLS.to_vec()];
        config.send_tls13_tickets = 0;
        let config = Arc::new(config);
        inner.challenges.0.rcu(|open| {
            let others = open.iter().filter(|(known, _)| known != name).cloned();
            others.chain([(name.to_owned(), Arc::clone(&config))]).collect::<Vec<_>>()
        });
        Ok(OpenChallenge { certificates: self.clone(), name: name.to_owned() })
    }

    /// Addresses that clients connect to and that have no certificate are told to whoever holds the other end.
    pub fn report_addresses(&self, wanted: mpsc::Sender<IpAddr>) {
        // Only the first one hears: there is one authority.
        let _ = self.0.wanted.set(wanted);
    }

    /// Whether [`choose`](Self::choose) wants to know where clients connect to.
    pub fn depend_on_address(&self) -> bool {
        match &self.0.mode {
            TlsMode::Acme(acme) => acme.ip_certs,
            TlsMode::Manual { .. } => self.0.table.load().addressed.len() > 1,
            TlsMode::None | TlsMode::SelfSigned { .. } => false,
        }
    }

    /// `hello` is what has come so far; `local` our end of the connection.
    pub fn choose(&self, usual: &ServerConfig, hello: &[u8], local: Option<IpAddr>) -> Choice {
        let open = self.0.challenges.0.load();
        if !open.is_empty() && hello.len() < limits::HANDSHAKE_IN_MAX {
            match peek(hello, &open) {
                Peek::Later => return Choice::Later,
                Peek::Challenge(config) => return Choice::Challenge(config),
                Peek::Other => {}
            }
        }
        match local {
            Some(local) if self.depend_on_address() => Choice::Address(self.at(usual, local.to_canonical())),
            _ => Choice::Usual,
        }
    }

    fn at(&self, usual: &ServerConfig, local: IpAddr) -> Arc<ServerConfig> {
        if let Some(wanted) = self.0.wanted.get()
            && !self.has(&local.to_string())
        {
            // A full queue holds others; clients come again.
            let _ = wanted.try_send(local);
        }
        self.for_address(usual, local)
    }
}

impl Drop for OpenChallenge {
    fn drop(&mut self) {
        let challenges = &self.certificates.0.challenges.0;
        challenges.rcu(|open| open.iter().filter(|(name, _)| *name != self.name).cloned().collect::<Vec<_>>());
    }
}

/// The protocol whose only purpose is to show a challenge (RFC 8737).
const ACME_TLS: &[u8] = b"acme-tls/1";

enum Peek {
    Later,
    Challenge(Arc<ServerConfig>),
    Other,
}

/// What is wrong with a ClientHello is for the handshake itself to say.
fn peek(mut hello: &[u8], open: &[(String, Arc<ServerConfig>)]) -> Peek {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.read_tls(&mut hello) {
            Ok(1..) => {}
            Ok(0) => return Peek::Later,
            Err(_) => return Peek::Other,
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let config =
                    asked(&hello).and_then(|name| open.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)));
                return config.map_or(Peek::Other, |(_, config)| Peek::Challenge(Arc::clone(config)));
            }
            Err(_) => return Peek::Other,
        }
    }
}

/// The name whose challenge is asked for: that protocol and no other.
fn asked<'a>(hello: &'a ClientHello<'_>) -> Option<&'a str> {
    let only = hello.alpn()?.collect::<Vec<_>>() == [ACME_TLS];
    hello.server_name().filter(|_| only)
}

#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
