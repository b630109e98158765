//! The sockets of the admin listener.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminAddr;

/// A socket that listens.
#[derive(Debug)]
pub enum Door {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Door {
    /// Where it is, with the port that was given to it.
    pub fn address(&self) -> AdminAddr {
        match self {
            Self::Tcp(listener) => AdminAddr::Tcp(listener.local_addr().unwrap_or(([0, 0, 0, 0], 0).into())),
            Self::Unix(_, file) => AdminAddr::Unix(file.path.clone()),
        }
    }
}

/// Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the admin pages: {error}{}", hint(address, error))]
pub struct ListenError {
    address: AdminAddr,
    error: io::Error,
}

fn hint(address: &AdminAddr, error: &io::Error) -> &'static str {
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, AdminAddr::Tcp(_)) => {
            "; another process has this port, another relay perhaps: give --admin-listen another address, or \"\""
        }
        (io::ErrorKind::AddrInUse, AdminAddr::Unix(_)) => {
            "; somebody listens there, another relay perhaps: stop it, or give another --admin-listen path"
        }
        (io::ErrorKind::AlreadyExists, _) => "; a file that is no socket has that name: move it, or give another path",
        (io::ErrorKind::NotFound, _) => "; its directory is not there: make it, or give another path",
        (io::ErrorKind::PermissionDenied, AdminAddr::Unix(_)) => "; this user may not make files there",
        (io::ErrorKind::AddrNotAvailable, _) => "; this host does not have that address",
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => "; this host has no IPv6: write 0.0.0.0:PORT",
        _ => "",
    }
}

/// # Errors
/// The address cannot be had.
pub fn open(address: &AdminAddr) -> Result<Door, ListenError> {
    let door = match address {
        AdminAddr::Tcp(tcp) => open_tcp(*tcp).map(Door::Tcp),
        AdminAddr::Unix(path) => open_unix(path),
    };
    door.map_err(|error| ListenError { address: address.clone(), error })
}

const BACKLOG: i32 = 128;

fn open_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let SocketAddr::V6(v6) = address {
        // A wildcard takes both families; an address of its own only what it says.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Only for sockets in TIME_WAIT: it lets nobody share a port that is in use.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A file that nobody listens on is what a relay that was killed has left: it is replaced.
fn open_unix(path: &Path) -> io::Result<Door> {
    const GROUP: u32 = 0o660;
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
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    // Before anybody can connect.
    fs::set_permissions(path, Permissions::from_mode(GROUP))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Door::Unix(socket.into(), file))
}

/// The name of a socket, removed when dropped: but not if another process has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: std::path::absolute(path)?, id: id(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if id(&self.path).is_ok_and(|id| id == self.id) {
            // The next one that wants the name replaces it anyway.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn unix(path: &Path) -> Result<Door, String> {
        open(&AdminAddr::Unix(path.into())).map_err(|e| e.to_string())
    }

    #[test]
    fn a_left_over_is_replaced_and_somebody_elses_socket_is_not() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("admin");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "killed relays leave their socket");
        let door = unix(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let text = unix(&path).unwrap_err();
        assert!(text.starts_with(&format!("cannot listen on unix:{} for", path.display())), "{text}");
        assert!(text.contains("somebody listens there"), "{text}");
        drop(door);
        assert!(!path.exists(), "removed at the end");

        let door = unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(door);
        assert!(path.exists(), "it was another one's by then");
        drop(other);
    }

    #[test]
    fn what_cannot_be_had_says_what_to_do() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        assert!(unix(&path).unwrap_err().contains("a file that is no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(unix(&dir.path().join("no/admin")).unwrap_err().contains("its directory is not there"));
        assert!(unix(&dir.path().join("a".repeat(200))).is_err());

        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let Ok(Door::Tcp(taken)) = open(&AdminAddr::Tcp(address)) else { panic!("a free port") };
        let text = open(&AdminAddr::Tcp(taken.local_addr().unwrap())).unwrap_err().to_string();
        assert!(text.contains("another process has this port") && text.contains("--admin-listen"), "{text}");
        let text = open(&AdminAddr::Tcp("192.0.2.1:1".parse().unwrap())).unwrap_err().to_string();
        assert!(text.contains("does not have that address"), "{text}");
    }
}
