//! The side of the relay that runs: one thread that waits for its successor, and talks to one at a time.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use tracing::{info, warn};

use super::PROTOCOL;
use super::words::{TalkError, Word, hear, say, wait};
use crate::control::logging::Limiter;
use crate::control::sockets::{Open, SocketFile};
use crate::limits;

/// What the thread needs to know.
pub struct Desk {
    pub listener: UnixListener,
    pub file: SocketFile,
    pub sockets: Arc<Open>,
    pub public_key: String,
}

/// The relay that accepts from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Successor {
    pub pid: i32,
}

/// The running thread; ends when dropped.
pub struct Giver {
    /// Its other end is what the thread is interrupted by.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Giver {
    /// Calls `succeeded` when another relay has the sockets and accepts from them, and ends.
    ///
    /// # Errors
    /// The thread, or what it needs, cannot be had.
    pub fn start(desk: Desk, succeeded: impl FnOnce(Successor) + Send + 'static) -> io::Result<Self> {
        let (wake, interrupt) = UnixStream::pair()?;
        let main = move || {
            if let Some(successor) = await_successor(&desk, &interrupt) {
                succeeded(successor);
            }
        };
        let thread = std::thread::Builder::new().name("takeover".to_owned()).spawn(main)?;
        Ok(Self { wake: Some(wake), thread: Some(thread) })
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// `None`: this relay stops.
fn await_successor(desk: &Desk, interrupt: &UnixStream) -> Option<Successor> {
    let lines = Limiter::new(limits::ACCEPT_PAUSE_LOG);
    loop {
        let waited = wait(desk.listener.as_fd(), Duration::from_secs(3600), Some(interrupt.as_fd()));
        if matches!(waited, Err(TalkError::Interrupted)) {
            return None;
        }
        let Ok((peer, _)) = desk.listener.accept() else { continue };
        match talk(desk, &peer, interrupt) {
            Ok(successor) => return Some(successor),
            Err(error) => {
                if !matches!(error, TalkError::Gone) {
                    let _ = say(&peer, &Word::Refused { why: error.to_string() }, None);
                }
                if let Some(left_out) = lines.pass() {
                    warn!(%error, left_out, "a takeover failed: this relay goes on");
                }
            }
        }
    }
}

fn talk(desk: &Desk, peer: &UnixStream, interrupt: &UnixStream) -> Result<Successor, TalkError> {
    let patience = Some(limits::TAKEOVER_REPLY);
    peer.set_write_timeout(patience).map_err(|_| TalkError::Gone)?;
    let hear = |patience| hear(peer, patience, Some(interrupt.as_fd())).map(|(word, _)| word);
    match hear(limits::TAKEOVER_REPLY)? {
        Word::Hello { protocol: PROTOCOL, version } => info!(version, "another relay asks for the sockets"),
        Word::Hello { protocol, version } => {
            let why = format!("{version} speaks takeover protocol {protocol}, and this relay {PROTOCOL}");
            return Err(TalkError::Refused(why));
        }
        other => return Err(TalkError::unexpected(other)),
    }
    // Behind its greeting: what is closed with words unread in it takes the answer along.
    let who = socket_peercred(peer)?;
    let (theirs, ours) = (who.uid, rustix::process::geteuid());
    // The permissions of the socket say the same, but a directory may be mounted without them.
    if theirs != ours && !theirs.is_root() {
        let why = format!("it runs as user {}, and not as {}", theirs.as_raw(), ours.as_raw());
        return Err(TalkError::Refused(why));
    }
    let offer = Word::Offer {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        public_key: desk.public_key.clone(),
        sockets: desk.sockets.len(),
    };
    say(peer, &offer, None)?;
    desk.sockets.each(|role, socket, _| say(peer, &Word::Socket { role }, Some(socket)))?;
    match hear(limits::TAKEOVER_START)? {
        Word::Ready => say(peer, &Word::Yours, None)?,
        Word::Refused { why } => return Err(TalkError::Refused(why)),
        other => return Err(TalkError::unexpected(other)),
    }
    match hear(limits::TAKEOVER_REPLY)? {
        Word::Open => {
            // Before anything here is dropped: names of unix sockets are the successor's.
            desk.sockets.share();
            Ok(Successor { pid: rustix::process::Pid::as_raw(Some(who.pid)) })
        }
        other => Err(TalkError::unexpected(other)),
    }
}
