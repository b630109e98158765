//! What the relay runs with: one validated value, whatever it was read from.

mod addr;
pub mod admin;
pub mod changes;
mod cidr;
pub mod derper;
mod error;
mod file;
mod go_flags;
mod go_values;
pub mod keys;
mod proxies;
pub mod reference;
pub mod serve;
pub mod settings;
pub mod sources;
mod write;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;

pub use addr::ListenAddr;
pub use admin::{AdminAddr, AdminConfig, DebugAccess};
pub use cidr::Cidr;
pub use error::ConfigError;
pub use proxies::TrustedProxies;

/// A configuration, and what the operator should read in the log before the relay starts.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// One line each: what was asked for, or is on by default, and does not run.
    pub warnings: Vec<String>,
    /// Where its secrets were read from.
    pub secrets: SecretFiles,
    /// The configuration file.
    pub file: Option<PathBuf>,
}

impl Loaded {
    /// The configuration file that says all of it. Secrets are not in it.
    pub fn to_toml(&self) -> String {
        write::Written::of(self).text()
    }

    /// Files that were read, and may be changed while the relay runs.
    pub fn files(&self) -> Vec<PathBuf> {
        let SecretFiles { mesh_key, admin_token, eab_key } = &self.secrets;
        [&self.file, mesh_key, admin_token, eab_key].into_iter().flatten().cloned().collect()
    }
}

/// Files whose contents are in a [`Config`], and are shown to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretFiles {
    pub mesh_key: Option<PathBuf>,
    pub admin_token: Option<PathBuf>,
    pub eab_key: Option<PathBuf>,
}

/// Everything that a running relay needs to know. Made by `config::serve` or `config::derper`, never by hand outside
/// of tests.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Sockets of the main listener; at least one. `[::]` means every address of both families: the socket is opened
    /// with IPV6_V6ONLY off, and `0.0.0.0` takes its place on a host without IPv6.
    pub listen: Vec<ListenAddr>,
    pub tls: TlsMode,
    /// Plain HTTP beside TLS, for captive portal checks, ACME and redirects. Empty: off.
    pub http: Vec<SocketAddr>,
    pub stun: StunConfig,
    /// Whether `/derp` is served.
    pub derp: bool,
    pub bootstrap_dns: BootstrapDns,
    /// derper's `-ace`: CONNECT to the control plane is answered.
    pub connect: bool,
    /// Proxies that are believed about the client's address, by PROXY protocol or header.
    pub trusted_proxies: TrustedProxies,
    pub accept_limit: Option<AcceptLimit>,
    pub key: KeySource,
    /// Clients that present it get mesh rights.
    pub mesh_key: Option<MeshKey>,
    pub home: HomePage,
    /// Who may see `/debug/` on the main listener; `None`: it is not there.
    pub debug_on_main: Option<DebugAccess>,
    pub admin: AdminConfig,
    /// `None`: the usable cores.
    pub workers: Option<usize>,
    /// `None`: one per four workers.
    pub edges: Option<usize>,
    /// Sessions move to the worker that most of their packets go to.
    pub moves: bool,
    /// How long an idle worker looks for more to do before it sleeps.
    pub busy_poll: Duration,
    pub backend: Backend,
    pub queue: QueueLimits,
    /// `None`: what the descriptor limit allows.
    pub max_clients: Option<usize>,
    pub max_clients_per_ip: Option<usize>,
    /// Round-trip times of connections are sampled.
    pub round_trips: bool,
    pub tcp: TcpOptions,
    pub log: LogFormat,
    /// What is logged; `None`: what `RUST_LOG` says, or else `info`.
    pub log_filter: Option<String>,
    /// How long a stop may take to flush the queues.
    pub flush_on_stop: Duration,
    /// How long sessions go on behind a stop signal before they are closed.
    pub drain_time: Duration,
    pub takeover: Takeover,
}

/// The STUN server, which is off without an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StunConfig {
    pub listen: Vec<SocketAddr>,
    /// Answers every binding request of RFC 5389, and not only those of Tailscale's clients.
    pub any: bool,
}

/// Names whose addresses `/bootstrap-dns` tells. Empty lists: nothing is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootstrapDns {
    pub names: Vec<String>,
    pub unpublished: Vec<String>,
}

/// New connections that are let in; those beyond are closed and counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AcceptLimit {
    pub per_second: f64,
    pub burst: u64,
}

/// How one process gives its listening sockets to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Takeover {
    /// Take the sockets from the relay that runs, which then drains.
    pub take: bool,
    /// Where a relay that runs is asked for its sockets; `None`: it gives them to nobody.
    pub socket: Option<PathBuf>,
}

/// The secret that relays of one region share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MeshKey(pub [u8; 32]);

/// Never prints the secret.
impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(..)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain HTTP.
    None,
    /// `<dir>/<hostname>.crt` and `.key` for each name, the first of which is the relay's own. `make_if_absent`:
    /// derper's rule for an IP as host name, a self-signed certificate is made when both files are absent.
    Manual { dir: PathBuf, hostnames: Vec<String>, make_if_absent: bool },
    /// A certificate made at start and kept in memory.
    SelfSigned { hostname: String },
    /// Certificates from an authority that speaks ACME.
    Acme(Box<AcmeConfig>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Names that certificates are asked for. Empty only with `ip_certs`.
    pub hostnames: Vec<String>,
    /// Where account key and certificates are kept.
    pub dir: PathBuf,
    /// URL of the authority's directory.
    pub directory: String,
    /// PEM file of what signs the authority's own HTTPS certificate, beside the system's roots.
    pub ca_file: Option<PathBuf>,
    pub email: Option<String>,
    /// External account binding.
    pub eab: Option<Eab>,
    /// Certificates for the addresses that clients connect to, as well.
    pub ip_certs: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Eab {
    pub kid: String,
    pub key: Vec<u8>,
}

/// Never prints the secret.
impl fmt::Debug for Eab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eab").field("kid", &self.kid).finish_non_exhaustive()
    }
}

impl TlsMode {
    /// The name that the certificate is made out to.
    pub fn hostname(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Manual { hostnames, .. } => hostnames.first().map(String::as_str),
            Self::SelfSigned { hostname } => Some(hostname),
            Self::Acme(acme) => acme.hostnames.first().map(String::as_str),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Made at start, gone at exit.
    Ephemeral,
    /// derper's JSON form, made when absent.
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HomePage {
    Default,
    Blank,
    Redirect(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Auto,
    Uring,
    Epoll,
}

impl Backend {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "uring" => Some(Self::Uring),
            "epoll" => Some(Self::Epoll),
            _ => None,
        }
    }
}

/// Clients and probers keep thirty packets in flight and take no loss: a shorter queue fails them.
const QUEUE_PACKETS_MIN: u32 = 32;
/// Far beyond what a receiver can still use by the time it arrives.
const QUEUE_PACKETS_MAX: u32 = 1 << 16;

/// Bounds of one session's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    pub packets: u32,
    pub bytes: u32,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { packets: 512, bytes: 4 << 20 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// No progress for this long while something is to be written ends the connection; zero: never.
    pub write_timeout: Duration,
    /// TCP_USER_TIMEOUT; zero: the kernel's default.
    pub user_timeout: Duration,
    /// Idle time before the first TCP keepalive; zero: off.
    pub keepalive_time: Duration,
}

/// derper's defaults.
impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            write_timeout: Duration::from_secs(2),
            user_timeout: Duration::from_secs(15),
            keepalive_time: Duration::from_secs(600),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}

/// The one of several names that was probably meant, each with what to call it.
fn nearest(name: &str, known: impl Iterator<Item = (String, String)>) -> Option<String> {
    let far = known.map(|(known, shown)| (strsim::damerau_levenshtein(name, &known), shown));
    // A third of the letters wrong is another word.
    far.min().filter(|(distance, _)| *distance <= name.len() / 3).map(|(_, shown)| shown)
}

/// Whether sessions move to the worker that most of their packets go to.
fn moves(name: &str, text: Option<&str>) -> Result<bool, ConfigError> {
    match text {
        None | Some("traffic") => Ok(true),
        Some("login") => Ok(false),
        Some(other) => Err(ConfigError::value(name, other, "give traffic or login")),
    }
}

/// How long a worker looks for more to do before it sleeps.
fn busy_poll(name: &str, text: Option<&str>) -> Result<Duration, ConfigError> {
    const MOST: u64 = 10_000;
    let Some(text) = text else { return Ok(Duration::ZERO) };
    let micros = text.parse().ok().filter(|micros| *micros <= MOST);
    let micros = micros.ok_or_else(|| ConfigError::value(name, text, format!("give a number from 0 to {MOST}")))?;
    Ok(Duration::from_micros(micros))
}

/// A name that a certificate can be made out to.
fn check_hostname(flag: &str, text: &str) -> Result<(), ConfigError> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::value(flag, text, "give a DNS name or an IP address")),
    }
}

/// What `/` shows.
fn home(name: &str, text: &str) -> Result<HomePage, ConfigError> {
    match text {
        "" => Ok(HomePage::Default),
        "blank" => Ok(HomePage::Blank),
        // It becomes a header of every answer.
        url if ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
            && url.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(HomePage::Redirect(url.to_owned()))
        }
        _ => Err(ConfigError::value(name, text, "give an http:// or https:// URL, blank, or nothing")),
    }
}

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// A key in the alphabet of URLs without padding, or the ordinary one with it: authorities hand out both.
fn base64_key(text: &str) -> Option<Vec<u8>> {
    use base64::Engine;
    use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
    BASE64_URL_SAFE_NO_PAD.decode(text).or_else(|_| BASE64_STANDARD.decode(text)).ok().filter(|key| !key.is_empty())
}
