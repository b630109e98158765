//! Who the relay is towards TLS clients: its certificate, and the meta certificate that carries its DERP key.

mod made;
mod meta;
mod resolver;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error as TlsError, InconsistentKeys, ServerConfig};
use tracing::info;

use crate::config::TlsMode;
use resolver::{Resolver, SniRule};

/// What TLS connections are accepted with; `None` for plain HTTP. `server_key` is the relay's public DERP key.
///
/// Made for both record layers: secrets can be extracted after the handshake.
///
/// # Errors
/// When there is no usable certificate for the host name.
pub fn load(mode: &TlsMode, server_key: &[u8; 32]) -> Result<Option<Arc<ServerConfig>>, IdentityError> {
    let provider = aws_lc_rs::default_provider();
    let (identity, hostname) = match mode {
        TlsMode::None => return Ok(None),
        TlsMode::Manual { dir, hostnames, make_if_absent } => {
            let hostname = hostnames.first().ok_or(IdentityError::NoName)?;
            (manual(&provider, dir, hostname, *make_if_absent)?, hostname)
        }
        TlsMode::SelfSigned { hostname } => (made::in_memory(&provider, hostname)?, hostname),
        TlsMode::Acme(_) => return Err(IdentityError::NoName),
    };
    let rule = match mode {
        TlsMode::Manual { .. } if hostname.parse::<IpAddr>().is_err() => SniRule::Only(hostname.clone()),
        _ => {
            log_derp_node(hostname, &identity);
            SniRule::Any
        }
    };
    let resolver = Resolver::new(rule, with_meta_certificate(identity, server_key)?);
    Ok(Some(Arc::new(server_config(provider, resolver)?)))
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
    #[error("no host name was given for the certificate")]
    NoName,
    /// Ours, or the machine's: nothing that was configured explains it.
    #[error("making {what} failed: {problem}")]
    Crypto { what: &'static str, problem: String },
}

/// `<dir>/<name>.crt` and `.key`, checked against each other and against the host name. Expiry is the clients' to
/// judge, as with derper.
fn manual(
    provider: &CryptoProvider,
    dir: &Path,
    hostname: &str,
    make_if_absent: bool,
) -> Result<CertifiedKey, IdentityError> {
    let (crt, key) = file_names(dir, hostname);
    if make_if_absent {
        match (crt.exists(), key.exists()) {
            (false, false) => made::in_files(hostname, &crt, &key)?,
            (true, false) => {
                return Err(IdentityError::Half { present: crt, absent: key });
            }
            (false, true) => {
                return Err(IdentityError::Half { present: key, absent: crt });
            }
            (true, true) => {}
        }
    }
    let chain = read_chain(&crt)?;
    check_name(&crt, &chain[0], hostname)?;
    let signer = read_key(provider, &key)?;
    let identity = CertifiedKey::new(chain, signer);
    match identity.keys_match() {
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(IdentityError::KeyMismatch { key, cert: crt })
        }
        // A key that cannot tell its public half is not known to be wrong.
        _ => Ok(identity),
    }
}

/// derper drops every other character, and so the colons of an IPv6 address.
pub fn file_names(dir: &Path, hostname: &str) -> (PathBuf, PathBuf) {
    let name: String = hostname.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let refuse = |problem| IdentityError::Pem { path: path.to_owned(), wanted: "certificate", problem };
    let pem = read(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| refuse(e.to_string()))?;
    if chain.is_empty() { Err(refuse(String::new())) } else { Ok(chain) }
}

fn read_key(provider: &CryptoProvider, path: &Path) -> Result<Arc<dyn rustls::sign::SigningKey>, IdentityError> {
    let key = PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| {
        let problem = match e {
            rustls::pki_types::pem::Error::NoItemsFound => String::new(),
            other => other.to_string(),
        };
        IdentityError::Pem { path: path.to_owned(), wanted: "private key", problem }
    })?;
    let signer = provider.key_provider.load_private_key(key);
    signer.map_err(|source| IdentityError::UnusableKey { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    fs::read(path).map_err(|source| IdentityError::Read { path: path.to_owned(), source })
}

/// By subject alternative name only: no client looks at the common name.
fn check_name(path: &Path, leaf: &CertificateDer<'_>, hostname: &str) -> Result<(), IdentityError> {
    let refuse = |problem| IdentityError::WrongName { path: path.to_owned(), hostname: hostname.to_owned(), problem };
    let name = ServerName::try_from(hostname).map_err(|e| refuse(e.to_string()))?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|e| refuse(e.to_string()))?;
    verify_server_name(&parsed, &name).map_err(|e| match e {
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })
            if presented.is_empty() =>
        {
            refuse("it has no subject alternative name".to_owned())
        }
        TlsError::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => {
            refuse(format!("its names are {}", presented.join(", ")))
        }
        other => refuse(other.to_string()),
    })
}

/// Appends the meta certificate last: clients verify from the front, and look for it behind.
fn with_meta_certificate(mut identity: CertifiedKey, server_key: &[u8; 32]) -> Result<CertifiedKey, IdentityError> {
    identity.cert.push(meta::certificate(server_key)?);
    Ok(identity)
}

fn server_config(provider: CryptoProvider, resolver: Resolver) -> Result<ServerConfig, IdentityError> {
    let failed = |e: TlsError| IdentityError::Crypto { what: "the TLS configuration", problem: e.to_string() };
    // Cipher suites and groups are the provider's, and the client's order of suites counts: a client whose processor
    // is slow at AES asks for ChaCha20, and in TLS 1.2 that also has no record limit to end the connection at.
    let builder = ServerConfig::builder_with_provider(Arc::new(provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_secret_extraction = true;
    // Resumption by ticket needs no memory here, and one ticket is all that a relay's client could use.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(failed)?;
    config.send_tls13_tickets = 1;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// One line with what a DERP map needs to reach a relay that no authority vouches for.
fn log_derp_node(hostname: &str, identity: &CertifiedKey) {
    info!("to use this relay, put into the DERP map: {}", derp_node(hostname, &identity.cert[0]));
}

/// A DERPNode that pins the certificate.
fn derp_node(hostname: &str, leaf: &CertificateDer<'_>) -> String {
    #[derive(serde::Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct DerpNode<'a> {
        name: &'a str,
        #[serde(rename = "RegionID")]
        region_id: u32,
        host_name: &'a str,
        cert_name: String,
    }
    let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, leaf);
    let cert_name = format!("sha256-raw:{}", hex(hash.as_ref()));
    let node = DerpNode { name: "custom", region_id: 900, host_name: hostname, cert_name };
    serde_json::to_string(&node).expect("a struct of strings serialises")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn detail(problem: &str) -> String {
    if problem.is_empty() { String::new() } else { format!(": {problem}") }
}

#[cfg(test)]
mod tests;
