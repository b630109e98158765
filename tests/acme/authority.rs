//! Let's Encrypt's own test authority, and the DNS server that sends it to this machine for every name.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use serde_json::json;
use tempfile::TempDir;

/// For everything that must happen. Nothing here measures time.
pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Tools {
    pub pebble: PathBuf,
    pub dns: PathBuf,
    pub autocert: PathBuf,
}

/// Builds them once for all tests, or says that `name` is left out because there is no `go`.
pub fn tools(name: &str) -> Option<&'static Tools> {
    static TOOLS: OnceLock<Option<Tools>> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| {
        if matches!(Command::new("go").arg("version").output(), Err(e) if e.kind() == io::ErrorKind::NotFound) {
            return None;
        }
        let pebble = "github.com/letsencrypt/pebble/v2/cmd";
        Some(Tools {
            pebble: build("pebble", &format!("{pebble}/pebble")),
            dns: build("pebble-challtestsrv", &format!("{pebble}/pebble-challtestsrv")),
            autocert: build("autocert", "./autocert"),
        })
    });
    if tools.is_none() {
        assert!(env::var_os("DERPRING_REQUIRE_GO").is_none(), "{name}: there is no go command");
        // Past the capture of the test harness.
        let _ = writeln!(io::stderr(), "LEFT OUT: {name}: there is no go command");
    }
    tools.as_ref()
}

/// Put in place only when complete: another test run may be using the one that is there.
fn build(program: &str, package: &str) -> PathBuf {
    let finished = Path::new(env!("CARGO_TARGET_TMPDIR")).join(program);
    let unfinished = finished.with_extension(std::process::id().to_string());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pebble");
    let run = Command::new("go").current_dir(sources).arg("build").arg("-o").arg(&unfinished).arg(package).output();
    let run = run.expect("go can be started");
    assert!(run.status.success(), "building {package}: {}", String::from_utf8_lossy(&run.stderr));
    fs::rename(&unfinished, &finished).expect("a program can be renamed");
    finished
}

/// What an authority is to be like.
#[derive(Clone)]
pub struct Wishes {
    pub port: u16,
    pub tls_port: u16,
    pub http_port: u16,
    pub validity: Duration,
    pub blocked: Vec<String>,
    pub eab: Option<(String, String)>,
    pub bad_nonces: u32,
}

impl Wishes {
    /// Looks for TLS-ALPN-01 at `tls_port`; half of all nonces are refused, and nothing proven is remembered.
    pub fn new(tls_port: u16) -> Self {
        let (port, http_port) = (free_port(), free_port());
        let validity = Duration::from_secs(90 * 86_400);
        Self { port, tls_port, http_port, validity, blocked: Vec::new(), eab: None, bad_nonces: 50 }
    }
}

pub struct Authority {
    pebble: Process,
    _dns: Process,
    dir: TempDir,
    port: u16,
    management: u16,
}

impl Authority {
    pub fn start(tools: &Tools, wishes: &Wishes) -> Self {
        let dir = TempDir::new().unwrap();
        let authority = prepare(dir.path());
        let (dns_port, management) = (free_port(), free_port());
        let keys: HashMap<_, _> = wishes.eab.iter().cloned().collect();
        let profile = json!({ "description": "for tests", "validityPeriod": wishes.validity.as_secs() });
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", wishes.port),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": authority.0,
            "privateKey": authority.1,
            "httpPort": wishes.http_port,
            "tlsPort": wishes.tls_port,
            "domainBlocklist": wishes.blocked,
            "externalAccountBindingRequired": wishes.eab.is_some(),
            "externalAccountMACKeys": keys,
            "retryAfter": { "authz": 1, "order": 1 },
            "keyAlgorithm": "ecdsa",
            "profiles": { "default": profile, "shortlived": profile },
        }});
        let path = dir.path().join("config.json");
        fs::write(&path, config.to_string()).unwrap();
        let mut dns = Command::new(&tools.dns);
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", ""]);
        dns.arg("-dnsserver").arg(format!("127.0.0.1:{dns_port}"));
        dns.arg("-management").arg(format!("127.0.0.1:{}", free_port()));
        let mut pebble = Command::new(&tools.pebble);
        pebble.arg("-config").arg(path).arg("-dnsserver").arg(format!("127.0.0.1:{dns_port}"));
        pebble.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        pebble.env("PEBBLE_WFE_NONCEREJECT", wishes.bad_nonces.to_string());
        let (dns, pebble) = (Process::start(dns), Process::start(pebble));
        pebble.await_line("ACME directory available at");
        Self { pebble, _dns: dns, dir, port: wishes.port, management }
    }

    pub fn directory(&self) -> String {
        directory(self.port)
    }

    /// What signs the authority's own HTTPS certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// What signs the certificates that it issues.
    pub fn root(&self) -> Vec<u8> {
        let ca = fs::read(self.ca_file()).unwrap();
        crate::wire::fetch(SocketAddr::from(([127, 0, 0, 1], self.management)), "localhost", &ca, "/roots/0")
    }

    /// Lines of its log that contain this.
    pub fn count(&self, what: &str) -> usize {
        self.pebble.lines.lock().unwrap().iter().filter(|line| line.contains(what)).count()
    }

    pub fn await_count(&self, what: &str, least: usize) {
        await_that(what, || self.count(what) >= least);
    }
}

pub fn directory(port: u16) -> String {
    format!("https://localhost:{port}/dir")
}

/// A certificate for `localhost` and the authority behind it; the path of certificate and key.
fn prepare(dir: &Path) -> (PathBuf, PathBuf) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let paths = (dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&paths.0, own.pem()).unwrap();
    fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

/// A child that ends with its owner, and what it says.
pub struct Process {
    child: Child,
    pub lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it can be started");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let outputs: [Box<dyn io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let lines = lines.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    lines.lock().unwrap().push(line);
                }
            });
        }
        Self { child, lines }
    }

    pub fn await_line(&self, what: &str) {
        await_that(what, || self.lines.lock().unwrap().iter().any(|line| line.contains(what)));
    }

    pub fn said(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

#[track_caller]
pub fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Free when it is chosen, and chosen once: whom it is for listens there later, while others choose.
pub fn free_port() -> u16 {
    static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if CHOSEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}
