//! The side of the relay that starts.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::{info, warn};

use super::PROTOCOL;
use super::words::{TalkError, Word, hear, say};
use crate::control::sockets::Role;
use crate::limits;

/// Why there is nothing to take over. The relay that runs, if one does, goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("--takeover needs --takeover-socket: the path that the running relay was started with")]
    NoPath,
    #[error("cannot take over at {path}: {error}{hint}")]
    Connect { path: PathBuf, error: io::Error, hint: &'static str },
    #[error("cannot take over at {path}: user {uid} listens there, and not this user or root")]
    Impostor { path: PathBuf, uid: u32 },
    #[error("the running relay does not give its sockets away: {0}")]
    Refused(String),
    #[error("the running relay speaks takeover protocol {theirs}, and this one {PROTOCOL}: restart instead")]
    Protocol { theirs: u32 },
    #[error("cannot take over from the running relay: {0}; it goes on")]
    Talk(String),
}

impl From<TalkError> for TakeError {
    fn from(error: TalkError) -> Self {
        Self::Talk(error.to_string())
    }
}

/// A takeover under way. Dropped, the relay that runs goes on.
pub struct Taking {
    relay: UnixStream,
    pub public_key: String,
    pub sockets: Vec<(Role, OwnedFd)>,
}

/// Asks the relay behind `path` for its sockets.
///
/// # Errors
/// It is not there, or does not give them.
pub fn ask(path: Option<&Path>) -> Result<Taking, TakeError> {
    let path = path.ok_or(TakeError::NoPath)?;
    let relay = connect(path)?;
    let hear = || hear(&relay, limits::TAKEOVER_REPLY, None);
    say(&relay, &Word::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }, None)?;
    let (public_key, count) = match hear()?.0 {
        Word::Offer { protocol: PROTOCOL, version, public_key, sockets } => {
            info!(version, sockets, "the running relay gives its sockets");
            (public_key, sockets)
        }
        Word::Offer { protocol, .. } => return Err(TakeError::Protocol { theirs: protocol }),
        Word::Refused { why } => return Err(TakeError::Refused(why)),
        other => return Err(TalkError::unexpected(other).into()),
    };
    let mut sockets = Vec::new();
    for _ in 0..count {
        match hear()? {
            (Word::Socket { role }, Some(socket)) => sockets.push((role, socket)),
            (Word::Refused { why }, _) => return Err(TakeError::Refused(why)),
            (other, _) => return Err(TalkError::unexpected(other).into()),
        }
    }
    Ok(Taking { relay, public_key, sockets })
}

impl Taking {
    /// This relay could serve now. Returns when the sockets are its own.
    ///
    /// # Errors
    /// They are not: the other one goes on.
    pub fn ready(&self) -> Result<(), TakeError> {
        let answer =
            say(&self.relay, &Word::Ready, None).and_then(|()| hear(&self.relay, limits::TAKEOVER_REPLY, None));
        match answer {
            Ok((Word::Yours, _)) => Ok(()),
            Ok((Word::Refused { why }, _)) => Err(TakeError::Refused(why)),
            Ok((other, _)) => Err(TalkError::unexpected(other).into()),
            Err(TalkError::Gone) => {
                // It refuses in words: without them it has ended, and nobody else has the sockets.
                warn!("the relay that ran has ended during the takeover: this one goes on alone");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// This relay accepts: the other one need not any more.
    pub fn open(self) {
        if let Err(error) = say(&self.relay, &Word::Open, None) {
            warn!(%error, "the relay that ran does not hear that this one accepts");
        }
    }
}

fn connect(path: &Path) -> Result<UnixStream, TakeError> {
    let connected = Socket::new(Domain::UNIX, Type::SEQPACKET, None).and_then(|socket| {
        socket.connect(&SockAddr::unix(std::path::absolute(path)?)?)?;
        socket.set_write_timeout(Some(limits::TAKEOVER_REPLY))?;
        Ok(UnixStream::from(OwnedFd::from(socket)))
    });
    let relay = connected.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "; no relay gives its sockets there: start without --takeover, or give the --takeover-socket of the \
                 one that runs"
            }
            io::ErrorKind::PermissionDenied => "; run this one as the same user as the relay that runs, or as root",
            _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => "; what listens there is no relay",
            _ => "",
        };
        TakeError::Connect { path: path.into(), error, hint }
    })?;
    let (theirs, ours) = (socket_peercred(&relay).map_err(TalkError::Io)?.uid, rustix::process::geteuid());
    // Whoever gives us sockets gets our clients.
    if theirs != ours && !theirs.is_root() && !ours.is_root() {
        return Err(TakeError::Impostor { path: path.into(), uid: theirs.as_raw() });
    }
    Ok(relay)
}
