//! What systemd tells a service, and what a service tells systemd: sockets that it passes, and notes about our state.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with,
};

use crate::driver::fd;

/// In front of the role in the names of sockets that we leave with systemd: those it names itself mean something else.
pub const STORED: &str = "derpring-";

/// A descriptor that was passed, and its name.
pub struct Passed {
    pub fd: OwnedFd,
    pub name: String,
}

/// Always the unit's author's to mend.
#[derive(Debug, thiserror::Error)]
pub enum PassedError {
    #[error("LISTEN_FDS={0:?} is not a number of descriptors: it is systemd that sets it, leave it alone")]
    Count(String),
    #[error("the descriptors that LISTEN_FDS announces are not there: {0}")]
    Missing(io::Error),
    #[error(
        "systemd passes {0:?}, which takes neither connections nor datagrams: write ListenStream= or ListenDatagram=, \
         and Accept=no, in its .socket unit"
    )]
    NotListening(String),
    #[error(
        "systemd passes a socket at {address}, named {name:?}, that nothing here uses: write \
         FileDescriptorName=main, http, stun or admin in its .socket unit, or give that address to --listen, \
         --http-listen, --stun-listen or --admin-listen"
    )]
    Unused { name: String, address: String },
}

/// What systemd passes to this process, the first time that it is asked; nothing after that.
///
/// # Errors
/// What it announces is not there.
pub fn passed() -> Result<Vec<Passed>, PassedError> {
    let text = |name| env::var(name).unwrap_or_default();
    // Meant for another process: our parent has it from its own parent.
    if text("LISTEN_PID") != std::process::id().to_string() {
        return Ok(Vec::new());
    }
    let count = text("LISTEN_FDS");
    let count = count.parse().map_err(|_| PassedError::Count(count))?;
    let names = text("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let descriptors = fd::passed(count).map_err(PassedError::Missing)?;
    let with_name = |fd| Passed { fd, name: names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").into() };
    Ok(descriptors.into_iter().map(with_name).collect())
}

/// The way to systemd; nowhere without it. What is said and not heard changes nothing for the relay.
#[derive(Debug)]
pub struct Notify(Option<(OwnedFd, SocketAddrUnix)>);

impl Notify {
    /// By NOTIFY_SOCKET.
    pub fn from_environment() -> Self {
        let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return Self(None) };
        match Self::to(path.as_bytes()) {
            Ok(notify) => notify,
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: systemd is told nothing");
                Self(None)
            }
        }
    }

    fn to(path: &[u8]) -> io::Result<Self> {
        let address = match path {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name)?,
            path => SocketAddrUnix::new(path)?,
        };
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self(Some((socket, address))))
    }

    /// The relay serves.
    pub fn ready(&self) {
        self.say("READY=1", None);
    }

    pub fn stopping(&self) {
        self.say("STOPPING=1", None);
    }

    /// The configuration is being read again; followed by [`Self::ready`].
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"), None);
    }

    /// Another process is the service from here on.
    pub fn main_pid(&self, pid: i32) {
        self.say(&format!("MAINPID={pid}"), None);
    }

    /// It takes longer than the unit allows, but something happens: so much more time.
    pub fn extend(&self, by: Duration) {
        self.say(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()), None);
    }

    /// Leaves a socket with systemd, which gives it back to the next run.
    pub fn store(&self, role: &str, socket: BorrowedFd<'_>) {
        self.say(&format!("FDSTORE=1\nFDNAME={STORED}{role}"), Some(socket));
    }

    /// Nobody wants sockets of this name back.
    pub fn forget(&self, role: &str) {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={STORED}{role}"), None);
    }

    /// Whether anybody listens.
    pub fn is_somewhere(&self) -> bool {
        self.0.is_some()
    }

    fn say(&self, what: &str, with: Option<BorrowedFd<'_>>) {
        static SAID: OnceLock<()> = OnceLock::new();
        let Some((socket, address)) = &self.0 else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if let Some(fd) = &with {
            // There is room for one.
            control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
        }
        let sent = sendmsg_addr(socket, address, &[IoSlice::new(what.as_bytes())], &mut control, SendFlags::NOSIGNAL);
        if let Err(error) = sent
            && SAID.set(()).is_ok()
        {
            tracing::warn!(%error, "systemd does not hear us");
        }
    }
}
