//! Self-signed certificates, for relays that are reached by IP address or pinned by their hash.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::{
    Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivateSec1KeyDer};
use rustls::sign::CertifiedKey;

use super::IdentityError;

/// Clients refuse longer lives of what no authority vouches for.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A new certificate and key that are kept nowhere.
pub(super) fn in_memory(provider: &CryptoProvider, hostname: &str) -> Result<CertifiedKey, IdentityError> {
    let made = make(hostname)?;
    let key = PrivateKeyDer::from(PrivateSec1KeyDer::from(made.sec1));
    let signer = provider.key_provider.load_private_key(key).map_err(failed)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(made.cert)], signer))
}

/// What TLS-ALPN-01 wants to see: a certificate for the name that carries the digest of the key authorization.
pub(super) fn challenge(
    provider: &CryptoProvider,
    hostname: &str,
    digest: &[u8; 32],
) -> Result<CertifiedKey, IdentityError> {
    let key = P256::generate()?;
    let mut params = params(hostname)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let cert = params.self_signed(&key.signer()?).map_err(failed)?;
    let key = PrivateKeyDer::from(PrivateSec1KeyDer::from(key.sec1()?));
    let signer = provider.key_provider.load_private_key(key).map_err(failed)?;
    Ok(CertifiedKey::new(vec![CertificateDer::from(cert)], signer))
}

/// A new certificate and key, written in derper's form. The key comes first: a certificate without it would be of
/// no use, and neither file is there yet.
pub(super) fn in_files(hostname: &str, crt: &Path, key: &Path) -> Result<(), IdentityError> {
    let made = make(hostname)?;
    let key_pem = pem::encode_config(&pem::Pem::new("EC PRIVATE KEY", made.sec1), UNIX_LINES);
    let crt_pem = pem::encode_config(&pem::Pem::new("CERTIFICATE", made.cert.der().to_vec()), UNIX_LINES);
    if let Some(dir) = crt.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| IdentityError::Write { path: dir.to_owned(), source })?;
    }
    write(key, key_pem.as_bytes(), 0o600)?;
    write(crt, crt_pem.as_bytes(), 0o644).inspect_err(|_| {
        // Half a pair would stand in the way of the next start.
        let _ = fs::remove_file(key);
    })
}

const UNIX_LINES: pem::EncodeConfig = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    written().map_err(|source| IdentityError::Write { path: path.to_owned(), source })
}

struct Made {
    cert: Certificate,
    sec1: Vec<u8>,
}

fn make(hostname: &str) -> Result<Made, IdentityError> {
    let key = P256::generate()?;
    let cert = params(hostname)?.self_signed(&key.signer()?).map_err(failed)?;
    Ok(Made { cert, sec1: key.sec1()? })
}

/// A private key of the kind that derper makes.
pub struct P256(EcdsaKeyPair);

impl P256 {
    /// # Errors
    /// Ours, or the machine's.
    pub fn generate() -> Result<Self, IdentityError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self).map_err(failed)
    }

    /// In any of its DER forms; `None` when it is another kind of key.
    pub fn parse(der: &[u8]) -> Option<Self> {
        EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, der).ok().map(Self)
    }

    /// As it stands in derper's files.
    ///
    /// # Errors
    /// Ours.
    pub fn pem(&self) -> Result<String, IdentityError> {
        Ok(pem::encode_config(&pem::Pem::new("EC PRIVATE KEY", self.sec1()?), UNIX_LINES))
    }

    /// # Errors
    /// Ours.
    pub fn pkcs8(&self) -> Result<Vec<u8>, IdentityError> {
        Ok(self.0.to_pkcs8v1().map_err(failed)?.as_ref().to_vec())
    }

    /// # Errors
    /// Ours.
    pub fn signer(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::try_from(self.pkcs8()?).map_err(failed)
    }

    fn sec1(&self) -> Result<Vec<u8>, IdentityError> {
        let sec1: EcPrivateKeyRfc5915Der<'_> = self.0.private_key().as_der().map_err(failed)?;
        Ok(sec1.as_ref().to_vec())
    }
}

fn params(hostname: &str) -> Result<CertificateParams, IdentityError> {
    // Sorts IP addresses from names by itself.
    let mut params = CertificateParams::new(vec![hostname.to_owned()]).map_err(failed)?;
    let mut name = DistinguishedName::new();
    let common_name = hostname.parse::<IpAddr>().map_or_else(|_| hostname.to_owned(), |ip| ip.to_string());
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now = SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + VALIDITY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(failed)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn failed(e: impl ToString) -> IdentityError {
    IdentityError::Crypto { what: "a self-signed certificate", problem: e.to_string() }
}
