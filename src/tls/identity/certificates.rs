//! The certificates of a relay that runs: read again when the operator says so, swapped under nobody's feet.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::resolver::{Resolver, Table};
use super::{IdentityError, files, log_derp_node, made, meta};
use crate::config::TlsMode;

/// A handle on what the relay presents. Handshakes that begin after a change see it; connections keep what they have.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    provider: Arc<CryptoProvider>,
    /// Stands last in every chain: clients verify from the front, and look for it behind.
    meta: CertificateDer<'static>,
    mode: TlsMode,
    table: Arc<ArcSwap<Table>>,
    /// One change at a time.
    changing: Mutex<()>,
}

/// What reading the files again has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reloaded {
    Same,
    /// The names that have a new certificate.
    Changed(Vec<String>),
}

impl Certificates {
    /// # Errors
    /// There is no usable certificate for one of the names.
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        mode: &TlsMode,
        server_key: &[u8; 32],
    ) -> Result<Self, IdentityError> {
        let meta = meta::certificate(server_key)?;
        let inner = Inner { provider, meta, mode: mode.clone(), table: Arc::default(), changing: Mutex::new(()) };
        let mut table = Table::default();
        match mode {
            TlsMode::Manual { hostnames, .. } if hostnames.is_empty() => return Err(IdentityError::NoName),
            TlsMode::Manual { dir, hostnames, make_if_absent } => {
                for name in hostnames {
                    if *make_if_absent {
                        files::make_if_absent(dir, name)?;
                    }
                    inner.enter(&mut table, name, files::load(&inner.provider, dir, name)?);
                }
            }
            TlsMode::SelfSigned { hostname } => {
                let made = made::in_memory(&inner.provider, hostname)?;
                log_derp_node(hostname, &made);
                table.otherwise = Some(inner.present(made));
            }
            TlsMode::None | TlsMode::Acme(_) => {}
        }
        inner.table.store(Arc::new(table));
        Ok(Self(Arc::new(inner)))
    }

    /// Reads the files again. A pair that cannot be used leaves the one that is in use, and the others are not held
    /// up by it. What was never in a file stays.
    ///
    /// # Errors
    /// [`IdentityError::Kept`]: what was wrong, and what has changed all the same.
    pub fn reload(&self) -> Result<Reloaded, IdentityError> {
        let inner = &*self.0;
        let TlsMode::Manual { dir, hostnames, .. } = &inner.mode else { return Ok(Reloaded::Same) };
        let _alone = inner.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&inner.table.load());
        let (mut changed, mut kept, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        for name in hostnames {
            match files::load(&inner.provider, dir, name) {
                Ok(new) => {
                    if inner.enter(&mut table, name, new) {
                        changed.push(name.clone());
                    }
                }
                Err(problem) => {
                    kept.push(name.clone());
                    problems.push(problem.to_string());
                }
            }
        }
        if !changed.is_empty() {
            inner.table.store(Arc::new(table));
        }
        if !kept.is_empty() {
            return Err(IdentityError::Kept { kept, changed, problems });
        }
        Ok(if changed.is_empty() { Reloaded::Same } else { Reloaded::Changed(changed) })
    }

    /// What [`reload`](Self::reload) reads.
    pub fn files(&self) -> Vec<PathBuf> {
        let TlsMode::Manual { dir, hostnames, .. } = &self.0.mode else { return Vec::new() };
        let pairs = hostnames.iter().map(|name| files::names(dir, name));
        pairs.flat_map(|(crt, key)| [crt, key]).collect()
    }

    pub(super) fn resolver(&self, local: Option<IpAddr>) -> Resolver {
        Resolver { table: Arc::clone(&self.0.table), local }
    }

    /// `config` as it is for connections to one of several addresses of ours.
    pub fn for_address(&self, config: &ServerConfig, local: IpAddr) -> Arc<ServerConfig> {
        let mut config = config.clone();
        config.cert_resolver = Arc::new(self.resolver(Some(local)));
        Arc::new(config)
    }
}

impl Inner {
    /// Whether it differs from what stood there.
    fn enter(&self, table: &mut Table, name: &str, new: CertifiedKey) -> bool {
        let presented = self.present(new);
        let Ok(ip) = name.parse::<IpAddr>() else {
            return replace(&mut table.named, &name.to_owned(), presented);
        };
        let changed = replace(&mut table.addressed, &ip, Arc::clone(&presented));
        if changed {
            log_derp_node(name, &presented);
            // The first address is the relay's own, for those who ask for nothing that is known.
            table.otherwise = table.addressed.first().map(|(_, identity)| Arc::clone(identity));
        }
        changed
    }

    fn present(&self, mut identity: CertifiedKey) -> Arc<CertifiedKey> {
        identity.cert.push(self.meta.clone());
        Arc::new(identity)
    }
}

fn replace<N: PartialEq + Clone>(list: &mut Vec<(N, Arc<CertifiedKey>)>, name: &N, new: Arc<CertifiedKey>) -> bool {
    match list.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) if old.cert == new.cert => return false,
        Some((_, old)) => *old = new,
        None => list.push((name.clone(), new)),
    }
    true
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Certificates").field(&self.0.mode).finish()
    }
}
