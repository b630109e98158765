//! The one place that opens listening sockets: one that was inherited where there is one, else a new one.
//!
//! A relay may find sockets open already: systemd passes those of its `.socket` units and those that an earlier run
//! left in its store, and a relay that is replaced gives its own (`takeover.rs`). Whoever needs a socket asks for it
//! with its role and address, and need not know where it came from:
//!
//! ```text
//! sockets.addresses(Role::Http, configured)     what to open: systemd's sockets of that name, else `configured`
//! sockets.tcp(Role::Http, address, prepare)     -> io::Result<TcpListener>, listening
//! sockets.udp(Role::Stun, address, prepare)     -> io::Result<UdpSocket>
//! sockets.unix(Role::Main, path, &UnixKind)     -> io::Result<(UnixListener, SocketFile)>, listening
//! ```
//!
//! `prepare` is called with a new socket before it is bound, and with an inherited one. All sockets are non-blocking.
//! An address that is in use is asked for again for [`LINGER`].
//! What is open is known by the [`Open`] that [`Sockets::finish`] returns, which can give it away.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::systemd::{self, PassedError};
use crate::config::{AdminAddr, ListenAddr};

/// How long an address may stay in use by nobody. What a relay on io_uring listens on is closed with its rings, which
/// the kernel takes apart after the process is gone: when that was killed, some 10 us later for each of its clients.
pub const LINGER: Duration = Duration::from_secs(3);

/// What a socket is for. The names are those of systemd's `FileDescriptorName=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Main,
    Http,
    Stun,
    Admin,
    /// Where the next relay asks for all of them.
    Takeover,
}

impl Role {
    const ALL: [Self; 5] = [Self::Main, Self::Http, Self::Stun, Self::Admin, Self::Takeover];

    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Http => "http",
            Self::Stun => "stun",
            Self::Admin => "admin",
            Self::Takeover => "takeover",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "TCP {address}"),
            Self::Udp(address) => write!(f, "UDP {address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<&ListenAddr> for Address {
    fn from(address: &ListenAddr) -> Self {
        match address {
            ListenAddr::Tcp(tcp) => Self::Tcp(*tcp),
            ListenAddr::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl From<&AdminAddr> for Address {
    fn from(address: &AdminAddr) -> Self {
        match address {
            AdminAddr::Tcp(tcp) => Self::Tcp(*tcp),
            AdminAddr::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl Address {
    /// Of a socket that takes connections or datagrams; `None` for anything else.
    fn of(socket: &OwnedFd) -> Option<Self> {
        let socket = SockRef::from(socket);
        let local = socket.local_addr().ok()?;
        let kind = socket.r#type().ok()?;
        if kind == Type::DGRAM {
            return local.as_socket().map(Self::Udp);
        }
        if !socket.is_listener().ok()? {
            return None;
        }
        local.as_socket().map(Self::Tcp).or_else(|| local.as_pathname().map(|path| Self::Unix(path.into())))
    }

    /// Whether a socket here serves who asked for `wanted`: `0.0.0.0` is what `[::]` becomes on a host without IPv6,
    /// and to a relay that succeeds another port 0 means the one that this got.
    fn serves(&self, wanted: &Self, origin: Origin) -> bool {
        let same = |here: &SocketAddr, wanted: &SocketAddr| {
            let any = wanted.ip().is_unspecified() && wanted.is_ipv6() && here.ip().is_unspecified();
            let got = wanted.port() == 0 && origin == Origin::Given;
            (here.ip() == wanted.ip() || any) && (here.port() == wanted.port() || got)
        };
        match (self, wanted) {
            (Self::Tcp(here), Self::Tcp(wanted)) | (Self::Udp(here), Self::Udp(wanted)) => same(here, wanted),
            (Self::Unix(here), Self::Unix(wanted)) => std::path::absolute(wanted).is_ok_and(|wanted| *here == wanted),
            _ => false,
        }
    }
}

/// Who had a socket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it was opened here.
    New,
    /// A `.socket` unit of systemd, which keeps it.
    Passed,
    /// An earlier run, which left it with systemd.
    Stored,
    /// The relay that this one replaces.
    Given,
}

#[derive(Debug)]
struct Found {
    fd: OwnedFd,
    origin: Origin,
    /// `None`: whichever asks for its address.
    role: Option<Role>,
    name: String,
    address: Address,
}

/// How a unix socket is made.
pub struct UnixKind {
    pub kind: Type,
    /// Of its file.
    pub mode: u32,
}

/// For whoever its group may let in.
pub const STREAM: UnixKind = UnixKind { kind: Type::STREAM, mode: 0o660 };

#[derive(Default)]
pub struct Sockets {
    found: Vec<Found>,
    opened: Vec<Opened>,
}

impl Sockets {
    /// With what systemd passes to this process, if anything.
    ///
    /// # Errors
    /// It passes something that is no such socket.
    pub fn inherited() -> Result<Self, PassedError> {
        let mut sockets = Self::default();
        for systemd::Passed { fd, name } in systemd::passed()? {
            let address = Address::of(&fd).ok_or_else(|| PassedError::NotListening(name.clone()))?;
            let stored = name.strip_prefix(systemd::STORED).and_then(Role::named);
            let (origin, role) = match stored {
                Some(role) => (Origin::Stored, Some(role)),
                None => (Origin::Passed, Role::named(&name)),
            };
            sockets.found.push(Found { fd, origin, role, name, address });
        }
        Ok(sockets)
    }

    /// Takes in what the relay that is replaced has given.
    ///
    /// # Errors
    /// It is nothing that takes connections or datagrams.
    pub fn give(&mut self, role: Role, fd: OwnedFd) -> io::Result<()> {
        let address = Address::of(&fd).ok_or(io::ErrorKind::InvalidInput)?;
        self.found.push(Found { fd, origin: Origin::Given, role: Some(role), name: role.name().to_owned(), address });
        Ok(())
    }

    /// What to open for `role`. Where systemd names sockets so, these are all, and no address need be written twice.
    pub fn addresses<'a, A>(&self, role: Role, configured: &'a [A]) -> Vec<Address>
    where
        Address: From<&'a A>,
    {
        let passed = self.found.iter().filter(|found| found.origin == Origin::Passed && found.role == Some(role));
        let passed: Vec<Address> = passed.map(|found| found.address.clone()).collect();
        if passed.is_empty() { configured.iter().map(Address::from).collect() } else { passed }
    }

    /// # Errors
    /// The address cannot be had.
    pub fn tcp(
        &mut self,
        role: Role,
        address: SocketAddr,
        prepare: impl Fn(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<TcpListener> {
        const BACKLOG: i32 = 4096;
        self.internet(role, Address::Tcp(address), |address| {
            let socket = new(address, Type::STREAM, Protocol::TCP)?;
            // Only for sockets in TIME_WAIT: it lets nobody share a port that is in use.
            socket.set_reuse_address(true)?;
            prepare(SockRef::from(&socket))?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket)
        })
        .and_then(|socket| {
            prepare(SockRef::from(&socket))?;
            Ok(socket.into())
        })
    }

    /// # Errors
    /// The address cannot be had.
    pub fn udp(
        &mut self,
        role: Role,
        address: SocketAddr,
        prepare: impl Fn(SockRef<'_>) -> io::Result<()>,
    ) -> io::Result<UdpSocket> {
        self.internet(role, Address::Udp(address), |address| {
            let socket = new(address, Type::DGRAM, Protocol::UDP)?;
            prepare(SockRef::from(&socket))?;
            socket.bind(&address.into())?;
            Ok(socket)
        })
        .and_then(|socket| {
            prepare(SockRef::from(&socket))?;
            Ok(socket.into())
        })
    }

    fn internet(
        &mut self,
        role: Role,
        wanted: Address,
        open: impl Fn(SocketAddr) -> io::Result<Socket>,
    ) -> io::Result<OwnedFd> {
        let (Address::Tcp(address) | Address::Udp(address)) = wanted else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let (socket, origin) = match self.take(role, &wanted) {
            Some(found) => (Socket::from(found.fd), found.origin),
            None => match when_free(|| open(address)) {
                // A host without IPv6: "all addresses" are those of IPv4.
                Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
                    (when_free(|| open((Ipv4Addr::UNSPECIFIED, address.port()).into()))?, Origin::New)
                }
                socket => (socket?, Origin::New),
            },
        };
        socket.set_nonblocking(true)?;
        let socket = OwnedFd::from(socket);
        self.opened.push(Opened { role, fd: socket.try_clone()?, origin, file: None });
        Ok(socket)
    }

    /// A file that nobody listens on is what a relay that was killed has left: it is replaced.
    ///
    /// # Errors
    /// The name cannot be had.
    pub fn unix(&mut self, role: Role, path: &Path, how: &UnixKind) -> io::Result<(UnixListener, SocketFile)> {
        // The name is systemd's, or still that of the relay which is replaced. Without its name a socket is no use.
        let inherited = self.take(role, &Address::Unix(path.into()));
        let inherited = inherited.and_then(|found| Some((SocketFile::of(path, false).ok()?, found)));
        let (socket, file, origin) = match inherited {
            Some((file, found)) => (Socket::from(found.fd), file, found.origin),
            None => {
                // To ask for a name is to connect to who has it, and only a main listener can be in a ring.
                let (socket, file) = match role {
                    Role::Main => when_free(|| open_unix(path, how)),
                    _ => open_unix(path, how),
                }?;
                (socket, file, Origin::New)
            }
        };
        socket.set_nonblocking(true)?;
        let socket = OwnedFd::from(socket);
        self.opened.push(Opened { role, fd: socket.try_clone()?, origin, file: Some(file.share()) });
        Ok((socket.into(), file))
    }

    fn take(&mut self, role: Role, wanted: &Address) -> Option<Found> {
        let fits = |found: &Found| found.role.is_none_or(|is| is == role) && found.address.serves(wanted, found.origin);
        let at = self.found.iter().position(fits)?;
        Some(self.found.swap_remove(at))
    }

    /// Everything has been asked for. What earlier runs had, and this one has not, is closed when the result is
    /// [owned](Open::own).
    ///
    /// # Errors
    /// systemd passes a socket that nobody has asked for.
    pub fn finish(self) -> Result<Open, PassedError> {
        if let Some(found) = self.found.iter().find(|found| found.origin == Origin::Passed) {
            return Err(PassedError::Unused { name: found.name.clone(), address: found.address.to_string() });
        }
        Ok(Open { opened: Mutex::new(self.opened), left: Mutex::new(self.found) })
    }
}

fn new(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if let SocketAddr::V6(v6) = address {
        // A wildcard takes both families; an address of its own only what it says.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    Ok(socket)
}

/// Asks again for a while when somebody has the address.
fn when_free<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const MOST: Duration = Duration::from_millis(200);
    let begin = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begin.elapsed() < LINGER => {
                thread::sleep(pause);
                pause = (2 * pause).min(MOST);
            }
            other => return other,
        }
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open_unix(path: &Path, how: &UnixKind) -> io::Result<(Socket, SocketFile)> {
    const BACKLOG: i32 = 128;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => match UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            // Also when we may not ask: somebody has it.
            _ => return Err(io::ErrorKind::AddrInUse.into()),
        },
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, how.kind, None)?;
    // Absolute: whoever inherits it compares names.
    socket.bind(&SockAddr::unix(std::path::absolute(path)?)?)?;
    let file = SocketFile::of(path, true)?;
    // Before anybody can connect.
    fs::set_permissions(path, Permissions::from_mode(how.mode))?;
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// What to do about an error of [`Sockets::unix`]; `flag` names the path.
pub fn unix_hint(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; somebody listens there, another relay perhaps: stop it, or give another {flag} path")
        }
        io::ErrorKind::AlreadyExists => {
            "; a file that is no socket has that name: move it, or give another path".to_owned()
        }
        io::ErrorKind::NotFound => "; its directory is not there: make it, or give another path".to_owned(),
        io::ErrorKind::PermissionDenied => "; this user may not make files there".to_owned(),
        _ => String::new(),
    }
}

#[derive(Debug)]
struct Opened {
    role: Role,
    fd: OwnedFd,
    origin: Origin,
    /// Whether the name of a unix socket is ours to remove.
    file: Option<Arc<AtomicBool>>,
}

/// Every listening socket of this relay, once more: as long as it is here, another process can be given it.
#[derive(Debug, Default)]
pub struct Open {
    opened: Mutex<Vec<Opened>>,
    /// Of earlier runs; nobody here wants them.
    left: Mutex<Vec<Found>>,
}

impl Open {
    /// From here on the sockets are this relay's, and no other's: names of unix sockets go with it, and what it has no
    /// use for is closed. Returns the roles of stored sockets among the latter.
    pub fn own(&self) -> Vec<Role> {
        for opened in lock(&self.opened).iter().filter(|opened| opened.origin == Origin::Given) {
            if let Some(file) = &opened.file {
                file.store(true, Ordering::Release);
            }
        }
        let left = std::mem::take(&mut *lock(&self.left));
        for found in &left {
            if let (Origin::Given, Address::Unix(path)) = (found.origin, &found.address) {
                drop(SocketFile::of(path, true));
            }
        }
        left.iter().filter(|found| found.origin == Origin::Stored).filter_map(|found| found.role).collect()
    }

    /// Somebody else has them as well: names of unix sockets stay when this relay ends.
    pub fn share(&self) {
        for file in lock(&self.opened).iter().filter_map(|opened| opened.file.as_ref()) {
            file.store(false, Ordering::Release);
        }
    }

    /// Closes what is held here. A socket that nobody else has is closed for good.
    pub fn close(&self) {
        lock(&self.opened).clear();
    }

    /// Calls `each` with every socket.
    ///
    /// # Errors
    /// The first one of `each`.
    pub fn each<E>(&self, mut each: impl FnMut(Role, BorrowedFd<'_>, Origin) -> Result<(), E>) -> Result<(), E> {
        lock(&self.opened).iter().try_for_each(|opened| each(opened.role, opened.fd.as_fd(), opened.origin))
    }

    pub fn len(&self) -> usize {
        lock(&self.opened).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The lists are whole between any two statements that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of a unix socket, removed when dropped: but not if it is somebody else's, or another process has replaced
/// it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    ours: Arc<AtomicBool>,
}

impl SocketFile {
    fn of(path: &Path, ours: bool) -> io::Result<Self> {
        Ok(Self { path: std::path::absolute(path)?, id: id(path)?, ours: Arc::new(AtomicBool::new(ours)) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn share(&self) -> Arc<AtomicBool> {
        self.ours.clone()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.ours.load(Ordering::Acquire) && id(&self.path).is_ok_and(|id| id == self.id) {
            // The next one that wants the name replaces it anyway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests;
