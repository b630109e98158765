//! Everything that a relay listens on, opened before anything runs: inherited, taken over, or new.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;

use tracing::warn;

use super::StartError;
use crate::admin;
use crate::config::{AdminAddr, Config, ListenAddr};
use crate::control::sockets::{Address, Open, Origin, Role, SocketFile, Sockets, unix_hint};
use crate::control::systemd::Notify;
use crate::control::takeover::{self, Taking};
use crate::edge;
use crate::proto::key::NodeKey;
use crate::stun;

/// What listens, and for what.
pub(super) struct Listening {
    pub tcp: Vec<TcpListener>,
    pub unix: Vec<UnixListener>,
    pub http: Vec<TcpListener>,
    pub stun: Vec<UdpSocket>,
    pub admin: Vec<admin::Door>,
    /// Where the next relay asks.
    pub desk: Option<(UnixListener, SocketFile)>,
    /// Of `unix`: removed at the end.
    pub files: Vec<SocketFile>,
    pub open: Open,
    /// From the relay that is replaced, which waits for what becomes of us.
    pub taking: Option<Taking>,
}

impl Listening {
    pub fn open(config: &Config, public: &NodeKey) -> Result<Self, StartError> {
        let mut sockets = Sockets::inherited()?;
        let taking = take(config, &mut sockets, public)?;
        let mut out = Self {
            tcp: Vec::new(),
            unix: Vec::new(),
            http: Vec::new(),
            stun: Vec::new(),
            admin: Vec::new(),
            desk: None,
            files: Vec::new(),
            open: Open::default(),
            taking,
        };
        out.main(&mut sockets, config)?;
        out.http = http(&mut sockets, config)?;
        out.stun = stun(&mut sockets, config)?;
        out.admin = doors(&mut sockets, config)?;
        out.desk = desk(&mut sockets, config)?;
        out.open = sockets.finish()?;
        Ok(out)
    }

    fn main(&mut self, sockets: &mut Sockets, config: &Config) -> Result<(), StartError> {
        for address in sockets.addresses(Role::Main, &config.listen) {
            let (listen, opened) = match address {
                Address::Tcp(address) => {
                    let opened = sockets.tcp(Role::Main, address, |socket| edge::set_options(socket, &config.tcp));
                    (ListenAddr::Tcp(address), opened.map(|socket| self.tcp.push(socket)))
                }
                Address::Unix(path) => {
                    let opened = sockets.unix(Role::Main, &path, &crate::control::sockets::STREAM);
                    let opened = opened.map(|(socket, file)| {
                        self.unix.push(socket);
                        self.files.push(file);
                    });
                    (ListenAddr::Unix(path), opened)
                }
                Address::Udp(address) => return Err(kind(address)),
            };
            opened.map_err(|error| StartError::Listen { address: listen, error })?;
        }
        Ok(())
    }
}

/// Asks the relay that runs for its sockets, if that is wanted.
fn take(config: &Config, sockets: &mut Sockets, public: &NodeKey) -> Result<Option<Taking>, StartError> {
    if !config.takeover.take {
        return Ok(None);
    }
    let mut taking = takeover::ask(config.takeover.socket.as_deref())?;
    if taking.public_key != public.to_string() {
        let (theirs, ours) = (&taking.public_key, public);
        warn!(%theirs, %ours, "the running relay has another key: clients that pin it will not come back");
    }
    for (role, socket) in taking.sockets.drain(..) {
        sockets.give(role, socket).map_err(StartError::Given)?;
    }
    Ok(Some(taking))
}

fn http(sockets: &mut Sockets, config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let configured: Vec<_> = config.http.iter().copied().map(ListenAddr::Tcp).collect();
    let addresses = sockets.addresses(Role::Http, &configured);
    let open = |address| match address {
        Address::Tcp(address) => sockets
            .tcp(Role::Http, address, |socket| edge::set_options(socket, &config.tcp))
            .map_err(|error| StartError::Http { address, error }),
        other => Err(kind(other)),
    };
    addresses.into_iter().map(open).collect()
}

fn stun(sockets: &mut Sockets, config: &Config) -> Result<Vec<UdpSocket>, StartError> {
    let configured: Vec<_> = config.stun.listen.iter().copied().map(Udp).collect();
    let addresses = sockets.addresses(Role::Stun, &configured);
    let open = |address| match address {
        Address::Udp(address) => Ok(stun::open(sockets, address)?),
        other => Err(kind(other)),
    };
    addresses.into_iter().map(open).collect()
}

struct Udp(SocketAddr);

impl From<&Udp> for Address {
    fn from(Udp(address): &Udp) -> Self {
        Self::Udp(*address)
    }
}

fn doors(sockets: &mut Sockets, config: &Config) -> Result<Vec<admin::Door>, StartError> {
    let addresses = sockets.addresses(Role::Admin, &config.admin.listen);
    let open = |address| match address {
        Address::Tcp(address) => Ok(admin::open(sockets, &AdminAddr::Tcp(address))?),
        Address::Unix(path) => Ok(admin::open(sockets, &AdminAddr::Unix(path))?),
        Address::Udp(address) => Err(kind(address)),
    };
    addresses.into_iter().map(open).collect()
}

fn desk(sockets: &mut Sockets, config: &Config) -> Result<Option<(UnixListener, SocketFile)>, StartError> {
    let Some(path) = &config.takeover.socket else { return Ok(None) };
    let opened = sockets.unix(Role::Takeover, path, &takeover::KIND);
    opened.map(Some).map_err(|error| StartError::TakeoverSocket { path: path.display().to_string(), error })
}

fn kind(address: impl std::fmt::Display) -> StartError {
    StartError::ListenKind { address: address.to_string() }
}

/// systemd keeps the listening sockets over a restart, if its unit says so: then none of those who connect meanwhile
/// is refused.
pub(super) fn leave_with_systemd(notify: &Notify, open: &Open) {
    for role in open.own() {
        notify.forget(role.name());
    }
    if !notify.is_somewhere() {
        return;
    }
    let kept = open.each(|role, socket, origin| {
        // Those of its .socket units it keeps anyway.
        if origin != Origin::Passed {
            notify.store(role.name(), socket);
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = kept;
    open.share();
}

/// What to do about a main listener that cannot be had.
pub(super) fn hint(address: &ListenAddr, error: &io::Error) -> String {
    if let ListenAddr::Unix(_) = address {
        return unix_hint(error, "--listen");
    }
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has this port: stop it, or give another address",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (AmbientCapabilities= in systemd), or give a higher port"
        }
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ => "",
    };
    hint.to_owned()
}

pub(super) fn takeover_hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; a relay runs with this --takeover-socket: take over from it with --takeover, or give another path".into()
        }
        _ => unix_hint(error, "--takeover-socket"),
    }
}
