use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::{IpAddr as PkiIp, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::files::read_chain;
use super::*;

const SERVER_KEY: [u8; 32] = [0xa5; 32];

#[test]
fn the_meta_certificate_is_what_clients_look_for() {
    let der = meta::certificate(&SERVER_KEY).unwrap();
    let cert = parse(&der);
    let name = format!("CN=derpkey{}", "a5".repeat(32));
    assert_eq!((cert.subject().to_string(), cert.issuer().to_string()), (name.clone(), name));
    assert_eq!(cert.serial.to_string(), "2");
    assert_eq!(cert.version().0, 2, "X.509 version 3");
    assert_eq!(cert.extensions().len(), 1);
    let only = &cert.extensions()[0];
    assert!(only.critical);
    assert!(matches!(only.parsed_extension(), ParsedExtension::BasicConstraints(b) if !b.ca));
    assert_eq!(only.value, [0x30, 0x00]);
    let days = |time: x509_parser::time::ASN1Time| (time.timestamp() - now()) / 86_400;
    assert!((-31..=-29).contains(&days(cert.validity().not_before)));
    assert!((29..=31).contains(&days(cert.validity().not_after)));
    cert.verify_signature(None).unwrap();
    assert_eq!(cert.signature_algorithm.algorithm.to_id_string(), "1.3.101.112", "Ed25519");
    assert!((340..380).contains(&der.len()), "{} bytes", der.len());
}

#[test]
fn an_ip_gets_files_in_derpers_form() {
    let dir = TempDir::new().unwrap();
    let certs = dir.path().join("certs");
    let mode = manual_mode(&certs, "2001:db8::1", true);
    load(&mode, &SERVER_KEY).unwrap().unwrap();
    let (crt, key) = (certs.join("2001db81.crt"), certs.join("2001db81.key"));
    let permissions = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((permissions(&certs), permissions(&crt), permissions(&key)), (0o700, 0o644, 0o600));
    let key_pem = fs::read_to_string(&key).unwrap();
    assert!(key_pem.starts_with("-----BEGIN EC PRIVATE KEY-----\n"), "{key_pem}");

    let chain = read_chain(&crt).unwrap();
    let cert = parse(&chain[0]);
    assert_eq!(cert.subject().to_string(), "CN=2001:db8::1");
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    let ip: [u8; 16] = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
    assert_eq!(names, &[GeneralName::IPAddress(&ip)]);
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 0b101, "digitalSignature and keyEncipherment");
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth && !extended.any);
    let life = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
    assert_eq!(life, 365 * 86_400);

    // A second start uses what the first one made.
    load(&mode, &SERVER_KEY).unwrap().unwrap();
    assert_eq!(read_chain(&crt).unwrap(), chain);
}

#[test]
fn openssl_reads_what_was_made() {
    let dir = TempDir::new().unwrap();
    load(&manual_mode(dir.path(), "192.0.2.1", true), &SERVER_KEY).unwrap();
    for args in [&["ec", "-check", "-noout", "-in", "192.0.2.1.key"][..], &["x509", "-noout", "-in", "192.0.2.1.crt"]] {
        let Ok(run) = std::process::Command::new("openssl").args(args).current_dir(dir.path()).output() else {
            return; // Not installed: the other tests have looked at the same files.
        };
        assert!(run.status.success(), "{args:?}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn half_a_pair_is_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let mode = manual_mode(dir.path(), "192.0.2.1", true);
    load(&mode, &SERVER_KEY).unwrap();
    let crt = dir.path().join("192.0.2.1.crt");
    let before = fs::read(&crt).unwrap();
    fs::remove_file(dir.path().join("192.0.2.1.key")).unwrap();
    let text = load(&mode, &SERVER_KEY).unwrap_err().to_string();
    assert!(text.contains("192.0.2.1.crt is there and") && text.contains("192.0.2.1.key is not"), "{text}");
    assert_eq!(fs::read(&crt).unwrap(), before);
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = TempDir::new().unwrap();
    let error = || load(&manual_mode(dir.path(), "relay.example", false), &SERVER_KEY).unwrap_err().to_string();
    let (crt, key) = (dir.path().join("relay.example.crt"), dir.path().join("relay.example.key"));
    assert!(error().contains("cannot read") && error().contains("relay.example.crt"), "{}", error());

    fs::write(&crt, "no certificate").unwrap();
    assert!(error().contains("relay.example.crt holds no certificate"), "{}", error());

    made_pair("elsewhere.example", &crt, &key);
    assert!(error().contains("is not one for relay.example: its names are"), "{}", error());
    assert!(error().contains("elsewhere.example"), "{}", error());

    made_pair("relay.example", &crt, &key);
    fs::remove_file(&key).unwrap();
    assert!(error().contains("cannot read") && error().contains("relay.example.key"), "{}", error());
    fs::write(&key, fs::read(&crt).unwrap()).unwrap();
    assert!(error().contains("relay.example.key holds no private key"), "{}", error());
    fs::write(&key, "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n").unwrap();
    assert!(error().contains("relay.example.key cannot be used"), "{}", error());

    let other = dir.path().join("other.crt");
    fs::remove_file(&key).unwrap();
    made_pair("relay.example", &other, &key);
    assert!(error().contains("does not belong to the first certificate in"), "{}", error());
}

#[test]
fn the_whole_chain_is_sent_and_the_meta_certificate_is_last() {
    let dir = TempDir::new().unwrap();
    let (crt, key) = (dir.path().join("relay.example.crt"), dir.path().join("relay.example.key"));
    made_pair("relay.example", &crt, &key);
    let leaf = read_chain(&crt).unwrap();
    let second = made::in_memory(&aws_lc_rs::default_provider(), "intermediate.example").unwrap().cert[0].to_vec();
    let both = fs::read_to_string(&crt).unwrap() + &pem::encode(&pem::Pem::new("CERTIFICATE", second.clone()));
    fs::write(&crt, both).unwrap();

    let config = load(&manual_mode(dir.path(), "relay.example", false), &SERVER_KEY).unwrap().unwrap().config;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = client_config(&leaf[0], version);
        let (client, server) = handshake(client, &config, "relay.example").unwrap();
        let sent = client.peer_certificates().unwrap();
        assert_eq!(sent.len(), 3);
        assert_eq!((&sent[0], sent[1].as_ref()), (&leaf[0], &second[..]));
        assert!(parse(&sent[2]).subject().to_string().starts_with("CN=derpkey"));
        assert_eq!(client.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(server.protocol_version(), Some(version.version));
        server.dangerous_extract_secrets().expect("secrets can be had for our own record layer");
    }
}

#[test]
fn a_name_must_be_asked_for_and_an_address_need_not() {
    let dir = TempDir::new().unwrap();
    made_pair("relay.example", &dir.path().join("relay.example.crt"), &dir.path().join("relay.example.key"));
    let named = load(&manual_mode(dir.path(), "Relay.Example", false), &SERVER_KEY);
    assert!(named.unwrap_err().to_string().contains("Relay.Example.crt"), "files keep the case of the flag");

    let named = load(&manual_mode(dir.path(), "relay.example", false), &SERVER_KEY).unwrap().unwrap().config;
    let leaf = read_chain(&dir.path().join("relay.example.crt")).unwrap();
    let try_named = |sni: &str| handshake(client_config(&leaf[0], &rustls::version::TLS13), &named, sni);
    assert!(try_named("relay.example").is_ok());
    for wrong in ["www.relay.example", "other.example", "192.0.2.1"] {
        assert!(try_named(wrong).is_err(), "{wrong}");
    }

    let by_ip = load(&manual_mode(dir.path(), "192.0.2.1", true), &SERVER_KEY).unwrap().unwrap().config;
    let leaf = read_chain(&dir.path().join("192.0.2.1.crt")).unwrap();
    handshake(client_config(&leaf[0], &rustls::version::TLS13), &by_ip, "192.0.2.1").unwrap();
}

#[test]
fn each_name_has_its_own_certificate() {
    let dir = TempDir::new().unwrap();
    let names = ["a.example", "b.example", "192.0.2.1", "192.0.2.2"];
    let leaf = |name: &str| read_chain(&dir.path().join(format!("{name}.crt"))).unwrap().remove(0);
    for name in names {
        put_pair(dir.path(), name, name);
    }
    put_pair(dir.path(), "c.wild.example", "*.wild.example");
    let hostnames = |names: &[&str]| TlsMode::Manual {
        dir: dir.path().to_owned(),
        hostnames: names.iter().map(|&name| name.to_owned()).collect(),
        make_if_absent: false,
    };
    let presents = |config: &Arc<ServerConfig>, expected: &str, sni: &str| {
        handshake(client_config(&leaf(expected), &rustls::version::TLS13), config, sni).map(drop)
    };

    let named = load(&hostnames(&["a.example", "b.example", "c.wild.example"]), &SERVER_KEY).unwrap().unwrap().config;
    for name in ["a.example", "b.example", "B.Example", "c.wild.example"] {
        presents(&named, &name.to_ascii_lowercase(), name).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    // A wildcard certificate makes nobody welcome who was not listed.
    for stranger in ["d.wild.example", "192.0.2.1"] {
        assert!(presents(&named, "c.wild.example", stranger).is_err(), "{stranger}");
    }

    let mixed = load(&hostnames(&["a.example", "192.0.2.1", "192.0.2.2"]), &SERVER_KEY).unwrap().unwrap();
    presents(&mixed.config, "a.example", "a.example").unwrap();
    presents(&mixed.config, "192.0.2.1", "192.0.2.1").unwrap();
    let second = mixed.certificates.for_address(&mixed.config, "192.0.2.2".parse().unwrap());
    presents(&second, "192.0.2.2", "192.0.2.2").unwrap();
    let elsewhere = mixed.certificates.for_address(&mixed.config, "192.0.2.3".parse().unwrap());
    presents(&elsewhere, "192.0.2.1", "192.0.2.1").unwrap();
}

#[test]
fn reloading_takes_what_is_good_and_keeps_what_is_not() {
    let dir = TempDir::new().unwrap();
    let names = ["a.example".to_owned(), "b.example".to_owned()];
    let leaf = |name: &str| read_chain(&dir.path().join(format!("{name}.crt"))).unwrap().remove(0);
    for name in &names {
        put_pair(dir.path(), name, name);
    }
    let mode = TlsMode::Manual { dir: dir.path().to_owned(), hostnames: names.to_vec(), make_if_absent: false };
    let Loaded { config, certificates } = load(&mode, &SERVER_KEY).unwrap().unwrap();
    let presents = |expected: &CertificateDer<'_>, name: &str| {
        handshake(client_config(expected, &rustls::version::TLS13), &config, name).unwrap();
    };
    let files: Vec<_> = ["a.example.crt", "a.example.key", "b.example.crt", "b.example.key"].into();
    assert_eq!(certificates.files(), files.iter().map(|name| dir.path().join(name)).collect::<Vec<_>>());
    assert_eq!(certificates.reload().unwrap(), Reloaded::Same);

    let old_b = leaf("b.example");
    put_pair(dir.path(), "a.example", "a.example");
    fs::write(dir.path().join("b.example.key"), "half a ke").unwrap();
    let text = certificates.reload().unwrap_err().to_string();
    assert!(text.contains("b.example.key holds no private key"), "{text}");
    assert!(text.ends_with("; in use as before: b.example; renewed: a.example"), "{text}");
    presents(&leaf("a.example"), "a.example");
    presents(&old_b, "b.example");

    // Everything that can be wrong with a file at start can be wrong with a new one.
    let spoil: [&dyn Fn(); 5] = [
        &|| fs::remove_file(dir.path().join("b.example.crt")).unwrap(),
        &|| fs::create_dir(dir.path().join("b.example.crt")).unwrap(),
        &|| {
            fs::remove_dir(dir.path().join("b.example.crt")).unwrap();
            let file = fs::File::create(dir.path().join("b.example.crt")).unwrap();
            file.set_len(crate::limits::CERTIFICATE_FILE_MAX + 1).unwrap();
        },
        &|| put_pair(dir.path(), "b.example", "elsewhere.example"),
        &|| {
            put_pair(dir.path(), "other", "b.example");
            put_pair(dir.path(), "b.example", "b.example");
            fs::rename(dir.path().join("other.key"), dir.path().join("b.example.key")).unwrap();
        },
    ];
    for (at, spoil) in spoil.iter().enumerate() {
        spoil();
        let text = certificates.reload().unwrap_err().to_string();
        assert!(text.ends_with("; in use as before: b.example"), "{at}: {text}");
        presents(&old_b, "b.example");
    }
    put_pair(dir.path(), "b.example", "b.example");
    assert_eq!(certificates.reload().unwrap(), Reloaded::Changed(vec!["b.example".into()]));
    presents(&leaf("b.example"), "b.example");
    assert_eq!(certificates.clone().reload().unwrap(), Reloaded::Same);
}

#[test]
fn a_connection_outlives_the_certificate_that_it_began_with() {
    let dir = TempDir::new().unwrap();
    put_pair(dir.path(), "relay.example", "relay.example");
    let loaded = load(&manual_mode(dir.path(), "relay.example", false), &SERVER_KEY).unwrap().unwrap();
    let leaf = read_chain(&dir.path().join("relay.example.crt")).unwrap();
    let client = client_config(&leaf[0], &rustls::version::TLS13);
    let (mut client, mut server) = handshake(client, &loaded.config, "relay.example").unwrap();
    put_pair(dir.path(), "relay.example", "relay.example");
    loaded.certificates.reload().unwrap();
    std::io::Write::write_all(&mut client.writer(), b"still here").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut &wire[..]).unwrap();
    assert_eq!(server.process_new_packets().unwrap().plaintext_bytes_to_read(), 10);
}

#[test]
fn self_signed_lives_in_memory_and_takes_any_name() {
    let config = load(&TlsMode::SelfSigned { hostname: "relay.example".into() }, &SERVER_KEY).unwrap().unwrap().config;
    assert_eq!(config.alpn_protocols, [b"http/1.1"]);
    assert!(config.enable_secret_extraction && config.ticketer.enabled());
    assert_eq!(config.max_early_data_size, 0);
    assert!(load(&TlsMode::None, &SERVER_KEY).unwrap().is_none());
}

#[test]
fn the_derp_node_line_is_derpers() {
    let leaf = CertificateDer::from(b"abc".to_vec());
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(
        derp_node("192.0.2.1", &leaf),
        format!(r#"{{"Name":"custom","RegionID":900,"HostName":"192.0.2.1","CertName":"sha256-raw:{sha256}"}}"#)
    );
}

fn manual_mode(dir: &Path, hostname: &str, make_if_absent: bool) -> TlsMode {
    TlsMode::Manual { dir: dir.to_owned(), hostnames: vec![hostname.to_owned()], make_if_absent }
}

fn made_pair(hostname: &str, crt: &Path, key: &Path) {
    for path in [crt, key] {
        let _ = fs::remove_file(path);
    }
    made::in_files(hostname, crt, key).unwrap();
}

/// Files for `name` with a certificate for `made_for`, in place of what was there.
fn put_pair(dir: &Path, name: &str, made_for: &str) {
    made_pair(made_for, &dir.join(format!("{name}.crt")), &dir.join(format!("{name}.key")));
}

fn parse<'a>(der: &'a [u8]) -> X509Certificate<'a> {
    let (rest, cert) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    cert
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

fn client_config(trusted: &CertificateDer<'_>, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone().into_owned()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_protocol_versions(&[version]).unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.enable_secret_extraction = true;
    config
}

fn handshake(
    client: ClientConfig,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), TlsError> {
    let name = match name.parse::<IpAddr>() {
        Ok(ip) => ServerName::IpAddress(PkiIp::from(ip)),
        Err(_) => ServerName::try_from(name.to_owned()).unwrap(),
    };
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    Ok((client, server))
}
