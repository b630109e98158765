//! derper's command line and environment, with derper's defaults, read into a [`Config`].

mod flags;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

pub use super::go_flags::FlagError;
use super::go_flags::{self, Flags};
use super::{
    AdminConfig, Backend, Cidr, Config, ConfigError, DebugAccess, HomePage, KeySource, Loaded, LogFormat, MeshKey,
    QueueLimits, TcpOptions, TlsMode, addr, admin, go_values, keys,
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
    warn_of_listeners(flags, tls != TlsMode::None, &mut warnings)?;
    let config = Config {
        listen: vec![resolve(listen)?],
        tls,
        key: if dev { KeySource::Ephemeral } else { key_source(flags, host)? },
        mesh_key: if dev { dev_mesh_key(host)? } else { mesh_key(flags)? },
        home: home(flags.text("home"))?,
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
        "letsencrypt" | "gcp" if matches!(port, "443" | "https") => Err(ConfigError::not_built(
            format!("-certmode={mode}"),
            "give -certmode=manual with -certdir and -hostname, or another port for plain HTTP behind a proxy",
        )),
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

fn manual(flags: &Flags) -> Result<TlsMode, ConfigError> {
    let dir = flags.text("certdir");
    if dir.is_empty() {
        return Err(ConfigError::Missing("-certdir is empty: give the directory of <hostname>.crt and .key".into()));
    }
    let hostname = flags.text("hostname");
    super::check_hostname("-hostname", hostname)?;
    Ok(TlsMode::Manual {
        dir: dir.into(),
        hostname: hostname.to_owned(),
        make_if_absent: hostname.parse::<IpAddr>().is_ok(),
    })
}

fn resolve(listen: &str) -> Result<SocketAddr, ConfigError> {
    let addr = addr::resolve(listen).map_err(|problem| ConfigError::value("-a", listen, problem))?;
    // Go's listener takes 0.0.0.0 for both families too, and clients may have come to rely on it.
    Ok(if addr.ip() == Ipv4Addr::UNSPECIFIED { (Ipv6Addr::UNSPECIFIED, addr.port()).into() } else { addr })
}

/// What derper runs by default and this version does not have. The values are checked all the same.
fn warn_of_listeners(flags: &Flags, tls: bool, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    let stun = port(flags, "stun-port")?;
    let http = port(flags, "http-port")?;
    if let (true, Some(port)) = (flags.bool("stun"), stun) {
        warnings.push(format!("STUN (UDP port {port}) is not built yet and stays off; -stun=false says so"));
    }
    if let (true, Some(port)) = (tls, http) {
        warnings
            .push(format!("the HTTP listener on port {port} is not built yet and stays off; -http-port=-1 says so"));
    }
    Ok(())
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

fn home(text: &str) -> Result<HomePage, ConfigError> {
    match text {
        "" => Ok(HomePage::Default),
        "blank" => Ok(HomePage::Blank),
        // It becomes a header of every answer.
        url if ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme))
            && url.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(HomePage::Redirect(url.to_owned()))
        }
        _ => Err(ConfigError::value("-home", text, "give an http:// or https:// URL, blank, or nothing")),
    }
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
