//! Certificates and keys that others put into files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error as TlsError, InconsistentKeys};

use super::{IdentityError, made};
use crate::limits;

/// Makes a self-signed pair where there is none.
pub(super) fn make_if_absent(dir: &Path, hostname: &str) -> Result<(), IdentityError> {
    let (crt, key) = names(dir, hostname);
    match (crt.exists(), key.exists()) {
        (false, false) => made::in_files(hostname, &crt, &key),
        (true, false) => Err(IdentityError::Half { present: crt, absent: key }),
        (false, true) => Err(IdentityError::Half { present: key, absent: crt }),
        (true, true) => Ok(()),
    }
}

/// `<dir>/<name>.crt` and `.key`, checked against each other and against the host name. Expiry is the clients' to
/// judge, as with derper.
pub(super) fn load(provider: &CryptoProvider, dir: &Path, hostname: &str) -> Result<CertifiedKey, IdentityError> {
    let (crt, key) = names(dir, hostname);
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
pub fn names(dir: &Path, hostname: &str) -> (PathBuf, PathBuf) {
    let name: String = hostname.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')).collect();
    (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")))
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
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

/// Whatever stands at `path` must be a file of a sensible size: a pipe would hold up the caller for ever.
fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let read = || {
        let meta = fs::metadata(path)?;
        if !meta.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        if meta.len() > limits::CERTIFICATE_FILE_MAX {
            return Err(io::Error::other(format!("it is larger than {} bytes", limits::CERTIFICATE_FILE_MAX)));
        }
        fs::read(path)
    };
    read().map_err(|source| IdentityError::Read { path: path.to_owned(), source })
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
