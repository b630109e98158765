//! Who the relay is towards TLS clients: its certificates, and the meta certificate that carries its DERP key.

mod certificates;
mod choice;
mod files;
mod made;
mod meta;
mod resolver;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::crypto::GetRandomFailed;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::ticketer::TicketRotator;
use rustls::{Error as TlsError, ServerConfig};
use tracing::info;

use crate::config::TlsMode;
use crate::limits;
pub use certificates::{Certificates, Reloaded};
pub use choice::{Choice, OpenChallenge};
pub use files::{is_for, names as file_names};
pub use made::P256;
use resolver::Resolver;

/// What TLS connections are accepted with.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Made for both record layers: secrets can be extracted after the handshake.
    pub config: Arc<ServerConfig>,
    pub certificates: Certificates,
}

/// `None` for plain HTTP. `server_key` is the relay's public DERP key.
///
/// # Errors
/// When there is no usable certificate for a host name.
pub fn load(mode: &TlsMode, server_key: &[u8; 32]) -> Result<Option<Loaded>, IdentityError> {
    if *mode == TlsMode::None {
        return Ok(None);
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Certificates::new(Arc::clone(&provider), mode, server_key)?;
    let config = Arc::new(server_config(provider, certificates.resolver(None))?);
    Ok(Some(Loaded { config, certificates }))
}

/// Why there is no TLS identity. All but [`IdentityError::Crypto`] are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot read {}: {source}; --cert-dir must hold this name's files, readable to us", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}; make its directory writable, or put a certificate there", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} is there and {} is not: put both there, or none", present.display(), absent.display())]
    Half { present: PathBuf, absent: PathBuf },
    #[error("{} holds no {wanted} in PEM form{}", path.display(), detail(problem))]
    Pem { path: PathBuf, wanted: &'static str, problem: String },
    #[error("the private key in {} cannot be used: {source}; use RSA, ECDSA or Ed25519", path.display())]
    UnusableKey { path: PathBuf, source: TlsError },
    #[error("the private key in {} does not belong to the first certificate in {}", key.display(), cert.display())]
    KeyMismatch { key: PathBuf, cert: PathBuf },
    #[error("the first certificate in {} is not one for {hostname}: {problem}", path.display())]
    WrongName { path: PathBuf, hostname: String, problem: String },
    #[error("{}; in use as before: {}{}", problems.join("; "), kept.join(", "), renewed(changed))]
    Kept { kept: Vec<String>, changed: Vec<String>, problems: Vec<String> },
    #[error("no host name was given for the certificate")]
    NoName,
    /// Ours, or the machine's: nothing that was configured explains it.
    #[error("making {what} failed: {problem}")]
    Crypto { what: &'static str, problem: String },
}

fn server_config(provider: Arc<CryptoProvider>, resolver: Resolver) -> Result<ServerConfig, IdentityError> {
    let mut config = handshake_config(provider, Arc::new(resolver))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Resumption by ticket needs no memory here, and one ticket is all that a relay's client could use.
    config.ticketer = tickets(limits::TICKET_KEY_LIFE).map_err(failed)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn handshake_config(
    provider: Arc<CryptoProvider>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, IdentityError> {
    // Cipher suites and groups are the provider's, and the client's order of suites counts: a client whose processor
    // is slow at AES asks for ChaCha20, and in TLS 1.2 that also has no record limit to end the connection at.
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// Tickets whose key is replaced after each `life`; the one before still opens its own.
fn tickets(life: Duration) -> Result<Arc<dyn ProducesTickets>, TlsError> {
    let seconds = u32::try_from(life.as_secs()).unwrap_or(u32::MAX);
    let made = TicketRotator::new(seconds, || {
        let key = aws_lc_rs::Ticketer::new().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(OneKey(key)))
    });
    Ok(Arc::new(made?))
}

/// rustls' own ticketer, whose rotation never comes to pass: it is replaced as a whole before.
#[derive(Debug)]
struct OneKey(Arc<dyn ProducesTickets>);

impl ProducesTickets for OneKey {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

fn failed(e: TlsError) -> IdentityError {
    IdentityError::Crypto { what: "the TLS configuration", problem: e.to_string() }
}

/// One line with what a DERP map needs to reach a relay that no authority vouches for.
fn log_derp_node(hostname: &str, identity: &CertifiedKey) {
    let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, &identity.cert[0]);
    let pin = format!("sha256-raw:{}", hex(hash.as_ref()));
    info!("to use this relay, put into the DERP map: {}", derp_node(hostname, Some(pin)));
}

/// A DERPNode; `cert_name` pins a certificate.
pub fn derp_node(hostname: &str, cert_name: Option<String>) -> String {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct DerpNode<'a> {
        name: &'a str,
        #[serde(rename = "RegionID")]
        region_id: u32,
        host_name: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        cert_name: Option<String>,
    }
    let node = DerpNode { name: "custom", region_id: 900, host_name: hostname, cert_name };
    serde_json::to_string(&node).expect("a struct of strings serialises")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn renewed(changed: &[String]) -> String {
    if changed.is_empty() { String::new() } else { format!("; renewed: {}", changed.join(", ")) }
}

fn detail(problem: &str) -> String {
    if problem.is_empty() { String::new() } else { format!(": {problem}") }
}

#[cfg(test)]
mod tests;
