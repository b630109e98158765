//! TLS: rustls shakes hands and keeps the key schedule; records are sealed and opened here, in
//! place, so that a packet costs no allocation and no copy beyond the cipher's own.

pub mod config;
pub mod handshake;
pub mod record;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS failed: {0}{hint}", hint = hint(.0))]
    Rustls(#[from] rustls::Error),
    #[error("the certificate is not the one given with --pin; its SHA-256 is {0}")]
    WrongPin(String),
    #[error("this machine names no certificate authorities: give --ca FILE, --pin SHA256 or --insecure")]
    NoSystemRoots,
    #[error("no certificate in the PEM file")]
    NoCertificate,
    #[error("the PEM file does not parse: {0}")]
    Pem(rustls::pki_types::pem::Error),
    #[error("a record does not open: the relay sealed it wrongly or out of order")]
    Unopenable,
    #[error("a record of {0} bytes is longer than TLS allows")]
    RecordTooLong(usize),
    #[error("unexpected TLS message of type {0}")]
    Unexpected(u8),
    #[error("the relay sent the TLS alert {0}")]
    Alert(u8),
    #[error("data before the end of the handshake")]
    EarlyData,
}

fn hint(err: &rustls::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    match err {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            " (name its authority with --ca or its hash with --pin)"
        }
        Error::InvalidCertificate(CertificateError::NotValidForName)
        | Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }) => {
            " (ask for its name with --server-name)"
        }
        Error::InvalidMessage(_) => " (does the relay speak TLS on this port?)",
        Error::AlertReceived(AlertDescription::InternalError) => {
            " (a relay answers so to a name it does not know: see --server-name)"
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure) => " (the relay may not have this --cipher)",
        _ => "",
    }
}
