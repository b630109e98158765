//! What a stranger is offered: every version, suite and group that OpenSSL knows is tried, and the list of those that
//! are taken stands in docs/PROTOCOL.md. `DERPRING_WRITE_DOCS=1` writes it there.

mod edge_support;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{env, fs, io};

use derpring::config::TlsMode;
use derpring::tls::identity;
use edge_support::Relay;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme};
use tempfile::TempDir;

const NAME: &str = "relay.example";
const BEGIN: &str = "<!-- offered: begin -->\n";
const END: &str = "<!-- offered: end -->";

#[test]
fn the_document_says_what_is_offered() {
    let Ok(version) = Command::new("openssl").arg("version").output() else {
        assert!(env::var_os("DERPRING_REQUIRE_TOOLS").is_none(), "there is no openssl command");
        let _ = writeln!(io::stderr(), "LEFT OUT: the_document_says_what_is_offered: there is no openssl command");
        return;
    };
    assert!(version.status.success());
    let dir = TempDir::new().unwrap();
    let ecdsa = relay(dir.path(), &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let rsa = relay(dir.path(), &["-newkey", "rsa:2048"]);
    let relays = [("ECDSA", ecdsa.addr), ("RSA", rsa.addr)];
    let offered = offered(&relays);

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/PROTOCOL.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("where the list begins");
    let (listed, after) = rest.split_once(END).expect("where the list ends");
    if env::var_os("DERPRING_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{offered}{END}{after}")).unwrap();
    } else {
        assert_eq!(listed, offered, "docs/PROTOCOL.md; DERPRING_WRITE_DOCS=1 writes what is");
    }
    // Whatever the document says.
    for weak in ["CBC", "RC4", "3DES", "_SHA\n", "NULL", "TLSv1\n", "TLSv1.1", "SSL"] {
        assert!(!offered.contains(weak), "{weak} is offered");
    }
}

fn offered(relays: &[(&str, SocketAddr)]) -> String {
    let mut out = String::from("| offered | TLS 1.3 | TLS 1.2 |\n|---|---|---|\n");
    let everywhere = |taken: &dyn Fn(SocketAddr) -> bool| -> Vec<&str> {
        relays.iter().filter(|(_, addr)| taken(*addr)).map(|(kind, _)| *kind).collect()
    };
    let cell = |kinds: &[&str]| match kinds.len() {
        0 => "no".to_owned(),
        n if n == relays.len() => "yes".to_owned(),
        _ => format!("with an {} key", kinds.join(", ")),
    };
    let old = ["-ssl3", "-tls1", "-tls1_1"];
    for version in old {
        let kinds = everywhere(&|addr| taken(addr, &[version, "-cipher", "ALL:@SECLEVEL=0"]).is_some());
        assert!(kinds.is_empty(), "{version} is offered");
    }
    let mut rows: Vec<(String, String, String)> = Vec::new();
    for suite in suites("-tls1_3", "ALL") {
        let kinds = everywhere(&|addr| taken(addr, &["-tls1_3", "-ciphersuites", &suite]).as_ref() == Some(&suite));
        rows.push((suite, cell(&kinds), "no".into()));
    }
    for suite in suites("-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0") {
        let list = format!("{suite}:@SECLEVEL=0");
        let kinds = everywhere(&|addr| taken(addr, &["-tls1_2", "-cipher", &list]).as_ref() == Some(&suite));
        rows.push((suite, "no".into(), cell(&kinds)));
    }
    for group in ["X25519", "P-256", "P-384", "P-521", "X448", "ffdhe2048", "ffdhe3072", "brainpoolP256r1", "secp256k1"]
    {
        let by = |version| cell(&everywhere(&|addr| taken(addr, &[version, "-groups", group]).is_some()));
        rows.push((group.to_owned(), by("-tls1_3"), by("-tls1_2")));
    }
    let hybrid = everywhere(&|addr| rustls_group(addr, NamedGroup::X25519MLKEM768));
    rows.push(("X25519MLKEM768".to_owned(), cell(&hybrid), "no".into()));
    rows.retain(|(_, new, old)| (new, old) != (&"no".to_owned(), &"no".to_owned()));
    rows.sort();
    for (what, new, old) in rows {
        out += &format!("| {what} | {new} | {old} |\n");
    }
    let alpn = |protocols| everywhere(&|addr| taken(addr, &["-alpn", protocols]).is_some());
    assert_eq!(alpn("h2,http/1.1").len() + alpn("http/1.1").len(), 2 * relays.len());
    assert!(alpn("h2").is_empty() && alpn("acme-tls/1").is_empty(), "only http/1.1 is negotiated");
    out
}

/// The suite that a handshake ends with, if it ends well.
fn taken(addr: SocketAddr, args: &[&str]) -> Option<String> {
    let mut client = Command::new("openssl");
    client.args(["s_client", "-connect", &addr.to_string(), "-servername", NAME]).args(args).stdin(Stdio::null());
    let run = client.output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    // In TLS 1.3 a suite is chosen before the relay can still say no.
    if said.contains("no peer certificate available") {
        return None;
    }
    let suite = said.lines().find_map(|line| line.split_once(", Cipher is "))?.1.to_owned();
    (suite != "(NONE)").then_some(suite)
}

fn suites(version: &str, list: &str) -> Vec<String> {
    let run = Command::new("openssl").args(["ciphers", "-s", version, list]).output().unwrap();
    let said = String::from_utf8(run.stdout).unwrap();
    let newer = version == "-tls1_3";
    said.trim().split(':').filter(|suite| suite.starts_with("TLS_") == newer).map(str::to_owned).collect()
}

fn rustls_group(addr: SocketAddr, group: NamedGroup) -> bool {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|known| known.name() == group);
    if provider.kx_groups.is_empty() {
        provider.kx_groups = aws_lc_rs::ALL_KX_GROUPS.iter().copied().filter(|known| known.name() == group).collect();
    }
    handshake(addr, &Arc::new(client_config(provider))).is_ok()
}

/// A relay with a certificate of that kind of key.
fn relay(dir: &Path, key: &[&str]) -> Relay {
    let mut make = Command::new("openssl");
    make.current_dir(dir).args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=test"]).args(key);
    make.args(["-addext", &format!("subjectAltName=DNS:{NAME}")]);
    make.args(["-keyout", &format!("{NAME}.key"), "-out", &format!("{NAME}.crt")]);
    let made = make.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mode = TlsMode::Manual { dir: dir.to_owned(), hostnames: vec![NAME.into()], make_if_absent: false };
    let loaded = identity::load(&mode, &[7; 32]).unwrap().unwrap();
    Relay::start(false, |config| config.tls = Some(loaded.config))
}

#[test]
fn a_second_login_resumes_by_ticket() {
    let loaded = identity::load(&TlsMode::SelfSigned { hostname: NAME.into() }, &[7; 32]).unwrap().unwrap();
    let relay = Relay::start(false, |config| config.tls = Some(loaded.config));
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().dangerous();
        let config = builder.with_custom_certificate_verifier(Arc::new(Anybody)).with_no_client_auth();
        let config = Arc::new(config);
        let first = handshake(relay.addr, &config).unwrap();
        assert_eq!(first.handshake_kind(), Some(HandshakeKind::Full));
        for _ in 0..3 {
            let again = handshake(relay.addr, &config).unwrap();
            assert_eq!(again.handshake_kind(), Some(HandshakeKind::Resumed), "{:?}", again.protocol_version());
        }
    }
}

/// A handshake, and an answer: in TLS 1.3 the ticket comes behind the handshake.
fn handshake(addr: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let mut socket = edge_support::patient(std::net::TcpStream::connect(addr)?);
    let mut conn = ClientConnection::new(config.clone(), NAME.try_into().unwrap()).unwrap();
    while conn.is_handshaking() {
        conn.complete_io(&mut socket)?;
    }
    let mut stream = rustls::Stream::new(&mut conn, &mut socket);
    stream.write_all(b"GET /derp/probe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(conn)
}

fn client_config(provider: rustls::crypto::CryptoProvider) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
    let builder = builder.unwrap().dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    builder.with_no_client_auth()
}

/// Whose certificate it is does not matter here.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
