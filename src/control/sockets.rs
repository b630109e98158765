//! Sockets that listen: TCP with the options that every listener of ours has, and unix sockets with their files.

use std::fs::{self, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// `prepare` sets what accepted sockets inherit. No SO_REUSEPORT: a second one on the same port must be an error.
///
/// # Errors
/// The address cannot be had.
pub fn tcp(
    address: SocketAddr,
    backlog: i32,
    prepare: impl FnOnce(SockRef<'_>) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        // A wildcard takes both families; an address of its own only what it says.
        socket.set_only_v6(!v6.ip().is_unspecified())?;
    }
    // Only for sockets in TIME_WAIT: it lets nobody share a port that is in use.
    socket.set_reuse_address(true)?;
    prepare(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A file that nobody listens on is what a relay that was killed has left: it is replaced. The owner and the group may
/// connect.
///
/// # Errors
/// The name cannot be had: `AddrInUse` when somebody listens there, `AlreadyExists` when it is no socket.
pub fn unix(path: &Path, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
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
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

/// What to do about an error of [`unix`]; `flag` names the path.
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

    pub fn path(&self) -> &Path {
        &self.path
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
