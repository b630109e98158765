//! What we offer a relay, and which certificates we believe.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{self, CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme, version};

use super::TlsError;
use crate::cli::{Cipher, Version};
use crate::error::Error;

/// What makes a certificate believable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// Those that the machine believes.
    System,
    /// Certificate authorities, in PEM.
    Roots(String),
    Pin([u8; 32]),
    Any,
}

/// One version, one cipher, one key exchange (X25519), no resumption: each login is a full
/// handshake and each packet costs the relay the same work in every run.
///
/// `checked` is the name that the certificate must have, if not the one that is asked for.
pub fn client(
    trust: Trust,
    checked: Option<ServerName<'static>>,
    version: Version,
    cipher: Cipher,
) -> Result<Arc<ClientConfig>, Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suites(cipher).contains(&suite.suite()));
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let provider = Arc::new(provider);
    let versions: &[_] = match version {
        Version::V12 => &[&version::TLS12],
        Version::V13 => &[&version::TLS13],
    };
    let verifier = Verifier::new(trust, checked, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|err| Error::TlsSetup(err.into()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn suites(cipher: Cipher) -> [CipherSuite; 3] {
    match cipher {
        Cipher::Aes128 => [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ],
        Cipher::Aes256 => [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        Cipher::Chacha20 => [
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
    }
}

/// Checks the certificate as asked, and always that the relay holds its key.
#[derive(Debug)]
struct Verifier {
    chain: Chain,
    checked: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Chain {
    Roots(Arc<WebPkiServerVerifier>),
    Pin([u8; 32]),
    Any,
}

impl Verifier {
    fn new(trust: Trust, checked: Option<ServerName<'static>>, provider: &Arc<CryptoProvider>) -> Result<Self, Error> {
        let chain = match trust {
            Trust::System => Chain::Roots(webpki(system_roots()?, provider)?),
            Trust::Roots(pem) => Chain::Roots(webpki(given_roots(&pem)?, provider)?),
            Trust::Pin(hash) => Chain::Pin(hash),
            Trust::Any => Chain::Any,
        };
        Ok(Self { chain, checked, provider: Arc::clone(provider) })
    }

    /// A signature by a key that anybody may have says nothing: checking it would only take time from the load.
    fn takes_anybody(&self) -> bool {
        matches!(self.chain, Chain::Any)
    }
}

fn given_roots(pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|err| Error::TlsSetup(TlsError::Pem(err)))?;
        roots.add(certificate).map_err(|err| Error::TlsSetup(err.into()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    // One unreadable certificate among hundreds is the machine's affair; none at all is ours.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(Error::TlsSetup(TlsError::NoSystemRoots)) } else { Ok(roots) }
}

fn webpki(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_| Error::TlsSetup(TlsError::NoCertificate))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.chain {
            Chain::Roots(webpki) => {
                let name = self.checked.as_ref().unwrap_or(server_name);
                webpki.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            }
            Chain::Pin(pin) => {
                let hash = ::aws_lc_rs::digest::digest(&::aws_lc_rs::digest::SHA256, end_entity);
                if hash.as_ref() == pin {
                    Ok(ServerCertVerified::assertion())
                } else {
                    let text = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
                    let err = OtherError(Arc::new(TlsError::WrongPin(text)));
                    Err(rustls::Error::Other(err))
                }
            }
            Chain::Any => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.takes_anybody() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.takes_anybody() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
