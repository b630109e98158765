//! Where the admin pages are served, and to whom.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use subtle::ConstantTimeEq;

use super::cidr::Cidr;
use super::{ConfigError, addr};

/// The admin listener, which is off without an address.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdminConfig {
    pub listen: Vec<AdminAddr>,
    /// Who may ask from elsewhere than this machine.
    pub allow: Vec<Cidr>,
    /// Whoever has it may ask from anywhere.
    pub token: Option<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for AdminAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}/"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl AdminAddr {
    /// As `--admin-listen` takes it.
    pub(super) fn written(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

/// A secret that is compared in constant time and never printed.
#[derive(Clone)]
pub struct Token(Box<[u8]>);

impl Token {
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.into())
    }

    pub fn is(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Who may see `/debug/` on the main listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DebugAccess {
    /// Everybody whose address is Tailscale's.
    pub tailscale: bool,
    pub trusted: Vec<Cidr>,
    /// Who gives its contents as `debugkey` may ask from anywhere.
    pub key_file: Option<PathBuf>,
}

impl DebugAccess {
    /// By address alone: this machine, and what was configured.
    pub fn allows(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_loopback() || (self.tailscale && is_tailscale(ip)) || self.trusted.iter().any(|range| range.contains(ip))
    }
}

/// The ranges that Tailscale gives its nodes, without the part that ChromeOS uses for its own.
fn is_tailscale(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let within = |net: Ipv4Addr, len: u32| (ip.to_bits() ^ net.to_bits()) >> (32 - len) == 0;
            within(Ipv4Addr::new(100, 64, 0, 0), 10) && !within(Ipv4Addr::new(100, 115, 92, 0), 23)
        }
        IpAddr::V6(ip) => ip.segments()[..3] == [0xfd7a, 0x115c, 0xa1e0],
    }
}

/// What was written, and under which names: flags, or the environment where a command line has none.
pub(super) struct Written<'a> {
    pub names: &'static Names,
    pub listen: &'a [String],
    pub allow: &'a [String],
    pub token_file: Option<&'a Path>,
}

pub(super) struct Names {
    pub listen: &'static str,
    pub allow: &'static str,
    pub token_file: &'static str,
}

pub(super) const FLAGS: Names =
    Names { listen: "--admin-listen", allow: "--admin-allow", token_file: "--admin-token-file" };
pub(super) const ENVIRONMENT: Names =
    Names { listen: "DERPRING_ADMIN_LISTEN", allow: "DERPRING_ADMIN_ALLOW", token_file: "DERPRING_ADMIN_TOKEN_FILE" };

/// Checks what was written. One empty value alone says that the listener is off, or the list empty.
pub(super) fn read(written: &Written<'_>, warnings: &mut Vec<String>) -> Result<AdminConfig, ConfigError> {
    let names = written.names;
    let config = AdminConfig {
        listen: listen(names, listed(written.listen))?,
        allow: ranges(names.allow, listed(written.allow), Cidr::parse_exact)?,
        token: written.token_file.map(|path| token(names, path, warnings)).transpose()?,
    };
    if config.allow.is_empty() && config.token.is_none() {
        let open = |address: &&AdminAddr| matches!(address, AdminAddr::Tcp(tcp) if !tcp.ip().is_loopback());
        if let Some(address) = config.listen.iter().find(open) {
            warnings.push(format!(
                "{address} ({}) answers 403 to everybody but this machine: {} or {} opens it",
                names.listen, names.allow, names.token_file
            ));
        }
    }
    Ok(config)
}

fn listed(values: &[String]) -> &[String] {
    if matches!(values, [one] if one.is_empty()) { &[] } else { values }
}

fn listen(names: &Names, written: &[String]) -> Result<Vec<AdminAddr>, ConfigError> {
    let mut out = Vec::new();
    for text in written {
        let problem = |problem: String| ConfigError::value(names.listen, text, problem);
        let address = match text.strip_prefix("unix:") {
            Some("") => return Err(problem("write unix:/PATH".into())),
            Some(path) => AdminAddr::Unix(path.into()),
            None => AdminAddr::Tcp(addr::resolve(text).map_err(|why| problem(format!("{why}, or unix:/PATH")))?),
        };
        if out.contains(&address) {
            return Err(problem("stands there twice: give each address once".into()));
        }
        out.push(address);
    }
    Ok(out)
}

/// A list of ranges, each read by `parse`.
pub(super) fn ranges(
    name: &str,
    written: &[String],
    parse: impl Fn(&str) -> Result<Cidr, String>,
) -> Result<Vec<Cidr>, ConfigError> {
    written.iter().map(|text| parse(text.trim()).map_err(|why| ConfigError::value(name, text, why))).collect()
}

/// The file that a debug key is in, which is read anew each time that somebody gives one.
pub(super) fn debug_key(name: &str, path: &Path) -> Result<PathBuf, ConfigError> {
    let problem = |problem: String| ConfigError::value(name, path.to_string_lossy(), problem);
    match fs::read(path) {
        Ok(key) if !key.trim_ascii().is_empty() => Ok(path.to_owned()),
        Ok(_) => Err(problem("the file is empty: write the debug key into it".into())),
        Err(e) => Err(problem(format!("cannot be read: {e}"))),
    }
}

fn token(names: &Names, path: &Path, warnings: &mut Vec<String>) -> Result<Token, ConfigError> {
    let problem = |problem: String| ConfigError::value(names.token_file, path.to_string_lossy(), problem);
    let text = fs::read(path).map_err(|e| problem(format!("cannot be read: {e}")))?;
    let secret = text.trim_ascii();
    // It travels in a header.
    if secret.is_empty() || !secret.iter().all(u8::is_ascii_graphic) {
        return Err(problem("must hold a token: visible ASCII characters without white space".into()));
    }
    if fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0) {
        warnings.push(format!(
            "{} {}: every user of this machine can read it; chmod 640",
            names.token_file,
            path.display()
        ));
    }
    Ok(Token::new(secret))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use tempfile::TempDir;

    use super::*;

    fn load(listen: &[&str], allow: &[&str], token: Option<&Path>) -> Result<(AdminConfig, Vec<String>), ConfigError> {
        let strings = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (listen, allow) = (strings(listen), strings(allow));
        let written = Written { names: &FLAGS, listen: &listen, allow: &allow, token_file: token };
        let mut warnings = Vec::new();
        read(&written, &mut warnings).map(|config| (config, warnings))
    }

    #[test]
    fn addresses_and_what_is_said_about_them() {
        let (config, warnings) = load(&["127.0.0.1:2112", "[::1]:1", "unix:/run/a"], &[], None).unwrap();
        assert_eq!(config.listen[2], AdminAddr::Unix("/run/a".into()));
        let shown: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["http://127.0.0.1:2112/", "http://[::1]:1/", "unix:/run/a"]);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(load(&[""], &[""], None).unwrap().0.listen.is_empty());

        let (_, warnings) = load(&[":2112"], &[], None).unwrap();
        assert!(warnings[0].contains("http://[::]:2112/ (--admin-listen) answers 403"), "{warnings:?}");
        assert!(load(&[":2112"], &["10.0.0.0/8"], None).unwrap().1.is_empty());
    }

    #[test]
    fn mistakes_are_named() {
        for (listen, allow, text) in [
            ("2112", "10.0.0.1", "--admin-listen \"2112\": the port is missing"),
            ("unix:", "10.0.0.1", "--admin-listen \"unix:\": write unix:/PATH"),
            ("", "10.0.0.1/8", "--admin-allow \"10.0.0.1/8\": has bits behind its prefix"),
            ("", "here", "--admin-allow \"here\": the length is missing"),
        ] {
            let error = load(&[listen], &[allow], None).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error}");
        }
        let error = load(&["unix:/a", "unix:/a"], &[], None).unwrap_err().to_string();
        assert!(error.contains("stands there twice"), "{error}");
        let error = load(&["", "unix:/a"], &[], None).unwrap_err().to_string();
        assert!(error.starts_with("--admin-listen \"\": "), "{error}");
    }

    #[test]
    fn a_token_is_read_trimmed_and_kept_to_ourselves() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("token");
        let write = |content: &str, mode: u32| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            load(&[":2112"], &[], Some(&path))
        };
        let (config, warnings) = write(" s3cret\n", 0o640).unwrap();
        let token = config.token.unwrap();
        assert!(token.is(b"s3cret") && !token.is(b"s3creT") && !token.is(b"") && !token.is(b"s3cret "));
        assert_eq!(format!("{token:?}"), "Token(..)");
        assert!(warnings.is_empty(), "{warnings:?}");
        assert!(write("s3cret", 0o644).unwrap().1[0].contains("chmod 640"));
        for bad in ["", " \n", "two words", "\u{e4}"] {
            let error = write(bad, 0o600).unwrap_err().to_string();
            assert!(error.contains("must hold a token") && error.starts_with("--admin-token-file"), "{error}");
        }
        assert!(load(&[], &[], Some(&dir.path().join("none"))).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn debug_pages_are_for_this_machine_and_whom_it_knows() {
        let nobody = DebugAccess::default();
        let derper = DebugAccess {
            tailscale: true,
            trusted: vec![Cidr::parse_exact("192.0.2.9").unwrap(), Cidr::parse_lax("198.51.100.0/24").unwrap()],
            key_file: None,
        };
        for (ip, plain, full) in [
            ("127.0.0.1", true, true),
            ("::1", true, true),
            ("::ffff:127.0.0.9", true, true),
            ("100.64.0.1", false, true),
            ("100.127.255.255", false, true),
            ("100.128.0.0", false, false),
            ("100.115.91.255", false, true),
            ("100.115.92.0", false, false),
            ("100.115.93.255", false, false),
            ("100.115.94.0", false, true),
            ("fd7a:115c:a1e0::1", false, true),
            ("fd7a:115c:a1e1::1", false, false),
            ("192.0.2.9", false, true),
            ("192.0.2.8", false, false),
            ("198.51.100.77", false, true),
            ("10.0.0.1", false, false),
        ] {
            let ip = ip.parse().unwrap();
            assert_eq!((nobody.allows(ip), derper.allows(ip)), (plain, full), "{ip}");
        }
    }
}
