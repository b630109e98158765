//! Which certificate a handshake gets.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Everything that can be presented, replaced as a whole: a handshake sees one state.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// DNS names, in any case, for clients that ask for one of them.
    pub named: Vec<(String, Arc<CertifiedKey>)>,
    /// For clients that ask for nothing, by the address that they connected to.
    pub addressed: Vec<(IpAddr, Arc<CertifiedKey>)>,
    /// For everybody else: clients of a relay without a name send none, or whatever they were told to.
    pub otherwise: Option<Arc<CertifiedKey>>,
}

#[derive(Debug)]
pub(super) struct Resolver {
    pub table: Arc<ArcSwap<Table>>,
    /// Where the client connected to, if that matters.
    pub local: Option<IpAddr>,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.table.load();
        let own = match hello.server_name() {
            Some(asked) => find(&table.named, |name| name.eq_ignore_ascii_case(asked)),
            None => find(&table.addressed, |address| Some(*address) == self.local),
        };
        own.or(table.otherwise.as_ref()).cloned()
    }
}

fn find<N>(list: &[(N, Arc<CertifiedKey>)], is: impl Fn(&N) -> bool) -> Option<&Arc<CertifiedKey>> {
    list.iter().find(|(name, _)| is(name)).map(|(_, identity)| identity)
}
