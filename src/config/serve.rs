//! The flags of `derpring serve`, and the [`Config`] they stand for.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    AdminConfig, Backend, Config, ConfigError, DebugAccess, HomePage, KeySource, Loaded, LogFormat, QUEUE_PACKETS_MAX,
    QUEUE_PACKETS_MIN, QueueLimits, TcpOptions, TlsMode, addr, admin, keys,
};

/// What was written, unchecked. A value is read as text, so that each mistake gets one line in our words.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Listen on 127.0.0.1:3340 in plain HTTP with a key made at start, unless other flags say otherwise
    #[arg(long)]
    pub dev: bool,
    /// Addresses to listen on: :443 for every address of both families, or one such as 192.0.2.1:443
    #[arg(long, value_name = "ADDR", env = "DERPRING_LISTEN", value_delimiter = ',')]
    pub listen: Option<Vec<String>>,
    /// Name or IP address that clients reach the relay by
    #[arg(long, value_name = "NAME", env = "DERPRING_HOSTNAME")]
    pub hostname: Option<String>,
    /// Where the certificate comes from: manual, self-signed, or none for plain HTTP
    #[arg(long, value_name = "MODE", env = "DERPRING_CERT_MODE")]
    pub cert_mode: Option<String>,
    /// Directory of the files HOSTNAME.crt and HOSTNAME.key, for --cert-mode manual
    #[arg(long, value_name = "DIR", env = "DERPRING_CERT_DIR")]
    pub cert_dir: Option<PathBuf>,
    /// File with the relay's key in derper's form, made when absent [default: /var/lib/derpring/derpring.key]
    #[arg(long, value_name = "FILE", env = "DERPRING_KEY_FILE")]
    pub key_file: Option<PathBuf>,
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
    /// Address for STUN (not built yet; an empty value says off)
    #[arg(long, value_name = "ADDR", env = "DERPRING_STUN_LISTEN")]
    pub stun_listen: Option<String>,
    /// Address for plain HTTP beside TLS (not built yet; an empty value says off)
    #[arg(long, value_name = "ADDR", env = "DERPRING_HTTP_LISTEN")]
    pub http_listen: Option<String>,
}

/// Checks every flag.
///
/// # Errors
/// The first value that cannot be used, with what to write instead.
pub fn load(flags: &Flags) -> Result<Loaded, ConfigError> {
    let mut warnings = unbuilt_listeners(flags)?;
    let admin = admin(flags, &mut warnings)?;
    let config = Config {
        listen: listen(flags)?,
        tls: tls(flags)?,
        key: match &flags.key_file {
            Some(path) => KeySource::File(path.clone()),
            None if flags.dev => KeySource::Ephemeral,
            None => KeySource::File("/var/lib/derpring/derpring.key".into()),
        },
        mesh_key: flags.mesh_key_file.as_deref().map(keys::load_mesh_key).transpose()?,
        home: HomePage::Default,
        // Behind a proxy on the same host every stranger seems local: only a development relay opens it here.
        debug_on_main: flags.dev.then(DebugAccess::default),
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
        max_clients: optional_count("--max-clients", flags.max_clients.as_deref(), 1..=usize::MAX)?,
        max_clients_per_ip: optional_count(
            "--max-clients-per-ip",
            flags.max_clients_per_ip.as_deref(),
            1..=usize::MAX,
        )?,
        tcp: TcpOptions::default(),
        log: match flags.log_format.as_str() {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            other => return Err(ConfigError::value("--log-format", other, "give human or json")),
        },
        flush_on_stop: Duration::from_secs(2),
    };
    Ok(Loaded { config, warnings })
}

/// Refuses an address for a listener that is not built; the warning names those that nobody turned off.
fn unbuilt_listeners(flags: &Flags) -> Result<Vec<String>, ConfigError> {
    let listeners = [("STUN", "--stun-listen", &flags.stun_listen), ("port 80", "--http-listen", &flags.http_listen)];
    let mut off = Vec::new();
    for (what, flag, value) in listeners {
        match value.as_deref() {
            Some("") => {}
            Some(_) => {
                return Err(ConfigError::not_built(flag, format!("turn it off with an empty value, {flag} \"\"")));
            }
            None => off.push(what),
        }
    }
    if flags.dev || off.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!("not built yet, and off: {}", off.join(", "))])
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

fn listen(flags: &Flags) -> Result<Vec<std::net::SocketAddr>, ConfigError> {
    let default = [if flags.dev { "127.0.0.1:3340" } else { "[::]:443" }.to_owned()];
    let written = flags.listen.as_deref().unwrap_or(&default);
    let mut out = Vec::new();
    for text in written {
        let addr = addr::resolve(text).map_err(|problem| ConfigError::value("--listen", text, problem))?;
        if out.contains(&addr) {
            return Err(ConfigError::value("--listen", text, "stands there twice: give each address once"));
        }
        out.push(addr);
    }
    Ok(out)
}

fn tls(flags: &Flags) -> Result<TlsMode, ConfigError> {
    let hostname = || match &flags.hostname {
        Some(name) => super::check_hostname("--hostname", name).map(|()| name.clone()),
        None if flags.dev => Ok("127.0.0.1".to_owned()),
        None => Err(ConfigError::Missing(
            "--hostname is missing: give the name or IP address that the certificate is for".into(),
        )),
    };
    match flags.cert_mode.as_deref() {
        Some("none") => Ok(TlsMode::None),
        None if flags.dev => Ok(TlsMode::None),
        Some("manual") => {
            let dir = flags.cert_dir.as_deref().unwrap_or(Path::new("/var/lib/derpring/certs"));
            Ok(TlsMode::Manual { dir: dir.to_owned(), hostname: hostname()?, make_if_absent: false })
        }
        Some("self-signed") => Ok(TlsMode::SelfSigned { hostname: hostname()? }),
        Some("acme") => Err(ConfigError::not_built("--cert-mode acme", CERT_MODES)),
        Some(other) => Err(ConfigError::value("--cert-mode", other, CERT_MODES)),
        None => Err(ConfigError::Missing(format!("--cert-mode is missing: {CERT_MODES}"))),
    }
}

const CERT_MODES: &str = "give manual (with --cert-dir and --hostname), self-signed, or none for plain HTTP";

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
mod tests {
    use clap::Parser;

    use super::super::AdminAddr;
    use super::*;

    #[test]
    fn the_defaults_are_those_of_a_public_relay() {
        let loaded = load_args(&["--cert-mode=none"]).unwrap();
        let config = loaded.config;
        assert_eq!(config.listen, ["[::]:443".parse().unwrap()]);
        assert_eq!(config.tls, TlsMode::None);
        assert_eq!(config.key, KeySource::File("/var/lib/derpring/derpring.key".into()));
        assert_eq!(config.queue, QueueLimits::default());
        assert_eq!((config.workers, config.edges), (None, None));
        assert_eq!((config.max_clients, config.max_clients_per_ip), (None, None));
        assert_eq!((config.backend, config.log), (Backend::Auto, LogFormat::Human));
        assert!(config.debug_on_main.is_none());
        assert_eq!(config.admin.listen, [AdminAddr::Tcp("127.0.0.1:2112".parse().unwrap())]);
        assert_eq!(loaded.warnings, ["not built yet, and off: STUN, port 80"]);
    }

    #[test]
    fn dev_changes_defaults_and_nothing_else() {
        let loaded = load_args(&["--dev"]).unwrap();
        assert_eq!(loaded.config.listen, ["127.0.0.1:3340".parse().unwrap()]);
        assert_eq!((loaded.config.tls, loaded.config.key), (TlsMode::None, KeySource::Ephemeral));
        assert!(loaded.warnings.is_empty());
        assert!(loaded.config.admin.listen.is_empty() && loaded.config.debug_on_main.is_some());

        let config = load_args(&["--dev", "--listen=:1,[::1]:2", "--cert-mode=self-signed", "--key-file=/k"]).unwrap();
        let config = config.config;
        assert_eq!(config.listen, ["[::]:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
        assert_eq!(config.tls, TlsMode::SelfSigned { hostname: "127.0.0.1".into() });
        assert_eq!(config.key, KeySource::File("/k".into()));
    }

    #[test]
    fn every_flag_counts() {
        let args = [
            "--cert-mode=manual",
            "--cert-dir=/c",
            "--hostname=relay.example",
            "--workers=3",
            "--edges=2",
            "--placement=login",
            "--busy-poll=50",
            "--backend=epoll",
            "--queue-packets=64",
            "--queue-bytes=1 MiB",
            "--max-clients=1000",
            "--max-clients-per-ip=10",
            "--log-format=json",
        ];
        let off = ["--stun-listen=", "--http-listen="];
        let admin = ["--admin-listen=:2112,unix:/a", "--admin-listen=[::1]:1", "--admin-allow=10.0.0.0/8,192.0.2.1"];
        let Loaded { config, warnings } = load_args(&[&args[..], &off, &admin].concat()).unwrap();
        assert_eq!((config.admin.listen.len(), config.admin.allow.len()), (3, 2));
        assert!(load_args(&["--cert-mode=none", "--admin-listen="]).unwrap().config.admin.listen.is_empty());
        let hostname = "relay.example".to_owned();
        assert_eq!(config.tls, TlsMode::Manual { dir: "/c".into(), hostname, make_if_absent: false });
        assert_eq!((config.workers, config.edges), (Some(3), Some(2)));
        assert_eq!((config.moves, config.busy_poll), (false, Duration::from_micros(50)));
        assert_eq!((config.backend, config.log), (Backend::Epoll, LogFormat::Json));
        assert_eq!(config.queue, QueueLimits { packets: 64, bytes: 1 << 20 });
        assert_eq!((config.max_clients, config.max_clients_per_ip), (Some(1000), Some(10)));
        assert!(warnings.is_empty(), "every listener that is not built was turned off");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_a_way_out() {
        for (args, text) in [
            (&[][..], "--cert-mode is missing: give manual"),
            (&["--cert-mode=acme"], "--cert-mode acme is not built yet: give manual"),
            (&["--cert-mode=off"], "--cert-mode \"off\": give manual"),
            (&["--cert-mode=manual"], "--hostname is missing"),
            (&["--cert-mode=self-signed", "--hostname=a b"], "--hostname \"a b\": give a DNS name"),
            (&["--dev", "--listen="], "--listen \"\": the port is missing"),
            (&["--dev", "--listen=:1", "--listen=:1"], "--listen \":1\": stands there twice"),
            (&["--dev", "--admin-listen=1"], "--admin-listen \"1\": the port is missing"),
            (&["--dev", "--admin-allow=1"], "--admin-allow \"1\": the length is missing"),
            (&["--dev", "--admin-token-file=/nowhere/t"], "--admin-token-file \"/nowhere/t\": cannot be read"),
            (&["--dev", "--stun-listen=:1"], "--stun-listen is not built yet"),
            (&["--dev", "--http-listen=:1"], "--http-listen is not built yet"),
            (&["--dev", "--workers=0"], "--workers \"0\": give a number from 1 to 1024"),
            (&["--dev", "--edges=x"], "--edges \"x\": give a number"),
            (&["--dev", "--placement=here"], "--placement \"here\": give traffic or login"),
            (&["--dev", "--busy-poll=1s"], "--busy-poll \"1s\": give a number from 0 to 10000"),
            (&["--dev", "--backend=kqueue"], "--backend \"kqueue\": give auto, uring or epoll"),
            (&["--dev", "--queue-packets=8"], "--queue-packets \"8\": give a number from 32"),
            (&["--dev", "--queue-bytes=4GiB"], "--queue-bytes \"4GiB\""),
            (&["--dev", "--queue-bytes=1"], "--queue-bytes \"1\""),
            (&["--dev", "--queue-bytes=99999999999999999999"], "--queue-bytes"),
            (&["--dev", "--max-clients=0"], "--max-clients \"0\""),
            (&["--dev", "--log-format=xml"], "--log-format \"xml\""),
            (&["--dev", "--mesh-key-file=/nowhere/mesh"], "cannot read the key file /nowhere/mesh"),
        ] {
            let error = load_args(args).unwrap_err().to_string();
            assert!(error.starts_with(text), "{args:?}: {error}");
        }
    }

    fn load_args(args: &[&str]) -> Result<Loaded, ConfigError> {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            flags: Flags,
        }
        load(&Cli::parse_from([&["derpring"], args].concat()).flags)
    }
}
