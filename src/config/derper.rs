//! derper's command line and environment, with derper's defaults, read into a [`Config`].

mod flags;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::settings::{self, Setting};
use super::sources::{Given, Origin, unknown_variables};
use super::write::Written;

pub use super::go_flags::FlagError;
use super::go_flags::{self, Flags};
use super::{
    AcceptLimit, AcmeConfig, AdminConfig, BootstrapDns, Cidr, Config, ConfigError, DebugAccess, Eab, KeySource,
    ListenAddr, Loaded, MeshKey, QueueLimits, SecretFiles, StunConfig, TcpOptions, TlsMode, addr, admin, go_values,
    keys, serve,
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
    /// The names in the environment.
    pub names: &'a [String],
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

/// The configuration file of `derpring serve` that says the same as a command line. What no file can say is a comment.
///
/// # Errors
/// As [`read`].
pub fn translate(args: &[String], host: &Host<'_>) -> Result<String, DerperError> {
    let flags = go_flags::parse(&flags::definitions(host), args)?;
    let loaded = load(&flags, host)?;
    let mut written = Written::of(&loaded);
    written.notes.splice(0..0, ["what `derpring serve --config FILE` does like derper with these flags".to_owned()]);
    written.notes.extend(loaded.warnings);
    Ok(written.text())
}

/// The usage text that `-h` prints.
pub fn usage(host: &Host<'_>) -> String {
    go_flags::usage("derper", &flags::definitions(host))
}

fn load(flags: &Flags, host: &Host<'_>) -> Result<Loaded, ConfigError> {
    flags::refuse_unbuilt(flags, host)?;
    let dev = flags.bool("dev");
    let listen = if dev { ":3340" } else { flags.text("a") };
    let Loaded { config: ours, mut warnings, mut secrets, file } = ours(host)?;
    let tls = tls(flags, host, listen, &mut warnings)?;
    let main = resolve(listen)?;
    let mesh_file = Some(flags.text("mesh-psk-file")).filter(|path| !path.is_empty() && !dev);
    secrets = SecretFiles { mesh_key: mesh_file.map(Into::into), ..secrets };
    let config = Config {
        listen: vec![ListenAddr::Tcp(main)],
        http: http(flags, main, tls != TlsMode::None)?,
        stun: StunConfig { listen: stun(flags, main)?, ..ours.stun },
        derp: flags.bool("derp"),
        bootstrap_dns: BootstrapDns {
            names: names(flags.text("bootstrap-dns-names")),
            unpublished: names(flags.text("unpublished-bootstrap-dns-names")),
        },
        connect: flags.bool("ace"),
        // Of the TLS listener only, as derper has it.
        accept_limit: accept_limit(flags)?.filter(|_| tls != TlsMode::None),
        tls,
        key: if dev { KeySource::Ephemeral } else { key_source(flags, host)? },
        mesh_key: if dev { dev_mesh_key(host)? } else { mesh_key(flags)? },
        home: super::home("-home", flags.text("home"))?,
        debug_on_main: Some(debug_access(host)?),
        admin: admin(host, &mut warnings)?,
        queue: queue(host, ours.queue, &mut warnings)?,
        round_trips: round_trips(host)?,
        tcp: tcp(flags)?,
        log_filter: ours.log_filter.clone().or_else(|| debug_logs(host)),
        ..ours
    };
    check_environment(host, &mut warnings)?;
    Ok(Loaded { config, warnings, secrets, file })
}

/// Our own settings that derper has no flag for come from the environment, and have serve's defaults.
const OURS: [&str; 18] = [
    "acme_ca_file",
    "acme_directory",
    "backend",
    "busy_poll",
    "drain_time",
    "edges",
    "flush_time",
    "log",
    "log_format",
    "max_clients",
    "max_clients_per_ip",
    "placement",
    "queue_bytes",
    "stun_any",
    "takeover",
    "takeover_socket",
    "trusted_proxy",
    "workers",
];

/// These too, with a default of their own.
const OURS_ADMIN: [&str; 3] = ["admin_allow", "admin_listen", "admin_token_file"];

fn ours(host: &Host<'_>) -> Result<Loaded, ConfigError> {
    let mut given = Given::default();
    let mut put = |id: &str, text: &str| given.put(settings::by_id(id), vec![text.to_owned()], Origin::Variable);
    // What is said otherwise, and must not be missing here.
    put("cert_mode", "none");
    put("admin_listen", "");
    put("flush_time", "1s");
    for id in OURS {
        if let Some(text) = settings::by_id(id).variable.as_ref().and_then(|name| host.env(name)) {
            put(id, &text);
        }
    }
    let flags = given.flags().expect("every value is text");
    let mut loaded = serve::load(&flags).map_err(|error| given.rename(error))?;
    loaded.warnings.extend(unknown_variables(host.names.iter().map(String::as_str), has_no_effect));
    loaded.secrets.admin_token = host.env(admin::ENVIRONMENT.token_file).map(Into::into);
    Ok(loaded)
}

fn has_no_effect(setting: &Setting) -> Option<String> {
    let works = OURS.contains(&&*setting.id) || OURS_ADMIN.contains(&&*setting.id);
    (!works).then(|| "derper's own flags and variables say that here".to_owned())
}

/// TLS is on when the port is that of HTTPS, or the certificate is manual; otherwise derper serves plain HTTP.
fn tls(flags: &Flags, host: &Host<'_>, listen: &str, warnings: &mut Vec<String>) -> Result<TlsMode, ConfigError> {
    let mode = flags.text("certmode");
    let (_, port) = addr::split(listen).map_err(|problem| ConfigError::value("-a", listen, problem))?;
    match mode {
        "manual" => manual(flags),
        "letsencrypt" | "gcp" if matches!(port, "443" | "https") => acme(flags, host, mode),
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

fn acme(flags: &Flags, host: &Host<'_>, mode: &str) -> Result<TlsMode, ConfigError> {
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
        directory: match host.env("DERPRING_ACME_DIRECTORY") {
            Some(url) => serve::acme_directory("DERPRING_ACME_DIRECTORY", &url)?,
            None => if mode == "gcp" { GOOGLE } else { super::LETS_ENCRYPT }.to_owned(),
        },
        ca_file: match host.env("DERPRING_ACME_CA_FILE") {
            Some(path) => Some(serve::roots("DERPRING_ACME_CA_FILE", Path::new(&path))?),
            None => None,
        },
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

fn stun(flags: &Flags, main: SocketAddr) -> Result<Vec<SocketAddr>, ConfigError> {
    let port = port(flags, "stun-port")?.filter(|_| flags.bool("stun"));
    Ok(port.map(|port| (main.ip(), port).into()).into_iter().collect())
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

fn queue(host: &Host<'_>, default: QueueLimits, warnings: &mut Vec<String>) -> Result<QueueLimits, ConfigError> {
    const NAME: &str = "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH";
    let Some(text) = host.env(NAME) else { return Ok(default) };
    let depth = go_values::parse_int(&text).and_then(|n| u32::try_from(n).ok());
    let depth = depth.ok_or_else(|| ConfigError::value(NAME, &text, "give a number of packets"))?;
    if depth < super::QUEUE_PACKETS_MIN {
        warnings.push(format!("{NAME}={depth} is raised to {}", super::QUEUE_PACKETS_MIN));
    }
    Ok(QueueLimits { packets: depth.clamp(super::QUEUE_PACKETS_MIN, super::QUEUE_PACKETS_MAX), ..default })
}

fn round_trips(host: &Host<'_>) -> Result<bool, ConfigError> {
    Ok(!truth(host, "TS_DERP_DISABLE_RTT_STATS")?)
}

/// derper's lines about each client are ours at debug. Who says by DERPRING_LOG what is logged is not overruled.
fn debug_logs(host: &Host<'_>) -> Option<String> {
    truth(host, "DERP_DEBUG_LOGS").is_ok_and(|on| on).then(|| "info,derpring=debug".to_owned())
}

/// A variable that is set to a boolean; derper ends at anything else.
fn truth(host: &Host<'_>, name: &str) -> Result<bool, ConfigError> {
    let Some(text) = host.env(name) else { return Ok(false) };
    go_values::parse_bool(&text).ok_or_else(|| ConfigError::value(name, text, "write true or false"))
}

/// Every variable that derper looks at.
#[cfg(test)]
const VARIABLES: [&str; 17] = [
    "DERP_DEBUG_LOGS",
    "DERP_PROBER_DEBUG_LOGS",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TAILSCALE_DERPER_MESH_KEY",
    "TS_ALLOW_DEBUG_IP",
    "TS_DEBUG_DERP_PER_CLIENT_SEND_QUEUE_DEPTH",
    "TS_DEBUG_KEY_PATH",
    "TS_DEBUG_TRUSTED_CIDRS",
    "TS_DEBUG_VERBOSE_DROPS",
    "TS_DERP_DISABLE_RTT_STATS",
    "XDG_CACHE_HOME",
];

/// Variables of derper that mean nothing here, and why.
const WITHOUT_EFFECT: [(&str, &str); 3] = [
    ("DERP_PROBER_DEBUG_LOGS", "probers have no lines of their own; DERPRING_LOG=debug logs more about everybody"),
    ("TS_DEBUG_VERBOSE_DROPS", "no line is written per packet; /debug/clients?sort=drops has drops by client"),
    ("SSLKEYLOGFILE", "derper writes keys of its mesh client there, and this relay does not dial"),
];

/// A setting that has no effect here is said, not swallowed.
fn check_environment(host: &Host<'_>, warnings: &mut Vec<String>) -> Result<(), ConfigError> {
    for name in ["DERP_DEBUG_LOGS", "DERP_PROBER_DEBUG_LOGS"] {
        truth(host, name)?;
    }
    for (name, why) in WITHOUT_EFFECT {
        if host.env(name).is_some_and(|text| go_values::parse_bool(&text) != Some(false)) {
            warnings.push(format!("{name} has no effect: {why}"));
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
        Ok(ip) => Ok(Cidr::from(ip.to_canonical())),
        Err(_) => Err(ConfigError::value(IP, text, "give one IP address")),
    });
    let trusted = host.env(TRUSTED).unwrap_or_default();
    let trusted = trusted.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
    let ranges = admin::ranges(TRUSTED, &trusted.collect::<Vec<_>>(), Cidr::parse_lax)?;
    Ok(DebugAccess {
        tailscale: true,
        trusted: ip.transpose()?.into_iter().chain(ranges).collect(),
        key_file: host.env(KEY).map(|path| admin::debug_key(KEY, Path::new(&path))).transpose()?,
    })
}

#[cfg(test)]
mod tests;
