//! The flags of `derpring serve`, and the [`Config`] they stand for.
//!
//! They are the one list of settings: the environment's names, the keys of the configuration file and the reference
//! are made of it (`config::settings`).

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{
    AcceptLimit, AcmeConfig, AdminConfig, Backend, BootstrapDns, Cidr, Config, ConfigError, DebugAccess, Eab,
    KeySource, ListenAddr, Loaded, LogFormat, QUEUE_PACKETS_MAX, QUEUE_PACKETS_MIN, QueueLimits, SecretFiles,
    StunConfig, Takeover, TcpOptions, TlsMode, TrustedProxies, addr, admin, go_values, keys,
};
use crate::control::logging;

/// What was written, unchecked. A value is read as text, so that each mistake gets one line in our words.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file in TOML: flags and environment count before it
    #[arg(long, value_name = "FILE", env = "DERPRING_CONFIG")]
    pub config: Option<PathBuf>,
    /// Check the configuration and what it names, print it as it counts, and exit
    #[arg(long)]
    pub check_config: bool,
    /// Listen on 127.0.0.1:3340 in plain HTTP with a key made at start, unless other flags say otherwise
    #[arg(long)]
    pub dev: bool,
    /// Addresses to listen on: :443 for every address of both families, one such as 192.0.2.1:443, or unix:/PATH
    #[arg(long, value_name = "ADDR", env = "DERPRING_LISTEN", value_delimiter = ',')]
    pub listen: Option<Vec<String>>,
    /// Names or IP addresses that clients reach the relay by; the first one is its own
    #[arg(long, value_name = "NAME", env = "DERPRING_HOSTNAME", value_delimiter = ',')]
    pub hostname: Vec<String>,
    /// Where the certificate comes from: manual, self-signed, or none for plain HTTP
    #[arg(long, value_name = "MODE", env = "DERPRING_CERT_MODE")]
    pub cert_mode: Option<String>,
    /// Directory of the files HOSTNAME.crt and HOSTNAME.key, for --cert-mode manual
    #[arg(long, value_name = "DIR", env = "DERPRING_CERT_DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Make a self-signed certificate when the files are absent and --hostname is an IP address, as derper does
    #[arg(long, value_name = "BOOL", env = "DERPRING_CERT_MAKE", default_value = "false")]
    pub cert_make: Option<String>,
    /// File with the relay's key in derper's form, made when absent; an empty value says a key made at each start
    /// [default: /var/lib/derpring/derpring.key]
    #[arg(long, value_name = "FILE", env = "DERPRING_KEY_FILE")]
    pub key_file: Option<OsString>,
    /// Threads that relay packets [default: one per usable core]
    #[arg(long, value_name = "N", env = "DERPRING_WORKERS")]
    pub workers: Option<String>,
    /// Threads that accept and log in connections [default: one per four workers]
    #[arg(long, value_name = "N", env = "DERPRING_EDGES")]
    pub edges: Option<String>,
    /// traffic: a client moves to the worker that most of its packets go to; login: it stays where it logged in
    #[arg(long, value_name = "HOW", env = "DERPRING_PLACEMENT", default_value = "traffic")]
    pub placement: String,
    /// Microseconds for which a worker without work looks for more before it sleeps: lower latency for a whole core
    #[arg(long, value_name = "US", env = "DERPRING_BUSY_POLL", default_value = "0")]
    pub busy_poll: String,
    /// How packets reach the kernel: auto, uring or epoll
    #[arg(long, value_name = "NAME", env = "DERPRING_BACKEND", default_value = "auto")]
    pub backend: String,
    /// File with the mesh key, 64 hex characters
    #[arg(long, value_name = "FILE", env = "DERPRING_MESH_KEY_FILE")]
    pub mesh_key_file: Option<PathBuf>,
    /// Packets that may wait for one client
    #[arg(long, value_name = "N", env = "DERPRING_QUEUE_PACKETS", default_value = "512")]
    pub queue_packets: String,
    /// Bytes that may wait for one client; KiB and MiB may follow the number
    #[arg(long, value_name = "BYTES", env = "DERPRING_QUEUE_BYTES", default_value = "4MiB")]
    pub queue_bytes: String,
    /// Clients at once [default: what the limit on file descriptors allows]
    #[arg(long, value_name = "N", env = "DERPRING_MAX_CLIENTS")]
    pub max_clients: Option<String>,
    /// Clients at once from one IP address [default: no limit]
    #[arg(long, value_name = "N", env = "DERPRING_MAX_CLIENTS_PER_IP")]
    pub max_clients_per_ip: Option<String>,
    /// What is logged: error, warn, info, debug or trace, or by module as in info,derpring::edge=debug [default:
    /// RUST_LOG, or else info]
    #[arg(long, value_name = "FILTER", env = "DERPRING_LOG")]
    pub log: Option<String>,
    /// Form of the log on standard error: human or json
    #[arg(long, value_name = "FORM", env = "DERPRING_LOG_FORMAT", default_value = "human")]
    pub log_format: String,
    /// Addresses for metrics and debug pages: 127.0.0.1:2112, unix:/PATH; an empty value says off [default:
    /// 127.0.0.1:2112, with --dev off]
    #[arg(long, value_name = "ADDR", env = "DERPRING_ADMIN_LISTEN", value_delimiter = ',')]
    pub admin_listen: Option<Vec<String>>,
    /// Who may ask there from elsewhere than this machine: addresses or ranges such as 10.0.0.0/8 [default: nobody]
    #[arg(long, value_name = "CIDR", env = "DERPRING_ADMIN_ALLOW", value_delimiter = ',')]
    pub admin_allow: Vec<String>,
    /// File with a token: requests with "Authorization: Bearer TOKEN" are answered wherever they come from
    #[arg(long, value_name = "FILE", env = "DERPRING_ADMIN_TOKEN_FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// UDP addresses for STUN; an empty value says off [default: :3478, with --dev off]
    #[arg(long, value_name = "ADDR", env = "DERPRING_STUN_LISTEN", value_delimiter = ',')]
    pub stun_listen: Option<Vec<String>>,
    /// Answer every STUN binding request, and not only those of Tailscale's clients
    #[arg(long, value_name = "BOOL", env = "DERPRING_STUN_ANY", default_value = "false")]
    pub stun_any: Option<String>,
    /// Addresses for plain HTTP beside TLS: captive portal checks, ACME, redirects; an empty value says off [default:
    /// :80, with --dev off]
    #[arg(long, value_name = "ADDR", env = "DERPRING_HTTP_LISTEN", value_delimiter = ',')]
    pub http_listen: Option<Vec<String>>,
    /// Proxies that are believed about a client's address: addresses, ranges such as 10.0.0.0/8, or unix for those
    /// that connect to a unix socket of --listen [default: none]
    #[arg(long, value_name = "CIDR", env = "DERPRING_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxy: Vec<String>,
    /// New connections per second that are let in; those beyond are closed and counted [default: no limit]
    #[arg(long, value_name = "N", env = "DERPRING_ACCEPT_LIMIT")]
    pub accept_limit: Option<String>,
    /// New connections that may come at once before --accept-limit counts [default: one second's worth]
    #[arg(long, value_name = "N", env = "DERPRING_ACCEPT_BURST")]
    pub accept_burst: Option<String>,
    /// What / shows: nothing for a page about DERP, blank, or a URL to redirect to
    #[arg(long, value_name = "WHAT", env = "DERPRING_HOME", default_value = "")]
    pub home: String,
    /// Serve /derp: without it the relay has only the pages and probes around it
    #[arg(long, value_name = "BOOL", env = "DERPRING_DERP", default_value = "true")]
    pub derp: Option<String>,
    /// Answer CONNECT to Tailscale's control plane
    #[arg(long, value_name = "BOOL", env = "DERPRING_ACE", default_value = "false")]
    pub ace: Option<String>,
    /// Sample the round-trip times of connections
    #[arg(long, value_name = "BOOL", env = "DERPRING_ROUND_TRIPS", default_value = "true")]
    pub round_trips: Option<String>,
    /// Have the pages of /debug/ on the main listener too: for this machine, and whom the next three name [default:
    /// false, with --dev true]
    #[arg(long, value_name = "BOOL", env = "DERPRING_DEBUG_MAIN")]
    pub debug_main: Option<String>,
    /// Show them to who comes from an address of Tailscale's, as derper does
    #[arg(long, value_name = "BOOL", env = "DERPRING_DEBUG_TAILSCALE", default_value = "false")]
    pub debug_tailscale: Option<String>,
    /// Who else may see them: addresses or ranges such as 10.0.0.0/8 [default: nobody]
    #[arg(long, value_name = "CIDR", env = "DERPRING_DEBUG_ALLOW", value_delimiter = ',')]
    pub debug_allow: Vec<String>,
    /// File with a key: who gives it as ?debugkey= may see them wherever they come from
    #[arg(long, value_name = "FILE", env = "DERPRING_DEBUG_KEY_FILE")]
    pub debug_key_file: Option<PathBuf>,
    /// How long nothing may move on a connection that has something to write; 0 for any time
    #[arg(long, value_name = "TIME", env = "DERPRING_TCP_WRITE_TIMEOUT", default_value = "2s")]
    pub tcp_write_timeout: String,
    /// How long sent bytes may stay unacknowledged (TCP_USER_TIMEOUT); 0 for what the kernel does
    #[arg(long, value_name = "TIME", env = "DERPRING_TCP_USER_TIMEOUT", default_value = "15s")]
    pub tcp_user_timeout: String,
    /// Idle time before the first TCP keepalive; 0 for none
    #[arg(long, value_name = "TIME", env = "DERPRING_TCP_KEEPALIVE_TIME", default_value = "10m")]
    pub tcp_keepalive_time: String,
    /// How long a stop may take to write what waits in the queues
    #[arg(long, value_name = "TIME", env = "DERPRING_FLUSH_TIME", default_value = "2s")]
    pub flush_time: String,
    /// Names whose addresses /bootstrap-dns tells
    #[arg(long, value_name = "NAME", env = "DERPRING_BOOTSTRAP_DNS", value_delimiter = ',')]
    pub bootstrap_dns: Vec<String>,
    /// The same, told only to those who ask for the name
    #[arg(long, value_name = "NAME", env = "DERPRING_UNPUBLISHED_BOOTSTRAP_DNS", value_delimiter = ',')]
    pub unpublished_bootstrap_dns: Vec<String>,
    /// Seconds for which sessions go on behind a stop signal, while no new ones are let in
    #[arg(long, value_name = "SECONDS", env = "DERPRING_DRAIN_TIME", default_value = "0")]
    pub drain_time: String,
    /// Unix socket at which a relay that runs gives its listening sockets to its successor
    #[arg(long, value_name = "PATH", env = "DERPRING_TAKEOVER_SOCKET")]
    pub takeover_socket: Option<PathBuf>,
    /// Take the listening sockets from the relay that runs, which then drains
    #[arg(long, value_name = "BOOL", env = "DERPRING_TAKEOVER", default_value = "false")]
    pub takeover: Option<String>,
    /// URL of the ACME directory, for --cert-mode acme [default: Let's Encrypt's]
    #[arg(long, value_name = "URL", env = "DERPRING_ACME_DIRECTORY")]
    pub acme_directory: Option<String>,
    /// Where the certificate authority may write to
    #[arg(long, value_name = "ADDRESS", env = "DERPRING_ACME_EMAIL")]
    pub acme_email: Option<String>,
    /// Key identifier of an external account binding
    #[arg(long, value_name = "ID", env = "DERPRING_ACME_EAB_KID")]
    pub acme_eab_kid: Option<String>,
    /// File with the key of that binding, in base64
    #[arg(long, value_name = "FILE", env = "DERPRING_ACME_EAB_KEY_FILE")]
    pub acme_eab_key_file: Option<PathBuf>,
    /// PEM file that the ACME server's own certificate is checked against, beside the system's roots
    #[arg(long, value_name = "FILE", env = "DERPRING_ACME_CA_FILE")]
    pub acme_ca_file: Option<PathBuf>,
    /// Certificates for the IP addresses that clients connect to, as well
    #[arg(long, value_name = "BOOL", env = "DERPRING_ACME_IP_CERTS", default_value = "false")]
    pub acme_ip_certs: Option<String>,
}

/// Checks every flag.
///
/// # Errors
/// The first value that cannot be used, with what to write instead.
pub fn load(flags: &Flags) -> Result<Loaded, ConfigError> {
    let mut warnings = Vec::new();
    let admin = admin(flags, &mut warnings)?;
    let tls = tls(flags)?;
    let config = Config {
        listen: listen(flags)?,
        http: http(flags, &tls)?,
        stun: StunConfig { listen: stun(flags)?, any: switch("--stun-any", flags.stun_any.as_deref(), false)? },
        derp: switch("--derp", flags.derp.as_deref(), true)?,
        bootstrap_dns: BootstrapDns {
            names: listed(&flags.bootstrap_dns).to_vec(),
            unpublished: listed(&flags.unpublished_bootstrap_dns).to_vec(),
        },
        connect: switch("--ace", flags.ace.as_deref(), false)?,
        trusted_proxies: TrustedProxies::read("--trusted-proxy", listed(&flags.trusted_proxy))?,
        accept_limit: accept_limit(flags)?,
        tls,
        key: match &flags.key_file {
            Some(path) if path.is_empty() => KeySource::Ephemeral,
            Some(path) => KeySource::File(path.into()),
            None if flags.dev => KeySource::Ephemeral,
            None => KeySource::File("/var/lib/derpring/derpring.key".into()),
        },
        mesh_key: flags.mesh_key_file.as_deref().map(keys::load_mesh_key).transpose()?,
        home: super::home("--home", &flags.home)?,
        debug_on_main: debug_access(flags)?,
        admin,
        workers: optional_count("--workers", flags.workers.as_deref(), 1..=1024)?,
        edges: optional_count("--edges", flags.edges.as_deref(), 1..=1024)?,
        moves: super::moves("--placement", Some(&flags.placement))?,
        busy_poll: super::busy_poll("--busy-poll", Some(&flags.busy_poll))?,
        backend: Backend::parse(&flags.backend)
            .ok_or_else(|| ConfigError::value("--backend", &flags.backend, "give auto, uring or epoll"))?,
        queue: QueueLimits {
            packets: count("--queue-packets", &flags.queue_packets, QUEUE_PACKETS_MIN..=QUEUE_PACKETS_MAX)?,
            bytes: queue_bytes(&flags.queue_bytes)?,
        },
        max_clients: optional_count("--max-clients", flags.max_clients.as_deref(), 1..=isize::MAX as usize)?,
        max_clients_per_ip: optional_count(
            "--max-clients-per-ip",
            flags.max_clients_per_ip.as_deref(),
            1..=isize::MAX as usize,
        )?,
        round_trips: switch("--round-trips", flags.round_trips.as_deref(), true)?,
        tcp: TcpOptions {
            write_timeout: duration("--tcp-write-timeout", &flags.tcp_write_timeout)?,
            user_timeout: duration("--tcp-user-timeout", &flags.tcp_user_timeout)?,
            keepalive_time: duration("--tcp-keepalive-time", &flags.tcp_keepalive_time)?,
        },
        log: match flags.log_format.as_str() {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            other => return Err(ConfigError::value("--log-format", other, "give human or json")),
        },
        log_filter: log_filter(flags)?,
        flush_on_stop: duration("--flush-time", &flags.flush_time)?,
        drain_time: Duration::from_secs(count("--drain-time", &flags.drain_time, 0..=86_400)?),
        takeover: Takeover {
            take: switch("--takeover", flags.takeover.as_deref(), false)?,
            socket: flags.takeover_socket.clone(),
        },
    };
    let secrets = SecretFiles {
        mesh_key: flags.mesh_key_file.clone(),
        admin_token: flags.admin_token_file.clone(),
        eab_key: flags.acme_eab_key_file.clone(),
    };
    Ok(Loaded { config, warnings, secrets, file: None })
}

fn admin(flags: &Flags, warnings: &mut Vec<String>) -> Result<AdminConfig, ConfigError> {
    let default = [if flags.dev { "" } else { "127.0.0.1:2112" }.to_owned()];
    let written = admin::Written {
        names: &admin::FLAGS,
        listen: flags.admin_listen.as_deref().unwrap_or(&default),
        allow: &flags.admin_allow,
        token_file: flags.admin_token_file.as_deref(),
    };
    admin::read(&written, warnings)
}

/// Behind a proxy on the same host every stranger seems local: only a development relay has the pages there by itself.
fn debug_access(flags: &Flags) -> Result<Option<DebugAccess>, ConfigError> {
    let allow = listed(&flags.debug_allow);
    let access = DebugAccess {
        tailscale: switch("--debug-tailscale", flags.debug_tailscale.as_deref(), false)?,
        trusted: admin::ranges("--debug-allow", allow, Cidr::parse_exact)?,
        key_file: flags.debug_key_file.as_deref().map(|path| admin::debug_key("--debug-key-file", path)).transpose()?,
    };
    let there = switch("--debug-main", flags.debug_main.as_deref(), flags.dev)?;
    if !there && access != DebugAccess::default() {
        let text = "who may see /debug/ on the main listener is told, and it is not there: give --debug-main too";
        return Err(ConfigError::Missing(text.into()));
    }
    Ok(there.then_some(access))
}

fn log_filter(flags: &Flags) -> Result<Option<String>, ConfigError> {
    let Some(text) = flags.log.as_deref().map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    logging::check_filter(text).map_err(|problem| ConfigError::value("--log", text, problem))?;
    Ok(Some(text.to_owned()))
}

fn listen(flags: &Flags) -> Result<Vec<ListenAddr>, ConfigError> {
    const NAME: &str = "--listen";
    let default = [if flags.dev { "127.0.0.1:3340" } else { "[::]:443" }.to_owned()];
    let mut out = Vec::new();
    for text in flags.listen.as_deref().unwrap_or(&default) {
        let address = match text.strip_prefix("unix:") {
            Some("") => return Err(ConfigError::value(NAME, text, "write unix:/PATH")),
            Some(path) => ListenAddr::Unix(path.into()),
            None => ListenAddr::Tcp(addr::resolve(text).map_err(|problem| ConfigError::value(NAME, text, problem))?),
        };
        once(NAME, text, &mut out, address)?;
    }
    Ok(out)
}

fn http(flags: &Flags, tls: &TlsMode) -> Result<Vec<SocketAddr>, ConfigError> {
    let default = if flags.dev || *tls == TlsMode::None { "" } else { "[::]:80" };
    sockets("--http-listen", flags.http_listen.as_deref(), default)
}

fn stun(flags: &Flags) -> Result<Vec<SocketAddr>, ConfigError> {
    sockets("--stun-listen", flags.stun_listen.as_deref(), if flags.dev { "" } else { "[::]:3478" })
}

/// One empty value alone says that a listener is off.
fn sockets(name: &str, written: Option<&[String]>, default: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let default = [default.to_owned()];
    let written = written.unwrap_or(&default);
    let mut out = Vec::new();
    if matches!(written, [one] if one.is_empty()) {
        return Ok(out);
    }
    for text in written {
        let address = addr::resolve(text).map_err(|problem| ConfigError::value(name, text, problem))?;
        once(name, text, &mut out, address)?;
    }
    Ok(out)
}

fn once<T: PartialEq>(name: &str, text: &str, out: &mut Vec<T>, address: T) -> Result<(), ConfigError> {
    if out.contains(&address) {
        return Err(ConfigError::value(name, text, "stands there twice: give each address once"));
    }
    out.push(address);
    Ok(())
}

fn accept_limit(flags: &Flags) -> Result<Option<AcceptLimit>, ConfigError> {
    let Some(text) = &flags.accept_limit else {
        return match &flags.accept_burst {
            Some(_) => Err(ConfigError::Missing("--accept-burst counts only with --accept-limit: give both".into())),
            None => Ok(None),
        };
    };
    let per_second = text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    let per_second = per_second.ok_or_else(|| ConfigError::value("--accept-limit", text, "give a number above 0"))?;
    let burst = match &flags.accept_burst {
        Some(text) => count("--accept-burst", text, 1..=i64::MAX as u64)?,
        None => per_second.ceil() as u64,
    };
    Ok(Some(AcceptLimit { per_second, burst }))
}

fn tls(flags: &Flags) -> Result<TlsMode, ConfigError> {
    let hostname = listed(&flags.hostname);
    for name in hostname {
        super::check_hostname("--hostname", name)?;
    }
    let hostnames = || match hostname {
        [] if flags.dev => Ok(vec!["127.0.0.1".to_owned()]),
        [] => Err(ConfigError::Missing(
            "--hostname is missing: give the name or IP address that the certificate is for".into(),
        )),
        names => Ok(names.to_vec()),
    };
    let dir = || flags.cert_dir.clone().unwrap_or_else(|| "/var/lib/derpring/certs".into());
    match flags.cert_mode.as_deref() {
        Some("none") => Ok(TlsMode::None),
        None if flags.dev => Ok(TlsMode::None),
        Some("manual") => {
            let hostnames = hostnames()?;
            let make_if_absent = switch("--cert-make", flags.cert_make.as_deref(), false)?;
            if let Some(name) = hostnames.iter().find(|name| make_if_absent && name.parse::<IpAddr>().is_err()) {
                let problem = "--cert-make makes certificates for IP addresses only";
                return Err(ConfigError::value("--hostname", name, problem));
            }
            Ok(TlsMode::Manual { dir: dir(), hostnames, make_if_absent })
        }
        Some("self-signed") => {
            let hostname = hostnames()?.into_iter().next();
            Ok(TlsMode::SelfSigned { hostname: hostname.expect("at least one name") })
        }
        Some("acme") => {
            let ip_certs = switch("--acme-ip-certs", flags.acme_ip_certs.as_deref(), false)?;
            let hostnames = if ip_certs { hostname.to_vec() } else { hostnames()? };
            acme(flags, hostnames, dir(), ip_certs)
        }
        Some(other) => Err(ConfigError::value("--cert-mode", other, CERT_MODES)),
        None => Err(ConfigError::Missing(format!("--cert-mode is missing: {CERT_MODES}"))),
    }
}

fn acme(flags: &Flags, hostnames: Vec<String>, dir: PathBuf, ip_certs: bool) -> Result<TlsMode, ConfigError> {
    let eab = match (&flags.acme_eab_kid, &flags.acme_eab_key_file) {
        (None, None) => None,
        (Some(kid), Some(path)) => {
            let problem = |problem: String| ConfigError::value("--acme-eab-key-file", path.to_string_lossy(), problem);
            let text = std::fs::read_to_string(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
            let key = super::base64_key(text.trim()).ok_or_else(|| problem("must hold one key in base64".into()))?;
            Some(Eab { kid: kid.clone(), key })
        }
        _ => {
            let text = "an external account binding needs both --acme-eab-kid and --acme-eab-key-file";
            return Err(ConfigError::Missing(text.into()));
        }
    };
    Ok(TlsMode::Acme(Box::new(AcmeConfig {
        hostnames,
        dir,
        directory: acme_directory("--acme-directory", flags.acme_directory.as_deref().unwrap_or(super::LETS_ENCRYPT))?,
        ca_file: flags.acme_ca_file.as_deref().map(|path| roots("--acme-ca-file", path)).transpose()?,
        email: flags.acme_email.clone(),
        eab,
        ip_certs,
    })))
}

pub(super) fn acme_directory(name: &str, url: &str) -> Result<String, ConfigError> {
    match url.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && url.bytes().all(|b| b.is_ascii_graphic()) => Ok(url.to_owned()),
        _ => Err(ConfigError::value(name, url, "give the https:// URL of an ACME directory")),
    }
}

/// A file of certificates in PEM form, at least one.
pub(super) fn roots(name: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    let problem = |problem: String| ConfigError::value(name, path.to_string_lossy(), problem);
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    match certificates.collect::<Result<Vec<_>, _>>() {
        Ok(found) if !found.is_empty() => Ok(path.to_owned()),
        Ok(_) => Err(problem("holds no certificate in PEM form".into())),
        Err(e) => Err(problem(format!("cannot be read: {e}"))),
    }
}

const CERT_MODES: &str = "give acme or manual (with --hostname), self-signed, or none for plain HTTP";

/// A list of one empty value is an empty list: so it can be written where a list comes as text.
fn listed(values: &[String]) -> &[String] {
    if matches!(values, [one] if one.is_empty()) { &[] } else { values }
}

/// An empty value is none: an environment variable may be set to nothing.
pub(super) fn switch(flag: &str, text: Option<&str>, default: bool) -> Result<bool, ConfigError> {
    match text {
        None | Some("") => Ok(default),
        Some(text) => go_values::parse_bool(text).ok_or_else(|| ConfigError::value(flag, text, "write true or false")),
    }
}

fn duration(flag: &str, text: &str) -> Result<Duration, ConfigError> {
    let time = go_values::parse_duration(text).and_then(go_values::GoDuration::non_negative);
    time.ok_or_else(|| ConfigError::value(flag, text, "write a time such as 10m, 2s, 500ms or 0"))
}

fn optional_count(flag: &str, text: Option<&str>, range: RangeInclusive<usize>) -> Result<Option<usize>, ConfigError> {
    text.map(|text| count(flag, text, range)).transpose()
}

fn count<T>(flag: &str, text: &str, range: RangeInclusive<T>) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let number = text.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| {
        ConfigError::value(flag, text, format!("give a number from {} to {}", range.start(), range.end()))
    })
}

fn queue_bytes(text: &str) -> Result<u32, ConfigError> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        _ => 64,
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1_u64.checked_shl(shift)?));
    let bytes = bytes.and_then(|n| u32::try_from(n).ok()).filter(|n| QUEUE_BYTES.contains(n));
    bytes.ok_or_else(|| ConfigError::value("--queue-bytes", text, "give bytes from 64KiB to 1024MiB, such as 4MiB"))
}

/// At least one packet of the largest size.
const QUEUE_BYTES: RangeInclusive<u32> = 1 << 16..=1 << 30;

#[cfg(test)]
mod tests;
