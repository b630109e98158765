//! The meta certificate: it tells a TLS 1.3 client the relay's DERP key within the handshake, so that the client can
//! log in one round trip earlier. Trust comes from the rest of the chain.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, DnValue, IsCa, KeyPair, SerialNumber};
use rustls::pki_types::CertificateDer;

use super::{IdentityError, hex};

/// The DERP protocol version, which is the serial number.
const PROTOCOL_VERSION: u64 = 2;

const VALIDITY: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Self-signed with a key that nobody keeps.
///
/// It has one extension and no key identifiers, as clients expect: Tailscale's prober leaves out of its expiry checks
/// what has equal subject and authority identifiers, two absent ones included.
pub(super) fn certificate(server_key: &[u8; 32]) -> Result<CertificateDer<'static>, IdentityError> {
    let failed = |e: rcgen::Error| IdentityError::Crypto { what: "the meta certificate", problem: e.to_string() };
    let common_name =
        rcgen::string::PrintableString::try_from(format!("derpkey{}", hex(server_key))).map_err(failed)?;
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, DnValue::PrintableString(common_name));

    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from(PROTOCOL_VERSION));
    let now = SystemTime::now();
    params.not_before = (now - VALIDITY).into();
    params.not_after = (now + VALIDITY).into();
    // IsCa::ExplicitNoCa would bring a subject key identifier along.
    params.is_ca = IsCa::NoCa;
    params.custom_extensions = vec![not_a_ca()];
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(failed)?;
    Ok(params.self_signed(&key).map_err(failed)?.into())
}

/// BasicConstraints, critical, an empty sequence.
fn not_a_ca() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x00]);
    extension.set_criticality(true);
    extension
}
