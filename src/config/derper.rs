//! derper's command line and environment, with derper's defaults, read into a [`Config`].

mod flags;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

pub use super::go_flags::FlagError;
use super::go_flags::{self, Flags};
use super::{
    AcceptLimit, AcmeConfig, AdminConfig, Backend, BootstrapDns, Cidr, Config, ConfigError, DebugAccess, Eab,
    KeySource, ListenAddr, Loaded, LogFormat, MeshKey, QueueLimits, StunConfig, Takeover, TcpOptions, TlsMode, addr,
    admin, go_values, keys,
};

/// What a command line of derper asks for.
#[derive(Debug)]
pub enum Request {
    Serve(Box<Loaded>),
    Version,
}

/// Why derper's command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DerperError {
    /// Go prints the usage after it.
    #[error(transparent)]
    Flag(#[from] FlagError),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What derper's defaults depend on.
pub struct Host<'a> {
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// Whether the process runs as root.
    pub root: bool,
}

impl Host<'_> {
    /// An environment variable, when set to anything.
    fn env(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|value| !value.is_empty())
    }
}

/// Reads a command line, without the program's name.
///
/// # Errors
/// A flag that derper does not have, a value that it would not take, or one that asks for what is not built yet.
pub fn read(args: &[String], host: &Host<'_>) -> Result<Request, DerperError> {
    let flags = go_flags::parse(&flags::definitions(host), args)?;
    if flags.bool("version") {
        return Ok(Request::Version);
    }
    Ok(Request::Serve(Box::new(load(&flags, host)?)))
}

/// The usage text that `-h` prints.
pub fn usage(host: &Host<'_>) -> String {
    go_flags::usage("derper", &flags::definitions(host))
}

fn load(flags: &Flags, host: &Host<'_>) -> Result<Loaded, ConfigError> {
    flags::refuse_unbuilt(flags, host)?;
    let dev = flags.bool("dev");
    let listen = if dev { ":3340" } else { flags.text("a") };
    let mut warnings = Vec::new();
    let tls = tls(flags, listen, &mut warnings)?;
    let main = resolve(listen)?;
    let config = Config {
        listen: vec![ListenAddr::Tcp(main)],
        http: http(flags, main, tls != TlsMode::None)?,
        stun: stun(flags, main)?,
        derp: flags.bool("derp"),
        bootstrap_dns: BootstrapDns {
            names: names(flags.text("bootstrap-dns-names")),
            unpublished: names(flags.text("unpublished-bootstrap-dns-names")),
        },
        connect: flags.bool("ace"),
        trusted_proxies: Vec::new(),
        // Of the TLS listener only, as derper has it.
        accept_limit: accept_limit(flags)?.filter(|_| tls != TlsMode::None),
        tls,
        key: if dev { KeySource::Ephemeral } else { key_source(flags, host)? },
        mesh_key: if dev { dev_mesh_key(host)? } else { mesh_key(flags)? },
        home: super::home("-home", flags.text("home"))?,
        debug_on_main: Some(debug_access(host)?),
        admin: admin(host, &mut warnings)?,
        workers: count(host, "DERPRING_WORKERS")?,
        edges: count(host, "DERPRING_EDGES")?,
        moves: super::moves("DERPRING_PLACEMENT", host.env("DERPRING_PLACEMENT").as_deref())?,
        busy_poll: super::busy_poll("DERPRING_BUSY_POLL", host.env("DERPRING_BUSY_POLL").as_deref())?,
        backend: backend(host)?,
        queue: queue(host, &mut warnings)?,
        max_clients: None,
        max_clients_per_ip: None,
        tcp: tcp(flags)?,
        log: LogFormat::Human,
        flush_on_stop: Duration::from_secs(1),
        drain_time: Duration::ZERO,
        takeover: Takeover::default(),
    };
    check_environment(host, &mut warnings)?;
    Ok(Loaded { config, warnings })
}

/// TLS is on when the port is that of HTTPS, or the certificate is manual; otherwise derper serves plain HTTP.
fn tls(flags: &Flags, listen: &str, warnings: &mut Vec<String>) -> Result<TlsMode, ConfigError> {
    let mode = flags.text("certmode");
    let (_, port) = addr::split(listen).map_err(|problem| ConfigError::value("-a", listen, problem))?;
    match mode {
        "manual" => manual(flags),
        "letsencrypt" | "gcp" if matches!(port, "443" | "https") => acme(flags, mode),
        "letsencrypt" | "gcp" if flags.bool("dev") => Ok(TlsMode::None),
        "letsencrypt" | "gcp" => {
            warnings.push(format!(
                "serving plain HTTP: the port of {listen} is not 443 and -certmode is not manual (derper's rule)"
            ));
            Ok(TlsMode::None)
        }
        _ => Err(ConfigError::value("-certmode", mode, "derper knows letsencrypt, gcp and manual")),
    }
}

fn acme(flags: &Flags, mode: &str) -> Result<TlsMode, ConfigError> {
    const GOOGLE: &str = "https://dv.acme-v02.api.pki.goog/directory";
    let text = |name: &str| Some(flags.text(name)).filter(|text| !text.is_empty());
    let (kid, key, email) = (text("acme-eab-kid"), text("acme-eab-key"), text("acme-email"));
    let eab = match (kid, key) {
        (None, None) => None,
        (Some(kid), Some(key)) => {
            // The value is a secret: it is not repeated.
            let key = super::base64_key(key);
            let key = key.ok_or_else(|| ConfigError::Missing("-acme-eab-key must hold one key in base64".into()))?;
            Some(Eab { kid: kid.to_owned(), key })
        }
        _ => return Err(ConfigError::Missing("give both -acme-eab-kid and -acme-eab-key, or neither".into())),
    };
    if mode == "gcp" && (eab.is_none() || email.is_none()) {
        let text = "-certmode=gcp needs -acme-eab-kid, -acme-eab-key and -acme-email";
        return Err(ConfigError::Missing(text.into()));
    }
    let hostname = flags.text("hostname");
    super::check_hostname("-hostname", hostname)?;
    let (is_ip, ip_certs) = (hostname.parse::<IpAddr>().is_ok(), flags.bool("acme-ip-certs"));
    if ip_certs && mode == "gcp" {
        return Err(ConfigError::Missing("-acme-ip-certs goes with -certmode=letsencrypt only".into()));
    }
    if is_ip && !ip_certs {
        let problem = "an IP address needs -acme-ip-certs, or -certmode=manual";
        return Err(ConfigError::value("-hostname", hostname, problem));
    }
    Ok(TlsMode::Acme(Box::new(AcmeConfig {
        hostnames: if is_ip { Vec::new() } else { vec![hostname.to_owned()] },
        dir: certdir(flags)?.into(),
        directory: if mode == "gcp" { GOOGLE } else { super::LETS_ENCRYPT }.to_owned(),
        ca_file: None,
        email: email.map(str::to_owned),
        eab,
        ip_certs,
    })))
}

fn certdir(flags: &Flags) -> Result<&str, ConfigError> {
    match flags.text("certdir") {
        "" => Err(ConfigError::Missing("-certdir is empty: give the directory of <hostname>.crt and .key".into())),
        dir => Ok(dir),
    }
}

fn manual(flags: &Flags) -> Result<TlsMode, ConfigError> {
    let dir = certdir(flags)?;
    let hostname = flags.text("hostname");
    super::check_hostname("-hostname", hostname)?;
    Ok(TlsMode::Manual {
        dir: dir.into(),
        hostnames: vec![hostname.to_owned()],
        make_if_absent: hostname.parse::<IpAddr>().is_ok(),
    })
}

fn resolve(listen: &str) -> Result<SocketAddr, ConfigError> {
    let addr = addr::resolve(listen).map_err(|problem| ConfigError::value("-a", listen, problem))?;
    // Go's listener takes 0.0.0.0 for both families too, and clients may have come to rely on it.
    Ok(if addr.ip() == Ipv4Addr::UNSPECIFIED { (Ipv6Addr::UNSPECIFIED, addr.port()).into() } else { addr })
}

/// Beside TLS, at the address of the main listener.
fn http(flags: &Flags, main: SocketAddr, tls: bool) -> Result<Vec<SocketAddr>, ConfigError> {
    let port = port(flags, "http-port")?;
    Ok(port.filter(|_| tls).map(|port| (main.ip(), port).into()).into_iter().collect())
}

fn stun(flags: &Flags, main: SocketAddr) -> Result<StunConfig, ConfigError> {
    let port = port(flags, "stun-port")?.filter(|_| flags.bool("stun"));
    Ok(StunConfig { listen: port.map(|port| (main.ip(), port).into()).into_iter().collect(), any: false })
}

/// A name that is split at commas, as derper does it.
fn names(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Off unless a rate is given.
fn accept_limit(flags: &Flags) -> Result<Option<AcceptLimit>, ConfigError> {
    let per_second = flags.float("accept-connection-limit");
    let burst = flags.int("accept-connection-burst");
    if per_second.is_nan() || per_second < 0.0 {
        return Err(ConfigError::value("-accept-connection-limit", per_second.to_string(), "give 0 or more"));
    }
    let burst = u64::try_from(burst)
        .map_err(|_| ConfigError::value("-accept-connection-burst", burst.to_string(), "give 0 or more"))?;
    Ok(per_second.is_finite().then_some(AcceptLimit { per_second, burst }))
}

/// `None` when negative: off.
fn port(flags: &Flags, name: &str) -> Result<Option<u16>, ConfigError> {
    match flags.int(name) {
        ..0 => Ok(None),
        port => u16::try_from(port).map(Some).map_err(|_| {
            ConfigError::value(format!("-{name}"), port.to_string(), "give a port up to 65535, or -1 for off")
        }),
    }
}

fn key_source(flags: &Flags, host: &Host<'_>) -> Result<KeySource, ConfigError> {
    match flags.text("c") {
        "" if host.root => Ok(KeySource::File("/var/lib/derper/derper.key".into())),
        "" => Err(ConfigError::Missing("-c is missing: without root rights, give the path of the key file".into())),
        path => Ok(KeySource::File(path.into())),
    }
}

fn mesh_key(flags: &Flags) -> Result<Option<MeshKey>, ConfigError> {
    match flags.text("mesh-psk-file") {
        "" => Ok(None),
        path => Ok(Some(keys::load_mesh_key(Path::new(path))?)),
    }
}

/// With -dev, derper takes the mesh key from the environment and from nowhere else.
fn dev_mesh_key(host: &Host<'_>) -> Result<Option<MeshKey>, ConfigError> {
    const NAME: &str = "TAILSCALE_DERPER_MESH_KEY";
    let Some(text) = host.env(NAME) else { return Ok(None) };
    // The value is a secret: it is not repeated.
    let key = keys::parse_mesh_key(&text);
    key.map(Some).ok_or_else(|| ConfigError::Missing(format!("{NAME} must hold exactly 64 hex characters")))
}

fn tcp(flags: &Flags) -> Result<TcpOptions, ConfigError> {
    let timeout = |name: &str| {
        flags.duration(name).non_negative().ok_or_else(|| {
            ConfigError::value(format!("-{name}"), format!("{}ns", flags.duration(name).0), "give 0 or more")
        })
    };
    let keepalive_time = match flags.duration("tcp-keepalive-time") {
        // Go's listener reads zero as its own default.
        go_values::GoDuration(0) => Duration::from_secs(15),
        // And less than zero as off.
        time => time.non_negative().unwrap_or_default(),
    };
    Ok(TcpOptions {
        write_timeout: timeout("tcp-write-timeout")?,
        user_timeout: timeout("tcp-user-timeout")?,
        keepalive_time,
    })
}

/// Our own settings that derper has no flag for come from the environment.
fn count(host: &Host<'_>, name: &str) -> Result<Option<usize>, ConfigError> {
    let Some(text) = host.env(name) else { return Ok(None) };
    match text.parse() {
        Ok(n) if (1..=1024).contains(&n) => Ok(Some(n)),
        _ => Err(ConfigError::value(name, &text, "give a number from 1 to 1024")),
    }
}

fn backend(host: &Host<'_>) -> Result<Backend, ConfigError> {
    const NAME: &str = "DERPRING_BACKEND";
    let Some(text) = host.env(NAME) else { return Ok(Backend::Auto) };
    Backend::parse(&text).ok_or_else(|| ConfigError::value(NAME, &text, "give auto, uring or epoll"))
}

fn queue(host: &Host<'_>, warnings: &mut Vec<String>) -> Result<QueueLimits, ConfigError> {
    const NAME: &str = "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH";
    let default = QueueLimits::default();
    let Some(text) = host.env(NAME) else { return Ok(default) };
    let depth = go_values::parse_int(&text).and_then(|n| u32::try_from(n).ok());
    let depth = depth.ok_or_else(|| ConfigError::value(NAME, &text, "give a number of packets"))?;
    if depth < super::QUEUE_PACKETS_MIN {
        warnings.push(format!("{NAME}={depth} is raised to {}", super::QUEUE_PACKETS_MIN));
    }
    Ok(QueueLimits { packets: depth.clamp(super::QUEUE_PACKETS_MIN, super::QUEUE_PACKETS_MAX), ..default })
}

/// derper ends at a value that it cannot read; a setting that has no effect here is said, not swallowed.
fn check_environment(host: &Host<'_>, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    for name in ["TS_DERP_DISABLE_RTT_STATS", "DERP_DEBUG_LOGS", "DERP_PROBER_DEBUG_LOGS"] {
        if let Some(text) = host.env(name)
            && go_values::parse_bool(&text).is_none()
        {
            return Err(ConfigError::value(name, text, "write true or false"));
        }
    }
    for name in ["DERP_DEBUG_LOGS", "DERP_PROBER_DEBUG_LOGS", "TS_DEBUG_VERBOSE_DROPS"] {
        if host.env(name).is_some_and(|text| go_values::parse_bool(&text) != Some(false)) {
            warnings.push(format!("{name} is not built yet: DERPRING_LOG=debug logs more"));
        }
    }
    Ok(())
}

/// derper's pages are on its main listener; the admin listener is ours, and only there when asked for.
fn admin(host: &Host<'_>, warnings: &mut Vec<String>) -> Result<AdminConfig, ConfigError> {
    let list = |name: &str| -> Vec<String> {
        host.env(name).map_or_else(Vec::new, |text| text.split(',').map(str::to_owned).collect())
    };
    let names = &admin::ENVIRONMENT;
    let token_file = host.env(names.token_file);
    let written = admin::Written {
        names,
        listen: &list(names.listen),
        allow: &list(names.allow),
        token_file: token_file.as_deref().map(Path::new),
    };
    admin::read(&written, warnings)
}

fn debug_access(host: &Host<'_>) -> Result<DebugAccess, ConfigError> {
    const IP: &str = "TS_ALLOW_DEBUG_IP";
    const TRUSTED: &str = "TS_DEBUG_TRUSTED_CIDRS";
    const KEY: &str = "TS_DEBUG_KEY_PATH";
    let ip = host.env(IP).map(|text| match text.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_canonical()),
        Err(_) => Err(ConfigError::value(IP, text, "give one IP address")),
    });
    let trusted = host.env(TRUSTED).unwrap_or_default();
    let trusted = trusted.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let key_file = host.env(KEY).map(|path| match std::fs::read(&path) {
        Ok(key) if !key.trim_ascii().is_empty() => Ok(path.into()),
        Ok(_) => Err(ConfigError::value(KEY, &path, "the file is empty: write the debug key into it")),
        Err(e) => Err(ConfigError::value(KEY, &path, format!("cannot be read: {e}"))),
    });
    Ok(DebugAccess {
        tailscale: true,
        ip: ip.transpose()?,
        trusted: admin::ranges(TRUSTED, &trusted.collect::<Vec<_>>(), Cidr::parse)?,
        key_file: key_file.transpose()?,
    })
}

#[cfg(test)]
mod tests;
