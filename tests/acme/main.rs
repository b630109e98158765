//! Certificates from a real authority: pebble, with its fault injection on, judged by rustls as a client and by the
//! ACME client inside derper.

#[path = "../edge_support/mod.rs"]
mod edge_support;

mod authority;
mod wire;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use std::{fs, io, thread};

use derpring::config::{AcmeConfig, Eab, TlsMode};
use derpring::control::acme::{Acme, Pace, Parts};
use derpring::proto::http::Challenge;
use derpring::tls::identity;
use tempfile::TempDir;

use authority::{Authority, Process, Tools, Wishes, await_that, directory, free_port, tools};
use edge_support::Relay;
use wire::{connect, presented};

#[test]
fn names_are_proven_by_tls_alpn_01_and_a_restart_asks_nobody() {
    let Some(tools) = tools("tls_alpn_01") else { return };
    let names = ["one.example", "two.example"];
    let mut set = Set::new(tools, &names, |_| {});
    // Before: as derper says it, so that clients try again.
    let early = presented(set.addr(), "one.example", &set.root).unwrap_err().to_string();
    assert!(early.contains("InternalError"), "{early}");

    set.start();
    let mut before = Vec::new();
    for name in names {
        let chain = set.await_certificate(name);
        let meta = chain.last().unwrap();
        assert!(meta.as_ref().windows(7).any(|w| w == b"derpkey"), "the meta certificate is last");
        before.push(chain[0].clone());
        // First it is in use, then it is kept.
        let path = set.dir.path().join("certs").join(name);
        await_that("the file", || path.exists());
        let file = fs::read_to_string(path).unwrap();
        assert!(file.starts_with("-----BEGIN EC PRIVATE KEY-----\n") && file.contains("BEGIN CERTIFICATE"), "{file}");
    }
    let strangers = presented(set.addr(), "three.example", &set.root).unwrap_err().to_string();
    assert!(strangers.contains("InternalError"), "{strangers}");
    // With no challenge open, that protocol is none of ours.
    let curious = connect(set.addr(), "one.example", &set.root, b"acme-tls/1").unwrap_err().to_string();
    assert!(curious.contains("NoApplicationProtocol"), "{curious}");

    let orders = set.authority.count("POST /order-plz");
    set.restart(|config| config.directory = directory(free_port()));
    for (name, before) in names.iter().zip(before) {
        assert_eq!(presented(set.addr(), name, &set.root).unwrap()[0], before, "from the cache, at once");
    }
    assert_eq!(set.authority.count("POST /order-plz"), orders);
}

#[test]
fn http_01_takes_over_where_tls_alpn_01_does_not_reach_us() {
    let Some(tools) = tools("http_01") else { return };
    let mut set = Set::new(tools, &["relay.example"], |wishes| wishes.tls_port = free_port());
    set.http = true;
    set.start();
    set.answer_on_port_80();
    set.await_certificate("relay.example");
}

#[test]
fn addresses_get_certificates_when_somebody_connects_to_them() {
    let Some(tools) = tools("addresses") else { return };
    let mut set = Set::new(tools, &["relay.example"], |_| {});
    set.http = true;
    set.config.ip_certs = true;
    (set.relay, set.certificates) = edge(&set.config);
    set.port.store(set.relay.addr.port(), Ordering::Relaxed);
    set.start();
    set.answer_on_port_80();
    set.await_certificate("relay.example");
    let chain = set.await_certificate("127.0.0.1");
    assert!(chain.len() >= 2);
    let certs = set.dir.path().join("certs");
    await_that("the files", || certs.join("127.0.0.1.crt").is_file() && certs.join("127.0.0.1.key").is_file());
    // A name is not answered by an address' certificate, nor the other way round.
    assert_ne!(set.await_certificate("relay.example")[0], chain[0]);
    assert!(presented(set.addr(), "other.example", &set.root).is_err());
}

#[test]
fn an_external_account_is_bound_or_refused() {
    let Some(tools) = tools("external_account") else { return };
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let mut set = Set::new(tools, &["relay.example"], |wishes| wishes.eab = Some(("kid-1".into(), key.into())));
    let right = {
        use base64::Engine;
        base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(key).unwrap()
    };
    // None, then a wrong one: the authority is asked again and again, ever more slowly, and nothing comes of it.
    for wrong in [None, Some(vec![7; 32])] {
        set.config.eab = wrong.map(|key| Eab { kid: "kid-1".into(), key });
        let before = set.authority.count("POST /sign-me-up");
        set.start();
        set.authority.await_count("POST /sign-me-up", before + 2);
        assert!(presented(set.addr(), "relay.example", &set.root).is_err());
        assert!(!set.dir.path().join("certs/acme_account+key").exists(), "there is no account");
        set.stop();
    }
    set.config.eab = Some(Eab { kid: "kid-1".into(), key: right });
    set.start();
    set.await_certificate("relay.example");
    assert!(set.dir.path().join("certs/acme_account+key").is_file());
}

#[test]
fn certificates_are_renewed_and_the_account_is_kept() {
    let Some(tools) = tools("renewal") else { return };
    let mut set = Set::new(tools, &["relay.example"], |wishes| {
        wishes.validity = Duration::from_secs(20);
        wishes.bad_nonces = 0;
    });
    set.start();
    let first = set.await_certificate("relay.example");
    let account = fs::read(set.dir.path().join("certs/acme_account+key")).unwrap();
    await_that("another certificate", || {
        presented(set.addr(), "relay.example", &set.root).is_ok_and(|chain| chain[0] != first[0])
    });
    set.restart(|_| {});
    let second = set.await_certificate("relay.example");
    await_that("a third", || presented(set.addr(), "relay.example", &set.root).is_ok_and(|c| c[0] != second[0]));
    assert_eq!(fs::read(set.dir.path().join("certs/acme_account+key")).unwrap(), account);
}

#[test]
fn an_authority_that_is_not_there_yet_is_waited_for() {
    let Some(tools) = tools("down") else { return };
    let mut set = Set::new(tools, &["relay.example"], |_| {});
    let real = set.config.directory.clone();
    // Something that accepts, and says nothing that makes sense.
    let nonsense = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = nonsense.local_addr().unwrap().port();
    let answers = thread::spawn(move || {
        for stream in nonsense.incoming().take(2) {
            let _ = stream.and_then(|mut stream| stream.write_all(&[0; 64]));
        }
    });
    set.config.directory = directory(port);
    set.start();
    answers.join().unwrap();
    assert!(presented(set.addr(), "relay.example", &set.root).is_err());
    set.restart(|config| config.directory = real);
    set.await_certificate("relay.example");
}

#[test]
fn an_authority_that_comes_up_late_is_found() {
    let Some(tools) = tools("late") else { return };
    let mut set = Set::new(tools, &["relay.example"], |_| {});
    let wishes = Wishes { port: free_port(), ..set.wishes.clone() };
    set.config.directory = directory(wishes.port);
    set.start();
    thread::sleep(Duration::from_secs(2));
    assert!(presented(set.addr(), "relay.example", &set.root).is_err());
    // It has another certificate than the one that was expected, which is as good as being away.
    let late = Authority::start(tools, &wishes);
    set.restart(|config| config.ca_file = Some(late.ca_file()));
    set.root = late.root();
    set.await_certificate("relay.example");
}

#[test]
fn a_refusal_is_asked_about_ever_more_slowly() {
    let Some(tools) = tools("refusal") else { return };
    let mut set = Set::new(tools, &["blocked.example", "relay.example"], |wishes| {
        wishes.blocked = vec!["blocked.example".into()];
        wishes.bad_nonces = 0;
    });
    let begin = std::time::Instant::now();
    set.start();
    // One name's trouble is not another's.
    set.await_certificate("relay.example");
    set.authority.await_count("POST /order-plz", 4);
    let (orders, passed) = (set.authority.count("POST /order-plz"), begin.elapsed());
    // 1, 2, 4, 4 … seconds: never more than one order a second, and one for the other name.
    assert!(orders as u64 <= passed.as_secs() + 3, "{orders} orders in {passed:?}");
    assert!(presented(set.addr(), "blocked.example", &set.root).is_err());
}

#[test]
fn a_folder_that_cannot_be_written_costs_nothing_but_a_line() {
    let Some(tools) = tools("folder") else { return };
    let mut set = Set::new(tools, &["relay.example"], |_| {});
    fs::write(set.dir.path().join("file"), "").unwrap();
    set.config.dir = set.dir.path().join("file");
    set.start();
    // Reading fails as well there, which is no reason to have no certificate.
    set.await_certificate("relay.example");
}

#[test]
fn derper_reads_our_cache_and_we_read_derpers() {
    let Some(tools) = tools("derpers_cache") else { return };
    let mut set = Set::new(tools, &["relay.example"], |wishes| wishes.bad_nonces = 0);
    set.start();
    let ours = hash(&set.await_certificate("relay.example")[0]);
    let certs = set.dir.path().join("certs");
    await_that("the file", || certs.join("relay.example").exists());
    assert_eq!(autocert(tools, &[&certs.to_string_lossy(), "relay.example"]), Ok(ours));
    let account = fs::read(certs.join("acme_account+key")).unwrap();

    // Another name by derper's client, with our account; its answers to the authority come from another port.
    let port = free_port();
    let wishes = Wishes { port: free_port(), tls_port: port, bad_nonces: 0, ..set.wishes.clone() };
    let other = Authority::start(tools, &wishes);
    let listen = format!("127.0.0.1:{port}");
    let ca = other.ca_file();
    let args = [&certs.to_string_lossy(), "derper.example", &other.directory(), &ca.to_string_lossy(), &*listen];
    let theirs = autocert(tools, &args).unwrap();
    assert_eq!(fs::read(certs.join("acme_account+key")).unwrap(), account, "derper has used our account's key");
    set.restart(|config| config.hostnames = vec!["derper.example".into(), "relay.example".into()]);
    let root = other.root();
    assert_eq!(hash(&presented(set.addr(), "derper.example", &root).unwrap()[0]), theirs);
    assert!(presented(set.addr(), "relay.example", &set.root).is_ok());
}

#[test]
fn the_whole_relay_finds_its_authority_by_ssl_cert_file() {
    let Some(tools) = tools("whole_relay") else { return };
    for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let (dir, port) = (TempDir::new().unwrap(), free_port());
        let authority = Authority::start(tools, &Wishes::new(port));
        let roots = dir.path().join("roots");
        fs::create_dir(&roots).unwrap();
        fs::copy(authority.ca_file(), roots.join("some name")).unwrap();
        let mut relay = Command::new(env!("CARGO_BIN_EXE_derpring"));
        relay.args(["serve", "--cert-mode", "acme", "--hostname", "relay.example", "--backend", "epoll"]);
        relay.args(["--http-listen", "", "--stun-listen", "", "--admin-listen", "", "--workers", "1"]);
        relay.arg("--listen").arg(format!("127.0.0.1:{port}")).arg("--acme-directory").arg(authority.directory());
        relay.arg("--cert-dir").arg(dir.path().join("certs")).arg("--key-file").arg(dir.path().join("key"));
        relay.env(variable, if variable == "SSL_CERT_FILE" { roots.join("some name") } else { roots });
        let relay = Process::start(relay);
        relay.await_line("a new certificate is in use");
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        presented(addr, "relay.example", &authority.root()).unwrap();
    }
}

/// A relay's edge, its authority, and what gets it certificates there.
struct Set {
    relay: Relay,
    /// Where the authority's looks are sent on to: a new relay has a new port.
    port: Arc<AtomicU16>,
    authority: Authority,
    acme: Option<Acme>,
    certificates: identity::Certificates,
    config: AcmeConfig,
    wishes: Wishes,
    http: bool,
    root: Vec<u8>,
    dir: TempDir,
}

impl Set {
    fn new(tools: &Tools, names: &[&str], wish: impl FnOnce(&mut Wishes)) -> Self {
        let dir = TempDir::new().unwrap();
        let config = AcmeConfig {
            hostnames: names.iter().map(|&name| name.to_owned()).collect(),
            dir: dir.path().join("certs"),
            directory: String::new(),
            ca_file: None,
            email: Some("operator@example.com".into()),
            eab: None,
            ip_certs: false,
        };
        let (relay, certificates) = edge(&config);
        let port = Arc::new(AtomicU16::new(relay.addr.port()));
        let mut wishes = Wishes::new(forward(port.clone()));
        wish(&mut wishes);
        let authority = Authority::start(tools, &wishes);
        let (directory, ca_file) = (authority.directory(), Some(authority.ca_file()));
        let config = AcmeConfig { directory, ca_file, ..config };
        let root = authority.root();
        Self { relay, port, authority, acme: None, certificates, config, wishes, http: false, root, dir }
    }

    fn addr(&self) -> SocketAddr {
        self.relay.addr
    }

    fn start(&mut self) {
        let second = Duration::from_secs(1);
        let parts = Parts {
            config: self.config.clone(),
            certificates: self.certificates.clone(),
            listening: vec![IpAddr::from([0; 4])],
            http: self.http,
            pace: Pace {
                retry: (second, 4 * second),
                between: second,
                advice: (second, 5 * second),
                ..Pace::default()
            },
        };
        self.acme = Some(Acme::start(parts).unwrap());
    }

    fn stop(&mut self) {
        self.acme.take().unwrap().stop();
    }

    /// As a new process would: nothing is left but the files.
    fn restart(&mut self, change: impl FnOnce(&mut AcmeConfig)) {
        self.stop();
        change(&mut self.config);
        (self.relay, self.certificates) = edge(&self.config);
        self.port.store(self.relay.addr.port(), Ordering::Relaxed);
        self.start();
    }

    fn await_certificate(&self, name: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let mut chain = Vec::new();
        await_that(&format!("a certificate for {name}"), || match presented(self.addr(), name, &self.root) {
            Ok(presented) => {
                chain = presented;
                true
            }
            Err(_) => false,
        });
        chain
    }

    /// A server on what the authority takes for port 80.
    fn answer_on_port_80(&self) {
        let challenges = self.acme.as_ref().unwrap().challenges();
        let listener = TcpListener::bind(("127.0.0.1", self.wishes.http_port)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap() == 0 {
                        break;
                    }
                    head.extend(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let token = path.strip_prefix("/.well-known/acme-challenge/").unwrap_or_default();
                let host = head.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
                let (status, body) = match challenges.http01(host, token) {
                    Challenge::Authorization(body) => ("200 OK", body),
                    other => ("404 Not Found", format!("{other:?}")),
                };
                let length = body.len();
                let _ = write!(stream, "HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            }
        });
    }
}

fn edge(config: &AcmeConfig) -> (Relay, identity::Certificates) {
    let loaded = identity::load(&TlsMode::Acme(Box::new(config.clone())), &[7; 32]).unwrap().unwrap();
    let certificates = loaded.certificates.clone();
    let relay = Relay::start(false, |edge| {
        edge.tls = Some(loaded.config);
        edge.certificates = Some(loaded.certificates);
    });
    (relay, certificates)
}

/// A port from which everything goes on to another one of this machine.
fn forward(to: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for inward in listener.incoming().map_while(Result::ok) {
            let Ok(outward) = TcpStream::connect(("127.0.0.1", to.load(Ordering::Relaxed))) else { continue };
            for (mut from, mut to) in [(inward.try_clone().unwrap(), outward.try_clone().unwrap()), (outward, inward)] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    port
}

/// What derper's ACME client says: the hash of the certificate that it presents.
fn autocert(tools: &Tools, args: &[&str]) -> Result<String, String> {
    let run = Command::new(&tools.autocert).args(args).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
    if run.status.success() { Ok(text(&run.stdout)) } else { Err(text(&run.stderr)) }
}

fn hash(certificate: &[u8]) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Drop for Set {
    fn drop(&mut self) {
        if let Some(acme) = self.acme.take() {
            acme.stop();
        }
    }
}
