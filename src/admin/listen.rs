//! The sockets of the admin listener.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use crate::config::AdminAddr;
use crate::control::sockets::{self, Role, STREAM, SocketFile, Sockets};

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
            Self::Unix(_, file) => AdminAddr::Unix(file.path().to_owned()),
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

fn hint(address: &AdminAddr, error: &io::Error) -> String {
    if let AdminAddr::Unix(_) = address {
        return sockets::unix_hint(error, "--admin-listen");
    }
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process has this port, another relay perhaps: give --admin-listen another address, or \"\""
        }
        io::ErrorKind::AddrNotAvailable => "; this host does not have that address",
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => "; this host has no IPv6: write 0.0.0.0:PORT",
        _ => "",
    };
    hint.to_owned()
}

/// # Errors
/// The address cannot be had.
pub fn open(sockets: &mut Sockets, address: &AdminAddr) -> Result<Door, ListenError> {
    let door = match address {
        AdminAddr::Tcp(tcp) => sockets.tcp(Role::Admin, *tcp, |socket| socket.set_tcp_nodelay(true)).map(Door::Tcp),
        AdminAddr::Unix(path) => {
            sockets.unix(Role::Admin, path, &STREAM).map(|(listener, file)| Door::Unix(listener, file))
        }
    };
    door.map_err(|error| ListenError { address: address.clone(), error })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::SocketAddr;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;

    fn open(address: &AdminAddr) -> Result<Door, ListenError> {
        super::open(&mut Sockets::default(), address)
    }

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
