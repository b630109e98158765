//! The certificate of a run: ECDSA P-256, valid for this host name, pinned by the generator.

use std::fs;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, KeyPair};

use crate::error::Error;

pub const HOST: &str = "derp.test";

/// Writes it to `folder` as relays expect it, and returns its SHA-256.
pub fn make(folder: &Path) -> Result<String, Error> {
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new([HOST.to_owned()])?.self_signed(&key)?;
    let write = |name: &str, text: String| {
        let path = folder.join(format!("{HOST}.{name}"));
        fs::write(&path, text).map_err(Error::file(path))
    };
    write("crt", certificate.pem())?;
    write("key", key.serialize_pem())?;
    Ok(digest(&SHA256, certificate.der()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}
